"""The language model as torch modules that export to ONNX: a step of the backbone, a step of the patch decoder.

They share the weights of a SpeechLanguageModel, transposed as MatMul of ONNX wants them, and do what it does in plain
operations. Batch, new positions and past positions are dynamic: one graph takes a prompt (no past) and goes on with it.
Sums, norms, rotations and softmax are float32 whatever the weights are, for the residual stream of large models leaves
the range of float16.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mimo_codec.lm.config import LMConfig
from mimo_codec.lm.model import SpeechLanguageModel
from mimo_codec.onnx.codec.stacks import HIDDEN

State = dict[str, Tensor]


class Matrix(nn.Module):
    """Does what nn.Linear does."""

    def __init__(self, *linears: nn.Linear):
        """Join several layers with the same input to one with their outputs side by side; then weights are copied."""
        super().__init__()
        weights = [linear.weight.detach() for linear in linears]
        weight = weights[0] if len(weights) == 1 else torch.cat(weights)
        self.weight = nn.Parameter(weight.T, requires_grad=False)
        bias = linears[0].bias
        self.bias = None if bias is None else nn.Parameter(bias.detach(), requires_grad=False)

    def forward(self, x: Tensor) -> Tensor:
        """Multiply x [..., in] of any type; the result [..., out] has the type of the weights."""
        y = x.to(self.weight.dtype) @ self.weight
        return y if self.bias is None else y + self.bias


class Norm(nn.Module):
    """Root mean square norm, float32."""

    def __init__(self, norm: Any, epsilon: float):
        """Take the weight of Qwen2's norm."""
        super().__init__()
        self.weight, self.epsilon = nn.Parameter(norm.weight.detach().float(), requires_grad=False), epsilon

    def forward(self, x: Tensor) -> Tensor:
        """Normalise x [..., D] float32."""
        return self.weight * (x * torch.rsqrt(x.square().mean(-1, keepdim=True) + self.epsilon))


class Rotary(nn.Module):
    """Turns positions into rotations of queries and keys, the two halves of a head being the two axes."""

    frequencies: Tensor

    def __init__(self, head_dim: int, theta: float):
        """Compute the frequencies of a head's axes."""
        super().__init__()
        frequencies = theta ** (-torch.arange(0, head_dim, 2, dtype=torch.float32) / head_dim)
        self.register_buffer("frequencies", frequencies)

    def forward(self, positions: Tensor) -> tuple[Tensor, Tensor]:
        """Return cosines and sines [B or 1, 1, n, head_dim] of positions [B or 1, n]."""
        angles = positions[:, None, :, None].float() * self.frequencies
        angles = torch.cat((angles, angles), dim=-1)
        return angles.cos(), angles.sin()


def rotate(x: Tensor, rotation: tuple[Tensor, Tensor]) -> Tensor:
    """Rotate x [B, H, n, head_dim], in its type."""
    (cos, sin), wide = rotation, x.float()
    one, other = wide.chunk(2, dim=-1)
    return (wide * cos + torch.cat((-other, one), dim=-1) * sin).to(x.dtype)


def attend(q: Tensor, k: Tensor, v: Tensor, mask: Tensor) -> Tensor:
    """Attend with q [B, H, n, d] to k and v [B, K, keys, d], mask [B or 1, n, keys]; return [B, H, n, d].

    H is a multiple of K. Query heads that share a key head are rows of one product, so that keys and values are not
    repeated.
    """
    groups = q.shape[1] // k.shape[1]
    q = q * q.shape[-1] ** -0.5
    scores = _unflatten(q, 1, -1, groups).flatten(2, 3) @ k.transpose(-1, -2)
    scores = _unflatten(scores, 2, groups, -1).float()  # [B, K, groups, n, keys]
    weights = torch.where(mask[:, None, None], scores, HIDDEN).softmax(-1)
    return _unflatten(weights.flatten(2, 3).to(v.dtype) @ v, 2, groups, -1).flatten(1, 2)


def _unflatten(x: Tensor, dim: int, *sizes: int) -> Tensor:
    """Split a dimension of x into several."""
    split: Callable[..., Tensor] = x.unflatten  # it has no types
    return split(dim, sizes)


