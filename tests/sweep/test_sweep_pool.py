"""Cells side by side: each is run once, a process that dies is one cell's failure, and nothing is left running."""

from __future__ import annotations

import json
import logging
import os
import signal
import subprocess
import sys
import time
from multiprocessing import active_children

import pyarrow.parquet as pq
import pytest
from pool_cells import SEEDS, dying, hanging, is_there, killed_once, noted, saving, short_report, stubborn
from sweep_cells import write_sweep

from knowcap.cli import main
from knowcap.progress import Progress, progress_bar, report_to
from knowcap.sweep import load_sweep, places
from knowcap.sweep.places import place_problems, places_for
from knowcap.sweep.pool import Pool, _Worker
from knowcap.sweep.run import CellsFailed, run_sweep
from knowcap.sweep.view import View, describe


@pytest.fixture
def sweep(tmp_path):
    return load_sweep(write_sweep(tmp_path, SEEDS), tmp_path / "runs")


@pytest.fixture
def lines(caplog):
    caplog.set_level(logging.INFO, "knowcap")
    return caplog


def gone(pids: list[int]) -> bool:
    """Whether processes end within ten seconds."""
    end = time.monotonic() + 10
    while any(map(is_there, pids)) and time.monotonic() < end:
        time.sleep(0.01)
    return not any(map(is_there, pids))


def test_every_cell_is_run_once_by_processes_that_are_used_again(sweep, monkeypatch):
    monkeypatch.setenv("OMP_NUM_THREADS", "7")
    outcomes = list(Pool(2, run=noted)(sweep.cells))
    assert sorted(o.name for o in outcomes) == sorted(cell.name for cell in sweep.cells)
    assert not any(o.error for o in outcomes)
    found = [json.loads((cell.run_dir / "process.json").read_text()) for cell in sweep.cells]
    pids = {one["pid"] for one in found}
    assert len(pids) == 2 and os.getpid() not in pids
    assert {one["OMP_NUM_THREADS"] for one in found} == {"1"} and os.environ["OMP_NUM_THREADS"] == "7"
    assert gone(list(pids)) and active_children() == []


def test_a_process_that_has_run_many_cells_is_replaced(sweep, monkeypatch):
    monkeypatch.setattr("knowcap.sweep.pool._CELLS", 4)
    assert len(list(Pool(1, run=noted)(sweep.cells))) == 6
    pids = [json.loads((cell.run_dir / "process.json").read_text())["pid"] for cell in sweep.cells]
    assert len(set(pids[:4])) == 1 == len(set(pids[4:])) and pids[0] != pids[4]


def test_no_cells_are_no_work():
    assert list(Pool(2, run=noted)([])) == []


def test_a_process_that_dies_is_its_cells_failure_alone(sweep, lines, monkeypatch):
    monkeypatch.setattr("knowcap.sweep.run.text_problems", lambda cells: [])
    with pytest.raises(CellsFailed) as error:
        run_sweep(sweep, Pool(2, run=dying))
    message = str(error.value)
    assert "4 of 6 cells failed" in message
    assert "seed1: RuntimeError: out of luck" in message
    assert "seed2: its process was ended by signal 9 (SIGKILL); most often memory has run out" in message
    assert "seed3: its process ended with exit status 3" in message
    assert "seed4: its process was ended by signal 6 (SIGABRT)" in message
    folder = sweep.folder / "failures"
    assert sorted(path.name for path in folder.iterdir()) == [f"seed{n}.txt" for n in (1, 2, 3, 4)]
    assert "half way" in (folder / "seed2.txt").read_text(), "what the process wrote last"
    assert "Fatal Python error: Aborted" in (folder / "seed4.txt").read_text()
    pids = [json.loads((sweep.folder / name / "process.json").read_text())["pid"] for name in ("seed0", "seed5")]
    assert {"seed0: begun", "seed2: begun", "seed0: half way"} <= set(lines.messages), "no line of a process is lost"
    assert gone(pids) and active_children() == []


@pytest.fixture
def ended(sweep, tmp_path, monkeypatch):
    """Runs the sweep in two processes, sends a signal once both are at work; gives the status and their ids."""

    def end(run, number: int = signal.SIGINT) -> tuple[int, list[int]]:
        pids: list[int] = []

        def interrupted(_: View, place: int, progress: Progress) -> None:
            files = list(sweep.folder.glob("*/pids"))
            if progress.stage == "hanging" and len(files) == 2:
                pids.extend(int(pid) for file in files for pid in file.read_text().split())
                os.kill(os.getpid(), number)

        monkeypatch.setattr(View, "update", interrupted)
        monkeypatch.setattr("knowcap.sweep.run.text_problems", lambda cells: [])
        monkeypatch.setattr("knowcap.cli.sweep._engine", lambda args: Pool(2, run=run))
        before = signal.signal(signal.SIGINT, signal.default_int_handler)  # ignored in processes in the background
        try:
            return main(["sweep", str(sweep.file), "--output_dir", str(tmp_path / "runs")]), pids
        finally:
            signal.signal(signal.SIGINT, before)

    return end


