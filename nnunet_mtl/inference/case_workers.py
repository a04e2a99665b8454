"""Work on cases in other processes. An error, or the death of a process, fails one case and no other."""

import os
import signal
import threading
import traceback
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from multiprocessing import get_context, parent_process
from typing import Any, TypeVar

from nnunet_mtl.common.errors import UserError

Item = TypeVar("Item")
_LONGEST = 400


@dataclass(frozen=True)
class Failure:
    """The error in which the work on a case ended.

    Attributes:
        message: The error in one line.
        details: The trace, for `--verbose`.
    """

    message: str
    details: str = ""


def attempt(function: Callable[..., Any], *arguments: Any) -> Any:
    """Return the result of `function(*arguments)`, or a `Failure` if it raises an error."""
    try:
        return function(*arguments)
    except Exception as error:  # noqa: BLE001 - readers raise anything, and the other cases go on
        text = " ".join(str(error).split())
        if not isinstance(error, UserError):
            text = f"{type(error).__name__}: {text}" if text else type(error).__name__
        return Failure(text if len(text) <= _LONGEST else f"{text[: _LONGEST - 3]}...", traceback.format_exc())


class Job:
    """A call of a function in a worker process; `result` waits for its end."""

    def __init__(self, workers: "Workers", function: Callable[..., Any], arguments: tuple[Any, ...]) -> None:
        self._workers, self._function, self._arguments = workers, function, arguments
        self._pool, self._future = workers.start(function, arguments)

    def result(self) -> Any:
        """Return the result of the function, or a `Failure`.

        A process that dies breaks its pool and all jobs in the pool. A lost job is therefore done once more in a new
        pool; if that pool breaks too, the job fails.
        """
        try:
            return self._future.result()
        except BrokenProcessPool:
            self._workers.replace(self._pool)
        self._pool, self._future = self._workers.start(self._function, self._arguments)
        try:
            return self._future.result()
        except BrokenProcessPool:
            self._workers.replace(self._pool)
            return Failure("the process that worked on it was killed, most likely for want of memory")


class Workers:
    """A pool of processes that start with the first job; a context manager.

    Args:
        number: Number of processes; with 0 `submit` does the work itself, in this process.
    """

    def __init__(self, number: int) -> None:
        self.number = number
        self._pool = self._new_pool()

    def __enter__(self) -> "Workers":
        return self

    def __exit__(self, *_: object) -> None:
        if self._pool is not None:
            self._pool.shutdown(cancel_futures=True)

    def submit(self, function: Callable[..., Any], *arguments: Any) -> Job:
        """Start a job. The function must be defined in a module, and the arguments and the result be picklable."""
        return Job(self, function, arguments)

    def start(
        self, function: Callable[..., Any], arguments: tuple[Any, ...]
    ) -> tuple[ProcessPoolExecutor | None, "Future[Any]"]:
        """Start a call in the present pool; return the pool, None without processes, and the future of the result."""
        if self._pool is not None:
            try:
                return self._pool, self._pool.submit(attempt, function, *arguments)
            except BrokenProcessPool:
                self.replace(self._pool)
                return self._pool, self._pool.submit(attempt, function, *arguments)
        done: Future[Any] = Future()
        done.set_result(attempt(function, *arguments))
        return None, done

    def replace(self, broken: ProcessPoolExecutor | None) -> None:
        """Open a new pool in place of a broken one, unless another job has done so."""
        if broken is self._pool and broken is not None:
            broken.shutdown(wait=False)
            self._pool = self._new_pool()

    def _new_pool(self) -> ProcessPoolExecutor | None:
        if not self.number:
            return None
        # nnU-Net's own choice: a forked process must not touch CUDA
        return ProcessPoolExecutor(self.number, mp_context=get_context("spawn"), initializer=_belong_to_parent)


def _belong_to_parent() -> None:
    """Make this process ignore Ctrl-C, which the parent handles, and end when the parent ends, however that is."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    threading.Thread(target=_end_with_parent, daemon=True).start()


def _end_with_parent() -> None:  # pragma: no cover - in a process that is not measured
    parent = parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)


def ahead(
    workers: Workers, items: Iterable[Item], function: Callable[..., Any], *arguments: Any
) -> Iterator[tuple[Item, Any]]:
    """Yield every item with the result of `function(*arguments, item)`, in order, while workers go on with the next.

    Never more results wait than there are workers.
    """
    waiting: deque[tuple[Item, Job]] = deque()
    for item in items:
        waiting.append((item, workers.submit(function, *arguments, item)))
        if len(waiting) > workers.number:
            done, job = waiting.popleft()
            yield done, job.result()
    while waiting:
        done, job = waiting.popleft()
        yield done, job.result()
