"""The language model as torch modules that export to ONNX: a step of the backbone, a step of the patch decoder.

They share the weights of a SpeechLanguageModel, transposed as MatMul of ONNX wants them, and do what it does in plain
operations. Batch, new positions and past positions are dynamic: one graph takes a prompt (no past) and goes on with it.
Sums, norms, rotations and softmax are float32 whatever the weights are, for the residual stream of large models leaves
the range of float16.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mimo_codec.lm.config import LMConfig
from mimo_codec.lm.model import SpeechLanguageModel
from mimo_codec.onnx.codec.stacks import HIDDEN

State = dict[str, Tensor]


class Matrix(nn.Module):
    """As nn.Linear."""

    def __init__(self, *linears: nn.Linear):
        """Several with the same input are one with their outputs side by side; of these the weights are copied."""
        super().__init__()
        weights = [linear.weight.detach() for linear in linears]
        weight = weights[0] if len(weights) == 1 else torch.cat(weights)
        self.weight = nn.Parameter(weight.T, requires_grad=False)
        bias = linears[0].bias
        self.bias = None if bias is None else nn.Parameter(bias.detach(), requires_grad=False)

    def forward(self, x: Tensor) -> Tensor:
        """[..., in] of any type -> [..., out] in the type of the weights."""
        y = x.to(self.weight.dtype) @ self.weight
        return y if self.bias is None else y + self.bias


class Norm(nn.Module):
    """Root mean square norm, float32."""

    def __init__(self, norm: Any, epsilon: float):
        super().__init__()
        self.weight, self.epsilon = nn.Parameter(norm.weight.detach().float(), requires_grad=False), epsilon

    def forward(self, x: Tensor) -> Tensor:
        """[..., D] float32 -> [..., D] float32."""
        return self.weight * (x * torch.rsqrt(x.square().mean(-1, keepdim=True) + self.epsilon))


class Rotary(nn.Module):
    """Positions as rotations of queries and keys, the two halves of a head being the two axes."""

    frequencies: Tensor

    def __init__(self, head_dim: int, theta: float):
        super().__init__()
        frequencies = theta ** (-torch.arange(0, head_dim, 2, dtype=torch.float32) / head_dim)
        self.register_buffer("frequencies", frequencies)

    def forward(self, positions: Tensor) -> tuple[Tensor, Tensor]:
        """Positions [B or 1, n] -> cosines and sines [B or 1, 1, n, head_dim]."""
        angles = positions[:, None, :, None].float() * self.frequencies
        angles = torch.cat((angles, angles), dim=-1)
        return angles.cos(), angles.sin()


def rotate(x: Tensor, rotation: tuple[Tensor, Tensor]) -> Tensor:
    """x [B, H, n, head_dim], in its type."""
    (cos, sin), wide = rotation, x.float()
    one, other = wide.chunk(2, dim=-1)
    return (wide * cos + torch.cat((-other, one), dim=-1) * sin).to(x.dtype)


def attend(q: Tensor, k: Tensor, v: Tensor, mask: Tensor) -> Tensor:
    """q [B, H, n, d], k and v [B, K, keys, d], H a multiple of K, mask [B or 1, n, keys] -> [B, H, n, d].

    Query heads that share a key head are rows of one product, so that keys and values are not repeated.
    """
    groups = q.shape[1] // k.shape[1]
    q = q * q.shape[-1] ** -0.5
    scores = q.unflatten(1, (-1, groups)).flatten(2, 3) @ k.transpose(-1, -2)
    scores = scores.unflatten(2, (groups, -1)).float()  # [B, K, groups, n, keys]
    weights = torch.where(mask[:, None, None], scores, HIDDEN).softmax(-1)
    return (weights.flatten(2, 3).to(v.dtype) @ v).unflatten(2, (groups, -1)).flatten(1, 2)


class LayerGraph(nn.Module):
    """As Qwen2DecoderLayer."""

    def __init__(self, layer: Any, head_dim: int, epsilon: float):
        super().__init__()
        attention, mlp, self.head_dim = layer.self_attn, layer.mlp, head_dim
        self.q, self.k, self.v = Matrix(attention.q_proj), Matrix(attention.k_proj), Matrix(attention.v_proj)
        self.out = Matrix(attention.o_proj)
        self.gate, self.up, self.down = Matrix(mlp.gate_proj), Matrix(mlp.up_proj), Matrix(mlp.down_proj)
        self.attention_norm = Norm(layer.input_layernorm, epsilon)
        self.mlp_norm = Norm(layer.post_attention_layernorm, epsilon)

    def _heads(self, x: Tensor) -> Tensor:
        """[B, n, H d] -> [B, H, n, d]"""
        return x.unflatten(2, (-1, self.head_dim)).transpose(1, 2)

    def forward(
        self, x: Tensor, rotation: tuple[Tensor, Tensor], mask: Tensor, past: tuple[Tensor, Tensor] | None = None
    ) -> tuple[Tensor, Tensor, Tensor]:
        """x [B, n, D] float32, past keys and values [B, K, past, d] -> x, keys and values [B, K, past + n, d]."""
        h = self.attention_norm(x)
        q, k, v = self._heads(self.q(h)), self._heads(self.k(h)), self._heads(self.v(h))
        q, k = rotate(q, rotation), rotate(k, rotation)
        if past is not None:
            k, v = torch.cat((past[0], k), dim=2), torch.cat((past[1], v), dim=2)
        x = x + self.out(attend(q, k, v, mask).transpose(1, 2).flatten(2)).float()
        h = self.mlp_norm(x)
        return x + self.down(F.silu(self.gate(h)) * self.up(h)).float(), k, v


class StackGraph(nn.Module):
    """As Qwen2Model, without token embeddings."""

    def __init__(self, stack: Any, head_dim: int, config: LMConfig):
        super().__init__()
        self.layers = nn.ModuleList(LayerGraph(layer, head_dim, config.rms_norm_eps) for layer in stack.layers)
        self.norm = Norm(stack.norm, config.rms_norm_eps)
        self.rotary = Rotary(head_dim, config.rope_theta)

    def forward(
        self, x: Tensor, positions: Tensor, mask: Tensor, state: Mapping[str, Tensor] | None = None
    ) -> tuple[Tensor, State]:
        """x [B, n, D], positions [B or 1, n], mask [B or 1, n, keys] -> hidden states [B, n, D] float32, new state."""
        x, rotation, new_state = x.float(), self.rotary(positions), {}
        for i, layer in enumerate(self.layers):
            past = None if state is None else (state[f"keys.{i}"], state[f"values.{i}"])
            x, new_state[f"keys.{i}"], new_state[f"values.{i}"] = layer(x, rotation, mask, past)
        return self.norm(x), new_state


class CodeEmbedding(nn.Module):
    """Codes -> the sum of their channels' embeddings; empty codes count nothing."""

    table: Tensor
    starts: Tensor

    def __init__(self, model: SpeechLanguageModel):
        super().__init__()
        embeddings: Any = model.speech_embeddings
        tables = [embedding.weight.detach().clone() for embedding in embeddings]
        for table in tables:
            table[-1] = 0  # the empty code
        starts = [sum(map(len, tables[:i])) for i in range(len(tables))]
        self.table = nn.Parameter(torch.cat(tables), requires_grad=False)
        self.register_buffer("starts", torch.tensor(starts))

    def forward(self, codes: Tensor) -> Tensor:
        """[..., C] -> [..., D'] float32."""
        return F.embedding(codes + self.starts, self.table).float().sum(-2)


