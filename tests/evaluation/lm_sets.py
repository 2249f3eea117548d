"""Small sets in the layouts of the public ones, whose sounds are tones, and models that answer perfectly or at random.

A sound is two tones: the lower says which sentence is spoken, the higher who speaks it. A recognizer and an encoder of
voices that know this make no mistakes, so that scores can be foretold.
"""

from __future__ import annotations

import json
import random
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from mimo_codec import load_audio, save_audio
from mimo_codec.evaluation.lm import judges
from mimo_codec.evaluation.lm.judges import RATE, Judges
from mimo_codec.evaluation.lm.prompts import Speech
from mimo_codec.evaluation.lm.suite import Answer, Ask
from mimo_codec.metrics import words

SAMPLE_RATE = 24000
SENTENCES = [
    *(f"The answer is option {letter}." for letter in "ABCD"),
    "A dog barks.",
    "Rain falls on a roof.",
    "Someone plays the piano.",
    "Good morning to you.",
    "Guten Morgen.",
    "The tide is out.",
    "Nobody knows the way.",
    "Seven boats came home.",
    "What is two and two?",
]
LOWEST, APART = 300.0, 100.0
VOICE_LOWEST, VOICE_APART = 4000.0, 300.0
VOICES = 6
SECONDS = 0.6
TONES = Judges("tones", "en", "tones")


def sound(path: Path, text: str, voice: int = 0, seconds: float = SECONDS) -> Path:
    """Write a sound in which a voice says a sentence."""
    t = torch.arange(round(seconds * SAMPLE_RATE)) / SAMPLE_RATE
    low = torch.sin(2 * torch.pi * (LOWEST + APART * SENTENCES.index(text)) * t)
    high = torch.sin(2 * torch.pi * (VOICE_LOWEST + VOICE_APART * voice) * t)
    path.parent.mkdir(parents=True, exist_ok=True)
    save_audio(path, 0.4 * low + 0.2 * high, SAMPLE_RATE)
    return path


def strongest(samples: NDArray[np.float32], low: float, high: float) -> float:
    """The strongest frequency of a waveform at 16 kHz between two."""
    power = np.abs(np.fft.rfft(samples * np.hanning(len(samples)), RATE))  # 1 Hz apart
    return low + float(np.argmax(power[round(low) : round(high)]))


def hear_tones(pcm: bytes) -> str:
    samples = np.frombuffer(pcm, np.int16).astype(np.float32)
    number = (strongest(samples, LOWEST - 50, VOICE_LOWEST - 500) - LOWEST) / APART
    return SENTENCES[min(max(round(number), 0), len(SENTENCES) - 1)]


def voice_of_tones(samples: NDArray[np.float32]) -> NDArray[np.float32] | None:
    if not samples.any():
        return None
    number = (strongest(samples, VOICE_LOWEST - 100, 7000) - VOICE_LOWEST) / VOICE_APART
    return np.eye(VOICES, dtype=np.float32)[round(number) % VOICES]


@pytest.fixture
def tones(monkeypatch: pytest.MonkeyPatch) -> Judges:
    """Judges that know the tones; listeners like everything as much."""
    monkeypatch.setitem(words.RECOGNISERS, "tones", hear_tones)
    monkeypatch.setitem(judges.ENCODERS, "tones", voice_of_tones)
    monkeypatch.setattr(judges, "predict_opinions", lambda samples: {"p808": 4.0})
    monkeypatch.setattr(judges, "require_metric", lambda name: None)
    words._transcribe.cache_clear()
    return TONES


# ---- sets ------------------------------------------------------------------------------------------------------------

SUBJECTS = ("anatomy", "virology")
BEGINNING = "Nobody knows the way."


