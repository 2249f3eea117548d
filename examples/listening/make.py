"""Make the listening examples of this folder again: python examples/listening/make.py [--model NAME_OR_FOLDER]

Synthetic voices only (apt install espeak-ng flite), noise and music of our own, so anybody may pass them on.
"""

import argparse
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
import soundfile as sf
import torch

from mimo_codec import MimoCodec, load_audio, resample

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE.parent))
from stress_test import RATE, augmented, play_music  # noqa: E402

COMPRESSION = 0.7  # about 80 kbit/s of Opus, so that what is heard is the codec's doing


def flite(voice: str, text: str) -> list[str]:
    return ["flite", "-voice", voice, "-t", text, "-o"]


def espeak(voice: str, text: str) -> list[str]:
    return ["espeak-ng", "-v", voice, "-s", "150", text, "-w"]


VOICES = {
    "1-english-woman": flite("slt", "The ferry leaves at seven, so we should be at the harbour a little earlier."),
    "2-english-man": flite("rms", "Could you turn down the radio? I am trying to read the instructions."),
    "3-scottish-man": flite("awb", "It rained the whole way home, and nobody had thought of an umbrella."),
    "4-german": espeak("de+f3", "Im Garten hinter dem Haus blühen schon die ersten Apfelbäume."),
    "5-french": espeak("fr+m3", "Nous avons trouvé une petite boulangerie au coin de la rue."),
    "6-mandarin": espeak("cmn+f4", "明天早上我们坐火车去看海。"),
    "7-english-in-noise": flite("slt", "Meet me at the station under the big clock, whatever the weather."),
}


def speak(command: list[str]) -> torch.Tensor:
    """[S] at 24 kHz."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "spoken.wav")
        subprocess.run([*command, str(path)], check=True, capture_output=True)
        return resample(*load_audio(path), RATE)


def write(name: str, waveform: torch.Tensor) -> None:
    sf.write(HERE / f"{name}.ogg", waveform.numpy(), RATE, format="OGG", subtype="OPUS", compression_level=COMPRESSION)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="nano")
    codec = MimoCodec.from_pretrained(parser.parse_args().model)
    rng = np.random.default_rng(0)
    originals = {name: speak(command) for name, command in VOICES.items()}
    noisy = "7-english-in-noise"
    originals[noisy] = augmented(noise_snr_db=(10, 10))(originals[noisy], originals[noisy], rng)
    originals["8-music"] = play_music(4.0, rng)
    for name, waveform in originals.items():
        waveform = waveform * 0.7 / waveform.abs().max()
        codes = codec.encode(waveform, RATE)
        write(f"{name}.original", waveform)
        write(f"{name}.decoded", codec.decode(codes))
        if name.startswith("1"):
            for num_codebooks in (1, 2, 4):
                write(f"{name}.decoded-{num_codebooks}-codebooks", codec.decode(codes.first(num_codebooks)))


if __name__ == "__main__":
    main()