def test_ctrl_c_ends_all_processes_and_those_that_they_started(ended, capsys):
    status, pids = ended(hanging)
    assert status == 130 and "run the same command again" in capsys.readouterr().err
    assert len(pids) == 4 and gone(pids) and active_children() == []


@pytest.mark.parametrize(("number", "expected"), [(signal.SIGINT, 130), (signal.SIGTERM, 75)])
def test_cells_that_are_being_trained_are_saved_first(sweep, ended, number, expected):
    status, pids = ended(saving, number)
    assert status == expected and len(list(sweep.folder.glob("*/saved"))) == 2
    assert len(pids) == 2 and gone(pids) and active_children() == []


def test_another_ctrl_c_ends_them_at_once(ended, monkeypatch):
    is_ending = _Worker.is_ending
    monkeypatch.setattr(_Worker, "is_ending", lambda self: os.kill(os.getpid(), signal.SIGINT) or is_ending(self))
    status, pids = ended(stubborn)
    assert status == 130 and len(pids) == 2 and gone(pids) and active_children() == []


def test_processes_end_with_the_one_that_started_them(sweep, tmp_path):
    code = (
        "import sys; from pool_cells import hanging; from knowcap.sweep import load_sweep\n"
        "from knowcap.sweep.pool import Pool\n"
        "if __name__ == '__main__':\n"
        f"    list(Pool(1, 0, run=hanging)(load_sweep({str(sweep.file)!r}, sys.argv[1]).cells))\n"
    )
    script = tmp_path / "script.py"
    script.write_text(code)
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}
    signals = signal.SIGTERM, signal.SIGKILL
    started = {
        how: subprocess.Popen([sys.executable, str(script), str(tmp_path / how.name)], env=environment)
        for how in signals
    }
    for how, process in started.items():
        while not (files := list((tmp_path / how.name).rglob("pids"))):
            assert process.poll() is None
            time.sleep(0.01)
        pids = [int(pid) for pid in files[0].read_text().split()]
        process.send_signal(how)
        assert process.wait() == -how
        assert len(pids) == 2 and gone(pids), how.name


def test_there_are_as_many_workers_as_cores_and_memory_allow(sweep, tmp_path, monkeypatch):
    monkeypatch.setattr("torch.cuda.device_count", lambda: 0)
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(4)), raising=False)
    monkeypatch.setattr("knowcap.run.cores._CGROUP", tmp_path)
    monkeypatch.setattr(places, "free_memory", lambda: 1e12)

    def count(*words: int | float | None) -> int:
        return len(places_for(sweep.cells, *words).environments)

    assert count() == 4 and count(1) == 1 and count(9) == 6, "no more than cells"
    (tmp_path / "cpu.max").write_text("250000 100000\n")
    assert count() == 2, "a container's quota"
    (tmp_path / "cpu.max").write_text("max 100000\n")
    need = max(places.process_bytes(cell.recipe) for cell in sweep.cells)
    monkeypatch.setattr(places, "free_memory", lambda: 3.5 * need)
    assert count() == 3 and count(5) == 5, "a number that is given stands"
    monkeypatch.setattr(places, "free_memory", lambda: 0.0)
    assert count() == 1


def test_a_containers_memory_is_what_it_may_still_take(tmp_path, monkeypatch):
    monkeypatch.setattr("knowcap.run.cores._CGROUP", tmp_path)
    machine = places.free_memory()
    (tmp_path / "memory.max").write_text("4000000\n")
    (tmp_path / "memory.current").write_text("3000000\n")
    (tmp_path / "memory.stat").write_text("anon 5\ninactive_file 500000\n")
    assert places.free_memory() == 1_500_000 < machine


def test_cells_are_spread_over_gpus(sweep, monkeypatch):
    monkeypatch.setattr("torch.cuda.device_count", lambda: 2)
    monkeypatch.setattr(places, "cpu_cores", lambda: 32)
    monkeypatch.setattr(places, "free_memory", lambda: 1e12)
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)

    def devices(*words: int | float | None) -> list[str | None]:
        return [own.get("CUDA_VISIBLE_DEVICES") for own in places_for(sweep.cells, *words).environments]

    assert devices() == ["0", "1"] * 3, "small models share a GPU"
    assert devices(None, 1.0) == ["0", "1"] and devices(None, 0.5) == ["0", "1"] * 2
    assert devices(3) == ["0", "1", "0"] and devices(2, 0) == ["", ""]
    monkeypatch.setattr(places, "_SHARING_PARAMETERS", 10)
    assert devices() == ["0", "1"], "larger ones have one each"
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "GPU-5, GPU-7")
    assert devices() == ["GPU-5", "GPU-7"]


