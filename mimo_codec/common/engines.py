"""Who does the tasks: this machine's processes, or Ray Data on one machine or a cluster. The results are the same."""

from __future__ import annotations

import faulthandler
import logging
import os
import signal
import sys
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from multiprocessing import get_context
from multiprocessing.connection import Connection
from threading import Thread
from typing import Any

from mimo_codec.common.checks import needs_extra, require
from mimo_codec.common.errors import MimoError

Task = dict[str, Any]
"""{"number": which, ...}: plain values, so that it can be sent anywhere."""
Worker = Callable[[Task], int]
"""Does a task, unless it is done, and leaves its result in a file -> the number of the task."""
Make = Callable[[], Worker]
"""Makes a worker, in the process that it is for."""
ENGINES = ("local", "ray")
MAX_DEATHS = 10
"""So many times in a row workers may be killed before one of them finishes a task."""
_worker: Worker | None = None


@dataclass(frozen=True)
class Resources:
    """What an engine has.

    Args:
        workers: processes, or actors of Ray; 0: one for each core.
        cpus, gpus: of each actor of Ray, fractions included.
        address: of a running cluster of Ray; None starts Ray on this machine.
    """

    workers: int = 0
    cpus: float = 1.0
    gpus: float = 0.0
    address: str | None = None


def run_tasks(engine: str, make: Make, tasks: Sequence[Task], resources: Resources) -> Iterator[int]:
    """Do tasks by an engine of ENGINES -> their numbers, as they are done; see the functions of both."""
    if engine == "ray":
        return run_by_ray(make, tasks, resources)
    return run_locally(make, tasks, resources.workers)


def run_locally(make: Make, tasks: Sequence[Task], workers: int) -> Iterator[int]:
    """Do tasks in processes of this machine -> their numbers, as they are done; with one worker in this process.

    Tasks of workers that were killed are given to new ones. Workers end at once when this process ends, or is
    interrupted. MimoError when new workers do not help.
    """
    count = min(workers or available_cores(), len(tasks))
    if count <= 1:
        with _one_thread():
            worker = make() if tasks else None
            yield from map(worker, tasks) if worker else ()
        return
    waiting, deaths = {task["number"]: task for task in tasks}, 0
    while waiting:
        killed = f"workers were killed {deaths} times and finished nothing meanwhile, perhaps for want of memory"
        require(deaths < MAX_DEATHS, f"{killed}: try fewer workers")
        context = get_context("spawn")
        reader, writer = context.Pipe(duplex=False)
        pool = ProcessPoolExecutor(count, context, initializer=_start, initargs=(make, reader))
        try:
            for number in _drain(pool, list(waiting.values()), 2 * count):
                deaths = 0
                del waiting[number]
                yield number
        except BrokenProcessPool:
            deaths += 1
        except BaseException:
            writer.close()  # what workers are doing would take long
            raise
        finally:
            pool.shutdown(wait=True, cancel_futures=True)
            writer.close()


def _drain(pool: ProcessPoolExecutor, tasks: list[Task], most: int) -> Iterator[int]:
    """Give tasks to a pool, at most so many ahead."""
    running: set[Future[int]] = set()
    todo = iter(tasks)
    while True:
        while len(running) < most and (task := next(todo, None)) is not None:
            running.add(pool.submit(_do, task))
        if not running:
            return
        done, running = wait(running, return_when=FIRST_COMPLETED)
        for future in done:
            yield future.result()


def _start(make: Make, parent: Connection) -> None:
    """Begin a process of this machine: it leaves Ctrl-C to its parent, and ends when that closes its end of a pipe."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    Thread(target=_end_with, args=(parent,), daemon=True).start()
    _load(make)


def _end_with(parent: Connection) -> None:
    with suppress(EOFError, OSError):
        parent.recv()
    os._exit(1)


@contextmanager
def _one_thread() -> Iterator[None]:
    """Compute as every worker does: with another number of threads sums are rounded otherwise."""
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def _load(make: Make) -> None:
    global _worker
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    import torch

    torch.set_num_threads(1)
    _worker = make()


def _do(task: Task) -> int:
    assert _worker is not None
    return _worker(task)


def available_cores() -> int:
    """Return how many cores this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


# ---- Ray -------------------------------------------------------------------------------------------------------------


class _Actor:
    """A worker in the form that Ray Data calls: columns of a batch of one row."""

    def __init__(self, stored: list[Any], paths: list[str]):
        """stored: a reference to a Make; paths: from which the process that starts the run imports what is in it."""
        import ray

        cluster: Any = ray
        sys.path += [path for path in paths if path not in sys.path]
        faulthandler.disable()  # Ray's own watch; workers note which recording was read
        _load(cluster.get(stored[0]))

    def __call__(self, batch: dict[str, Any]) -> dict[str, Any]:
        return {"number": [_do(task) for task in batch["task"]]}


def run_by_ray(make: Make, tasks: Sequence[Task], resources: Resources) -> Iterator[int]:
    """Do tasks by actors of Ray -> their numbers, as they are done.

    Args:
        make: makes a worker; the output folder must be seen by all machines.
        tasks: what to do. Ray gives those of a lost actor or machine to another one.
        resources: how many actors, what each needs, and where.

    Raises:
        MimoError: without Ray, and for what a worker raises.
    """
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # it would report to its maker
    os.environ.setdefault("RAY_DATA_DISABLE_PROGRESS_BARS", "1")
    with needs_extra("ray", "corpus"):
        import ray.data
    cluster: Any = ray  # most of it has no types
    if not tasks:
        return
    if not cluster.is_initialized():
        cluster.init(
            address=resources.address,
            include_dashboard=False,
            log_to_driver=False,
            configure_logging=True,
            logging_level=logging.ERROR,
        )
    fit = max(int(cluster.cluster_resources().get("CPU", 1) / max(resources.cpus, 0.01)), 1)
    count = min(resources.workers or fit, len(tasks))
    rows = ray.data.from_items([{"task": task} for task in tasks], override_num_blocks=len(tasks))
    done = rows.map_batches(
        _Actor,
        batch_size=1,
        concurrency=(1, count) if count > 1 else 1,
        num_cpus=resources.cpus,
        num_gpus=resources.gpus or None,
        fn_constructor_args=([cluster.put(make)], sys.path),
        max_restarts=-1,
        max_task_retries=-1,
    )
    try:
        for row in done.iter_rows():
            yield int(row["number"])
    except ray.exceptions.RayError as error:
        raise _find_mimo_error(error) or error from None


def _find_mimo_error(error: BaseException | None) -> MimoError | None:
    """Find what a worker raised inside the errors that Ray puts around it."""
    while error is not None and not isinstance(error, MimoError):
        error = getattr(error, "cause", None) or error.__cause__
    return error
