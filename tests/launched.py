"""Processes that work together as those of `accelerate launch --config_file cpu_2.yaml` do, forked from this one.

They have its imports already, which are most of the time that a launch takes; gloo connects them. What accelerate's
own launcher does is tested by the tests that are marked slow.
"""

from __future__ import annotations

import logging
import os
import socket
import sys
import traceback
import warnings
from collections.abc import Callable
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import torch
from accelerate.state import AcceleratorState, GradientState


def launch(work: Callable[..., object], *arguments: Any, log: Path, processes: int = 2, connected: bool = True) -> str:
    """Calls `work(*arguments)` in so many processes and waits for them; returns what they wrote to stdout and stderr.

    Args:
        log: the file that they write to.
        connected: `work` connects the processes, as all does that asks accelerate for its state; checked.

    Raises:
        AssertionError: a process did not end by itself with success; what was written is its message.
    """
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    context = get_context("fork")
    log.touch()
    started = []
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # Python 3.12 and later: of threads, which are idle here
        for rank in range(processes):
            environment = {
                "RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": processes, "LOCAL_WORLD_SIZE": processes,
                "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port, "ACCELERATE_MIXED_PRECISION": "no",
                "ACCELERATE_USE_CPU": "true", "CUDA_VISIBLE_DEVICES": "", "OMP_NUM_THREADS": 1,
            }  # fmt: skip
            process = context.Process(target=_be_one, args=(environment, log, connected, work, arguments))
            process.start()
            started.append(process)
    try:
        for process in started:
            process.join(300)
    finally:
        for process in started:
            process.kill()
            process.join()
    written = log.read_text()
    assert [process.exitcode for process in started] == [0] * processes, written[-3000:]
    return written


def _be_one(
    environment: dict[str, object], log: Path, connected: bool, work: Callable[..., object], arguments: tuple
) -> None:
    """One process: `work`, as if Python had just started, with `environment` and nothing of accelerate's state."""
    os.environ.update({name: str(value) for name, value in environment.items()})
    file = os.open(log, os.O_WRONLY | os.O_APPEND)
    os.dup2(file, 1)
    os.dup2(file, 2)
    sys.stdout, sys.stderr = (os.fdopen(number, "w", buffering=1, closefd=False) for number in (1, 2))
    for name in ("", *logging.root.manager.loggerDict):
        if name.split(".")[0] in ("", "knowcap"):
            logging.getLogger(name).handlers.clear()
            logging.getLogger(name).setLevel(logging.NOTSET)
    AcceleratorState._reset_state(reset_partial_state=True)
    GradientState._reset_state()
    try:
        work(*arguments)
        if connected and torch.distributed.get_world_size() != int(os.environ["WORLD_SIZE"]):
            raise RuntimeError(f"{torch.distributed.get_world_size()} processes, expected {os.environ['WORLD_SIZE']}")
    except BaseException:
        traceback.print_exc()
        os._exit(1)
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(0)
