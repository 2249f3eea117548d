"""Attack the library with mutated inputs and report every one that does worse than raise MimoError.

    python tests/hostile/campaign.py                          # 100,000 inputs
    python tests/hostile/campaign.py --inputs 5000 --seed 7
    python tests/hostile/campaign.py --target config --only 417   # one input again, with its traceback

An input is bad for the library when it raises anything but MimoError, takes more than 10 seconds, or adds more than a
gigabyte to the memory of the process. Input k of a target depends on the seed and k alone.
"""

from __future__ import annotations

import argparse
import faulthandler
import json
import os
import random
import resource
import signal
import subprocess
import sys
import tempfile
import time
import traceback
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any

sys.path.append(str(Path(__file__).parents[1]))  # the helpers of all tests, where pytest does not add them
SECONDS = 10
BYTES = 2**30
BATCH = 2000
"""Inputs of one process, which takes some seconds to start."""


class Hang(BaseException):
    """Raised in the main thread when an input takes too long."""


def attack(name: str, numbers: range, seed: int, folder: Path) -> list[dict[str, Any]]:
    """Run inputs in this process -> the bad ones."""
    import torch
    from targets import TARGETS

    from mimo_codec import MimoError

    torch.set_num_threads(1)
    target, bad = TARGETS[name], []
    good = target.prepare(folder)
    for number in numbers:
        rng = random.Random(f"{seed} {name} {number}")
        spoilt = target.spoil(folder, good, rng)
        memory, started, problem = _reset_peak(), time.monotonic(), None
        signal.setitimer(signal.ITIMER_REAL, SECONDS)
        faulthandler.dump_traceback_later(3 * SECONDS, exit=True)  # for hangs below Python
        try:
            target.attempt(folder, spoilt)
        except MimoError as error:
            if "\n" in str(error) or not str(error):
                problem = f"MimoError of {str(error).count(chr(10)) + 1} lines: {str(error)[:300]!r}"
        except Hang:
            problem = f"took more than {SECONDS} s"
        except BaseException as error:
            last = traceback.extract_tb(error.__traceback__)[-1]
            problem = f"{type(error).__name__}: {str(error)[:300]!r} at {Path(last.filename).name}:{last.lineno}"
            if len(numbers) == 1:
                traceback.print_exc()
        finally:
            signal.setitimer(signal.ITIMER_REAL, 0)
            faulthandler.cancel_dump_traceback_later()
        grown = _peak() - memory
        if problem is None and grown > BYTES:
            problem = f"took {grown / 1e9:.1f} GB"
        if problem:
            bad.append(
                {"target": name, "number": number, "seconds": round(time.monotonic() - started, 2), "problem": problem}
            )
    return bad


def _reset_peak() -> int:
    Path("/proc/self/clear_refs").write_text("5")
    return _peak()


def _peak() -> int:
    """The largest resident memory of this process since it was reset, in bytes."""
    line = next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmHWM"))
    return int(line.split()[1]) * 1024


def _hang(signum: int, frame: object) -> None:
    raise Hang


def work(name: str, numbers: range, seed: int) -> None:
    """One batch, in a process of its own: bad inputs as JSON lines on stdout."""
    signal.signal(signal.SIGALRM, _hang)
    soft = 16 * 2**30
    resource.setrlimit(resource.RLIMIT_AS, (soft, soft))
    with tempfile.TemporaryDirectory() as folder:
        for row in attack(name, numbers, seed, Path(folder)):
            print(json.dumps(row))


def run_batch(name: str, numbers: range, seed: int) -> list[dict[str, Any]]:
    """A batch in a new process; one that dies counts as one bad input."""
    command = [sys.executable, __file__, "--work", name, str(numbers.start), str(numbers.stop), str(seed)]
    done = subprocess.run(
        command, capture_output=True, text=True, env=os.environ | {"OMP_NUM_THREADS": "1"}, check=False
    )
    rows = [json.loads(line) for line in done.stdout.splitlines() if line.startswith('{"target"')]
    if done.returncode:
        what = f"the process ended with {done.returncode}: {done.stderr[-600:]}"
        rows.append({"target": name, "number": f"{numbers.start}..{numbers.stop}", "seconds": None, "problem": what})
    return rows


def batches(inputs: int, only: str | None) -> list[tuple[str, range]]:
    """Shares of the targets, in pieces."""
    from targets import TARGETS

    chosen = {name: t for name, t in TARGETS.items() if only in (None, name)}
    whole = sum(t.share for t in chosen.values())
    found = []
    for name, target in chosen.items():
        count = -(-inputs * target.share // whole)
        found += [(name, range(start, min(start + BATCH, count))) for start in range(0, count, BATCH)]
    return found


@contextmanager
def exported_codec() -> Iterator[None]:
    """Export the codec that is attacked once, for the processes of all batches."""
    from targets import EXPORTED, TARGETS

    if EXPORTED in os.environ:
        yield
        return
    with tempfile.TemporaryDirectory() as folder:
        os.environ[EXPORTED] = str(TARGETS["metadata"].prepare(Path(folder)))
        try:
            yield
        finally:
            del os.environ[EXPORTED]


def campaign(inputs: int, seed: int, jobs: int, only: str | None = None) -> tuple[Counter[str], list[dict[str, Any]]]:
    """-> inputs of each target, and the bad ones."""
    todo = batches(inputs, only)
    random.Random(seed).shuffle(todo)
    tried: Counter[str] = Counter()
    bad = []
    with exported_codec() if only in (None, "metadata") else nullcontext(), ThreadPoolExecutor(jobs) as pool:
        for (name, numbers), rows in zip(todo, pool.map(lambda item: run_batch(*item, seed), todo), strict=True):
            tried[name] += len(numbers)
            bad += rows
    return tried, bad


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--inputs", type=int, default=100_000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--jobs", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--target")
    parser.add_argument("--only", type=int)
    parser.add_argument("--work", nargs=4, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.work:
        name, start, stop, seed = options.work
        return work(name, range(int(start), int(stop)), int(seed))
    if options.only is not None:
        return work(options.target, range(options.only, options.only + 1), options.seed)
    started = time.monotonic()
    tried, bad = campaign(options.inputs, options.seed, options.jobs, options.target)
    for row in bad:
        print(json.dumps(row))
    print(f"{sum(tried.values())} inputs in {time.monotonic() - started:.0f} s: {dict(tried)}; {len(bad)} bad")
    sys.exit(bool(bad))


if __name__ == "__main__":
    main()
