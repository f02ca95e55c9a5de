"""kill -9 at random moments, and the same command again until it is done: the same bytes as without.

    python tests/benchmarks/kills.py              # 50 kills of a run, 20 of a sweep, 20 of a data set
    python tests/benchmarks/kills.py --run 10 --sweep 4 --data 4 --seed 1

A run in one process; a sweep with two workers, of which one is killed, or their parent; a data set that is built by
two processes, likewise. Moments are drawn between the start of a command and the time that it takes undisturbed. Two
undisturbed commands come first: files that they write alike are compared (the others record seconds). A data set's
command must end by itself within a minute after one of its processes was killed. Exit status 1 if anything differs or
is left behind.
"""

from __future__ import annotations

import argparse
import contextlib
import hashlib
import os
import random
import re
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import psutil
import yaml


RECIPE = {
    "num_people": 120, "model_name": "gpt2-rotary-2-2", "head_dim": 8, "pools_fraction": 0.05, "num_templates": 1,
    "vocab_size": 200, "exposures": 20, "block_size": 96, "windows": "aligned", "train_batch_size": 16,
    "learning_rate": 3e-3, "warmup_steps": 5, "save_steps": 20, "logging_steps": 10, "renderings": 2,
    "control_people": 150, "quantization_group_size": 16, "quantize_bits": [8],
}  # fmt: skip
SWEEP = {"base": "recipe.yaml", "grid": {"seed": [0, 1, 2, 3]}}
PATIENCE = 60.0  # seconds in which a command of which a process was killed must have ended
_LOCKS = (".lock", ".lock.soft")
# Files that tell seconds; a checkpoint's manifest has the digest of one of them.
_TIMED = ("training.json", "quantization.json", "manifest.json", "README.md", "loss.png", "loss.pdf", "loss.svg")
_SECONDS = re.compile(rb'"seconds": [0-9.]+')  # in the log of a checkpoint's trainer_state.json


@dataclass
class Tally:
    """What the kills of one kind came to.

    Attributes:
        kills: processes killed; `children` of them were started by the command.
        commands, ends: commands started, and those that ended undisturbed, with the result compared.
        after: kills by the last line that the command had logged.
        longest: seconds until a command ended of which a child was killed.
        problems: what differed, or was left behind.
    """

    kills: int = 0
    children: int = 0
    commands: int = 0
    ends: int = 0
    after: dict[str, int] = field(default_factory=dict)
    longest: float = 0.0
    problems: list[str] = field(default_factory=list)


def command(kind: str, folder: Path, people: int) -> list[str]:
    """The command of a kind, which writes into a folder."""
    recipe = RECIPE | ({"num_people": people, "renderings": 2} if kind == "data" else {})
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "recipe.yaml").write_text(yaml.safe_dump(recipe))
    (folder / "cells.yaml").write_text(yaml.safe_dump(SWEEP))
    words = {
        "run": ["run", "--config", str(folder / "recipe.yaml")],
        "sweep": ["sweep", str(folder / "cells.yaml"), "--workers", "2"],
        "data": ["data", "--config", str(folder / "recipe.yaml"), "--num_proc", "2"],
    }[kind]
    return [sys.executable, "-m", "knowcap.cli", *words, "--output_dir", str(folder / "runs")]


def start(words: list[str], log: Path) -> subprocess.Popen[bytes]:
    """Starts a command that logs to a file."""
    environment = os.environ | {"OMP_NUM_THREADS": "1", "TQDM_DISABLE": "1"}
    with log.open("wb") as file:
        return subprocess.Popen(words, stdout=file, stderr=file, env=environment)


def digests(folder: Path) -> dict[str, str]:
    """The SHA-256 of every file below a folder, but for locks and files that tell seconds, which two commands may
    round alike."""
    files = (path for path in sorted(folder.rglob("*")) if path.is_file() and path.name not in (*_LOCKS, *_TIMED))
    return {str(path.relative_to(folder)): hashlib.sha256(_without_seconds(path)).hexdigest() for path in files}


def _without_seconds(path: Path) -> bytes:
    return _SECONDS.sub(b"", path.read_bytes()) if path.name == "trainer_state.json" else path.read_bytes()


def undisturbed(kind: str, folder: Path, people: int) -> tuple[dict[str, str], float]:
    """The digests of the files that two undisturbed commands write alike, and the seconds that one takes."""
    found, seconds = [], []
    for place in (folder / kind / "first", folder / kind / "second"):
        words, began = command(kind, place, people), time.monotonic()
        if status := start(words, place / "log").wait():
            sys.exit(f"{' '.join(words)} ended with status {status}:\n{(place / 'log').read_text()}")
        seconds.append(time.monotonic() - began)
        found.append(digests(place / "runs"))
    alike = {name: value for name, value in found[0].items() if found[1].get(name) == value}
    if not any(name.endswith((".safetensors", ".parquet")) for name in alike):
        sys.exit(f"{kind}: two undisturbed commands differ in all files of results")
    return alike, min(seconds)