def speechmmlu(folder: Path, questions: int = 4, shots: int = 5) -> Path:
    """Two subjects, two voices, rows as Parquet files, one for each subject."""
    pa, pq = pytest.importorskip("pyarrow"), pytest.importorskip("pyarrow.parquet")
    prompts = {}
    for subject in SUBJECTS:
        examples = [{"question": "What is two and two?", "answer": SENTENCES[i % 4]} for i in range(shots)]
        prompts[subject] = {"beginning": BEGINNING, "examples": examples}
        rows = []
        for number in range(questions):
            voice = f"english_prompt_00{1 + number % 2}"
            name = f"audio/{subject}/{subject}_{number}.mp3"
            sound(folder / name, "What is two and two?", number % 2)
            rows.append(
                {
                    "id": f"{subject}_{number}",
                    "subject": subject,
                    "question_text": "What is two and two?",
                    "question_audio": name,
                    "voice_id": voice,
                    "answer": number % 4,
                }
            )
        (folder / subject).mkdir(parents=True)
        pq.write_table(pa.Table.from_pylist(rows), folder / subject / "train-00000-of-00001.parquet")
        for voice in (1, 2):
            place = folder / "audio" / subject / "prompts" / f"{subject}_english_prompt_00{voice}"
            sound(place / f"{subject}_beginning.mp3", BEGINNING, voice - 1)
            for i, shown in enumerate(examples):
                sound(place / f"{subject}_{i}_question_and_choices.mp3", shown["question"], voice - 1)
                sound(place / f"{subject}_{i}_answer.mp3", shown["answer"], voice - 1)
    (folder / "few_shot_prompts.json").write_text(json.dumps(prompts))
    return folder


KINDS = {"sound": "A dog barks.", "music": "Someone plays the piano.", "speech": "Good morning to you."}
CHOICES = ["A dog barks.", "Someone plays the piano.", "Good morning to you.", "Rain falls on a roof."]


def mmau(folder: Path, of_each: int = 3) -> Path:
    rows = []
    for number in range(of_each):
        for kind, text in KINDS.items():
            name = f"test-mini-audios/{kind}{number}.wav"
            sound(folder / name, text)
            row = {"id": f"{kind}-{number}", "audio_id": f"./{name}", "question": "What is heard?", "task": kind}
            rows.append({**row, "choices": CHOICES, "answer": text, "difficulty": "easy"})
    (folder / "mmau-test-mini.json").write_text(json.dumps(rows))
    return folder


SPOKEN = SENTENCES[7:12]


def voice_conversion(folder: Path, rows: int = 4, shots: int = 4) -> Path:
    """As ESD: SPEAKER/STYLE/SPEAKER_NUMBER.wav, texts in SPEAKER/SPEAKER.txt, a list one folder above."""
    base = folder / "ESD" / "proc"
    for speaker in range(3):
        name = f"001{speaker}"
        lines = []
        for number, text in enumerate(SPOKEN):
            sound(base / name / "Neutral" / f"{name}_{number:06d}.wav", text, speaker, 0.5 + 0.1 * speaker)
            lines.append(f"{name}_{number:06d}\t{text}\tNeutral")
        (base / name / f"{name}.txt").write_text("\n".join(lines) + "\n")

    def path(speaker: int, number: int) -> str:
        return f"ESD/proc/001{speaker}/Neutral/001{speaker}_{number:06d}.wav"

    lines = ["source_id\tsource_path\ttarget_id\ttarget_path\tprompt"]
    for row in range(rows):
        target = 1 + row % 2
        number = row % len(SPOKEN)
        pairs = [f"{path(0, n)}#{path(target, n)}" for n in range(len(SPOKEN)) if n != number][:shots]
        ids = f"0010_{number:06d}", f"001{target}_{number:06d}"
        lines.append("\t".join((ids[0], path(0, number), ids[1], path(target, number), "|".join(pairs))))
    (folder / "ESD" / "VoiceConversion.tsv").write_text("\n".join(lines) + "\n")
    return folder


def pairs(folder: Path, names: Sequence[str], factor: float = 0.5, voice: int = 0, text: bool = False) -> Path:
    """Lists of source|target, paths from the folder above; targets are `factor` as fast."""
    for name in names:
        lines = []
        for number, words_said in enumerate(SPOKEN):
            source = sound(folder / name / f"{number}_a.wav", words_said, 0)
            target = sound(folder / name / f"{number}_b.wav", words_said, voice, SECONDS / factor)
            said = f"|{words_said}" if text else ""
            lines.append(f"{source.relative_to(folder.parent)}|{target.relative_to(folder.parent)}{said}")
        (folder / f"{name}.scp").write_text("\n".join(lines) + "\n")
    return folder


def denoising(folder: Path) -> Path:
    """As VoiceBank-DEMAND: two folders with files of the same names, which begin with the speaker's."""
    for speaker in range(2):
        for number, text in enumerate(SPOKEN[:3]):
            name = f"p23{speaker}_{number:03d}.wav"
            sound(folder / "clean_testset_wav" / name, text, speaker)
            sound(folder / "noisy_testset_wav" / name, text, 5)
            (folder / "clean_testset_wav" / name).with_suffix(".txt").write_text(text)
    return folder


