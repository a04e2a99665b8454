import os
import runpy
import subprocess
import sys
from datetime import timedelta
from pathlib import Path

import pytest
import torch
from torch import distributed


def run_process(rank, folder, module):
    """Run what the test module says a process does, and save what came out; called in a process of its own."""
    distributed.init_process_group(
        "gloo", init_method=f"file://{folder}/store", rank=rank, world_size=2, timeout=timedelta(seconds=180)
    )
    torch.save(runpy.run_path(module)["train_as_one_of_two"](rank), f"{folder}/{rank}.pt")
    distributed.destroy_process_group()
    # Gloo's threads may still let go of tensors; while Python shuts down that aborts about one process in ten.
    sys.stderr.flush()
    os._exit(0)


@pytest.fixture(scope="module")
def two_processes(request, tmp_path_factory):
    """What `train_as_one_of_two(rank)` of the test's module returns in each of two processes that train together.

    Started once for all scenarios of a module: starting Python with torch takes seconds.
    """
    folder = tmp_path_factory.mktemp("ddp")
    call = "import runpy, sys; runpy.run_path(sys.argv[1])['run_process'](int(sys.argv[2]), *sys.argv[3:])"
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", call, str(Path(__file__)), str(rank), str(folder), str(request.path)],
            env=environment,
            stderr=subprocess.PIPE,
            text=True,
        )
        for rank in range(2)
    ]
    try:
        errors = [process.communicate(timeout=240)[1] for process in processes]
    finally:
        for process in processes:
            process.kill()
    assert [process.returncode for process in processes] == [0, 0], "\n".join(errors)
    return [torch.load(folder / f"{rank}.pt") for rank in range(2)]
