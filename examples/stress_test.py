"""What a codec does to speech that is not clean and near: noise, rooms, telephones, two people at once, music.

python examples/stress_test.py [SPEECH_FOLDER] [--model NAME] [--also NAME=FOLDER ...] [--baselines opus,codec2]

Every condition is made from the files of SPEECH_FOLDER, and the codec is scored on giving back what it hears, noise
included. Music is synthesised. `--also` adds folders as they are, such as what recipes/synthesise.py makes.
"""

import argparse
import tempfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch

from mimo_codec import MimoCodec, MimoError, resample, save_audio
from mimo_codec.data.augment import Augmentation, mix
from mimo_codec.evaluation.codec.baselines import find_baselines
from mimo_codec.evaluation.codec.items import find_items
from mimo_codec.evaluation.codec.run import evaluate
from mimo_codec.evaluation.codec.scoring import choose_metrics

RATE = 24000
Effect = Callable[[torch.Tensor, torch.Tensor, np.random.Generator], torch.Tensor]


def augmented(**settings) -> Effect:
    augmentation = Augmentation(**{"gain_db": None, "invert": False, **settings})
    return lambda speech, other, rng: augmentation(speech, RATE, rng)


CONDITIONS: dict[str, Effect] = {
    "clean": lambda speech, other, rng: speech,
    "noise 20 dB below": augmented(noise_snr_db=(20, 20)),
    "noise 10 dB below": augmented(noise_snr_db=(10, 10)),
    "noise as loud": augmented(noise_snr_db=(0, 0)),
    "in a room": augmented(reverb=1.0),
    "telephone (to 4 kHz)": lambda speech, other, rng: resample(resample(speech, RATE, 8000), 8000, RATE),
    "a second speaker, 0 to 20 dB below": lambda speech, other, rng: mix(speech, other, rng),
    "at -50 dBFS": lambda speech, other, rng: speech * 10 ** (-50 / 20) / speech.square().mean().sqrt(),
    "clipped": lambda speech, other, rng: (speech * 8 / speech.abs().max()).clamp(-0.9, 0.9),
}


def play_music(seconds: float, rng: np.random.Generator) -> torch.Tensor:
    """Plucked chords over a drum: decaying harmonics, and bursts of noise on the beat."""
    time = np.arange(round(seconds * RATE)) / RATE
    beat, music = rng.uniform(0.3, 0.6), np.zeros_like(time)
    for start in np.arange(0.0, seconds, beat):
        since = np.maximum(time - start, 0.0)
        on = time >= start
        for semitones in rng.choice([0, 3, 4, 7, 10, 12, 16, 19], 3, replace=False):
            pitch = 110 * 2 ** ((semitones + rng.integers(0, 12)) / 12)
            for k in range(1, 13):
                music += on * np.sin(2 * np.pi * k * pitch * since) * np.exp(-(2 + k) * since) / k
        music += on * 0.7 * rng.standard_normal(len(time)) * np.exp(-60 * since)
    return torch.from_numpy(0.5 * music / np.abs(music).max()).float()


def make_conditions(speech_folder: Path, target: Path) -> None:
    """A folder below `target` for each condition."""
    rng = np.random.default_rng(0)
    items = find_items(speech_folder)[0]
    for name in (*CONDITIONS, "music"):
        (target / name).mkdir()
    speech = [resample(*item.load(), RATE) for item in items]
    for index, (waveform, other) in enumerate(zip(speech, speech[len(speech) // 2 :] + speech, strict=False)):
        for name, effect in CONDITIONS.items():
            save_audio(target / name / f"{index:04d}.wav", effect(waveform, other, rng), RATE)
    for index in range(6):
        save_audio(target / "music" / f"{index}.wav", play_music(5.0, rng), RATE)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("speech", nargs="?", type=Path, default=Path(__file__).parent / "speech.wav")
    parser.add_argument("--model", default="nano")
    parser.add_argument("--also", action="append", default=[], metavar="NAME=FOLDER")
    parser.add_argument("--baselines", default="", help="such as opus,codec2")
    options = parser.parse_args()
    codec = MimoCodec.from_pretrained(options.model)
    wanted = [name for name in ("pesq_wb", "stoi", "mel_distance") if name in choose_metrics(None)[0]]
    baselines = find_baselines([name for name in options.baselines.split(",") if name])[0]
    with tempfile.TemporaryDirectory() as temporary:
        make_conditions(options.speech, Path(temporary))
        folders = {name: Path(temporary, name) for name in (*CONDITIONS, "music")}
        folders |= {name: Path(folder) for name, _, folder in (also.partition("=") for also in options.also)}
        print(f"| | system | {' | '.join(wanted)} |\n|{'---|' * (2 + len(wanted))}")
        for name, folder in folders.items():
            found = evaluate(codec, find_items(folder)[0], metrics=wanted, baselines=baselines)
            for system in found.systems:
                values = (system.summary(metric) for metric in wanted)
                cells = [f"{v.mean:.3f}" + (f" ± {v.margin:.3f}" if v.num_files > 1 else "") for v in values]
                print(f"| {name} | {system.name} | {' | '.join(cells)} |", flush=True)


if __name__ == "__main__":
    try:
        main()
    except MimoError as error:
        raise SystemExit(f"error: {error}") from None