def asr(folder: Path) -> Path:
    lines = []
    for number, text in enumerate(SPOKEN):
        sound(folder / "wav" / f"utt{number}.wav", text)
        lines.append(f"utt{number}\t{text.upper()}")
    (folder / "manifest.txt").write_text("\n".join(lines) + "\n")
    return folder


def tts(folder: Path) -> Path:
    lines = []
    for number, text in enumerate(SPOKEN):
        sample = SENTENCES[4 + number % 3]
        sound(folder / "prompt-wavs" / f"{number}.wav", sample, number % 3)
        lines.append(f"item{number}|{sample}|prompt-wavs/{number}.wav|{text}")
    (folder / "meta.lst").write_text("\n".join(lines) + "\n")
    return folder


def continuation(folder: Path) -> Path:
    for number, text in enumerate(SPOKEN[:3]):
        sound(folder / f"{number}.wav", text, number, 4.0)
    return folder


def custom(folder: Path, spoken: bool = False, count: int = 4) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    rows = []
    for number in range(count):
        text = SPOKEN[number % len(SPOKEN)]
        row = {"id": f"q{number}", "input_text": f"{number}?", "output_text": text}
        if spoken:
            row["input_audio"] = str(sound(folder / f"{number}_in.wav", text, 0).name)
            row["output_audio"] = str(sound(folder / f"{number}_out.wav", text, 1).name)
            del row["input_text"]
        else:
            row["choices"] = SPOKEN
        rows.append(row)
    (folder / "items.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return folder


# ---- models ----------------------------------------------------------------------------------------------------------


def said_right(ask: Ask) -> tuple[str, int]:
    """The sentence and the voice of the right answer."""
    item = ask.item
    text = item.about.get("words") or item.answer.text
    if "option" in item.about:
        text = SENTENCES[item.about["option"]]
    sample = item.answer.audio or item.question.audio
    if "words" in item.about:  # in the voice of the last example
        sample = next((p.path for p in reversed(ask.prompt) if isinstance(p, Speech)), sample)
    if text is None:
        assert sample is not None
        text = hear_tones(_pcm(sample))
    voice = 0 if sample is None or not ask.options.speaks else int(np.argmax(voice_of_tones(judges.as_array(sample))))
    return text, voice


def _pcm(path: Path) -> bytes:
    return (judges.as_array(path).clip(-1, 1) * 32767).astype(np.int16).tobytes()


class Perfect:
    """Answers as well as can be."""

    def answer(self, asks: Sequence[Ask]) -> list[Answer]:
        return [self._one(ask) for ask in asks]

    def _one(self, ask: Ask) -> Answer:
        text, voice = said_right(ask)
        if not ask.options.speaks:
            return Answer(text, stop_reason="<|endoftext|>")
        target = ask.item.answer.audio
        if target is not None and hear_tones(_pcm(target)) == text:
            waveform, rate = load_audio(target)
            return Answer(text, waveform.numpy(), rate, "<|eostm|>")
        return Answer(text, spoken(text, voice), SAMPLE_RATE, "<|eostm|>")


class Guessing:
    """Says any sentence with any voice, by the seed of the question."""

    def answer(self, asks: Sequence[Ask]) -> list[Answer]:
        return [self._one(ask, random.Random(ask.seed)) for ask in asks]

    def _one(self, ask: Ask, draw: random.Random) -> Answer:
        options = SENTENCES[:4] if "option" in ask.item.about else list(ask.item.choices) or SENTENCES
        text = draw.choice(options)
        if not ask.options.speaks:
            return Answer(text)
        return Answer(text, spoken(text, draw.randrange(VOICES)), SAMPLE_RATE)


def spoken(text: str, voice: int) -> NDArray[np.float32]:
    t = np.arange(round(SECONDS * SAMPLE_RATE)) / SAMPLE_RATE
    low = np.sin(2 * np.pi * (LOWEST + APART * SENTENCES.index(text)) * t)
    high = np.sin(2 * np.pi * (VOICE_LOWEST + VOICE_APART * voice) * t)
    return (0.4 * low + 0.2 * high).astype(np.float32)
