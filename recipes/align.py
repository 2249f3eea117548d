"""When each word is said: adds "words" to rows of audio and text, for interleaved training.

    python recipes/align.py rows.jsonl -o aligned.jsonl --model CTC_FOLDER

CTC_FOLDER is a model of letters for the language as transformers saves it (AutoModelForCTC with its processor), such as
a wav2vec 2.0 that was fine-tuned for recognition. Rows that cannot be aligned get no times, and are counted.
"""

from __future__ import annotations

import argparse
import json
import os
from pathlib import Path

import torch
from transformers import AutoModelForCTC, AutoProcessor

from mimo_codec import MimoError
from mimo_codec.audio.files import load_audio
from mimo_codec.audio.resampling import resample
from mimo_codec.train.lm.alignment import align_words
from mimo_codec.train.lm.interleaved import split_words


class Aligner:
    """A CTC model and its letters."""

    def __init__(self, folder: str):
        self.processor = AutoProcessor.from_pretrained(folder, trust_remote_code=False)
        self.model = AutoModelForCTC.from_pretrained(folder, trust_remote_code=False).eval()
        self.letters = self.processor.tokenizer.get_vocab()
        self.blank = self.processor.tokenizer.pad_token_id
        self.rate = self.processor.feature_extractor.sampling_rate
        self.upper = any(len(letter) == 1 and letter.isupper() for letter in self.letters)

    @torch.no_grad()
    def words(self, path: Path, text: str) -> list[list]:
        """[start, end, word] in seconds of every word."""
        waveform = resample(*load_audio(path), self.rate)
        inputs = self.processor(waveform.numpy(), sampling_rate=self.rate, return_tensors="pt")
        log_probs = self.model(**inputs).logits[0].log_softmax(-1).numpy()
        spoken = split_words(text)
        asked = [word.upper() if self.upper else word.lower() for word in spoken]
        seconds = len(waveform) / self.rate / len(log_probs)
        found = align_words(log_probs, asked, self.letters, self.blank, seconds)
        return [[round(start, 3), round(end, 3), word] for (start, end, _), word in zip(found, spoken, strict=True)]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("rows", type=Path)
    parser.add_argument("--output", "-o", type=Path, required=True)
    parser.add_argument("--model", required=True)
    options = parser.parse_args()
    aligner, failed = Aligner(options.model), 0
    rows = [json.loads(line) for line in options.rows.read_text(encoding="utf-8").splitlines() if line.strip()]
    for row in rows:
        try:
            row["words"] = aligner.words(options.rows.parent / os.path.expanduser(row["audio"]), row["text"])
        except (MimoError, KeyError, TypeError) as error:  # the last two: no row of audio and text
            failed += 1
            print(f"skipped: {error}")
    lines = [json.dumps(row, ensure_ascii=False) + "\n" for row in rows]
    options.output.write_text("".join(lines), encoding="utf-8")
    print(f"{len(rows) - failed} of {len(rows)} rows have times in {options.output}")


if __name__ == "__main__":
    main()
