"""How much of the words is in the codes? A small recogniser is trained on the frozen codes of a codec.

    pip install '.[eval]'
    python recipes/probe.py train.jsonl held_out.jsonl --model nano
    python recipes/probe.py train.jsonl held_out.jsonl --model runs/nano_stage1/best --codebooks 2

Both files are manifests whose utterances have English texts. The recogniser is a Transformer over the embedded codes,
trained with connectionist temporal classification (Graves et al. 2006). It is the same for every codec, so its errors
on the held-out utterances compare codecs, or numbers of codebooks. They say little by themselves: more speech makes
better recognisers.
"""

from __future__ import annotations

import argparse
import random
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jiwer
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils.rnn import pad_sequence

from mimo_codec import load_codec
from mimo_codec.codec.base import Codec
from mimo_codec.codec.transformer import Transformer
from mimo_codec.data.manifest import read_manifest

LETTERS = " 'abcdefghijklmnopqrstuvwxyz"
BLANK = 0
"""Output 0; output n + 1 is letter n."""
PER_FRAME = 2
"""Outputs of a code frame: 25 a second are too few for fast speech with doubled letters."""


class Example(NamedTuple):
    """One utterance."""

    codes: Tensor
    """[Q, T] int64."""
    text: str
    """Of `LETTERS` only."""


class Recogniser(nn.Module):
    """Codes [B, Q, T] -> log-probabilities [B, PER_FRAME T, 1 + letters]."""

    def __init__(self, codebook_sizes: Sequence[int], dim: int = 256, num_layers: int = 4, num_heads: int = 4):
        super().__init__()
        self.embeddings = nn.ModuleList(nn.Embedding(size, dim) for size in codebook_sizes)
        windows = ((-1, -1),) * num_layers
        self.layers = Transformer(dim, num_heads, 4 * dim, windows, "RMSNorm", "gelu", 10000.0)
        self.norm = nn.RMSNorm(dim, eps=1e-6)
        self.head = nn.Linear(dim, PER_FRAME * (1 + len(LETTERS)))

    def forward(self, codes: Tensor, lengths: Tensor) -> Tensor:
        """lengths [B]: frames of each item; the rest is padding."""
        x = torch.stack([embed(row) for embed, row in zip(self.embeddings, codes.unbind(1), strict=True)]).sum(0)
        logits = self.head(self.norm(self.layers(x, lengths)))
        return logits.unflatten(-1, (PER_FRAME, -1)).flatten(1, 2).log_softmax(-1)


def letters(text: str) -> str:
    """Lower case, without punctuation and digits."""
    return " ".join(re.findall(r"[a-z]+(?:'[a-z]+)*", text.lower().replace("’", "'")))


def encode(codec: Codec[Any], manifest: Path, num_quantizers: int) -> list[Example]:
    """The transcribed utterances of a manifest as codes."""
    spoken = [(u, letters(u.text)) for u in read_manifest(manifest) if u.text]
    paths = [str(u.path) for u, text in spoken if text]
    codes = codec.encode_batch(paths, num_quantizers=num_quantizers)
    texts = [text for _, text in spoken if text]
    return [Example(torch.from_numpy(c.to_numpy()), text) for c, text in zip(codes, texts, strict=True)]


def collate(examples: Sequence[Example]) -> tuple[Tensor, Tensor]:
    """Codes [B, Q, T], padded with zeros, and their lengths [B]."""
    codes = pad_sequence([example.codes.T for example in examples], batch_first=True).transpose(1, 2)
    return codes, torch.tensor([example.codes.shape[1] for example in examples])


def loss(model: Recogniser, examples: Sequence[Example]) -> Tensor:
    """Connectionist temporal classification, per letter -> []."""
    codes, lengths = collate(examples)
    targets = [torch.tensor([LETTERS.index(letter) + 1 for letter in example.text]) for example in examples]
    sizes = torch.tensor([len(target) for target in targets])
    scores = model(codes, lengths).transpose(0, 1).float()
    return F.ctc_loss(scores, torch.cat(targets), PER_FRAME * lengths, sizes, BLANK, zero_infinity=True)


@torch.no_grad()
def transcribe(model: Recogniser, examples: Sequence[Example]) -> list[str]:
    """The likeliest output of every frame, repetitions and blanks left out."""
    codes, lengths = collate(examples)
    best = model(codes, lengths).argmax(-1)
    texts = []
    for row, length in zip(best, lengths.tolist(), strict=True):
        outputs = row[: PER_FRAME * length].unique_consecutive().tolist()
        texts.append(" ".join("".join(LETTERS[n - 1] for n in outputs if n != BLANK).split()))
    return texts


def train(model: Recogniser, examples: Sequence[Example], steps: int, batch_size: int, rate: float) -> None:
    """Train on these utterances, with a learning rate that rises for a tenth of the steps and falls to zero."""
    draw = random.Random(0)
    optimizer = torch.optim.AdamW(model.parameters(), rate, betas=(0.9, 0.98), weight_decay=0.01)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, rate, steps, pct_start=0.1, anneal_strategy="linear")
    for step in range(1, steps + 1):
        value = loss(model.train(), draw.choices(examples, k=batch_size))
        optimizer.zero_grad()
        value.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        schedule.step()
        if step % max(steps // 20, 1) == 0:
            print(f"step {step} of {steps}: loss {float(value.detach()):.3f}", flush=True)
    model.eval()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("train", type=Path, help="manifest of the speech to train on")
    parser.add_argument("held_out", type=Path, help="manifest of the speech to test on")
    parser.add_argument(
        "--model", default="nano", help="the codec: shipped name, folder (of an exported codec too) or hub id"
    )
    parser.add_argument("--codebooks", type=int, help="number of codebooks to use; by default 8, or all if fewer")
    parser.add_argument("--steps", type=int, default=2000)
    parser.add_argument("--batch-size", type=int, default=16)
    parser.add_argument("--rate", type=float, default=1e-3, help="peak of the learning rate")
    options = parser.parse_args()

    codec = load_codec(options.model)
    codebooks = codec.check_num_quantizers(options.codebooks)
    examples, held_out = (encode(codec, path, codebooks) for path in (options.train, options.held_out))
    torch.manual_seed(0)
    model = Recogniser(codec.codebook_sizes[:codebooks])
    train(model, examples, options.steps, options.batch_size, options.rate)
    heard = [text for example in held_out for text in transcribe(model, [example])]
    texts = [example.text for example in held_out]
    letter_errors, word_errors = 100 * jiwer.cer(texts, heard), 100 * jiwer.wer(texts, heard)
    print(f"{options.model}, {codebooks} codebooks, {len(held_out)} held-out utterances:")
    print(f"{letter_errors:.1f} % of the letters and {word_errors:.1f} % of the words are wrong")


if __name__ == "__main__":
    main()
