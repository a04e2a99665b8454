import math
import os
import subprocess
import sys
import time
from typing import Any

import pytest

from nnunet_mtl.common.errors import UserError
from nnunet_mtl.inference.case_workers import Failure, Workers, ahead, attempt


def refuse(error: Exception) -> None:
    raise error


def test_an_error_becomes_one_line() -> None:
    assert attempt(math.sqrt, 4) == 2
    assert attempt(refuse, UserError("what to do")).message == "what to do"
    assert attempt(refuse, OSError("two\n  lines")).message == "OSError: two lines"
    assert attempt(refuse, AssertionError()).message == "AssertionError"
    assert len(attempt(refuse, ValueError("x" * 9999)).message) <= 400
    assert "in refuse" in attempt(refuse, ValueError()).details


def test_ctrl_c_is_no_failure_of_a_case() -> None:
    with pytest.raises(KeyboardInterrupt):
        attempt(refuse, KeyboardInterrupt())


@pytest.mark.parametrize("number", [0, 2])
def test_results_come_in_order_with_the_failures_among_them(number: int) -> None:
    with Workers(number) as workers:
        found = list(ahead(workers, [9, -1, 4, 1, 0], math.sqrt))
    assert [item for item, _ in found] == [9, -1, 4, 1, 0]
    assert [result for _, result in found if not isinstance(result, Failure)] == [3, 2, 1, 0]
    assert "ValueError" in found[1][1].message


def test_no_more_is_done_ahead_than_there_are_workers() -> None:
    taken: list[int] = []

    def items() -> Any:
        for number in range(6):
            taken.append(number)
            yield number

    with Workers(2) as workers:
        results = ahead(workers, items(), math.sqrt)
        next(results)
        assert taken == [0, 1, 2]
        assert [item for item, _ in results] == [1, 2, 3, 4, 5]


def test_in_this_process_nothing_is_done_ahead() -> None:
    results = ahead(Workers(0), iter([4, 9]), math.sqrt)
    assert next(results) == (4, 2)
    assert next(results) == (9, 3)


def test_a_process_that_dies_takes_only_its_own_job() -> None:
    with Workers(2) as workers:
        jobs = [workers.submit(time.sleep, 0.1), workers.submit(os._exit, 3), workers.submit(math.sqrt, 4)]
        jobs += [workers.submit(math.sqrt, number) for number in (9, 16)]
        results = [job.result() for job in jobs]
        assert results[0] is None
        assert "was killed" in results[1].message
        assert results[2:] == [2, 3, 4]
        assert workers.submit(math.sqrt, 25).result() == 5


def test_no_process_outlives_the_one_that_is_killed() -> None:
    program = """
import time
from nnunet_mtl.inference.case_workers import Workers
if __name__ == "__main__":
    workers = Workers(1)
    workers.submit(abs, 1).result()
    workers.submit(time.sleep, 600)
    print("started", flush=True)
    time.sleep(600)
"""
    with subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "started\n"
        process.kill()
        started = time.monotonic()
        process.stdout.read()  # ends when nobody has the pipe open any more
    assert time.monotonic() - started < 300
