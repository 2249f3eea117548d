"""What an answer means: the letter of an option, or one of several choices."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence

_OPTION = re.compile(r"option\s*([abcd])", re.IGNORECASE)
_OPTION_CHINESE = re.compile(r"选项\s*([abcd])", re.IGNORECASE)

_BOLD = re.compile(r"\*\*(.+?)\*\*")
_SPACE = r"[^\S\r\n]*"
_MARKERS = (
    re.compile(rf"^{_SPACE}(?:the\s+)?correct\s+(?:choice|answer)\s+is\s*[:\-]?\s*(.*)$", re.IGNORECASE | re.MULTILINE),
    re.compile(rf"^{_SPACE}answer\s*[:\-]\s*(.*)$", re.IGNORECASE | re.MULTILINE),
)
"""What stands before an answer, in the order in which they are looked for."""
_WRAPPERS = (r"\*{1,2}(.+?)\*{1,2}", r"`(.+?)`", r"['\"](.+?)['\"]")
_EDGES = " \t\r\n.:;!?,"


def option_letter(text: str) -> int | None:
    """Return which option, 0 for A to 3 for D, an answer names first ("Option B"); None when it names none.

    As the published evaluation of SpeechMMLU reads it: the word "option", then the letter, in any case. A Chinese
    answer says 选项.
    """
    found = _OPTION.search(text) or _OPTION_CHINESE.search(text)
    return None if found is None else "abcd".index(found[1].lower())


def final_answer(text: str) -> str:
    """Return the answer in a text that may explain it, as the published evaluation of MMAU reads it.

    What follows "the correct answer is" and then what follows "answer:" at the beginning of a line are candidates;
    without any, what is bold; without, the first line. The last candidate counts. Thoughts before `</think>` do not.
    """
    said = text.rsplit("</think>", 1)[-1].lstrip()
    candidates = list(_marked(said)) or _cleaned(match[1] for match in _BOLD.finditer(said))
    candidates = candidates or _cleaned(said.splitlines())[:1]
    return candidates[-1] if candidates else ""


def _marked(text: str) -> Iterator[str]:
    for marker in _MARKERS:
        for match in marker.finditer(text):
            after = text[match.end() :]
            bold = _cleaned(found[1] for found in _BOLD.finditer(after))[:1]
            yield from _cleaned([match[1]]) or bold or _cleaned(after.splitlines())[:1]


def _cleaned(parts: Iterator[str] | Sequence[str]) -> list[str]:
    return [clean for part in parts if (clean := _clean(part))]


def _clean(text: str) -> str:
    """Return the first line without quotes, marks of bold or code, and punctuation at its ends."""
    lines = text.strip().splitlines()
    line = lines[0].strip().replace('\\"', '"').replace("\\'", "'") if lines else ""
    for wrapper in _WRAPPERS:
        line = re.sub(f"^{wrapper}$", r"\1", line)
    return re.sub(r"\s+", " ", line.strip(_EDGES))


def is_choice(prediction: str, answer: str, choices: Sequence[str]) -> bool:
    """Whether a prediction is the right choice by its words, as MMAU compares them.

    It has all words of the answer, and none that only the other choices have.
    """
    said, right = _words(prediction), _words(answer)
    others = [_words(choice) for choice in choices]
    wrong = {word for words in others if words != right for word in words - right}
    return bool(said) and right <= said and not said & wrong


def _words(text: str) -> set[str]:
    return set(re.findall(r"\b\w+\b", text.lower()))
