"""When each word is said: the likeliest path of a text through the outputs of a CTC model (Graves et al., 2006)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from mimo_codec.common.checks import require

STAY, STEP, SKIP = 0, 1, 2
"""How a path comes to a state: from the same, the one before, or the one before that (over a blank)."""


def align_words(
    log_probs: NDArray[np.floating],
    words: Sequence[str],
    letters: Mapping[str, int],
    blank: int,
    frame_seconds: float,
) -> list[tuple[float, float, str]]:
    """Find when each word begins and ends.

    Args:
        log_probs: of a CTC model [T, V].
        words: what is said, in order.
        letters: character -> its index in V. Other characters are not looked for; "|", if there is one, stands between
            words.
        blank: index of the blank.
        frame_seconds: duration of a frame.

    Returns:
        (start, end, word) in seconds for every word; one without letters ends where it begins.

    Raises:
        MimoError: when there are more letters than frames, or none.
    """
    ids, owners = _targets(words, letters)
    require(ids, "words: none of their characters are known to the model")
    frames = _path(np.asarray(log_probs, np.float64), ids, blank)
    spans: dict[int, list[int]] = {}
    for frame, letter in frames:
        if owners[letter] >= 0:
            spans.setdefault(owners[letter], []).append(frame)
    found, last = [], 0.0
    for number, word in enumerate(words):
        inside = spans.get(number, [])
        start = min(inside) * frame_seconds if inside else last
        last = (max(inside) + 1) * frame_seconds if inside else last
        found.append((start, last, word))
    return found


def _targets(words: Sequence[str], letters: Mapping[str, int]) -> tuple[list[int], list[int]]:
    """Indices of the letters in order, and the number of the word of each; -1 for what stands between words."""
    ids: list[int] = []
    owners: list[int] = []
    for number, word in enumerate(words):
        inside = [letters[c] for c in word if c in letters and c != "|"]
        if inside and ids and "|" in letters:
            ids.append(letters["|"])
            owners.append(-1)
        ids += inside
        owners += [number] * len(inside)
    return ids, owners


def _path(log_probs: NDArray[np.float64], ids: Sequence[int], blank: int) -> list[tuple[int, int]]:
    """Return the likeliest path as (frame, number of the letter) for every frame that is no blank."""
    states = np.full(2 * len(ids) + 1, blank)
    states[1::2] = ids
    can_skip = np.zeros(len(states), bool)
    can_skip[3::2] = states[3::2] != states[1:-2:2]
    repeats = int((~can_skip[3::2]).sum())
    fits = len(log_probs) >= len(ids) + repeats
    require(fits, f"{len(log_probs)} frames are too few for {len(ids)} letters: the text is not that of the audio")
    scores = np.full(len(states), -np.inf)
    scores[:2] = log_probs[0, states[:2]]
    moves = np.zeros((len(log_probs), len(states)), np.int8)
    for frame in range(1, len(log_probs)):
        step = np.concatenate(([-np.inf], scores[:-1]))
        skip = np.where(can_skip, np.concatenate(([-np.inf, -np.inf], scores[:-2])), -np.inf)
        choices = np.stack((scores, step, skip))
        moves[frame] = choices.argmax(0)
        scores = choices.max(0) + log_probs[frame, states]
    state = len(states) - 1 if scores[-1] >= scores[-2] else len(states) - 2
    found = []
    for frame in range(len(log_probs) - 1, -1, -1):
        if state % 2:
            found.append((frame, state // 2))
        state -= int(moves[frame, state])
    return found[::-1]
