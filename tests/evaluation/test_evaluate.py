"""`mimo-codec evaluate`: metrics against known truths, alignment, statistics, and what the command reads and writes."""

from __future__ import annotations

import json
import math
import os
import shutil
import stat
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import ROOT, assert_one_line_error, make_speech
from hypothesis import given, settings
from hypothesis import strategies as st

from mimo_codec import MimoError, load_audio, resample, save_audio
from mimo_codec.evaluation.codec.baselines import BASELINES, align, find_baselines, find_delay, packet_sizes
from mimo_codec.evaluation.codec.items import find_items
from mimo_codec.evaluation.codec.results import Codebook, Evaluation, Summary, System
from mimo_codec.evaluation.codec.scoring import choose_metrics
from mimo_codec.evaluation.codec.tables import REPORT_FILES, as_json
from mimo_codec.metrics import CORE_METRICS, METRICS, available_metrics, missing_packages, speech_metrics, words
from mimo_codec.metrics.pitch import f0_contour
from mimo_codec.metrics.signal import MAX_SI_SDR

SPEECH = ROOT / "examples" / "speech.wav"
RATE = 16000
PERFECT = {
    "pesq_wb": 4.644,
    "pesq_nb": 4.549,
    "si_sdr": MAX_SI_SDR,
    "stoi": 1,
    "speaker_similarity": 1,
    "f0_correlation": 1,
}
"""of two equal waveforms; 0 for all others"""


@pytest.fixture(scope="module")
def voice() -> torch.Tensor:
    """Three seconds of a synthetic voice at 16 kHz."""
    return resample(*load_audio(SPEECH), RATE)[RATE : 4 * RATE]


def need(*metrics: str) -> None:
    missing = [package for name in metrics for package in missing_packages(name)]
    if missing:
        pytest.skip(f"{', '.join(missing)} not installed")


def noise(like: torch.Tensor, seed: int = 0) -> torch.Tensor:
    return torch.randn(len(like), generator=torch.Generator().manual_seed(seed))


def score(name: str, reference: torch.Tensor, decoded: torch.Tensor, **known: str) -> float:
    return speech_metrics(reference, RATE, decoded, RATE, (name,), **known)[name]


# ---- metrics ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", [name for name, metric in METRICS.items() if not metric.slow])
def test_equal_is_perfect_and_noise_is_worse(name, voice):
    need(name)
    equal = score(name, voice, voice)
    noisy = [score(name, voice, voice + level * voice.std() * noise(voice)) for level in (0.05, 1)]
    assert equal == pytest.approx(PERFECT.get(name, 0), abs=2e-3)
    ranking = [equal, *noisy] if METRICS[name].higher_is_better else [-equal, *(-value for value in noisy)]
    assert ranking == sorted(ranking, reverse=True) and ranking[0] > ranking[2]


@pytest.mark.parametrize("name", [name for name, metric in METRICS.items() if not metric.slow])
def test_silence_does_not_break_them(name, voice):
    need(name)
    for reference, decoded in ((voice, 0 * voice), (0 * voice, voice), (0 * voice, 0 * voice)):
        assert isinstance(score(name, reference, decoded), float)


def test_rates_may_differ_and_lengths_by_a_little(voice):
    need(*CORE_METRICS)
    decoded = resample(voice, RATE, 24000)[:-100]
    scores = speech_metrics(voice, RATE, decoded, 24000)
    assert tuple(scores) == CORE_METRICS
    assert scores["pesq_wb"] > 4.5 and scores["stoi"] > 0.999 and scores["mel_distance"] < 0.3


@given(st.floats(-20, 40), st.floats(0.01, 100))
@settings(deadline=None, max_examples=20)
def test_si_sdr_of_known_noise_at_any_gain(decibels, gain):
    signal = noise(torch.empty(4000), seed=1).double()
    error = noise(torch.empty(4000), seed=2).double()
    signal, error = signal - signal.mean(), error - error.mean()
    error -= (error @ signal) / (signal @ signal) * signal
    error *= (signal.square().sum() / error.square().sum() * 10 ** (-decibels / 10)).sqrt()
    assert score("si_sdr", signal.float(), (gain * (signal + error)).float()) == pytest.approx(decibels, abs=0.01)


