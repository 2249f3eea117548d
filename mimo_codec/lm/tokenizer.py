"""The text tokenizer of a language model, and its special tokens looked up by name."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING, cast

from mimo_codec.common.checks import needs_extra, require, wrap_errors
from mimo_codec.common.errors import MimoError

if TYPE_CHECKING:
    from tokenizers import Tokenizer


@dataclass(frozen=True)
class SpecialTokens:
    """Ids of the tokens that the format is made of; the name of each is in `NAMES`."""

    end_of_text: int
    turn_start: int
    turn_end: int
    audio_start: int
    audio_end: int
    empty: int
    speech_start: int
    speech_end: int
    text_end: int


NAMES = dict(
    zip(
        (field.name for field in fields(SpecialTokens)),
        (
            "<|endoftext|>",
            "<|im_start|>",
            "<|im_end|>",
            "<|sosp|>",
            "<|eosp|>",
            "<|empty|>",
            "<|sostm|>",
            "<|eostm|>",
            "<|eot|>",
        ),
        strict=True,
    )
)
"""Field of SpecialTokens -> the token in the tokenizer."""


class TextTokenizer:
    """Text <-> token ids, by the `tokenizers` library."""

    def __init__(self, tokenizer: Tokenizer, source: str | Path = "tokenizer"):
        """Look up the special tokens; MimoError names every one that is missing from `source`."""
        self.tokenizer, self.source = tokenizer, Path(source)
        ids = {field: tokenizer.token_to_id(name) for field, name in NAMES.items()}
        missing = [NAMES[field] for field, found in ids.items() if found is None]
        require(not missing, f"{source}: the tokenizer has no {', '.join(missing)}, so it is not of such a model")
        self.special = SpecialTokens(**{field: int(found) for field, found in ids.items() if found is not None})
        added = sorted((token.content for token in tokenizer.get_added_tokens_decoder().values()), key=len)
        self._marks = re.compile("|".join(map(re.escape, reversed(added))))

    @classmethod
    def load(cls, folder: str | Path) -> TextTokenizer:
        """Read tokenizer.json, or what older checkpoints have instead (vocab.json, merges.txt)."""
        folder = Path(folder)
        path = folder / "tokenizer.json"
        with needs_extra("tokenizers", "lm"):
            from tokenizers import Tokenizer
        found = path.is_file() or (folder / "vocab.json").is_file()
        require(found, f"{folder}: there is neither tokenizer.json nor vocab.json and merges.txt in this folder")
        with wrap_errors(f"{folder}: not a readable tokenizer", Exception):  # the library raises nothing narrower
            tokenizer = Tokenizer.from_file(str(path)) if path.is_file() else _from_vocabulary(folder)
        return cls(tokenizer, folder)

    def __len__(self) -> int:
        """Return one more than the highest id."""
        return 1 + max(self.tokenizer.get_vocab(with_added_tokens=True).values())

    def split(self, markup: str) -> list[str | int]:
        """Split markup into plain text and ids of the special tokens that it names, in order."""
        pieces: list[str | int] = []
        end = 0
        for match in self._marks.finditer(markup):
            pieces += [markup[end : match.start()], self.token_id(match[0])]
            end = match.end()
        return [piece for piece in [*pieces, markup[end:]] if piece != ""]

    def encode(self, text: str) -> list[int]:
        """Turn text into ids; no special token comes of it, whatever names are in it."""
        try:
            text.encode("utf-8")
        except UnicodeEncodeError:
            raise MimoError(f"text: {text!r} is no Unicode text") from None
        ids, start = [], 0
        for match in self._marks.finditer(text):  # cut inside the name, so that it is no name any more
            ids += self._encode(text[start : match.start() + 1])
            start = match.start() + 1
        return ids + self._encode(text[start:])

    def _encode(self, text: str) -> list[int]:
        return list(self.tokenizer.encode(text, add_special_tokens=False).ids)

    def decode(self, ids: Sequence[int]) -> str:
        """Turn ids into text, special tokens left out."""
        return str(self.tokenizer.decode(list(ids), skip_special_tokens=True))

    def token_id(self, token: str) -> int:
        """Return the id of one token; MimoError when there is none."""
        found = self.tokenizer.token_to_id(token)
        if found is None:
            raise MimoError(f"the tokenizer has no token {token!r}")
        return int(found)

    def token(self, id: int) -> str:
        """Return the name of an id."""
        return str(self.tokenizer.id_to_token(id))


def _from_vocabulary(folder: Path) -> Tokenizer:
    for path in folder.iterdir():  # transformers would wait for a pipe
        regular = path.is_file() or path.is_dir() or not path.exists()
        require(regular, f"{path}: cannot be read: it is not a regular file")
    from transformers import AutoTokenizer

    return cast("Tokenizer", AutoTokenizer.from_pretrained(folder, trust_remote_code=False).backend_tokenizer)
