"""MimoCodec: a codec by PyTorch."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn.utils.rnn import pad_sequence

from mimo_codec.codec.base import Codec, Ids, Samples
from mimo_codec.codec.checkpoint import (
    check_shapes,
    check_sizes,
    find_checkpoint,
    load_state,
    read_tensors,
    save_checkpoint,
)
from mimo_codec.codec.config import CodecConfig
from mimo_codec.codec.decoder import Decoder
from mimo_codec.codec.encoder import Encoder
from mimo_codec.codec.mel import LogMel
from mimo_codec.codec.pieces import check_finite
from mimo_codec.codec.quantizer import make_quantizer
from mimo_codec.codec.streaming import State, as_count, compact, scope, scoped
from mimo_codec.codes import MAX_MODEL_LENGTH
from mimo_codec.common.arrays import has_values
from mimo_codec.common.autocast import without_autocast
from mimo_codec.common.errors import MimoError
from mimo_codec.hub import weight_headers

GROWING = (".tail", ".mel", ".k", ".v")
"""Values of a state whose size changes, where they are empty at the start."""
DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}


class MimoCodec(Codec[Tensor], nn.Module):
    """A neural speech codec of the MiMo-Audio-Tokenizer family (arXiv 2512.23808, section 2.1), in PyTorch.

    `MimoCodec(config)` has random weights; `MimoCodec.from_pretrained(...)` loads a trained model. Its parts are
    modules: `mel` (waveforms -> log-mel), `encoder` (log-mel -> features), `quantizer` (features <-> codes), and
    `decoder` (quantized features -> waveforms).
    """

    def __init__(self, config: CodecConfig, *, decoder: bool = True):
        """decoder: False for an encoder-only model, which encodes but cannot decode."""
        super().__init__()
        self.config = config
        self.name = "custom"
        self._state_kinds: dict[tuple[bool, torch.dtype], dict[str, tuple[torch.dtype, torch.Size]]] = {}
        self.mel = LogMel(config.mel)
        self.encoder = Encoder(config)
        self.quantizer = make_quantizer(config.quantizer, config.d_model)
        self.decoder = Decoder(config) if decoder else None

    # ---- loading and saving --------------------------------------------------------------------------------------

    @classmethod
    def from_pretrained(
        cls,
        name_or_path: str | Path = "nano",
        *,
        device: str | torch.device | None = None,
        dtype: str | torch.dtype | None = None,
        revision: str | None = None,
    ) -> MimoCodec:
        """Load a model, in evaluation mode.

        name_or_path: a shipped name ("nano"), a folder with config.json and safetensors, or a Hugging Face hub id.
        device: None for CUDA where there is one, else the CPU. dtype: of encoder and decoder, float32 (None),
        bfloat16 or float16; quantization is float32 always. revision: of a hub repository.
        Raises MimoError for unknown names, unreadable or unsupported configurations, and weights that do not fit
        (every missing, unexpected or wrongly shaped tensor is named).
        """
        wanted = check_dtype(dtype)
        place = check_device(device)
        folder, name = find_checkpoint(name_or_path, revision)
        config = CodecConfig.load(folder / "config.json")
        codec = model_without_weights(config, folder)  # the weights are assigned, so never exist twice
        tensors = read_tensors(folder, wanted)
        codec.mel = LogMel(config.mel)
        codec.quantizer = make_quantizer(config.quantizer, config.d_model)
        load_state(codec, tensors, folder)
        codec.name = name
        return codec.to(place).eval()

    def save_pretrained(self, folder: str | Path) -> None:
        """Write config.json and model.safetensors, training state included, as the released code reads them."""
        save_checkpoint(folder, self.config, self.state_dict())

    # ---- what it is ----------------------------------------------------------------------------------------------

    @property
    def num_quantizers(self) -> int:
        """Number of codebooks."""
        return self.config.quantizer.num_quantizers

    @property
    def model_id(self) -> str:
        """Mark of the codes of this model: "name@fingerprint", where the fingerprint names its codebooks."""
        clean = "".join(c if c.isprintable() and c.isascii() else "_" for c in self.name)
        return f"{clean[: MAX_MODEL_LENGTH - 9] or 'custom'}@{self.quantizer.fingerprint()}"

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        return self.encoder.conv1.weight.device

    @property
    def dtype(self) -> torch.dtype:
        """Of encoder and decoder; quantization is float32 always."""
        return self.encoder.conv1.weight.dtype

    @property
    def precision(self) -> str:
        """Precision of the networks: "float32", "bfloat16" or "float16"."""
        return str(self.dtype).removeprefix("torch.")

    @property
    def decode_delay(self) -> int | None:
        """Samples by which the output of `decode_chunk` lags behind its input; None without a decoder."""
        return None if self.decoder is None else self.decoder.vocoder.delay

    @property
    def encodes_streams(self) -> bool:
        """Whether `encode_chunk` is possible: it needs a causal encoder."""
        return self.config.streams_encode

    @property
    def decodes_streams(self) -> bool:
        """Whether `decode_chunk` is possible; `config.streams_decode` says whether it is exact."""
        sees_no_future = all(window[1] == 0 for window in self.config.decoder.layer_windows())
        return self.decoder is not None and sees_no_future and self.config.vocoder.look_ahead is not None

    @property
    def _batches_exactly(self) -> bool:
        return self.dtype == torch.float32

    def require_decoder(self) -> Decoder:
        """The decoder; MimoError for a model that has none."""
        self.check_decodes()
        assert self.decoder is not None
        return self.decoder

    # ---- what the contract is made of ----------------------------------------------------------------------------

    def _tensor(self, array: NDArray[np.float32] | NDArray[np.int64]) -> Tensor:
        return torch.from_numpy(array).to(self.device)

    @torch.no_grad()
    @without_autocast
    def _encode_items(self, waveforms: Sequence[Samples], count: int, before: int, after: int) -> list[Tensor]:
        mels = [self.mel(self._tensor(waveform)[None], before, after)[0] for waveform in waveforms]
        lengths = torch.tensor([len(mel) for mel in mels], device=self.device)
        features = self.encoder(pad_sequence(mels, batch_first=True).to(self.dtype), lengths)
        num_frames = [self.config.num_frames(len(waveform) - before - after) for waveform in waveforms]
        return [self.quantizer.encode(f[:n], count) for f, n in zip(features, num_frames, strict=True)]

    @torch.no_grad()
    @without_autocast
    def _decode_items(self, codes: Ids, lengths: NDArray[np.int64]) -> Tensor:
        waveforms: Tensor = self.require_decoder()(self._quantized(codes), self._tensor(lengths))
        return check_finite(waveforms)

    def _quantized(self, codes: Ids) -> Tensor:
        return self.quantizer.decode(self._tensor(codes)).to(self.dtype)

    def _initial_encode_state(self) -> State:
        mel, encoder = self.mel.initial_state(1), self.encoder.initial_state(1)
        return {"num_mels": torch.zeros((), dtype=torch.int64), **scope(mel, "mel"), **scope(encoder, "encoder")}

    @torch.no_grad()
    @without_autocast
    def _encode_step(self, chunks: Samples, state: State, last: bool, count: int) -> tuple[Tensor, State]:
        mel, mel_state = self.mel.step(self._tensor(chunks), scoped(state, "mel"), last)
        num_mels, encoder, features = state["num_mels"], scoped(state, "encoder"), []
        if self.config.segment_frames is not None:  # every segment is encoded as if it were alone
            segment, done = self.config.segment_frames * self.config.mels_per_frame, int(num_mels)
            while done + mel.shape[1] >= segment:
                cut = segment - done
                features.append(self.encoder.step(mel[:, :cut].to(self.dtype), encoder, last=True)[0])
                mel, done, encoder = mel[:, cut:], 0, self.encoder.initial_state(len(chunks))
            num_mels = torch.tensor(done + mel.shape[1])
        piece, encoder = self.encoder.step(mel.to(self.dtype), encoder, last)
        codes = self.quantizer.encode(torch.cat([*features, piece], dim=1), count)
        return codes, compact({"num_mels": num_mels, **scope(mel_state, "mel"), **scope(encoder, "encoder")})

    def _initial_decode_state(self) -> State:
        return self.require_decoder().initial_state(1)

    @torch.no_grad()
    @without_autocast
    def _decode_step(self, codes: Ids, state: State, last: bool) -> tuple[Tensor, State]:
        decoder, segment = self.require_decoder(), self.config.segment_frames
        pieces = [torch.zeros(len(codes), 0, device=self.device, dtype=torch.float32)]
        while segment is not None and (done := int(state["num_frames"])) + codes.shape[2] >= segment:
            cut = segment - done
            pieces.append(decoder.step(self._quantized(codes[:, :, :cut]), state, last=True)[0])
            codes, state = codes[:, :, cut:], decoder.initial_state(len(codes))
        if codes.shape[2] or (last and int(state["num_frames"])):
            piece, state = decoder.step(self._quantized(codes), state, last)
            pieces.append(piece)
        return check_finite(torch.cat(pieces, dim=1)), compact(state)

    def _state_value(self, number: int) -> Tensor:
        return torch.tensor(number, dtype=torch.int64)

    def _is_state(self, state: State, encodes: bool) -> bool:
        key = encodes, self.dtype
        if key not in self._state_kinds:
            initial = self._initial_encode_state() if encodes else self._initial_decode_state()
            self._state_kinds[key] = {name: (value.dtype, value.shape) for name, value in initial.items()}
        kinds = self._state_kinds[key]
        if state.keys() != kinds.keys() or not all(_fits(state[name], name, *kinds[name]) for name in kinds):
            return False
        if encodes and not self.mel.is_state(scoped(state, "mel")):
            return False
        if any(value.ndim and value.device != self.device for value in state.values()):
            return False
        pairs = ((value, state[f"{name[:-1]}v"]) for name, value in state.items() if name.endswith(".k"))
        return all(keys.shape == values.shape for keys, values in pairs)


def model_without_weights(config: CodecConfig, folder: Path) -> MimoCodec:
    """A model on the meta device, which takes no memory, for the weights in a folder.

    Raises MimoError unless the headers of the files have just the tensors that the configuration asks for.
    """
    headers = weight_headers(folder)
    check_sizes(config, headers, folder)
    with torch.device("meta"):
        codec = MimoCodec(config, decoder=any(key.startswith("decoder.") for key in headers))
    check_shapes(codec, headers, folder)
    return codec


def _fits(value: object, name: str, dtype: torch.dtype, shape: torch.Size) -> bool:
    """Whether a value of a state has the type and shape it has at the start of a stream, but for sizes that grow."""
    if not isinstance(value, Tensor) or not has_values(value) or value.dtype != dtype or value.ndim != len(shape):
        return False
    if value.ndim and value.shape == shape:
        return True
    if value.ndim == 0:
        return value.dtype == torch.bool or as_count(value) is not None
    grows = name.endswith(GROWING)
    return all(size == first or (grows and first == 0) for size, first in zip(value.shape, shape, strict=True))


def check_dtype(dtype: str | torch.dtype | None) -> torch.dtype:
    """The torch.dtype of weights meant by a name, None or "auto" for float32; MimoError for what weights cannot be."""
    short = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16, "auto": torch.float32}
    known = DTYPES | {str(value): value for value in DTYPES.values()} | short
    name = "float32" if dtype is None else str(dtype)
    if name not in known:
        raise MimoError(f"dtype: {dtype!r} is not supported: float32, bfloat16 or float16")
    return known[name]


def check_device(device: str | torch.device | None) -> torch.device:
    """The device meant by a name, None for CUDA where there is one; MimoError for what cannot be used."""
    if device is None:
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError) as error:
        reason = re.split(r"\. |\n", str(error))[0]  # a page follows where PyTorch was built without this device
        raise MimoError(f"device: {device!s} cannot be used ({reason})") from None
    place = torch.device(device)
    if place.type == "meta":
        raise MimoError("device: meta cannot be used (it holds shapes without values)")
    return place