def test_log_spectral_distance_of_a_gain_is_the_gain():
    signal = noise(torch.empty(RATE))
    assert score("log_spectral_distance", signal, signal * 10 ** (6 / 20)) == pytest.approx(6, abs=0.01)


def glide(low: float, high: float, seconds: float = 2.0) -> torch.Tensor:
    """A pulse-like tone whose F0 rises evenly on a logarithmic scale."""
    t = torch.arange(round(seconds * RATE), dtype=torch.float64) / RATE
    phase = torch.cumsum(low * (high / low) ** (t / seconds) / RATE, 0) * 2 * torch.pi
    return 0.1 * sum(torch.sin(k * phase) / k for k in range(1, 10)).float()


def test_f0_of_a_glide():
    need("f0_correlation")
    rising, fifth_higher, falling = glide(120, 200), glide(180, 300), glide(200, 120)
    contour = f0_contour(rising.numpy(), RATE)
    seconds = np.linspace(0, 2, len(contour))
    inner = slice(10, -10)
    assert contour[inner] == pytest.approx(120 * (200 / 120) ** (seconds[inner] / 2), rel=0.02)
    assert score("f0_correlation", rising, fifth_higher) == pytest.approx(1, abs=1e-3)
    assert score("f0_correlation", rising, falling) < -0.99


def test_voicing_error_is_the_share_of_frames_that_differ():
    need("voicing_error")
    half_silent = torch.cat((glide(120, 200)[:RATE], torch.zeros(RATE)))
    assert score("voicing_error", glide(120, 200), half_silent) == pytest.approx(0.5, abs=0.03)
    assert math.isnan(score("f0_correlation", torch.zeros(RATE), torch.zeros(RATE)))


