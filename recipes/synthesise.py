"""Synthetic voices to train on beside real ones, or to test with: numbers, read aloud by espeak-ng in many languages.

    python recipes/synthesise.py speech/synthetic --minutes 20
    python recipes/synthesise.py test/languages --minutes 2 --languages de,fr,hi,ru --seed 1

Every language reads digits, so no texts are needed. Voice, pitch, speed and level are drawn at random. Needs espeak-ng
(apt install espeak-ng), whose speech is free to use.
"""

from __future__ import annotations

import argparse
import random
import shutil
import subprocess
import sys
from pathlib import Path

import soundfile as sf

LANGUAGES = "ar cmn cs de el en-gb en-us es fa fi fr hi hu id it ja ko nl pl pt ro ru sv sw ta tr uk vi".split()
VARIANTS = ",+f1,+f2,+f3,+f4,+f5,+m1,+m2,+m3,+m4,+m5,+m6,+m7,+croak,+whisper".split(",")


def say(path: Path, language: str, draw: random.Random) -> float:
    """Write one utterance to `path`; returns its seconds."""
    words = " ".join(str(draw.randrange(10 ** draw.randint(1, 6))) for _ in range(draw.randint(2, 5)))
    command = ["espeak-ng", "-v", language + draw.choice(VARIANTS), "-s", str(draw.randint(120, 200)),
               "-p", str(draw.randint(15, 85)), "-a", str(draw.randint(40, 120)), "-w", str(path), words]  # fmt: skip
    subprocess.run(command, check=True, capture_output=True, text=True)
    return float(sf.info(path).duration)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--minutes", type=float, default=20.0)
    parser.add_argument("--languages", default=",".join(LANGUAGES), help="names of espeak-ng --voices")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    if shutil.which("espeak-ng") is None:
        sys.exit("espeak-ng is not installed: apt install espeak-ng")
    options.folder.mkdir(parents=True, exist_ok=True)
    draw, languages, seconds, count = random.Random(options.seed), options.languages.split(","), 0.0, 0
    while seconds < 60 * options.minutes:
        language = languages[count % len(languages)]
        try:
            seconds += say(options.folder / f"{language}-{count:04d}.wav", language, draw)
        except subprocess.CalledProcessError as error:
            sys.exit(f"espeak-ng, language {language}: {error.stderr.strip()}")
        count += 1
    print(f"{count} utterances, {seconds / 60:.1f} minutes in {options.folder}")


if __name__ == "__main__":
    main()