class LayerGraph(nn.Module):
    """Does what Qwen2DecoderLayer does."""

    def __init__(self, layer: Any, head_dim: int, epsilon: float):
        """Take the weights of a layer."""
        super().__init__()
        attention, mlp, self.head_dim = layer.self_attn, layer.mlp, head_dim
        self.q, self.k, self.v = Matrix(attention.q_proj), Matrix(attention.k_proj), Matrix(attention.v_proj)
        self.out = Matrix(attention.o_proj)
        self.gate, self.up, self.down = Matrix(mlp.gate_proj), Matrix(mlp.up_proj), Matrix(mlp.down_proj)
        self.attention_norm = Norm(layer.input_layernorm, epsilon)
        self.mlp_norm = Norm(layer.post_attention_layernorm, epsilon)

    def _heads(self, x: Tensor) -> Tensor:
        """Split x [B, n, H d] into heads [B, H, n, d]."""
        return _unflatten(x, 2, -1, self.head_dim).transpose(1, 2)

    def forward(
        self, x: Tensor, rotation: tuple[Tensor, Tensor], mask: Tensor, past: tuple[Tensor, Tensor] | None = None
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Run x [B, n, D] float32 through the layer; return it, keys and values [B, K, past + n, d]."""
        h = self.attention_norm(x)
        q, k, v = self._heads(self.q(h)), self._heads(self.k(h)), self._heads(self.v(h))
        q, k = rotate(q, rotation), rotate(k, rotation)
        if past is not None:
            k, v = torch.cat((past[0], k), dim=2), torch.cat((past[1], v), dim=2)
        x = x + self.out(attend(q, k, v, mask).transpose(1, 2).flatten(2)).float()
        h = self.mlp_norm(x)
        return x + self.down(F.silu(self.gate(h)) * self.up(h)).float(), k, v


class StackGraph(nn.Module):
    """Does what Qwen2Model does, without token embeddings."""

    def __init__(self, stack: Any, head_dim: int, config: LMConfig):
        """Take the weights of a stack."""
        super().__init__()
        self.layers = nn.ModuleList(LayerGraph(layer, head_dim, config.rms_norm_eps) for layer in stack.layers)
        self.norm = Norm(stack.norm, config.rms_norm_eps)
        self.rotary = Rotary(head_dim, config.rope_theta)

    def forward(
        self, x: Tensor, positions: Tensor, mask: Tensor, state: Mapping[str, Tensor] | None = None
    ) -> tuple[Tensor, State]:
        """Run x [B, n, D] through all layers; return hidden states [B, n, D] float32 and the new state."""
        x, rotation, new_state = x.float(), self.rotary(positions), {}
        for i, layer in enumerate(self.layers):
            past = None if state is None else (state[f"keys.{i}"], state[f"values.{i}"])
            x, new_state[f"keys.{i}"], new_state[f"values.{i}"] = layer(x, rotation, mask, past)
        return self.norm(x), new_state


class CodeEmbedding(nn.Module):
    """Embeds codes as the sum over their channels; empty codes count nothing."""

    table: Tensor
    starts: Tensor

    def __init__(self, model: SpeechLanguageModel):
        """Copy the embeddings of all channels into one table."""
        super().__init__()
        embeddings: Any = model.speech_embeddings
        tables = [embedding.weight.detach().clone() for embedding in embeddings]
        for table in tables:
            table[-1] = 0  # the empty code
        starts = [sum(map(len, tables[:i])) for i in range(len(tables))]
        self.table = nn.Parameter(torch.cat(tables), requires_grad=False)
        self.register_buffer("starts", torch.tensor(starts))

    def forward(self, codes: Tensor) -> Tensor:
        """Embed codes [..., C] as [..., D'] float32."""
        return F.embedding(codes + self.starts, self.table).float().sum(-2)


class BackboneGraph(nn.Module):
    """backbone.onnx: patch encoder, embeddings, backbone and text head."""

    def __init__(self, model: SpeechLanguageModel):
        """Take the weights of a model."""
        super().__init__()
        c = model.config
        self.config, self.empty_id = c, model.empty_id
        self.text_table = nn.Parameter(model.model.embed_tokens.weight.detach(), requires_grad=False)
        self.codes = CodeEmbedding(model)
        encoder = model.input_local_transformer
        self.encoder = StackGraph(encoder, c.input_local_dim // c.local_attn_heads, c)
        self.downcast, self.to_seeds = Matrix(model.speech_group_downcast), Matrix(model.hidden_states_downcast)
        self.stack = StackGraph(model.model, c.head_dim, c)
        self.head = Matrix(model.lm_head)

    def initial_state(self, batch: int, past: int, dtype: torch.dtype) -> State:
        """Return keys and values [B, K, past, head_dim] of every layer, zero."""
        return _empty_cache(self.stack, batch, self.config.num_key_value_heads, past, dtype)

    def _encode(self, patches: Tensor) -> Tensor:
        """Encode patches [B, n, C, G] as [B, n, H]."""
        frames = self.codes(patches.transpose(2, 3)).flatten(0, 1)  # [B n, G, D']
        steps = torch.arange(self.config.group_size, device=frames.device)
        mask = steps[None] <= steps[:, None] + (self.config.group_size if self.config.input_full_attention else 0)
        hidden, _ = self.encoder(frames, steps[None], mask[None])
        return _unflatten(self.downcast(hidden.flatten(1)).float(), 0, *patches.shape[:2])

    def forward(self, tokens: Tensor, patches: Tensor, pads: Tensor, state: State) -> tuple[Tensor, Tensor, State]:
        """Read new positions; return what may come next, float32, and the new state.

        Args:
            tokens: text tokens [B, n]; text counts nothing at `<|empty|>`.
            patches: codes [B, n, C, G]; they count nothing elsewhere.
            pads: how many of an item's first positions [B], past ones counted, are padding.
            state: keys and values of the past.

        Returns:
            Logits of the next token [B, V], the seed of the next patch [B, D] and the state.
        """
        is_audio = tokens == self.empty_id
        x = torch.where(is_audio[..., None], self._encode(patches), F.embedding(tokens, self.text_table).float())
        past = state["keys.0"].shape[2]
        keys = torch.arange(past + tokens.shape[1], device=tokens.device)
        new = keys[past:]
        positions = (new - pads[:, None]).clamp(min=0)
        first = torch.minimum(pads[:, None], new)[..., None]  # padding sees itself
        hidden, new_state = self.stack(x, positions, (keys >= first) & (keys <= new[:, None]), state)
        last = hidden[:, -1]
        return self.head(last).float(), self.to_seeds(last).float(), new_state


class PatchStepGraph(nn.Module):
    """patch_step.onnx: a step of the patch decoder.

    The first step reads a seed, each one after it the codes of the step before. At step t, channel r has a code when
    delay r <= t < delay r + G.
    """

    def __init__(self, model: SpeechLanguageModel):
        """Take the weights of a model."""
        super().__init__()
        c = model.config
        self.config, self.codes = c, CodeEmbedding(model)
        self.to_local = (
            Matrix(model.speech_embeddings_to_local) if hasattr(model, "speech_embeddings_to_local") else None
        )
        self.stack = StackGraph(model.local_transformer, c.local_dim // c.local_attn_heads, c)
        self.head = Matrix(*model.local_transformer_lm_heads)

    def initial_state(self, batch: int, past: int, dtype: torch.dtype) -> State:
        """Return keys and values [N, heads, past, head_dim] of every layer, zero."""
        return _empty_cache(self.stack, batch, self.config.local_attn_heads, past, dtype)

    def forward(self, seeds: Tensor, codes: Tensor, state: State) -> tuple[Tensor, State]:
        """Do one step; return logits [N, sum of all vocabularies] float32, channel after channel, and the new state.

        Args:
            seeds: of the patches [N, D] float32, zero after the first step.
            codes: of the step before [N, C], empty where a channel has none.
            state: keys and values of the past.
        """
        embedding = self.codes(codes)
        x = seeds + (embedding if self.to_local is None else self.to_local(embedding).float())
        past = state["keys.0"].shape[2]
        keys = torch.arange(past + 1, device=seeds.device)
        hidden, new_state = self.stack(x[:, None], keys[None, past:], (keys >= 0)[None, None], state)
        return self.head(hidden[:, 0]).float(), new_state


def _empty_cache(stack: StackGraph, batch: int, heads: int, past: int, dtype: torch.dtype) -> State:
    layers: Sequence[Any] = list(stack.layers)
    shape = (batch, heads, past, layers[0].head_dim)
    names = [f"{part}.{i}" for i in range(len(layers)) for part in ("keys", "values")]
    return {name: torch.zeros(shape, dtype=dtype) for name in names}
