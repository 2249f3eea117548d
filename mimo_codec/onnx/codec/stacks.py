"""Transformers as torch modules that export to ONNX: attention in blocks, no loop or branch over lengths."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import TypeVar

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor, nn

from mimo_codec.codec.keys import Window
from mimo_codec.codec.streaming import State, scope, scoped
from mimo_codec.codec.transformer import Transformer, TransformerLayer, length_mask, rotate

BLOCK = 64
"""Queries that look at the same keys where attention has a window."""
HIDDEN = -1e4
"""The score of keys that a query may not see: nothing remains after the softmax, in float16 too."""
Module = TypeVar("Module", bound=nn.Module)


def band(queries: Tensor, keys: Tensor, window: Window) -> Tensor:
    """Return bool [..., queries, keys]: which key positions each query position may see; -1: unlimited."""
    distance = keys[..., None, :] - queries[..., :, None]
    left, right = (distance.shape[-1] + distance.shape[-2] if side < 0 else side for side in window)
    return (distance >= -left) & (distance <= right)


def weigh(q: Tensor, k: Tensor, v: Tensor, mask: Tensor) -> Tensor:
    """softmax(q k^T) v over the keys that `mask` leaves, queries already scaled: [..., Tq, D]."""
    weights = torch.where(mask, q @ k.transpose(-1, -2), HIDDEN).float().softmax(-1)
    return weights.to(v.dtype) @ v


def attend(q: Tensor, k: Tensor, v: Tensor, window: Window, valid: Tensor) -> Tensor:
    """Self-attention [B, H, T, D] within a window; valid: bool [B, T], False on keys that nobody may see.

    A query always sees its own key. With a limited window, queries are taken in blocks and see the keys around their
    block, so that work and memory grow with T, not with T^2.
    """
    left, right = window
    length = q.shape[2]
    every = torch.arange(length, device=q.device)
    if left < 0 or right < 0:
        mask = band(every, every, window) & valid[:, None, :] | band(every, every, (0, 0))
        return weigh(q, k, v, mask[:, None])
    num_blocks = (length + BLOCK - 1) // BLOCK
    starts = torch.arange(num_blocks, device=q.device)[:, None] * BLOCK
    queries = starts + torch.arange(BLOCK, device=q.device)
    keys = starts + torch.arange(-left, BLOCK + right, device=q.device)
    seen = keys.clamp(0, length - 1)
    shown = (keys >= 0) & (keys < length) & valid.index_select(1, seen.flatten()).unflatten(1, keys.shape)
    mask = band(queries, keys, window) & shown[:, :, None] | band(queries, keys, (0, 0))
    q = F.pad(q, (0, 0, 0, num_blocks * BLOCK - length)).unflatten(2, (num_blocks, BLOCK))
    k, v = (x.index_select(2, seen.flatten()).unflatten(2, keys.shape) for x in (k, v))
    return weigh(q, k, v, mask[:, None]).flatten(2, 3)[:, :, :length]


class LayerGraph(nn.Module):
    """A TransformerLayer with attention in blocks, and queries that its weights have scaled already."""

    def __init__(self, layer: TransformerLayer):
        """Shares the weights of a layer, except those of its queries."""
        super().__init__()
        attention = layer.self_attn
        self.num_heads, self.window, self.rope_theta = attention.num_heads, attention.window, attention.rope_theta
        self.norm, self.mlp = layer.self_attn_layer_norm, layer.mlp
        self.out_proj: nn.Module = attention.out_proj
        self.layer = layer  # holds what `mlp` and the projections use
        self.q_proj = copy.deepcopy(attention.q_proj)
        for parameter in self.q_proj.parameters():
            parameter.data = parameter.data * (self.q_proj.out_features // self.num_heads) ** -0.5

    def project(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Frames x [B, T, D] -> q (scaled), k, v, each [B, H, T, D / H], without positions."""
        x, attention = self.norm(x), self.layer.self_attn
        q, k, v = (
            rearrange(p(x), "b t (h d) -> b h t d", h=self.num_heads)
            for p in (self.q_proj, attention.k_proj, attention.v_proj)
        )
        return q, k, v

    def _finish(self, x: Tensor, mixed: Tensor) -> Tensor:
        """Residual stream [B, T, D] and what attention gave [B, H, T, D / H] -> [B, T, D]."""
        return self.mlp(x + self.out_proj(rearrange(mixed, "b h t d -> b t (h d)")))

    def forward(self, x: Tensor, valid: Tensor) -> Tensor:
        """Frames x [B, T, D], valid bool [B, T] -> [B, T, D]."""
        q, k, v = self.project(x)
        q, k = rotate(q, self.rope_theta), rotate(k, self.rope_theta)
        return self._finish(x, attend(q, k, v, self.window, valid))

    def step(self, x: Tensor, cache: Mapping[str, Tensor], start: Tensor, end: Tensor) -> tuple[Tensor, State]:
        """TransformerLayer.step for limited windows, with start and end as tensors []."""
        left, right = self.window
        num_new = x.shape[1]
        waiting = torch.cat((cache["x"], x), dim=1) if right else x
        q, k, v = self.project(waiting)
        keys = torch.cat((cache["k"], k[:, :, right:]), dim=2)
        values = torch.cat((cache["v"], v[:, :, right:]), dim=2)
        steps = torch.arange(left + right + num_new, device=x.device)  # key i is at position start - left - right + i
        positions, own = start - (left + right) + steps, left + steps[:num_new]
        mask = band(own, steps, self.window) & (positions >= 0) & (positions < end) | band(own, steps, (0, 0))
        q = rotate(F.pad(q[:, :, :num_new], (0, 0, left, 0)), self.rope_theta)[:, :, left:]
        mixed = weigh(q, rotate(keys, self.rope_theta), values, mask)
        out = self._finish(waiting[:, :num_new], mixed)
        new_cache = {"k": keys[:, :, num_new:], "v": values[:, :, num_new:]}
        return out, new_cache | ({"x": waiting[:, num_new:]} if right else {})


