"""Language models with either kind of codec: the same answers, in the arrays of the language model."""

from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import GOLDEN, make_speech
from exports import tiny_model

pytest.importorskip("transformers", reason="needs the lm extra")
pytest.importorskip("onnxscript", reason="needs the onnx extra")
pytest.importorskip("onnxruntime", reason="needs the onnx extra")

from mimo_codec import MimoCodec
from mimo_codec.lm import MimoAudioLM, Stop
from mimo_codec.onnx import OnnxAudioLM, OnnxCodec
from mimo_codec.onnx.lm.export import export_lm

FOLDER = GOLDEN / "lm_base"
SPEECH = (make_speech(0.7), 24000)
SHORT = {"max_new_patches": 8, "greedy": True}


@pytest.fixture(scope="module")
def lms(tiny_onnx: Path) -> list[MimoAudioLM]:
    """By PyTorch: with the codec by PyTorch and by ONNX Runtime; both speak readily."""
    found = [
        MimoAudioLM.from_pretrained(FOLDER, device="cpu", codec=name) for name in (tiny_model(tiny_onnx), tiny_onnx)
    ]
    for lm in found:
        with torch.no_grad():
            lm.model.lm_head.weight[lm.tokenizer.special.empty] *= 3
    return found


def test_names_of_codecs(lms: list[MimoAudioLM]) -> None:
    assert isinstance(lms[0].codec, MimoCodec) and isinstance(lms[1].codec, OnnxCodec)


def test_hearing(lms: list[MimoAudioLM]) -> None:
    for audio in (SPEECH, (make_speech(0.7, 16000).numpy(), 16000)):
        one, other = (lm.transcribe(audio, **SHORT) for lm in lms)
        assert torch.equal(one.ids, other.ids) and one.text == other.text


def test_speaking(lms: list[MimoAudioLM]) -> None:
    one, other = (lm.continue_speech(SPEECH, 0.5, greedy=True) for lm in lms)
    assert one.codes is not None and torch.equal(one.codes.codes, other.codes.codes)
    assert isinstance(other.waveform, torch.Tensor) and isinstance(other.ids, torch.Tensor)
    torch.testing.assert_close(other.waveform, one.waveform, atol=1e-5, rtol=0)


def test_streams(lms: list[MimoAudioLM]) -> None:
    options = {"max_new_patches": 20, "seed": 1, "stop": Stop((), 0.6)}
    sounds = []
    for lm in lms:
        pieces = list(lm.streaming.speak("Hello", voice=SPEECH, **options))
        sound = [piece.waveform for piece in pieces if piece.waveform is not None]
        assert sound and all(isinstance(waveform, torch.Tensor) for waveform in sound)
        assert torch.equal(torch.cat(sound), pieces[-1].generation.waveform)
        sounds.append(torch.cat(sound))
    torch.testing.assert_close(sounds[1], sounds[0], atol=1e-5, rtol=0)


@pytest.mark.slow
def test_exported_language_models(tiny_onnx: Path, tmp_path: Path) -> None:
    """A model by ONNX Runtime with a codec by PyTorch gives numpy arrays."""
    lm = MimoAudioLM.from_pretrained(FOLDER, device="cpu")
    with torch.no_grad():
        lm.model.lm_head.weight[lm.tokenizer.special.empty] *= 3
    export_lm(lm, tmp_path / "lm")
    found = [OnnxAudioLM(tmp_path / "lm", codec=name, num_threads=1) for name in (tiny_onnx, tiny_model(tiny_onnx))]
    assert isinstance(found[0].codec, OnnxCodec) and isinstance(found[1].codec, MimoCodec)
    one, other = (model.continue_speech(SPEECH, 0.5, greedy=True) for model in found)
    assert np.array_equal(one.codes.codes, other.codes.codes) and isinstance(other.codes.codes, np.ndarray)
    assert isinstance(other.waveform, np.ndarray) and np.abs(one.waveform - other.waveform).max() < 1e-5