class BackboneGraph(nn.Module):
    """backbone.onnx: positions in, what may come next out: patch encoder, embeddings, backbone and text head."""

    def __init__(self, model: SpeechLanguageModel):
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
        """Keys and values [B, K, past, head_dim] of every layer, zero."""
        return _empty_cache(self.stack, batch, self.config.num_key_value_heads, past, dtype)

    def _encode(self, patches: Tensor) -> Tensor:
        """Patches [B, n, C, G] -> [B, n, H]."""
        frames = self.codes(patches.transpose(2, 3)).flatten(0, 1)  # [B n, G, D']
        steps = torch.arange(self.config.group_size, device=frames.device)
        mask = steps[None] <= steps[:, None] + (self.config.group_size if self.config.input_full_attention else 0)
        hidden, _ = self.encoder(frames, steps[None], mask[None])
        return self.downcast(hidden.flatten(1)).float().unflatten(0, patches.shape[:2])

    def forward(self, tokens: Tensor, patches: Tensor, pads: Tensor, state: State) -> tuple[Tensor, Tensor, State]:
        """tokens [B, n] and patches [B, n, C, G], of which text counts nothing at `<|empty|>` and audio nothing
        elsewhere; pads [B]: the first positions of an item, past ones counted, that are none
        -> logits of the next token [B, V] and seed of the next patch [B, D], both float32, and the new state.
        """
        is_audio = tokens == self.empty_id
        x = torch.where(is_audio[..., None], self._encode(patches), F.embedding(tokens, self.text_table).float())
        past = state["keys.0"].shape[2]
        keys = torch.arange(past + tokens.shape[1], device=tokens.device)
        own = keys[past:]
        positions = (own - pads[:, None]).clamp(min=0)
        first = torch.minimum(pads[:, None], own)[..., None]  # padding sees itself
        hidden, new_state = self.stack(x, positions, (keys >= first) & (keys <= own[:, None]), state)
        last = hidden[:, -1]
        return self.head(last).float(), self.to_seeds(last).float(), new_state


class PatchStepGraph(nn.Module):
    """patch_step.onnx: a step of the patch decoder. The first reads a seed, those after it the codes of the one before.

    At step t, channel r has a code when delay r <= t < delay r + G.
    """

    def __init__(self, model: SpeechLanguageModel):
        super().__init__()
        c = model.config
        self.config, self.codes = c, CodeEmbedding(model)
        self.to_local = (
            Matrix(model.speech_embeddings_to_local) if hasattr(model, "speech_embeddings_to_local") else None
        )
        self.stack = StackGraph(model.local_transformer, c.local_dim // c.local_attn_heads, c)
        self.head = Matrix(*model.local_transformer_lm_heads)

    def initial_state(self, batch: int, past: int, dtype: torch.dtype) -> State:
        """Keys and values [N, heads, past, head_dim] of every layer, zero."""
        return _empty_cache(self.stack, batch, self.config.local_attn_heads, past, dtype)

    def forward(self, seeds: Tensor, codes: Tensor, state: State) -> tuple[Tensor, State]:
        """seeds [N, D] float32, zero after the first step; codes [N, C] of the step before, empty where a channel has
        none -> logits [N, sum of all vocabularies] float32, channel after channel, and the new state."""
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