class StackGraph(nn.ModuleList):
    """A Transformer, to be called as one, with the lengths of all items and with positions as tensors []."""

    def __init__(self, stack: Transformer):
        """A graph for each layer of a Transformer."""
        super().__init__(LayerGraph(layer) for layer in stack.layers)
        self.skip_layer, self.look_ahead = stack.skip_layer, stack.look_ahead

    @property
    def layers(self) -> list[LayerGraph]:
        """The layers, the first one first."""
        return [layer for layer in self if isinstance(layer, LayerGraph)]

    def forward(self, x: Tensor, lengths: Tensor) -> Tensor:
        """Frames x [B, T, D], lengths [B] frames -> [B, T, D]."""
        valid, skipped = length_mask(lengths, x.shape[1]), None
        for number, layer in enumerate(self.layers, start=1):
            x = layer(x, valid)
            skipped = x if number == self.skip_layer else skipped
        return x if skipped is None else x + skipped

    def step(self, x: Tensor, state: Mapping[str, Tensor], start: Tensor, end: Tensor) -> tuple[Tensor, State]:
        """Transformer.step with start and end as tensors []."""
        new_state: State = {}
        skipped = None
        for number, layer in enumerate(self.layers, start=1):
            x, cache = layer.step(x, scoped(state, str(number - 1)), start, end)
            new_state |= scope(cache, str(number - 1))
            start = start - layer.window[1]
            skipped = x if number == self.skip_layer else skipped
        return (x if skipped is None else x + skipped), new_state


def with_stack_graphs(module: Module) -> Module:
    """A copy that shares the weights of a module, and in which every Transformer is a StackGraph."""
    copied = copy.copy(module)
    copied._modules = {
        name: StackGraph(part) if isinstance(part, Transformer) else part for name, part in module._modules.items()
    }
    return copied
