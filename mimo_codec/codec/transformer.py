"""Pre-norm Transformer layers with rotary positions, windowed attention and streaming as a pure function.

`Transformer.forward` takes whole sequences, `Transformer.step` a chunk and a state. Both use the same attention, which
walks over blocks of queries, so no [T, T] mask ever exists.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mimo_codec.codec.keys import Window
from mimo_codec.codec.linear import Linear
from mimo_codec.codec.streaming import State, scope, scoped

QUERY_BLOCK = 512
Position = int | Tensor
"""Number of a frame in a stream: an integer, or a tensor [] where a graph is exported."""

Shared = dict[tuple[object, ...], tuple[Tensor, ...]]
"""Rotations and masks by what they depend on: the layers of a stack share those of one call."""
_OF_STREAMS: Shared = {}
"""Those of streams with small chunks and windows, whose calls need the same ones again."""
MAX_OF_STREAMS = 64

ACTIVATIONS: Mapping[str, Callable[[Tensor], Tensor]] = {"gelu": F.gelu, "relu": F.relu, "silu": F.silu}


def _find(shared: Shared | None, make: Callable[[], tuple[Tensor, ...]], *key: object) -> tuple[Tensor, ...]:
    """What `make` gives; made once for all layers that share."""
    if shared is None:  # as where a graph is traced, whose sizes are no keys
        return make()
    found = shared.get(key)  # one look, for another thread may clear it
    if found is None:
        with torch.inference_mode(False):  # the next caller may need gradients
            found = make()
        if len(shared) >= MAX_OF_STREAMS:
            shared.clear()
        shared[key] = found
    return found


def make_norm(kind: str, dim: int) -> nn.Module:
    """LayerNorm, or RMSNorm with the released eps."""
    return nn.RMSNorm(dim, eps=1e-6) if kind == "RMSNorm" else nn.LayerNorm(dim)


def length_mask(lengths: Tensor, size: int) -> Tensor:
    """Lengths [B] -> bool [B, size], True on the first `lengths[b]` positions."""
    return torch.arange(size, device=lengths.device) < lengths[:, None]


def rotate(x: Tensor, theta: float, offset: int = 0, shared: Shared | None = None) -> Tensor:
    """Rotary position embedding (rotate-half over the whole head) of x [B, H, T, D] at positions offset, offset + 1 ..

    Angles are computed in float32 whatever the dtype of x.
    """
    half = x.shape[-1] // 2
    kind = ("rotation", theta, offset, *x.shape[-2:], x.dtype, x.device)
    cos, sin = _find(shared, lambda: _rotation(x, theta, offset), *kind)
    turned = torch.cat((-x[..., half:], x[..., :half]), dim=-1)
    return (x * cos).add_(turned.mul_(sin))  # in place, for new memory costs more than the arithmetic


def _rotation(x: Tensor, theta: float, offset: int) -> tuple[Tensor, Tensor]:
    """Cosines and sines [T, D] in the dtype of x [..., T, D], those of its first half and the same again."""
    half = x.shape[-1] // 2
    inverse = theta ** (-torch.arange(half, device=x.device, dtype=torch.float32) / half)
    positions = torch.arange(offset, offset + x.shape[-2], device=x.device, dtype=torch.float32)
    angle = positions[:, None] * inverse
    cos, sin = angle.cos().to(x.dtype), angle.sin().to(x.dtype)
    return torch.cat((cos, cos), dim=-1), torch.cat((sin, sin), dim=-1)


def attend(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    window: Window,
    offset: int = 0,
    valid: Tensor | None = None,
    shared: Shared | None = None,
) -> Tensor:
    """Attention in which query i sees keys i + offset - left .. i + offset + right.

    q: [B, H, Tq, D]; k, v: [B, H, Tk, D]; window: [left, right], -1 for unlimited; valid: bool [B or 1, Tk], False on
    keys that nobody may see. A query always sees its own key, so that padded positions stay finite.
    Memory grows with QUERY_BLOCK x window, not with Tq x Tk. Returns [B, H, Tq, D].
    """
    left, right = window
    num_queries, num_keys = q.shape[-2], k.shape[-2]
    if valid is None and left < 0:
        if right < 0:
            return F.scaled_dot_product_attention(q, k, v)
        if right == 0 and offset == 0 and num_queries == num_keys:
            return F.scaled_dot_product_attention(q, k, v, is_causal=True)
    if left < 0 and right < 0 and valid is not None:
        return F.scaled_dot_product_attention(q, k, v, attn_mask=valid[:, None, None])
    outputs = []
    for start in range(0, num_queries, QUERY_BLOCK):
        stop = min(start + QUERY_BLOCK, num_queries)
        first = 0 if left < 0 else max(start + offset - left, 0)
        last = num_keys if right < 0 else min(stop + offset + right, num_keys)
        mask, diagonal = _find(
            shared,
            lambda: _window_mask((start + offset, stop + offset), (first, last), window, q.device),  # noqa: B023
            *("mask", window, offset, start, stop, first, last, q.device),
        )
        if valid is not None:
            mask = (mask & valid[:, None, None, first:last]) | diagonal
        attend_block = (
            _attend_plainly if _trains_on_short_cpu_block(q, last - first) else F.scaled_dot_product_attention
        )
        outputs.append(attend_block(q[..., start:stop, :], k[..., first:last, :], v[..., first:last, :], mask))
    return outputs[0] if len(outputs) == 1 else torch.cat(outputs, dim=-2)


def _window_mask(
    queries: tuple[int, int], keys: tuple[int, int], window: Window, device: torch.device
) -> tuple[Tensor, Tensor]:
    """Bool [queries, keys] each: which keys lie in the window of a query, and which key is its own.

    queries, keys: their first position and that after their last.
    """
    left, right = window
    own = torch.arange(*queries, device=device)[:, None]
    seen = torch.arange(*keys, device=device)
    mask = torch.ones(queries[1] - queries[0], keys[1] - keys[0], dtype=torch.bool, device=device)
    if left >= 0:
        mask &= seen >= own - left
    if right >= 0:
        mask &= seen <= own + right
    return mask, seen == own


def _trains_on_short_cpu_block(q: Tensor, num_keys: int) -> bool:
    """Whether PyTorch's fused attention would be slower: in bfloat16 on CPUs it takes two to four times as long."""
    return q.dtype == torch.bfloat16 and q.device.type == "cpu" and q.requires_grad and num_keys <= QUERY_BLOCK


