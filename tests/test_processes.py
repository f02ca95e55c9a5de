"""Jobs shared out among processes: nothing is lost, errors are reported, no process is left running."""

from __future__ import annotations

import os
import signal
from functools import partial
from multiprocessing import active_children, get_context

import pytest

from knowcap.processes import ProcessError, share_out


@pytest.fixture(autouse=True)
def spawned(monkeypatch: pytest.MonkeyPatch) -> None:
    """As outside of tests."""
    monkeypatch.setattr("knowcap.processes.jobs.get_context", get_context)


def squares(offset: int, job: range):
    for number in job:
        yield os.getpid(), number * number + offset


def failing(job: int):
    yield job
    if job == 3:
        raise ValueError("job 3 can't be done")


def killed(job: int):
    yield job
    if job == 3:
        os.kill(os.getpid(), signal.SIGKILL)


@pytest.mark.parametrize(("num_proc", "used"), [(1, 1), (3, 3), (9, 5)])
def test_every_job_is_done_once_whatever_the_number_of_processes(num_proc, used):
    jobs = [range(3 * n, 3 * n + 3) for n in range(5)]
    found = list(share_out(partial(squares, 7), jobs, num_proc))
    assert sorted(value for _, value in found) == [n * n + 7 for n in range(15)]
    assert len({pid for pid, _ in found}) == used
    assert (os.getpid() in {pid for pid, _ in found}) == (num_proc == 1)


def test_no_jobs_are_no_work():
    assert list(share_out(partial(squares, 0), [], 4)) == []


@pytest.mark.parametrize("num_proc", [1, 2])
def test_what_a_job_raises_is_raised_here(num_proc):
    with pytest.raises(ValueError, match="job 3 can't be done"):
        list(share_out(failing, range(6), num_proc))
    assert active_children() == []


def test_a_killed_process_is_reported():
    with pytest.raises(ProcessError, match="exit code -9 .* fewer processes"):
        list(share_out(killed, range(6), 2))
    assert active_children() == []


def test_processes_end_when_their_reader_ends():
    found = share_out(partial(squares, 0), [range(10**9), range(10**9)], 2)
    assert next(found)[1] == 0
    found.close()
    assert active_children() == []