@pytest.mark.parametrize(
    ("gpus", "options", "expected"),
    [
        (0, (None, None), None),
        (0, (None, 0.0), None),
        (0, (None, 0.5), "torch finds no GPU here"),
        (2, (None, 2.0), "needs --accelerate_config multi_gpu"),
        (2, (None, -1.0), "expected 0, a fraction"),
        (2, (5, 0.5), "give --workers 4"),
        (2, (4, 0.5), None),
    ],
)
def test_gpus_that_are_not_there_are_reported(monkeypatch, gpus, options, expected):
    monkeypatch.setattr("torch.cuda.device_count", lambda: gpus)
    problems = place_problems(*options)
    assert problems == [] if expected is None else expected in problems[0]


def test_cells_that_take_longest_are_begun_first(tmp_path):
    text = "base: base.yaml\nlist: [{num_people: 50}, {num_people: 90}]\ngrid: {seed: [0, 1]}\n"
    sweep = load_sweep(write_sweep(tmp_path, text), tmp_path / "runs")
    assert [o.name for o in Pool(1, run=noted)(sweep.cells)] == ["N90_seed0", "N90_seed1", "N50_seed0", "N50_seed1"]


def test_the_view_counts_what_is_left(monkeypatch, lines):
    now = [100.0]
    monkeypatch.setattr("knowcap.sweep.view.time.monotonic", lambda: now[0])
    view = View({"a": 3.0, "b": 1.0, "c": 1.0}, 2)
    view.start(0, "a"), view.start(1, "b")
    assert view.total() == "0 of 3 cells done, 2 running, 1 waiting; 0.0 s so far"
    now[0] = 110.0
    # a: resumed from a third of its steps, now at two thirds; b done: 2 of 5 units in 10 s, 1 + 1 are left
    view.update(0, Progress("training", 20, 30, " steps", 10, 9.0, "loss 2.0, 4.0K tokens/s"))
    view.end(1, failed=False)
    assert view.total() == "1 of 3 cells done, 1 running, 1 waiting; 10 s so far, about 10 s left"
    assert view.lines()[0] == "a: training 20/30 steps, loss 2.0, 4.0K tokens/s, 9.0 s left"
    view.refresh()
    assert not lines.messages
    now[0] = 161.0
    view.refresh()
    assert lines.messages == [f"[sweep] {line}" for line in view.lines()]
    view.update(0, Progress("training", 20, 30, " steps", 10, 400.0))
    assert view.total().endswith("about 6.7 min left"), "a's last third"
    view.end(0, failed=True)
    # a third of a was done before, and it failed: b's unit in 61 s, c's is left
    assert view.total() == "1 of 3 cells done, 1 failed, 0 running, 1 waiting; 61 s so far, about 61 s left"
    assert describe("c", Progress("report")) == "c: report"


def test_bars_report_to_a_listener():
    found: list[Progress] = []
    report_to(found.append)
    try:
        with progress_bar(total=10, initial=4, desc="training", unit=" steps", mininterval=1) as bar:
            bar.set_postfix_str("loss 1", refresh=False)
            for _ in range(6):
                bar.update(1)
        progress_bar(total=3, desc="silent", disable=True).close()
    finally:
        report_to(None)
    assert (found[0].done, found[0].first, found[0].total) == (4, 4, 10)
    assert (found[-1].done, found[-1].note, found[-1].unit) == (10, "loss 1", " steps")
    assert len(found) == 2, "at most twice a second"


@pytest.mark.slow
def test_side_by_side_and_one_after_another_end_with_the_same_table_whatever_dies(tmp_path, lines, monkeypatch):
    monkeypatch.setattr("knowcap.run.pipeline.report", short_report)
    monkeypatch.setattr("knowcap.sweep.run.write_results", lambda sweep: sweep.folder / "report.html")
    text = "base: base.yaml\nlist: [{quantize_bits: [], num_people: 20, exposures: 8}]\ngrid: {seed: [0, 1]}\n"
    alone, broken = (load_sweep(write_sweep(tmp_path / name, text), tmp_path / name) for name in ("a", "b"))
    run_sweep(alone)
    with pytest.raises(CellsFailed, match=r"1 of 2 cells failed(.|\n)*seed0: .*SIGKILL"):
        run_sweep(broken, Pool(2, run=killed_once))
    assert [row["run"] for row in pq.read_table(broken.folder / "results.parquet").to_pylist()] == ["seed1"]
    lines.clear()
    run_sweep(broken)
    assert any("resuming from step 10" in line for line in lines.messages)
    tables = [(one.folder / "results.parquet").read_bytes() for one in (alone, broken)]
    assert tables[0] == tables[1]
