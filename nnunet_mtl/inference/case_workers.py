"""Work on cases in other processes, in such a way that what goes wrong with one case is that case's alone."""

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
    """What went wrong with a case.

    Attributes:
        message: One line.
        details: The trace, for whoever asks for it.
    """

    message: str
    details: str = ""


def attempt(function: Callable[..., Any], *arguments: Any) -> Any:
    """Return what a function returns, or the `Failure` it ended in."""
    try:
        return function(*arguments)
    except Exception as error:  # noqa: BLE001 - readers raise anything, and the other cases are to be done
        text = " ".join(str(error).split())
        if not isinstance(error, UserError):
            text = f"{type(error).__name__}: {text}" if text else type(error).__name__
        return Failure(text if len(text) <= _LONGEST else f"{text[: _LONGEST - 3]}...", traceback.format_exc())


class Job:
    """A piece of work that was handed over; `result` waits for it."""

    def __init__(self, workers: "Workers", function: Callable[..., Any], arguments: tuple[Any, ...]) -> None:
        self._workers, self._function, self._arguments = workers, function, arguments
        self._pool, self._future = workers.start(function, arguments)

    def result(self) -> Any:
        """Return what the function returned, or a `Failure`.

        A process that dies takes every job of its pool with it, so a job that was lost is done once more, in a new
        pool; a second death is its own fault.
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
    """Processes that start when there is something to do; a context manager.

    Args:
        number: How many; with 0 the work is done in this process, when it is handed over.
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
        """Hand work over; the function must be one of a module, and everything picklable."""
        return Job(self, function, arguments)

    def start(
        self, function: Callable[..., Any], arguments: tuple[Any, ...]
    ) -> tuple[ProcessPoolExecutor | None, "Future[Any]"]:
        """Give work to the present pool; return both."""
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
        """Open a new pool in place of a broken one, unless that was done already."""
        if broken is self._pool and broken is not None:
            broken.shutdown(wait=False)
            self._pool = self._new_pool()

    def _new_pool(self) -> ProcessPoolExecutor | None:
        if not self.number:
            return None
        # nnU-Net's own choice: a forked process must not touch CUDA
        return ProcessPoolExecutor(self.number, mp_context=get_context("spawn"), initializer=_belong_to_parent)


def _belong_to_parent() -> None:
    """Leave Ctrl-C to the parent, and do not outlive it, however it ends: nobody would ever stop this process."""
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
    """Yield each item with `function(*arguments, item)`, in order, while the next ones are worked on.

    There are never more results waiting than there are workers.
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
