"""The networks of a MiMo-Audio language model (arXiv 2512.23808, section 2.2).

grid -> patch encoder + text embedding -> backbone -> text logits, and a seed -> patch decoder -> codes.
Symbols: B batch, P positions, C channels, G frames of a patch, H width of the backbone, D width of the patch decoder.
The state dict has the keys of the released checkpoints.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mimo_codec.common.checks import needs_extra
from mimo_codec.lm.cache import KeyValueCache
from mimo_codec.lm.config import LMConfig
from mimo_codec.lm.layout import delay

ATTENTION = "mimo_codec"
"""The name under which transformers knows our attention."""


class Output(NamedTuple):
    """Predictions for every next position, given the true ones."""

    embeddings: Tensor
    """Inputs of the backbone [B, P, H]."""
    text_logits: Tensor
    """Logits of the token at the next position [B, P, vocabulary]."""
    local_hidden: Tensor
    """Seed from which the patch at the next position is decoded [B, P, D]."""
    audio_positions: Tensor
    """Item and position of every patch that is predicted (those at position 0 are not) [N, 2]."""
    audio_logits: tuple[Tensor, ...]
    """Logits of each of C channels [N, G, codes], the empty code among them."""


class Apart(NamedTuple):
    """Stands for a mask: items that lie one after the other in one row, each causal and blind to the others."""

    lengths: tuple[int, ...]


class SpeechLanguageModel(nn.Module):
    """Patch encoder, Qwen2 backbone and patch decoder. `SpeechLanguageModel(config)` has random weights."""

    def __init__(self, config: LMConfig, empty_id: int):
        """empty_id: the text token `<|empty|>`, which marks audio positions."""
        super().__init__()
        self.config, self.empty_id = config, empty_id
        self.is_quantized = False
        self.adapter_config: Any = None
        c = config
        self.model: Any = _qwen2(
            c,
            c.hidden_size,
            c.num_hidden_layers,
            c.num_attention_heads,
            c.num_key_value_heads,
            c.head_dim,
            c.intermediate_size,
            c.vocab_size,
        )
        self.lm_head = nn.Linear(c.hidden_size, c.vocab_size, bias=False)
        if c.tie_word_embeddings:
            self.lm_head.weight = cast(Any, self.model).embed_tokens.weight
        self.speech_embeddings = nn.ModuleList(nn.Embedding(n, c.input_local_dim) for n in c.speech_vocab_size)
        self.input_local_transformer = _local(c, c.input_local_dim, c.input_local_layers, 4 * c.input_local_dim)
        self.speech_group_downcast = nn.Linear(c.input_local_dim * c.group_size, c.hidden_size, bias=False)
        self.hidden_states_downcast = nn.Linear(c.hidden_size, c.local_dim, bias=False)
        if c.input_local_dim != c.local_dim:
            self.speech_embeddings_to_local = nn.Linear(c.input_local_dim, c.local_dim, bias=False)
        self.local_transformer = _local(c, c.local_dim, c.local_layers, c.local_ffn_dim)
        self.local_transformer_lm_heads = nn.ModuleList(
            nn.Linear(c.local_dim, size, bias=False) for size in c.speech_vocab_size
        )

    @property
    def device(self) -> torch.device:
        """The device that inputs have to be on."""
        return place_of(self.speech_group_downcast)

    @property
    def dtype(self) -> torch.dtype:
        """The type of the weights."""
        return self.speech_group_downcast.weight.dtype

    # ---- grid -> embeddings --------------------------------------------------------------------------------------

    def embed(self, tokens: Tensor, patches: Tensor) -> Tensor:
        """Embed text tokens [B, P] and patches [B, P, C, G] as [B, P, H].

        Text counts nothing at `<|empty|>`, audio nothing elsewhere.
        """
        is_audio = tokens == self.empty_id
        text: Tensor = self.model.embed_tokens(tokens.clamp(min=0)).to(tokens.device)
        text = text.masked_fill(is_audio[..., None], 0)
        if torch.compiler.is_compiling():  # no shapes that depend on data
            return text + self.encode_patches(patches).masked_fill(~is_audio[..., None], 0)
        embeddings = text.clone()
        embeddings[is_audio] = self.encode_patches(patches[is_audio]).to(text.dtype)
        return embeddings

    def encode_patches(self, patches: Tensor) -> Tensor:
        """Encode patches: codes [..., C, G] -> [..., H]."""
        frames = self._embed_codes(patches).flatten(0, -3)  # [N, G, D']
        length = frames.shape[1]
        mask = torch.ones(length, length, dtype=torch.bool, device=frames.device)
        if not self.config.input_full_attention:
            mask = mask.tril()
        hidden = _run(self.input_local_transformer, frames, mask[None, None], torch.arange(length, device=mask.device))
        return cast(Tensor, self.speech_group_downcast(hidden.flatten(1)).unflatten(0, patches.shape[:-2]))

    def _embed_codes(self, codes: Tensor) -> Tensor:
        """Embed codes [..., C, T] as the sum over the channels [..., T, D'], empty codes counting nothing."""
        total = self.embed_channel(0, codes[..., 0, :])
        for r in range(1, self.config.audio_channels):
            total = total + self.embed_channel(r, codes[..., r, :])
        return total

    def embed_channel(self, channel: int, codes: Tensor) -> Tensor:
        """Embed codes [...] of one channel as [..., D']."""
        empty = codes == self.config.speech_zeroemb_idx[channel]
        return cast(Tensor, self.speech_embeddings[channel](codes).masked_fill(empty[..., None], 0))

    # ---- backbone ------------------------------------------------------------------------------------------------

    def run_backbone(
        self, embeddings: Tensor, mask: Tensor, positions: Tensor, cache: KeyValueCache | None = None
    ) -> Tensor:
        """Run embeddings [B, n, H] through the backbone to hidden states [B, n, H].

        Args:
            embeddings: of n positions.
            mask: bool [B or 1, 1, n, keys], True where a query may look.
            positions: of the embeddings [B or 1, n].
            cache: of the positions before; without one the keys are these n.
        """
        return _run(self.model, embeddings, mask, positions, cache)

    def run_packed(self, embeddings: Tensor, lengths: Sequence[int]) -> Tensor:
        """Run items of `lengths` that follow each other in embeddings [P, H] to hidden states [P, H], each as alone."""
        positions = torch.cat([torch.arange(n, device=embeddings.device) for n in lengths])
        output = self.model(
            None, {"full_attention": Apart(tuple(lengths))}, positions[None], inputs_embeds=embeddings[None]
        )
        return cast(Tensor, output.last_hidden_state[0])

    def seeds(self, hidden: Tensor) -> Tensor:
        """Turn hidden states [..., H] into seeds of the patch decoder [..., D]."""
        return cast(Tensor, self.hidden_states_downcast(hidden))

    # ---- patch decoder -------------------------------------------------------------------------------------------

    @property
    def num_steps(self) -> int:
        """Number of steps that the patch decoder takes for a patch."""
        return self.config.group_size + max(self.config.delay_pattern)

    def to_local(self, embedding: Tensor) -> Tensor:
        """Bring code embeddings [..., D'] to the width of the patch decoder [..., D]."""
        if not hasattr(self, "speech_embeddings_to_local"):
            return embedding
        return cast(Tensor, self.speech_embeddings_to_local(embedding))

    def run_local(self, inputs: Tensor, mask: Tensor, steps: Tensor, cache: KeyValueCache | None = None) -> Tensor:
        """Run inputs [N, n, D] at `steps` [n] through the patch decoder to hidden states [N, n, D]."""
        return _run(self.local_transformer, inputs, mask, steps, cache)

    def patch_logits(self, seeds: Tensor, patches: Tensor) -> tuple[Tensor, ...]:
        """Predict from seeds [N, D] and the true codes [N, C, G] the logits [N, G, codes] of each channel at once."""
        c = self.config
        delayed = delay(patches, c.delay_pattern, c.speech_zeroemb_idx)
        inputs = torch.cat((seeds[:, None], self.to_local(self._embed_codes(delayed[..., :-1]))), dim=1)
        steps = torch.arange(self.num_steps, device=inputs.device)
        hidden = self.run_local(inputs, (steps[None] <= steps[:, None])[None, None], steps)
        return tuple(
            head(hidden[:, start : start + c.group_size])
            for head, start in zip(self.local_transformer_lm_heads, c.delay_pattern, strict=True)
        )

    # ---- everything at once --------------------------------------------------------------------------------------

    def forward(self, ids: Tensor, lengths: Tensor | None = None) -> Output:
        """Predict every next position of grids [B, 1 + C, G P], given the true ones.

        Args:
            ids: valid grids, as `Layout.build` makes them and `Layout.check_grid` checks them.
            lengths: positions [B] of each item, padding after it; all P when None.
        """
        c = self.config
        tokens = ids[:, 0, :: c.group_size]
        patches = ids[:, 1:].reshape(len(ids), c.audio_channels, -1, c.group_size).transpose(1, 2)
        steps = torch.arange(tokens.shape[1], device=ids.device)
        present = torch.ones_like(tokens, dtype=torch.bool) if lengths is None else steps < lengths[:, None]
        embeddings = self.embed(tokens, patches)
        causal = (steps[None] <= steps[:, None])[None, None]  # padding comes last, so no one looks at it
        hidden = self.run_backbone(embeddings, causal, steps[None])
        seeds = self.seeds(hidden)
        predicted = ((tokens == self.empty_id) & present)[:, 1:]
        logits = self.patch_logits(seeds[:, :-1][predicted], patches[:, 1:][predicted])
        where = predicted.nonzero() + torch.tensor([0, 1], device=ids.device)
        return Output(embeddings, self.lm_head(hidden), seeds, where, logits)


def _qwen2(
    config: LMConfig, width: int, layers: int, heads: int, kv_heads: int, head_dim: int, ffn: int, vocabulary: int
) -> nn.Module:
    """Make a Qwen2 stack that attends by `_attend`."""
    with needs_extra("transformers", "lm"):
        from transformers import AttentionInterface, Qwen2Config, Qwen2Model
    AttentionInterface.register(ATTENTION, _attend)
    shape: dict[str, Any] = dict(
        vocab_size=vocabulary,
        hidden_size=width,
        intermediate_size=ffn,
        num_hidden_layers=layers,
        num_attention_heads=heads,
        num_key_value_heads=kv_heads,
        head_dim=head_dim,
        rope_theta=config.rope_theta,
        max_position_embeddings=config.max_position_embeddings,
        rms_norm_eps=float(config.rms_norm_eps),  # transformers refuses integers
        use_cache=False,
        attn_implementation=ATTENTION,
    )
    return cast(nn.Module, Qwen2Model(Qwen2Config(**shape)))


def _local(config: LMConfig, width: int, layers: int, ffn: int) -> nn.Module:
    """Make a Qwen2 stack without token embeddings."""
    heads = config.local_attn_heads
    stack: Any = _qwen2(config, width, layers, heads, heads, width // heads, ffn, 1)
    stack.embed_tokens = None
    return cast(nn.Module, stack)


def _attend(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | Apart | None,
    dropout: float = 0.0,
    **_: Any,
) -> tuple[Tensor, None]:
    """Queries [B, H, n, d] for keys and values [B, K, m, d] -> [B, n, H, d], in the terms of transformers.

    The heads that share a key are queries of one product when there is one position: compiled, transformers' own sdpa
    copies the whole cache for every head.
    """
    groups = query.shape[1] // key.shape[1]
    if query.shape[2] == 1 and not isinstance(attention_mask, Apart):
        mixed = F.scaled_dot_product_attention(query.view(*key.shape[:2], groups, -1), key, value, attention_mask)
        return mixed.reshape(len(query), 1, query.shape[1], -1), None
    key, value = (x.repeat_interleave(groups, dim=1) for x in (key, value))
    if isinstance(attention_mask, Apart):  # without a mask, so that kernels of flash attention are used
        parts = zip(*(x.split(attention_mask.lengths, dim=2) for x in (query, key, value)), strict=True)
        each = [F.scaled_dot_product_attention(q, k, v, None, dropout, is_causal=True) for q, k, v in parts]
        mixed = torch.cat(each, dim=2)
    else:
        mixed = F.scaled_dot_product_attention(query, key, value, attention_mask, dropout)
    return mixed.transpose(1, 2).contiguous(), None


def _run(
    stack: nn.Module, inputs: Tensor, mask: Tensor, positions: Tensor, cache: KeyValueCache | None = None
) -> Tensor:
    """Run inputs [N, n, width] through a Qwen2 stack; mask [N or 1, 1, n, keys], positions [n] or [N or 1, n]."""
    if not len(inputs):
        return inputs
    mask = mask.expand(len(inputs), 1, *mask.shape[2:])
    positions = positions.expand(len(inputs), inputs.shape[1])
    # the cache has another name since transformers 5.24, but the same place
    output = stack(None, mask, positions, cache, inputs_embeds=inputs, use_cache=cache is not None)
    return cast(Tensor, output.last_hidden_state)


def place_of(module: nn.Module) -> torch.device:
    """Return the device that a module computes on, wherever its weights wait."""
    hook = getattr(module, "_hf_hook", None)  # of accelerate, when layers are spread over devices
    found = getattr(hook, "execution_device", None)
    return torch.device(found) if found is not None else next(module.parameters()).device


def rebuild_rotary(model: nn.Module, device: torch.device) -> None:
    """Give every Qwen2 stack that was made on the meta device its rotary frequencies, which are in no checkpoint."""
    for stack in model.modules():
        rotary: Any = getattr(stack, "rotary_emb", None)
        if rotary is not None:
            stack.rotary_emb = type(rotary)(config=stack.config).to(device)
