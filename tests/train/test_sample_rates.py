"""Codecs at 16, 44.1 and 48 kHz: their presets, and their recipes from the first step to the export of stage 2."""

from __future__ import annotations

import json
import logging

import pytest
import torch

pytest.importorskip("lightning", reason="needs the train extra")

from broken_files import write_speech
from conftest import SMALL, make_speech
from train_commands import COMMON, SHRUNK, shrunk

from mimo_codec import CodecConfig, MimoCodec
from mimo_codec.codec.mel import mel_filters
from mimo_codec.data.manifest import read_faults, read_manifest
from mimo_codec.train.run import find_recipe, train

RATES = {"nano_16k": 16000, "nano_44k": 44100, "nano_48k": 48000}
HEADS = {f"{part}_attention_heads": 2 for part in ("encoder", "decoder", "vocoder")}


@pytest.mark.parametrize(("name", "rate"), RATES.items())
def test_presets_have_25_frames_per_second_and_stream_exactly(name, rate):
    config = CodecConfig.preset(name)
    assert (config.mel.sample_rate, config.frame_rate) == (rate, 25.0)
    assert mel_filters(rate, config.mel.n_fft, config.mel.n_mels).sum(0).all()  # no band is empty
    torch.manual_seed(0)
    codec = MimoCodec(config.replace(**SMALL, **HEADS)).eval()
    speech = make_speech(1.03, rate)
    whole = codec.encode(speech, rate)
    assert whole.num_frames == 26
    codes, state = [], None
    for piece in speech.split(30_000):
        found, state = codec.encode_chunk(piece, state, last=len(piece) < 30_000)
        codes.append(found)
    assert torch.equal(torch.cat(codes, dim=-1), whole.codes)
    decoded = codec.decode(whole)
    streamed = torch.cat(list(codec.decode_stream([*(whole.codes[:, :25].split(3, dim=1)), whole[1.0:]])))
    assert decoded.shape == speech.shape and torch.allclose(streamed, decoded, atol=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize(("name", "rate"), RATES.items())
def test_both_stages_train_and_leave_out_files_of_lower_rates(name, rate, tmp_path, caplog):
    for number, other in enumerate((rate, 48000, 8000)):
        write_speech(tmp_path / "speech" / f"{number}.wav", 1.2, other, seed=number)
    caplog.set_level(logging.INFO)
    common = ["--data.root", str(tmp_path / "speech"), "--data.validation_root", str(tmp_path / "speech"), *COMMON]
    common += ["--trainer.max_steps", "2", "--trainer.val_check_interval", "2", "--trainer.logger", "false"]
    sizes = ["--model.init_args.config", json.dumps(SMALL | HEADS), *SHRUNK[4:]]
    first, second = tmp_path / "one", tmp_path / "two"
    train(name, [*common, *sizes, "--trainer.default_root_dir", str(first)])
    assert "2 of 3 utterances" in caplog.text and "left out: 1 low rate" in caplog.text
    assert [u.path.name for u in read_manifest(first / "data" / "train.jsonl")] == ["0.wav", "1.wav"]
    (fault,) = {fault.name: fault for fault in read_faults(first / "data" / "skipped.jsonl")}.values()
    assert fault.path.name == "2.wav" and fault.kind == "low rate" and "8000 Hz" in fault.reason

    recipe = f"{name}_stage2"
    train(
        recipe,
        [*common, *shrunk(find_recipe(recipe), first / "export"), "--trainer.default_root_dir", str(second)],
    )
    codec = MimoCodec.from_pretrained(second / "export")
    assert codec.sample_rate == rate
    assert len(codec.decode(codec.encode(make_speech(0.5, rate), rate))) == rate // 2
