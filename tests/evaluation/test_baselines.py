"""Decoded audio beside the original: alignment, and other codecs."""

from __future__ import annotations

import os
import shutil
import stat

import pytest
import torch
from conftest import make_speech
from hypothesis import given, settings
from hypothesis import strategies as st

from mimo_codec import MimoError, resample
from mimo_codec.evaluation.codec.baselines import BASELINES, align, find_baselines, find_delay, packet_sizes
from mimo_codec.metrics import missing_packages, speech_metrics

RATE = 16000


@given(st.integers(-1900, 1900), st.booleans(), st.integers(0, 3))
@settings(deadline=None, max_examples=25)
def test_a_known_delay_is_found_exactly(delay, by_envelope, seed):
    signal = torch.nn.functional.pad(make_speech(1.5, 8000, seed), (2000, 2000))
    moved = torch.roll(signal, delay)
    assert find_delay(signal, moved, 8000, by_envelope) == delay
    assert torch.equal(align(signal, moved, 8000, by_envelope)[2000:-2000], signal[2000:-2000])


@given(st.integers(1, 5000), st.integers(1, 5000))
@settings(deadline=None, max_examples=25)
def test_what_is_aligned_has_the_length_of_the_original(size, decoded_size):
    assert len(align(torch.randn(size), torch.randn(decoded_size), 8000)) == size


@given(st.lists(st.integers(0, 1000), min_size=1, max_size=40), st.integers(1, 255))
def test_packets_of_an_ogg_stream(sizes, segments_per_page):
    lacing = [lace for size in sizes for lace in [255] * (size // 255) + [size % 255]]
    pages = [lacing[i : i + segments_per_page] for i in range(0, len(lacing), segments_per_page)]
    stream = b"".join(b"OggS" + bytes(22) + bytes([len(page), *page]) + bytes(sum(page)) for page in pages)
    assert list(packet_sizes(stream)) == sizes


def test_missing_programs_are_left_out(monkeypatch, tmp_path):
    monkeypatch.setenv("PATH", str(tmp_path))
    found, notes = find_baselines(["opus", "codec2"])
    assert found == [] and [note.split()[0] for note in notes] == ["opus", "codec2"]
    assert "opusenc" in notes[0] and "c2enc" in notes[1]
    with pytest.raises(MimoError, match="baseline 'mp3' is not known; choose one of opus, codec2"):
        find_baselines(["mp3"])


def test_a_program_that_fails_is_named(monkeypatch, tmp_path):
    program = tmp_path / "c2enc"
    program.write_text("#!/bin/sh\necho first >&2; echo no memory >&2; exit 3\n")
    program.chmod(program.stat().st_mode | stat.S_IXUSR)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=os.pathsep)
    with pytest.raises(MimoError, match="^c2enc failed with exit code 3: no memory$"):
        BASELINES["codec2"][0].code(make_speech(0.5, RATE), RATE)


@pytest.mark.parametrize("baseline", [b for settings in BASELINES.values() for b in settings], ids=lambda b: b.name)
def test_baselines(baseline, voice):
    if any(shutil.which(program) is None for program in baseline.programs):
        pytest.skip(f"{baseline.programs[0]} is not installed")
    coded = baseline.code(voice, RATE)
    asked = float(baseline.name.split()[-1])
    asked *= 1000 if asked < 100 else 1
    assert 0.6 * asked < coded.bits_per_second < 1.5 * asked
    assert len(coded.waveform) / coded.sample_rate == pytest.approx(len(voice) / RATE)
    at_its_rate = resample(voice, RATE, coded.sample_rate)
    assert find_delay(at_its_rate, coded.waveform, coded.sample_rate, by_envelope=True) == pytest.approx(0, abs=30)
    if not missing_packages("stoi"):
        late = torch.nn.functional.pad(coded.waveform, (400, 0))
        aligned, delayed = (
            speech_metrics(voice, RATE, x, coded.sample_rate, ("stoi",)) for x in (coded.waveform, late)
        )
        assert aligned["stoi"] > 0.75 and aligned["stoi"] > delayed["stoi"] + 0.1
