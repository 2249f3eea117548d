"""What users ask of the tasks: batches, samplings by name, limits, a kept cache; and what mistakes are told."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest
import torch
from conftest import GOLDEN, make_speech

pytest.importorskip("transformers", reason="needs the lm extra")

from mimo_codec import MimoCodec, MimoError
from mimo_codec.lm import Generation, MimoAudioLM, Sampling, Stop
from mimo_codec.lm.backend import TorchBatch
from mimo_codec.lm.generate import Progress
from mimo_codec.lm.layout import Text
from mimo_codec.lm.request import PRESETS, Request
from mimo_codec.lm.runaway import FRAMES, sound_runs_away, text_repeats
from mimo_codec.lm.tasks import TASKS

FOLDER = GOLDEN / "lm_base"
SHORT = dict(max_new_patches=8)


@pytest.fixture(scope="module")
def lm() -> MimoAudioLM:
    """With a codec, and a liking for audio, so that short answers have some."""
    lm = MimoAudioLM.from_pretrained(FOLDER, device="cpu", codec="nano")
    with torch.no_grad():
        lm.model.lm_head.weight[lm.tokenizer.special.empty] *= 3
    return lm


@pytest.fixture
def silent() -> MimoAudioLM:
    return MimoAudioLM.from_pretrained(FOLDER, device="cpu")


def same(found: Sequence[Generation], other: Sequence[Generation]) -> bool:
    return len(found) == len(other) and all(torch.equal(a.ids, b.ids) for a, b in zip(found, other, strict=True))


# ---- batches ---------------------------------------------------------------------------------------------------------


def test_a_batch_of_a_task_gives_what_each_gives_alone(lm: MimoAudioLM, monkeypatch) -> None:
    heard = [lm.encode((make_speech(0.4 + 0.3 * i, seed=i), 24000)) for i in range(2)]
    for method, items, given in (
        (lm.transcribe, heard, {}),
        (lm.understand, heard, {"question": "Who?"}),
        (lm.speak, ["One.", "Two, three."], {"voice": heard[0], "style": "calm"}),
    ):
        together = method(items, **given, **SHORT, seed=[5, 9])
        assert same(together, [method(x, **given, **SHORT, seed=s) for x, s in zip(items, (5, 9), strict=True)])
    texts = lm.transcribe(heard, **SHORT)
    assert all(found.codes is None for found in texts)  # text only, greedily
    assert same(texts, lm.transcribe(heard, **SHORT))
    pieces = list(lm.streaming.transcribe(heard, **SHORT))
    last = {piece.item: piece.generation for piece in pieces if piece.generation is not None}
    assert same([last[0], last[1]], texts)
    calls: list[int] = []
    encode = lm.codec.encode
    monkeypatch.setattr(lm.codec, "encode", lambda *args, **options: calls.append(1) or encode(*args, **options))
    lm.speak(["One.", "Two.", "Three."], voice=(make_speech(0.4), 24000), **SHORT)
    assert len(calls) == 1  # the voice that they share


def test_prompts_of_a_task_are_answered_as_the_task_does(lm: MimoAudioLM) -> None:
    codes = lm.encode((make_speech(0.4), 24000))
    prompts = [lm.prompt("asr", audio=codes), lm.prompt("asr", audio=codes, instruction="Write.")]
    found = lm.generate(prompts, **lm.task_options("asr", **SHORT))
    assert same(found[:1], [lm.transcribe(codes, **SHORT)]) and found[1].codes is None
    for task, entry in TASKS.items():
        options = lm.task_options(task)
        assert options["audio_sampling"] == entry.audio
        assert (lm.tokenizer.special.empty in options["text_sampling"].forbidden) != entry.speaks
    assert lm.task_options("few_shot", {"speak": False})["stop"] == Stop(text=("\n\n",))


def test_batches_that_are_refused(lm: MimoAudioLM) -> None:
    codes = lm.encode((make_speech(0.4), 24000))
    few = {"examples": [], "text": "a"}
    for call, words in [
        (lambda: lm.transcribe([]), "asr: there are no items"),
        (lambda: lm.transcribe([codes, "nothing.wav"]), "item 1: .*nothing.wav"),
        (lambda: lm.speak(["a", " "]), "item 1: text: is empty"),
        (lambda: lm.run("few_shot", [{**few, "speak": True}, {**few, "speak": False}]), "or none is"),
        (lambda: lm.speak(["a", "b"], seed=[1, 2, 3]), "3 were given for 2"),
        (lambda: lm.speak(["a", "b"], keep_cache=True), "not a batch"),
    ]:
        with pytest.raises(MimoError, match=words):
            call()


# ---- samplings and limits --------------------------------------------------------------------------------------------


def requests(lm: MimoAudioLM, monkeypatch, call) -> list[Request]:
    """The requests that come of a call, of which nothing is computed."""
    found: list[Request] = []
    monkeypatch.setattr(lm, "_positions", lambda given: found.extend(given) or iter(()))
    with pytest.raises(KeyError):
        call()
    return found


def test_samplings_by_name(lm: MimoAudioLM, monkeypatch) -> None:
    turns = [{"role": "user", "text": "Hello"}]
    [found] = requests(lm, monkeypatch, lambda: lm.chat(turns, sampling="evaluation"))
    assert (found.text, found.audio) == (Sampling(0.3, top_p=0.95), Sampling(0.7, top_p=0.95))
    [found] = requests(lm, monkeypatch, lambda: lm.chat(turns, sampling="evaluation", text_sampling=Sampling(0.1)))
    assert found.text == Sampling(0.1) and found.audio == PRESETS["evaluation"].audio
    [found] = requests(lm, monkeypatch, lambda: lm.generate(lm.prompt("tts", text="a"), sampling="greedy"))
    assert found.text == found.audio == Sampling()
    with pytest.raises(MimoError, match="sampling 'loud' is not known; choose one of evaluation, greedy"):
        lm.chat(turns, sampling="loud")


def test_a_repetition_penalty_goes_on_top(lm: MimoAudioLM, monkeypatch) -> None:
    for greedy in (False, True):
        [found] = requests(lm, monkeypatch, lambda g=greedy: lm.speak("a", repetition_penalty=1.5, greedy=g))
        assert found.audio.repetition_penalty == 1.5 and found.audio.temperature == (0 if greedy else 0.9)
    monkeypatch.undo()
    plain, penalised = (lm.speak("a", greedy=True, repetition_penalty=p, max_new_patches=20) for p in (None, 1.8))
    assert not same([plain], [penalised])
    with pytest.raises(MimoError, match="repetition_penalty must be a number"):
        lm.speak("a", repetition_penalty=0)


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("temperature", r"temperature is not an option.*text_sampling=Sampling\(temperature=...\)"),
        ("top_p", "audio_sampling=Sampling"),
        ("max_new_tokens", "max_new_patches counts text tokens and patches alike"),
        ("max_length", "max_new_patches"),
        ("max_seconds", "Stop"),
        ("tempo", "tempo is not an option of generation; there is greedy, sampling"),
    ],
)
def test_options_of_other_libraries_get_a_hint(lm: MimoAudioLM, name: str, words: str) -> None:
    for call in (lm.speak, lm.streaming.speak, lambda text, **given: lm.generate(lm.prompt("tts", text=text), **given)):
        with pytest.raises(MimoError, match=words):
            call("Hello", **{name: 1})


def test_least_new_positions(lm: MimoAudioLM) -> None:
    prompt = lm.prompt("tts", text="Hello")
    first = lm.generate(prompt, greedy=True, max_new_patches=8)
    name = lm.tokenizer.token(int(first.ids[0, 0]))
    ended, longer = (lm.generate(prompt, greedy=True, max_new_patches=8, stop=Stop((name,), min_new=n)) for n in (0, 3))
    assert ended.ids.shape[1] == 4 and longer.ids.shape[1] > 8
    assert torch.equal(longer.ids, first.ids[:, : longer.ids.shape[1]])
    with pytest.raises(MimoError, match="stop: min_new must be an integer"):
        Stop(min_new=-1)


# ---- answers that run away -------------------------------------------------------------------------------------------


def test_what_runs_away_and_what_does_not() -> None:
    rng = np.random.default_rng(0)
    codec = MimoCodec.from_pretrained("nano", device="cpu")
    still = codec.encode(0.01 * rng.standard_normal(24000 * 9).astype(np.float32), 24000).to_numpy()[0]
    assert sound_runs_away(still) == "silence" and sound_runs_away(still[: FRAMES - 1]) is None
    speech = codec.encode(GOLDEN.parents[1] / "examples" / "speech.wav").to_numpy()[0]
    assert all(sound_runs_away(speech[:n]) is None for n in range(FRAMES, len(speech)))
    assert sound_runs_away(np.concatenate([speech, *[speech[:60]] * 4])) == "repetition"
    assert sound_runs_away(np.concatenate([speech, *[speech[:60]] * 3])) is None
    assert text_repeats([9, 8, *[1, 2, 3] * 32]) and text_repeats([7] * 96)
    assert not text_repeats([7] * 95) and not text_repeats(list(range(48)) * 2)


def test_runaway_answers_end(lm: MimoAudioLM) -> None:
    prompt = lm.layout.build([Text((5,))])
    empty, group = lm.layout.empty_id, lm.layout.group_size
    for token, end, most in ((empty, "silence", FRAMES // group), (5, "repetition", 96)):
        for runaway in (True, False):
            progress = Progress([Request(prompt, 120, runaway=runaway)], lm.layout)
            steps = 0
            while not progress.ended:
                [position] = progress.add(np.array([token]), np.zeros((1, 8, group), np.int64))
                steps += 1
            assert (steps, position.end) == ((most, end) if runaway else (120, "max_new_patches"))
    waits = Progress([Request(prompt, 120, min_new=110, runaway=True)], lm.layout)
    while not waits.ended:
        [position] = waits.add(np.array([5]), np.zeros((1, 8, group), np.int64))
    assert waits.num_new == 110 and position.end == "repetition"


# ---- a conversation that keeps its cache -----------------------------------------------------------------------------


def positions_read(monkeypatch) -> list[int]:
    """How many positions of each prompt are computed."""
    found: list[int] = []
    embed = TorchBatch._on_device

    def noted(self: TorchBatch, array: np.ndarray) -> torch.Tensor:
        if array.ndim == 4:
            found.append(array.shape[1])
        return embed(self, array)

    monkeypatch.setattr(TorchBatch, "_on_device", noted)
    return found


@pytest.mark.parametrize("speak", [False, True])
def test_a_chat_does_not_read_again_what_it_has_read(lm: MimoAudioLM, monkeypatch, speak: bool) -> None:
    read = positions_read(monkeypatch)
    turns: list[dict] = []
    kept = None
    for number in range(3):
        turns = [*turns, {"role": "user", "text": f"Question {number}, and a few words more."}]
        options = dict(max_new_patches=14, seed=number)
        task = "dialogue_speech" if speak else "dialogue_text"
        length = lm.layout.num_positions(lm.prompt(task, turns=turns))
        fresh = lm.chat(turns, speak=speak, **options)
        assert lm.backend.kept is None  # whoever does not keep it lets go of it
        lm.backend.kept = kept
        found = lm.chat(turns, speak=speak, keep_cache=True, **options)
        kept = lm.backend.kept
        assert same([found], [fresh]) and read[-2] == length
        assert read[-1] == length if number == 0 else read[-1] < length // 2 + 16
        audio = found.codes if speak and found.codes is not None else np.zeros((8, 4), np.int64)
        turns = [*turns, {"role": "assistant", "text": found.text or "...", **({"audio": audio} if speak else {})}]
    other = [{"role": "user", "text": "Something else."}]
    assert same([lm.chat(other, speak=speak, keep_cache=True, **options)], [lm.chat(other, speak=speak, **options)])


# ---- what a model says of itself, and mistakes -----------------------------------------------------------------------


def test_device_and_repr(silent: MimoAudioLM) -> None:
    assert silent.device == torch.device("cpu") and silent.to("cpu") is silent
    assert "no codec" in repr(silent)
    silent.use_codec(MimoCodec.from_pretrained("nano", device="cpu"))
    assert repr(silent).startswith("MimoAudioLM(3 layers of 64, context 1024, codec nano@")
    assert "float32 on cpu" in repr(silent)
    assert silent.speak("Hello", **SHORT, seed=0) is not None and silent.reader.codec is silent.codec
    with pytest.raises(MimoError, match="device"):
        silent.to("nowhere")


def test_names_of_dtypes() -> None:
    for name, dtype, of_codec in (
        ("auto", torch.float32, torch.float32),
        ("bf16", torch.bfloat16, torch.bfloat16),
        ("bfloat16", torch.bfloat16, torch.bfloat16),
        (None, torch.float32, torch.float32),
    ):
        lm = MimoAudioLM.from_pretrained(FOLDER, device="cpu", codec="nano", dtype=name)
        assert lm.model.dtype == dtype and lm.codec.dtype == of_codec
    found = MimoAudioLM.from_pretrained(FOLDER, device="cpu", codec="nano", dtype="bf16").speak("Hello", **SHORT)
    assert found.waveform is None or found.waveform.dtype == torch.float32
    with pytest.raises(MimoError, match="dtype: 'int3' is not supported"):
        MimoAudioLM.from_pretrained(FOLDER, device="cpu", dtype="int3")


def test_audio_without_a_rate_or_too_long(lm: MimoAudioLM) -> None:
    for waveform in (make_speech(0.5), np.zeros((1, 1000)), torch.zeros(500)):
        with pytest.raises(MimoError, match=r"audio: a waveform needs its sample rate, \(waveform, Hz\)"):
            lm.transcribe(waveform)
    with pytest.raises(MimoError, match="audio: 200 s of audio, 36 more than the context of 1024 positions holds"):
        lm.transcribe((np.zeros(24000 * 200, np.float32), 24000))
    with pytest.raises(MimoError, match="160 s of audio and 4. text tokens"):
        lm.transcribe(np.zeros((8, 4000), np.int64), instruction="Write down all that is said, from the beginning.")


def test_marks_of_recognizers_are_no_text(lm: MimoAudioLM, monkeypatch) -> None:
    from test_lm_generate import script

    script(monkeypatch, lm.tokenizer.encode("<english> It is a < b."))
    codes = np.zeros((8, 8), np.int64)
    assert lm.transcribe(codes).text == "It is a < b."
    pieces = list(lm.streaming.transcribe(codes))
    assert "".join(piece.text for piece in pieces).strip() == "It is a < b." and len(pieces) > 4
