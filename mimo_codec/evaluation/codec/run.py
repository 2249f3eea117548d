"""Items -> Evaluation.

The model runs in this process, a few files at a time; scoring, which takes longer, in processes of its own, while the
model waits, so that its speed is measured undisturbed.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

from mimo_codec.codec.base import Codec
from mimo_codec.common.checks import require
from mimo_codec.common.errors import MimoError
from mimo_codec.evaluation.codec.baselines import Baseline
from mimo_codec.evaluation.codec.items import Item
from mimo_codec.evaluation.codec.results import Evaluation, System
from mimo_codec.evaluation.codec.scoring import Job, Scored, scorer
from mimo_codec.evaluation.codec.systems import Coder, DecodedFiles, Model
from mimo_codec.metrics import CORE_METRICS, require_metric

FILES_PER_WORKER = 4
"""Files that are coded before they are scored: enough that workers seldom wait, few enough to hold in memory."""


def evaluate(
    codec: Codec[Any] | None,
    items: Sequence[Item],
    *,
    num_quantizers: int | None = None,
    codebooks: Sequence[int] = (),
    metrics: Sequence[str] = CORE_METRICS,
    baselines: Sequence[Baseline] = (),
    workers: int = 1,
    progress: Callable[[Item], None] = lambda item: None,
) -> Evaluation:
    """Score what a codec makes of each original, or decoded files, and what the baselines make of it.

    A script that wants more than one worker keeps its own work under `if __name__ == "__main__"`.

    Args:
        codec: the codec under test; None: the decoded files of the items are scored.
        items: the originals.
        num_quantizers: codebooks to use; None: 8, or all if there are fewer.
        codebooks: smaller numbers of codebooks to score too, decoded from the same codes.
        metrics: see `speech_metrics`.
        baselines: codecs to compare with.
        workers: processes that score.
        progress: called with every item that is finished.

    Returns:
        The results; a file that cannot be read, coded or scored is among `failed`.

    Raises:
        MimoError: for wrong arguments.
    """
    for name in metrics:
        require_metric(name)
    require(workers >= 1, f"workers = {workers}: at least 1 is needed")
    coder = DecodedFiles() if codec is None else Model(codec, num_quantizers, codebooks)
    scored: dict[str, Scored] = {}
    failed: dict[str, str] = {}
    with scorer(min(workers, len(items))) as score:
        step = FILES_PER_WORKER * workers if workers > 1 else 1
        for first in range(0, len(items), step):
            group = items[first : first + step]
            jobs = [_prepare(item, coder, tuple(baselines), tuple(metrics)) for item in group]
            for item, result in zip(group, score(jobs), strict=True):
                if isinstance(result, MimoError):
                    failed[item.name] = _named(result, item)
                else:
                    scored[item.name] = result
                progress(item)
    speakers = {item.name: item.speaker for item in items if item.speaker is not None and item.name in scored}
    return replace(_collect(coder, scored, failed, metrics, baselines), speakers=speakers)


def _prepare(item: Item, coder: Coder, baselines: tuple[Baseline, ...], metrics: tuple[str, ...]) -> Job | MimoError:
    try:
        original, rate = item.load()
        return Job((original.numpy(), rate), item.text, coder(item, original, rate), baselines, metrics)
    except MimoError as error:
        return error


def _named(error: MimoError, item: Item) -> str:
    """Return the message with the name of the file, which errors about a file's content lack."""
    text = str(error)
    return text if text.startswith((str(item.path), str(item.decoded))) else f"{item.path}: {text}"


def _collect(
    coder: Coder,
    scored: Mapping[str, Scored],
    failed: Mapping[str, str],
    metrics: Sequence[str],
    baselines: Sequence[Baseline],
) -> Evaluation:
    if not scored:
        return Evaluation((), (), 0.0, failed=failed)
    seconds = sum(result.seconds for result in scored.values())
    names = next(iter(scored.values())).scores
    scores = {name: {file: result.scores[name] for file, result in scored.items()} for name in names}
    systems = coder.systems(scores)
    for baseline in baselines:
        bits = sum(result.bits_per_second[baseline.name] * result.seconds for result in scored.values())
        systems.append(System(baseline.name, "baseline", scores[baseline.name], bits / seconds))
    known = [m for m in metrics if any(s.summary(m).num_files for s in systems)]
    return Evaluation(tuple(known), tuple(systems), seconds, tuple(coder.codebooks()), failed)