def test_a_speaker_is_more_like_himself_than_like_a_smaller_one():
    need("speaker_similarity")
    whole = resample(*load_audio(SPEECH), RATE)
    first, second = whole.split(-(-len(whole) // 2))
    smaller = resample(second, 24000, RATE)  # pitch and formants 1.5 times as high
    assert score("speaker_similarity", first, second) > score("speaker_similarity", first, smaller) + 0.05


@pytest.mark.parametrize("metric", ["dnsmos", "dnsmos_p835"])
def test_a_predicted_opinion_is_of_one_sound_alone(metric, voice):
    need(metric)
    noisy = voice + 0.3 * voice.std() * noise(voice)
    assert 1 < score(metric, voice, noisy) < score(metric, noisy, voice) - 0.2 < 5
    assert score(metric, noisy, voice) == score(f"{metric}_original", voice, noisy)
    assert math.isnan(score(metric, voice, 0 * voice)) and math.isnan(score(f"{metric}_original", 0 * voice, voice))


@pytest.mark.parametrize(
    ("text", "heard", "rate"),
    [
        ("The cat, sat!", "the cat sat", 0),
        ("It's here", "it's hear", 1 / 2),
        ("one two three", "one three", 1 / 3),
        ("one", "one two three", 2),
        ("one two", "", 1),
    ],
)
def test_word_error_rate(text, heard, rate):
    need("wer")
    assert words.word_error_rate(text, heard) == pytest.approx(rate)
    assert math.isnan(words.word_error_rate("-", heard))


RECOGNISERS = {"wer": "pocketsphinx", "wer_moonshine": "moonshine", "wer_whisper": "whisper"}


@pytest.mark.parametrize("metric", RECOGNISERS)
def test_words_are_those_of_the_text_or_else_of_the_original(monkeypatch, voice, metric):
    need(metric)
    monkeypatch.setitem(
        words.RECOGNISERS, RECOGNISERS[metric], lambda pcm: "a b c d" if max(pcm[1::2]) > 60 else "a b c x"
    )
    original, decoded = 0.5 * voice.abs() / voice.max(), 0.02 * voice.abs()
    assert score(metric, original, decoded) == 1 / 4
    assert score(metric, original, decoded, text="a b y z") == 2 / 4
    assert score(f"{metric}_original", original, decoded, text="a b y d") == 1 / 4
    assert math.isnan(score(f"{metric}_original", original, decoded))


@pytest.mark.parametrize(("metric", "recogniser"), RECOGNISERS.items())
def test_a_transcript_does_not_depend_on_what_was_heard_before(voice, metric, recogniser):
    need(metric)
    clip = voice[: round(1.2 * RATE)].numpy()
    before = words.transcribe(clip, recogniser)
    words.transcribe(0.05 * voice[RATE : 2 * RATE].numpy(), recogniser)
    words._transcribe.cache_clear()
    assert words.transcribe(clip, recogniser) == before


def test_what_cannot_be_scored():
    with pytest.raises(MimoError, match="metric 'loudness' is not known; choose one of pesq_wb"):
        score("loudness", torch.ones(RATE), torch.ones(RATE))
    with pytest.raises(MimoError, match="too short"):
        score("si_sdr", torch.ones(RATE), torch.ones(100))
    for name in ("si_sdr", "mel_distance", "log_spectral_distance"):
        assert isinstance(score(name, make_speech(0.1, RATE), make_speech(0.1, RATE, seed=1)), float)


# ---- packages that are not there -------------------------------------------------------------------------------------


def test_missing_packages_are_left_out_unless_asked_for_by_name(monkeypatch, voice):
    monkeypatch.setitem(sys.modules, "pesq", None)
    monkeypatch.setitem(sys.modules, "resemblyzer", None)
    assert not {"pesq_wb", "pesq_nb", "speaker_similarity"} & set(available_metrics())
    chosen, notes = choose_metrics(None)
    assert "mel_distance" in chosen and "pesq_wb" not in chosen
    assert "left out: pesq_wb, pesq_nb (pesq is not installed: pip install 'mimo-codec[eval]')" in notes
    with pytest.raises(MimoError, match=r"pesq_nb: pesq is not installed: pip install 'mimo-codec\[eval\]'"):
        choose_metrics(["stoi", "pesq_nb"])
    with pytest.raises(MimoError, match="pip install --no-deps resemblyzer"):
        score("speaker_similarity", voice, voice)


def test_slow_metrics_are_for_those_who_ask():
    assert not {"wer", "wer_original", "wer_moonshine", "wer_whisper"} & set(choose_metrics(None)[0])
    assert set(choose_metrics(["all"])[0]) == set(available_metrics())
    assert choose_metrics(["si_sdr", "mel_distance", "si_sdr"]) == (("si_sdr", "mel_distance"), [])


# ---- alignment and other codecs --------------------------------------------------------------------------------------


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


# ---- statistics ------------------------------------------------------------------------------------------------------


@given(st.lists(st.floats(-100, 100), min_size=2, max_size=30))
@settings(deadline=None, max_examples=30)
def test_the_interval_holds_the_mean_and_is_always_the_same(values):
    found = Summary.of([*values, math.nan])
    assert found == Summary.of(values) and found.num_files == len(values)
    assert min(values) - 1e-9 <= found.low <= found.mean + 1e-9 and found.mean - 1e-9 <= found.high
    assert found.std == pytest.approx(np.std(values), abs=1e-9)


def test_the_interval_is_that_of_the_normal_distribution():
    values = np.random.default_rng(1).normal(3, 2, 400)
    assert Summary.of(list(values)).margin == pytest.approx(1.96 * values.std() / 20, rel=0.1)


def test_too_few_files_have_no_interval():
    assert math.isnan(Summary.of([math.nan]).mean)
    one = Summary.of([2.5])
    assert one.mean == 2.5 and math.isnan(one.margin) and math.isnan(one.std)


def test_codebooks():
    assert Codebook.of(np.full(64, 5)) == Codebook(64, 1.0, pytest.approx(64))
    assert Codebook.of(np.eye(64, dtype=int)[3] * 9) == Codebook(64, 1 / 64, pytest.approx(1))
    assert Codebook.of(np.array([3, 1, 0, 0])).perplexity == pytest.approx(4 / 27**0.25)


def test_json_has_no_nan():
    scores = {"a.wav": {"stoi": math.nan}, "b.wav": {"stoi": 0.5}}
    facts = json.loads(as_json(Evaluation(("stoi",), (System("x", "files", scores),), 2.0)))
    assert facts["systems"][0]["files"] == {"a.wav": {"stoi": None}, "b.wav": {"stoi": 0.5}}
    assert facts["systems"][0]["summary"]["stoi"] == {
        "mean": 0.5,
        "std": None,
        "low": None,
        "high": None,
        "num_files": 1,
    }


# ---- what to compare -------------------------------------------------------------------------------------------------


def speech(path: Path, seconds: float = 0.6, rate: int = RATE, seed: int = 0) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    save_audio(path, make_speech(seconds, rate, seed), rate)
    return path


def touch(folder: Path, *names: str) -> Path:
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).touch()
    return folder


def test_folders_are_matched_by_path_without_suffix(tmp_path):
    originals = touch(tmp_path / "a", "x.flac", "deep/y.wav", "only.wav")
    decoded = touch(tmp_path / "b", "x.wav", "deep/y.ogg", "y.wav")
    items, notes = find_items(originals, decoded)
    assert {item.name: str(item.decoded.relative_to(decoded)) for item in items} == {
        "x.flac": "x.wav",
        "deep/y.wav": "deep/y.ogg",
    }
    assert notes == [f"left out, without a partner: {originals / 'only.wav'}, {decoded / 'y.wav'}"]


def test_folders_that_cannot_be_matched(tmp_path):
    originals = touch(tmp_path / "a", "x.flac")
    with pytest.raises(MimoError, match="no file of .* has a partner"):
        find_items(originals, touch(tmp_path / "b", "y.wav"))
    with pytest.raises(MimoError, match="x.flac and .*x.wav differ in the suffix alone"):
        find_items(originals, touch(tmp_path / "c", "x.flac", "x.wav"))
    with pytest.raises(MimoError, match="there is no such file or folder"):
        find_items(originals, tmp_path / "nowhere")


def test_manifest(tmp_path):
    manifest = tmp_path / "m.jsonl"
    manifest.write_text(
        '{"path": "a.wav", "text": "hello"}\n\n{"path": "a.wav", "start": 0.25, "end": 0.5}\n', encoding="utf-8"
    )
    whole, part = find_items(manifest)[0]
    assert (whole.name, whole.path, whole.text) == ("a.wav", tmp_path / "a.wav", "hello")
    assert (part.name, part.text) == ("a.wav @ 0.25", None)
    speech(tmp_path / "a.wav")
    assert torch.equal(part.load()[0], whole.load()[0][4000:8000])
    with pytest.raises(MimoError, match="parts of files.*: a.wav @ 0.25"):
        find_items(manifest, tmp_path)
    wrong = {
        "{": "line 1",
        '{"text": "x"}': "line 1",
        "[1]": "line 1",
        '{"path": 3}': "line 1",
        "": "lists no files",
        '{"path": "a", "text": 3}': "line 1",
        '{"path": "a"}\n{"path": "a"}': "lists twice: a",
    }
    for text, reason in wrong.items():
        manifest.write_text(text, encoding="utf-8")
        with pytest.raises(MimoError, match=reason):
            find_items(manifest)


# ---- the command -----------------------------------------------------------------------------------------------------

QUICK = ("--metrics", "si_sdr,mel_distance", "--baselines", "none", "--workers", "1", "--device", "cpu")


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("corpus")
    for seed, name in enumerate(("a.wav", "b.flac", "deep/c.wav")):
        speech(folder / name, 0.5 + 0.1 * seed, 16000 if seed else 24000, seed)
    return folder


def test_a_model_and_its_prefixes(run, corpus, tiny_folder):
    done = run("evaluate", corpus, "--model", tiny_folder, "--codebooks", "1, 2", "-q", 4, *QUICK, "--json")
    assert done.code == 0 and done.err == ""
    found = json.loads(done.out)
    names = [system["name"] for system in found["systems"]]
    assert [name.split()[-1] for name in names] == ["q1", "q2", "q4"]
    rates = [system["bits_per_second"] for system in found["systems"]]
    assert rates == sorted(set(rates))
    for system in found["systems"]:
        assert set(system["files"]) == {"a.wav", "b.flac", "deep/c.wav"}
        assert set(system["summary"]) == {"si_sdr", "mel_distance"} == set(system["files"]["a.wav"])
        assert system["summary"]["si_sdr"]["low"] <= system["summary"]["si_sdr"]["mean"]
        assert system["encode_realtime_factor"] > 0 and system["decode_realtime_factor"] > 0
    assert len(found["codebooks"]) == 4 and all(1 <= c["perplexity"] <= c["size"] for c in found["codebooks"])
    assert found["num_files"] == 3 and found["seconds"] == pytest.approx(1.8, abs=0.01)
    assert found["metrics"]["si_sdr"] == {"label": "SI-SDR", "unit": "dB", "better": "higher"}


def test_the_table(run, corpus, tiny_folder):
    out = run("evaluate", corpus, "--model", tiny_folder, *QUICK).out
    assert out.startswith("3 files, 0.0 min; mean over files and its 95 % confidence interval\n")
    assert all(word in out for word in ("tiny q8", "kbit/s", "SI-SDR, dB", " +- ", "perplexity", "decode, s/s"))
    assert out.isascii()


def test_report_files(run, corpus, tiny_folder, tmp_path):
    pytest.importorskip("matplotlib", reason="needs the eval extra")
    folder = tmp_path / "new" / "report"
    arguments = ("evaluate", corpus, "--model", tiny_folder, "--codebooks", 2, *QUICK, "-o", folder)
    done = run(*arguments)
    assert done.code == 0, done.err
    assert {path.name for path in folder.iterdir()} == set(REPORT_FILES) - {"per_speaker.png"}
    assert all(path.read_bytes().startswith(b"\x89PNG") for path in folder.glob("*.png"))
    report = (folder / "report.md").read_text(encoding="utf-8")
    assert "| tiny q8 |" in report and "SI-SDR, dB ↑" in report and "mel distance ↓" in report
    rows = [line for line in report.splitlines() if line.startswith("|")]
    assert rows[0].count("|") == rows[1].count("|") == rows[2].count("|")
    assert json.loads((folder / "report.json").read_text(encoding="utf-8"))["num_files"] == 3
    before = {path: path.read_bytes() for path in folder.iterdir()}
    assert_one_line_error(run(*arguments), "report.json", "--overwrite")
    assert before == {path: path.read_bytes() for path in folder.iterdir()}
    assert run(*arguments, "--overwrite").code == 0


def test_speakers_of_a_manifest_are_told_apart(run, corpus, tiny_folder, tmp_path):
    pytest.importorskip("matplotlib", reason="needs the eval extra")
    names = ("a.wav", "b.flac", "deep/c.wav")
    rows = [{"path": str(corpus / name), "speaker": who} for name, who in zip(names, ("ann", "bo", "ann"), strict=True)]
    (tmp_path / "m.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    done = run("evaluate", tmp_path / "m.jsonl", "--model", tiny_folder, *QUICK, "-o", tmp_path / "report")
    assert done.code == 0, done.err
    assert {path.name for path in (tmp_path / "report").iterdir()} == set(REPORT_FILES)
    speakers = json.loads((tmp_path / "report" / "report.json").read_text())["speakers"]
    assert sorted(speakers.values()) == ["ann", "ann", "bo"] and len(speakers) == len(names)


def test_reports_appear_whole_or_not_at_all(run, corpus, tiny_folder, tmp_path, monkeypatch):
    figure = pytest.importorskip("matplotlib.figure", reason="needs the eval extra")

    def half(self: object, path: Path, **options: object) -> None:
        Path(path).write_bytes(b"half")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(figure.Figure, "savefig", half)
    done = run("evaluate", corpus, "--model", tiny_folder, *QUICK, "-o", tmp_path / "report")
    assert_one_line_error(done, "rate_quality.png", "No space left")
    assert sorted(path.name for path in (tmp_path / "report").iterdir()) == ["report.json", "report.md"]


def test_decoded_files(run, corpus, tmp_path):
    decoded = tmp_path / "decoded"
    shutil.copytree(corpus, decoded)
    (decoded / "b.flac").unlink()
    speech(decoded / "b.wav", 0.6, 24000, seed=7)
    done = run("evaluate", corpus, decoded, *QUICK, "--json")
    (system,) = json.loads(done.out)["systems"]
    assert (system["name"], system["kind"], system["bits_per_second"]) == ("decoded files", "files", None)
    assert system["files"]["a.wav"] == {"si_sdr": MAX_SI_SDR, "mel_distance": 0}
    assert system["files"]["b.flac"]["mel_distance"] > 0.05
    assert_one_line_error(run("evaluate", corpus, decoded, *QUICK, "--codebooks", "1"), "--codebooks")


def test_a_bad_file_among_many_is_reported_and_the_rest_goes_on(run, corpus, tiny_folder, tmp_path):
    mixed = tmp_path / "mixed"
    shutil.copytree(corpus, mixed)
    (mixed / "bad.wav").write_bytes(b"not audio")
    speech(mixed / "short.wav", 0.05)
    done = run("evaluate", mixed, "--model", tiny_folder, *QUICK, "--json")
    assert done.code == 1
    bad, short, total = done.err.splitlines()
    assert "bad.wav: is not audio" in bad and "short.wav: 0.050 s of sound is too short" in short
    assert total == "mimo-codec: error: 2 of 5 files failed"
    found = json.loads(done.out)
    assert found["num_files"] == 3 and set(found["failed"]) == {"bad.wav", "short.wav"}
    assert_one_line_error(run("evaluate", mixed / "bad.wav", "--model", tiny_folder, *QUICK), "is not audio")
    assert_one_line_error(run("evaluate", tmp_path / "nothing.wav", "--model", tiny_folder, *QUICK), "no such file")


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (("--metrics", "loudness"), ("loudness", "pesq_wb")),
        (("--baselines", "mp3"), ("mp3", "opus")),
        (("--codebooks", "two"), ("--codebooks", "'two'")),
        (("--codebooks", "9"), ("codebooks", "1 to 8", "9")),
        (("--workers", "0"), ("workers",)),
    ],
)
def test_mistakes_are_one_line(run, corpus, tiny_folder, options, words):
    assert_one_line_error(run("evaluate", corpus, "--model", tiny_folder, *QUICK, *options), *words)


def test_missing_programs_are_one_line_of_the_table(run, corpus, tiny_folder, monkeypatch, tmp_path):
    monkeypatch.setenv("PATH", str(tmp_path))
    done = run("evaluate", corpus / "a.wav", "--model", tiny_folder, *QUICK, "--baselines", "opus,codec2")
    assert done.code == 0 and done.out.count("is left out: there is no program") == 2


def test_processes_find_what_one_finds(run, corpus, tiny_folder):
    arguments = ("evaluate", corpus, "--model", tiny_folder, *QUICK, "--json")
    alone, together = (json.loads(run(*arguments, "--workers", number).out) for number in (1, 2))
    for one, two in zip(alone["systems"], together["systems"], strict=True):
        for file, scores in one["files"].items():
            assert two["files"][file] == pytest.approx(scores, abs=1e-3)