def _attend_plainly(q: Tensor, k: Tensor, v: Tensor, mask: Tensor) -> Tensor:
    """softmax(q k^T / sqrt(D)) v over the keys that `mask` allows, in the dtype of q; shapes as in `attend`."""
    bias = torch.zeros(mask.shape, dtype=q.dtype, device=q.device).masked_fill_(~mask, -torch.inf)
    scores: Tensor = (q * q.shape[-1] ** -0.5) @ k.transpose(-1, -2) + bias
    return scores.softmax(-1) @ v


class Attention(nn.Module):
    """Multi-head self-attention; q, v and out projections have a bias, k has none."""

    def __init__(self, dim: int, num_heads: int, window: Window, rope_theta: float):
        """Width, heads, frames that each frame sees, and base of the rotary positions."""
        super().__init__()
        self.num_heads, self.window, self.rope_theta = num_heads, window, rope_theta
        self.q_proj = Linear(dim, dim)
        self.k_proj = Linear(dim, dim, bias=False)
        self.v_proj = Linear(dim, dim)
        self.out_proj = Linear(dim, dim)

    def project(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Frames x [B, T, D] -> q, k, v, each [B, H, T, D / H], without positions."""
        q, k, v = (
            projection(x).unflatten(-1, (self.num_heads, -1)).transpose(1, 2)
            for projection in (self.q_proj, self.k_proj, self.v_proj)
        )
        return q, k, v

    def forward(
        self,
        q: Tensor,
        k: Tensor,
        v: Tensor,
        offset: int = 0,
        valid: Tensor | None = None,
        shared: Shared | None = None,
    ) -> Tensor:
        """Attend and project: queries sit at positions offset.., keys at 0... Returns [B, Tq, D]."""
        q, k = rotate(q, self.rope_theta, offset, shared), rotate(k, self.rope_theta, 0, shared)
        mixed = attend(q, k, v, self.window, offset, valid, shared).transpose(1, 2).flatten(2)
        projected: Tensor = self.out_proj(mixed)
        return projected


class TransformerLayer(nn.Module):
    """x + attention(norm(x)), then x + mlp(norm(x))."""

    def __init__(
        self, dim: int, num_heads: int, ffn_dim: int, window: Window, norm: str, activation: str, rope_theta: float
    ):
        """Width, heads, hidden width of the feed-forward part, and names of norm and activation."""
        super().__init__()
        self.self_attn = Attention(dim, num_heads, window, rope_theta)
        self.self_attn_layer_norm = make_norm(norm, dim)
        self.activation = ACTIVATIONS[activation]
        self.fc1 = Linear(dim, ffn_dim)
        self.fc2 = Linear(ffn_dim, dim)
        self.final_layer_norm = make_norm(norm, dim)

    def mlp(self, x: Tensor) -> Tensor:
        """Frames x [B, T, D] -> [B, T, D]: the feed-forward part of the layer, residual included."""
        hidden: Tensor = self.fc2(self.activation(self.fc1(self.final_layer_norm(x))))
        return x + hidden

    def forward(self, x: Tensor, valid: Tensor | None = None) -> Tensor:
        """Frames x [B, T, D]; valid: bool [B, T] or None -> [B, T, D]."""
        q, k, v = self.self_attn.project(self.self_attn_layer_norm(x))
        return self.mlp(x + self.self_attn(q, k, v, valid=valid))

    def step(
        self, x: Tensor, cache: Mapping[str, Tensor], start: Position, end: Position | None, shared: Shared
    ) -> tuple[Tensor, State]:
        """One chunk: frames at positions start.. in, the frames `right` positions earlier out.

        x: [B, n, D], with positions below 0 (nothing yet) and from `end` on (nothing any more) holding anything.
        cache: k, v [B, H, C, D / H] without positions, and x [B, right, D], the frames that still wait for their
        right context. Returns [B, n, D] for positions start - right .. start - right + n, and the new cache.
        """
        left, right = self.self_attn.window
        waiting = torch.cat((cache["x"], x), dim=1)
        q, k, v = self.self_attn.project(self.self_attn_layer_norm(waiting))
        k = torch.cat((cache["k"], k[:, :, right:]), dim=2)
        v = torch.cat((cache["v"], v[:, :, right:]), dim=2)
        num_new, num_keys = x.shape[1], k.shape[2]
        first = start + num_new - num_keys
        valid = None
        if first < 0 or (end is not None and end < start + num_new):
            positions = first + torch.arange(num_keys, device=x.device)
            valid = (positions >= 0)[None]
            if end is not None:
                valid = valid & (positions < end)
        q = q[:, :, :num_new]
        out = self.mlp(waiting[:, :num_new] + self.self_attn(q, k, v, num_keys - num_new - right, valid, shared))
        kept = num_keys if left < 0 else min(left + right, num_keys)
        return out, {
            "k": k[:, :, num_keys - kept :],
            "v": v[:, :, num_keys - kept :],
            "x": waiting[:, num_new:],
        }


class Transformer(nn.ModuleList):
    """A stack of layers. A ModuleList, so that its parameters are named `layers.N.*` as in the released files."""

    def __init__(
        self,
        dim: int,
        num_heads: int,
        ffn_dim: int,
        windows: tuple[Window, ...],
        norm: str,
        activation: str,
        rope_theta: float,
        skip_layer: int | None = None,
    ):
        """One layer for each of `windows`; the output of layer number `skip_layer` is added to the last one's."""
        super().__init__(
            TransformerLayer(dim, num_heads, ffn_dim, window, norm, activation, rope_theta) for window in windows
        )
        self.dim, self.num_heads, self.skip_layer = dim, num_heads, skip_layer

    @property
    def layers(self) -> list[TransformerLayer]:
        """The layers, the first one first."""
        return [layer for layer in self if isinstance(layer, TransformerLayer)]

    @property
    def look_ahead(self) -> int:
        """Frames of future that an output frame needs, all layers together."""
        return sum(layer.self_attn.window[1] for layer in self.layers)

    def forward(self, x: Tensor, lengths: Tensor | None = None) -> Tensor:
        """Frames x [B, T, D] -> [B, T, D]; lengths: [B] valid frames per item, the rest is padding that nobody sees."""
        valid = None if lengths is None else length_mask(lengths, x.shape[1])
        skipped = None
        for number, layer in enumerate(self.layers, start=1):
            x = layer(x, valid)
            if number == self.skip_layer:
                skipped = x
        return x if skipped is None else x + skipped

    def _repeats_sizes(self, x: Tensor) -> bool:
        """Whether chunks like x [B, n, D] are small, see few frames, and are on a CPU and not traced for a graph.

        On other devices tables would have to wait for one another's streams of work.
        """
        windows = [layer.self_attn.window for layer in self.layers]
        is_small = max(x.shape[1], *(sum(window) for window in windows)) <= QUERY_BLOCK
        is_plain = type(x) is Tensor and x.device.type == "cpu"
        return is_plain and is_small and all(left >= 0 for left, _ in windows)

    def initial_state(self, batch: int, like: Tensor) -> State:
        """State before the first frame: caches of the windows' size (empty where the window is unlimited)."""
        state: State = {}
        for i, layer in enumerate(self.layers):
            left, right = layer.self_attn.window
            cached = 0 if left < 0 else left + right
            past = like.new_zeros(batch, self.num_heads, cached, self.dim // self.num_heads)
            state |= scope({"k": past, "v": past, "x": like.new_zeros(batch, right, self.dim)}, str(i))
        return state

    def step(
        self, x: Tensor, state: Mapping[str, Tensor], start: Position, end: Position | None = None
    ) -> tuple[Tensor, State]:
        """A chunk of a stream: frames at positions start .. start + n in, those `look_ahead` positions earlier out.

        x: [B, n, D]; start: position of its first frame; end: length of the whole stream once known (later positions
        are padding). Output frames at positions below 0 carry no meaning. Returns [B, n, D] and the new state.
        """
        if x.shape[1] == 0:
            return x, dict(state)
        new_state: State = {}
        skipped = None
        shared = _OF_STREAMS if self._repeats_sizes(x) else {}
        for i, layer in enumerate(self.layers):
            x, cache = layer.step(x, scoped(state, str(i)), start, end, shared)
            new_state |= scope(cache, str(i))
            start = start - layer.self_attn.window[1]
            if i + 1 == self.skip_layer:
                skipped = x
        return (x if skipped is None else x + skipped), new_state