def children_of(process: subprocess.Popen[bytes]) -> list[psutil.Process]:
    """The processes that a command has started, but for Python's own helpers."""
    with contextlib.suppress(psutil.Error):
        found = psutil.Process(process.pid).children(recursive=True)
        return [child for child in found if "resource_tracker" not in " ".join(child.cmdline())]
    return []


def disturbed(
    kind: str, folder: Path, people: int, kills: int, expected: dict[str, str], seconds: float, draw: random.Random
) -> Tally:
    """Kills and repeats the command, in one folder until it has ended, then in another; compares every result."""
    tally, place = Tally(), folder / kind / "killed"
    while tally.kills < kills or (place / "runs").exists():
        words, moment = command(kind, place, people), draw.uniform(0, seconds)
        of_child = kind != "run" and draw.random() < 0.5
        process = start(words, place / "log")
        tally.commands += 1
        if tally.kills < kills:
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(timeout=moment)
        if process.poll() is None and tally.kills < kills:
            _kill(tally, process, of_child, place / "log", draw)
        status = process.wait()
        if status == 0:
            tally.ends += 1
            tally.problems += _compare(place, expected)
            shutil.rmtree(place)
        elif status not in (-9, 1, 2) or (tally.kills == kills and tally.commands > 4 * kills + 8):
            tally.problems.append(f"status {status}: {(place / 'log').read_text()[-2000:]}")
            break
    return tally


def _kill(tally: Tally, process: subprocess.Popen[bytes], of_child: bool, log: Path, draw: random.Random) -> None:
    """Kills the command, or one of the processes that it has started, which must end it soon if it cannot go on."""
    lines = [line for line in log.read_text(errors="replace").splitlines() if line.startswith("[")]
    after = lines[-1].split("]")[0].strip("[") if lines else "start"
    tally.after[after] = tally.after.get(after, 0) + 1
    tally.kills += 1
    children = children_of(process) if of_child else []
    if not children:
        process.kill()
        return
    tally.children += 1
    with contextlib.suppress(psutil.Error):
        draw.choice(children).kill()
    if "sweep" in str(process.args):  # the others of its cells go on
        return
    began = time.monotonic()
    try:
        process.wait(PATIENCE)
    except subprocess.TimeoutExpired:
        tally.problems.append(f"it was still running {PATIENCE:.0f} s after one of its processes was killed")
        process.kill()
    tally.longest = max(tally.longest, time.monotonic() - began)


def _compare(place: Path, expected: dict[str, str]) -> list[str]:
    found = digests(place / "runs")
    problems = [f"{name} differs" for name, value in expected.items() if found.get(name) != value]
    left = [name for name in found if any(end in name for end in (".partial", ".old", ".shard", ".measuring"))]
    return problems + [f"{name} was left behind" for name in left]


def main() -> None:
    """Kills, compares, and prints a table."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--run", type=int, default=50, help="kills of `knowcap run` [50]")
    parser.add_argument("--sweep", type=int, default=20, help="kills of a sweep with two workers [20]")
    parser.add_argument("--data", type=int, default=20, help="kills of a data set built by two processes [20]")
    parser.add_argument("--num_people", type=int, default=20_000, help="of the data set [20000]")
    parser.add_argument("--seed", type=int, default=0, help="of the moments [0]")
    parser.add_argument("--folder", type=Path, help="where runs are made; by default a temporary folder")
    args = parser.parse_args()
    show: Callable[..., None] = print
    show("| kind | kills | of child processes | commands | results compared | differences | killed after |")
    show("|---|---|---|---|---|---|---|")
    failed = False
    with tempfile.TemporaryDirectory(prefix="knowcap-kills-") as made:
        folder = args.folder or Path(made)
        for kind in ("run", "sweep", "data"):
            kills, draw = getattr(args, kind), random.Random(f"{args.seed} {kind}")
            if not kills:
                continue
            expected, seconds = undisturbed(kind, folder, args.num_people)
            tally = disturbed(kind, folder, args.num_people, kills, expected, seconds, draw)
            after = ", ".join(f"{name} {count}" for name, count in sorted(tally.after.items()))
            row = (kind, tally.kills, tally.children, tally.commands, tally.ends, len(tally.problems), after)
            show(f"| {' | '.join(map(str, row))} |", flush=True)
            for problem in tally.problems:
                show(problem, file=sys.stderr)
            if tally.longest:
                show(f"longest time to end after a child was killed: {tally.longest:.1f} s", file=sys.stderr)
            failed |= bool(tally.problems)
    sys.exit(int(failed))


if __name__ == "__main__":
    main()
