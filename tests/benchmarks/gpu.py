"""What to measure in the first minutes on a GPU: one call, within its time, results as it goes. Run by hand.

    python tests/benchmarks/gpu.py --minutes 9 --output_dir gpu
    python tests/benchmarks/gpu.py --minutes 15 --output_dir /tmp/gpu --smoke     (all steps, tiny, on a CPU)

Every case is a `knowcap` command in a process of its own, ends within its share of the minutes, and adds one line to
OUTPUT_DIR/results.jsonl; the same call skips the cases that have a line there. In this order:

1. works: bf16 trains; torch.compile too; two processes share the GPU; a run that was killed and resumed has the
   weights of one that was not.
2. speed: tokens a second and the share of the matrix peak, measured beside it, of models of 0.1, 1, 10 and 100 million
   parameters, one and eight at once.
3. frontier: compact bioD with an alphabet of 32 symbols at 1000 exposures: four sizes around R_max = 2.5 with two
   learning rates, eight at once, and as many people as fit the minutes that are left. int8 and int4 follow on a CPU,
   by the command that the last line prints.

FLOP = 6 x parameters x tokens, without attention's. It has not been run on a GPU: none was at hand.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import math
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import Any

import torch
import yaml
from safetensors.torch import load_file

from knowcap.corpus.biod import biod_of
from knowcap.models import closed_form_parameters
from knowcap.recipe import Recipe


SIZES = {"gpt2-rotary-2-1": 64, "gpt2-rotary-5-2": 64, "gpt2-rotary-12-4": 64, "gpt2-rotary-14-12": 64}  # head_dim
SMOKE_SIZES = {"gpt2-rotary-1-1": 8, "gpt2-rotary-2-2": 8}
BIOD = {
    "corpus": "bioD", "compact": True, "num_attributes": 6, "chunks_per_value": 1, "diversity": 1024,
    "chunk_length": 2, "alphabet_size": 32, "control_people": 1000, "renderings": 4, "weight_decay": 0.0,
    "adam_beta2": 0.98, "adam_epsilon": 1e-6, "activation": "gelu_pytorch_tanh", "quantize_bits": [],
    "save_total_limit": 1,
}  # fmt: skip
TOKENS = 23  # of a record, with its end
R_MAX = 2.5
SHARES = {"works": 0.25, "speed": 0.35}  # of the minutes, at most; the frontier has the rest
RESERVE = 30.0  # seconds for scoring, the report and the end
Case = dict[str, Any]


@dataclass
class Bench:
    """Where results go, and until when.

    Attributes:
        folder: of results.jsonl and the runs.
        smoke: tiny cases, on a CPU.
        began, ends: seconds of time.monotonic.
    """

    folder: Path
    smoke: bool
    began: float
    ends: float

    @property
    def left(self) -> float:
        """Seconds."""
        return self.ends - time.monotonic()

    def recorded(self) -> list[Case]:
        """The lines of results.jsonl."""
        file = self.folder / "results.jsonl"
        return [json.loads(line) for line in file.read_text().splitlines()] if file.is_file() else []

    def record(self, step: str, case: str, **found: Any) -> Case:
        """Adds and prints a line."""
        line = {"step": step, "case": case, "minute": round((time.monotonic() - self.began) / 60, 2), **found}
        with (self.folder / "results.jsonl").open("a") as file:
            file.write(json.dumps(line) + "\n")
        print(json.dumps(line), flush=True)
        return line

    @contextlib.contextmanager
    def case(self, step: str, case: str, until: float) -> Iterator[bool]:
        """Whether a case is still to be run and has time; what fails in it is recorded, and the next one follows."""
        lines = [line for line in self.recorded() if (line["step"], line["case"]) == (step, case)]
        done = any("failed" not in line for line in lines)  # what failed is tried again
        if not done and until - time.monotonic() < (5 if self.smoke else 15):
            print(f"{step}, {case}: no time left", flush=True)
            done = True
        try:
            yield not done
        except (OSError, ValueError, KeyError, IndexError, subprocess.SubprocessError) as error:
            self.record(step, case, failed=f"{type(error).__name__}: {error}"[:500])


def train(bench: Bench, runs: Sequence[Case], until: float, command: str = "train") -> list[Path]:
    """Trains runs at once, each in a process of its own; returns their folders. Raises TimeoutExpired at `until`."""
    started, folders = [], []
    for changes in runs:
        name = changes["run_name"]
        file = bench.folder / f"{name}.yaml"
        file.write_text(yaml.safe_dump(BIOD | {"output_dir": str(bench.folder / "runs")} | changes))
        started.append(start(bench, [command, "--config", str(file)], name))
        folders.append(bench.folder / "runs" / name)
    wait(started, until)
    return folders


def start(bench: Bench, words: Sequence[str], log: str) -> subprocess.Popen[bytes]:
    """Starts a knowcap command; its output goes to LOG.log."""
    environment = os.environ | {"OMP_NUM_THREADS": "1", "TQDM_DISABLE": "1"}
    with (bench.folder / f"{log}.log").open("ab") as file:
        return subprocess.Popen(
            [sys.executable, "-m", "knowcap.cli", *words], stdout=file, stderr=file, env=environment
        )


def wait(started: Sequence[subprocess.Popen[bytes]], until: float) -> None:
    """Waits for all; ends them where time is up. Raises TimeoutExpired, or CalledProcessError if one failed."""
    try:
        for process in started:
            status = process.wait(max(0.1, until - time.monotonic()))
            if status:
                raise subprocess.CalledProcessError(status, process.args)
    finally:
        for process in started:
            if process.poll() is None:
                process.kill()
                process.wait()


# 1. Does it work?


def works(bench: Bench, until: float) -> None:
    """bf16, compiled, two at once, and resumed."""
    small = {"num_people": 100, "exposures": 20} if bench.smoke else {"num_people": 4000, "exposures": 100}
    base = small | {
        "model_name": "gpt2-rotary-2-2", "head_dim": 8 if bench.smoke else 64, "block_size": 93, "windows": "aligned",
        "train_batch_size": 20 if bench.smoke else 250, "learning_rate": 2e-3, "warmup_steps": 10,
        "precision": "bf16", "logging_steps": 5, "save_steps": 10 if bench.smoke else 100,
    }  # fmt: skip
    with bench.case("works", "bf16", until) as todo:
        if todo:
            (run,) = train(bench, [base | {"run_name": "bf16"}], until)
            bench.record("works", "bf16", **trained(run))
    with bench.case("works", "resumed", until) as todo:
        if todo:
            resumed(bench, base | {"run_name": "resumed"}, until)
    with bench.case("works", "two at once", until) as todo:
        if todo:
            pair = train(bench, [base | {"run_name": f"both-{i}"} for i in (0, 1)], until)
            same = [difference(run, bench.folder / "runs" / "bf16") for run in pair]
            bench.record("works", "two at once", differences_from_one_alone=same, **trained(pair[0]))
    with bench.case("works", "compile", until) as todo:
        if todo:
            (run,) = train(bench, [base | {"run_name": "compile", "torch_compile": True}], until)
            bench.record("works", "compile", **trained(run))


def resumed(bench: Bench, recipe: Case, until: float) -> None:
    """Kills a run at its first checkpoint, gives it again, and compares its weights with those of the whole one."""
    file, folder = bench.folder / "resumed.yaml", bench.folder / "runs" / "resumed"
    file.write_text(yaml.safe_dump(BIOD | {"output_dir": str(bench.folder / "runs")} | recipe))
    first = start(bench, ["train", "--config", str(file)], "resumed")
    try:
        while not any(folder.glob("checkpoints/checkpoint-*/trainer_state.json")):
            if first.poll() is not None or time.monotonic() > until:
                raise ValueError(f"no checkpoint of the run that was to be killed (status {first.poll()})")
            time.sleep(0.02)
    finally:
        first.kill()
        first.wait()
    killed = not (folder / "model").exists()
    wait([start(bench, ["train", "--config", str(file)], "resumed")], until)
    apart = difference(folder, bench.folder / "runs" / "bf16")
    bench.record("works", "resumed", was_killed=killed, equal=apart == 0, difference_from_one_go=apart)


def trained(run: Path) -> Case:
    """What training.json says."""
    found = json.loads((run / "model" / "training.json").read_text())
    keys = ("num_parameters", "num_tokens", "num_steps", "train_seconds", "final_loss", "precision", "device")
    return {key: found[key] for key in keys if key in found}


def difference(run: Path, other: Path) -> float:
    """The largest difference between the weights of two runs."""
    one, two = (load_file(folder / "model" / "model.safetensors") for folder in (run, other))
    return max(float((one[name].float() - two[name].float()).abs().max()) for name in one | two)


# 2. How fast is it?


def speed(bench: Bench, until: float) -> None:
    """Tokens a second of four sizes, one and eight at once."""
    with bench.case("speed", "peak", until) as todo:
        if todo:
            bench.record("speed", "peak", tflop_per_s=peak(bench.smoke) / 1e12)
    flops = next((1e12 * line["tflop_per_s"] for line in bench.recorded() if line["case"] == "peak"), math.nan)
    sizes = SMOKE_SIZES if bench.smoke else SIZES
    for (model, head_dim), count in product(sizes.items(), (1, 2 if bench.smoke else 8)):
        case = f"{model} x {count}"
        with bench.case("speed", case, until) as todo:
            if not todo:
                continue
            recipe = speed_recipe(bench, model, head_dim)
            runs = [recipe | {"run_name": f"{model}-x{count}-{i}", "seed": i} for i in range(count)]
            folders = train(bench, runs, min(until, time.monotonic() + 90))
            tokens = together(folders)
            parameters = trained(folders[0])["num_parameters"]
            share = round(6 * parameters * tokens / flops, 5)
            found = {"num_parameters": parameters, "at_once": count, "tokens_per_s": round(tokens)}
            bench.record("speed", case, **found, share_of_peak=share)
            for folder in folders:
                shutil.rmtree(folder)


def speed_recipe(bench: Bench, model: str, head_dim: int) -> Case:
    """Windows of 512 tokens, 32 to 64 thousand tokens a step; about as many steps as take 10 s."""
    sizes = {"vocab_size": 128, "block_size": 512, "head_dim": head_dim}
    parameters = closed_form_parameters(model, **sizes)
    block, batch = (93, 16) if bench.smoke else (512, 64 if parameters > 3e7 else 128)
    steps = 40 if bench.smoke else 1000 if parameters < 3e6 else 400 if parameters < 3e7 else 100
    people = 1000 if bench.smoke else 20_000
    exposures = max(1, math.ceil(steps * batch * block / (people * TOKENS)))
    return {
        "model_name": model, "head_dim": head_dim, "num_people": people, "exposures": exposures, "windows": "cut",
        "block_size": block, "train_batch_size": batch, "learning_rate": 1e-3, "warmup_steps": 10,
        "precision": "fp32" if bench.smoke else "bf16", "logging_steps": max(1, steps // 20), "save_steps": 10**6,
    }  # fmt: skip


def together(folders: Sequence[Path]) -> float:
    """Tokens a second of all runs in the time in which all of them train, the first fifth of each left out."""
    curves = []
    for folder in folders:
        (state,) = folder.glob("checkpoints/checkpoint-*/trainer_state.json")
        content = json.loads(state.read_text())
        ended = (state.parent / "model.safetensors").stat().st_mtime  # written right after the last step
        log = [(e["step"], e["seconds"]) for e in content["log_history"] if "seconds" in e]
        rate = trained(folder)["num_tokens"] / content["max_steps"]
        curves.append([(ended - log[-1][1] + seconds, rate * step) for step, seconds in log])
    begins = max(curve[len(curve) // 5][0] for curve in curves)
    ends = min(curve[-1][0] for curve in curves)
    if ends <= begins:
        raise ValueError(f"the {len(folders)} runs did not overlap")
    return sum(tokens_at(curve, ends) - tokens_at(curve, begins) for curve in curves) / (ends - begins)


def tokens_at(curve: Sequence[tuple[float, float]], moment: float) -> float:
    """Interpolated between log entries."""
    for (t0, n0), (t1, n1) in zip(curve, curve[1:], strict=False):
        if moment <= t1:
            return n0 + (n1 - n0) * (moment - t0) / max(1e-9, t1 - t0)
    return curve[-1][1]


def peak(smoke: bool) -> float:
    """FLOP a second of a square matrix product in bf16; in fp32 where the models are."""
    size, device, kind = (512, "cpu", torch.float32) if smoke else (8192, "cuda", torch.bfloat16)
    a, b = (torch.randn(size, size, device=device, dtype=kind) for _ in range(2))

    def seconds(repeats: int) -> float:
        began = time.perf_counter()
        for _ in range(repeats):
            c = a @ b
        c.sum().item()
        return time.perf_counter() - began

    seconds(3)
    return 20 * 2 * size**3 / min(seconds(20) for _ in range(3))


# 3. The frontier


def frontier(bench: Bench) -> None:
    """Four sizes, two learning rates, at once; as many people as the time allows."""
    with bench.case("frontier", "results", bench.ends) as todo:
        if not todo:
            return
        rate = slowest_rate(bench)
        cells = 2 if bench.smoke else 8
        seconds = max(10.0, bench.left - RESERVE) * 0.8
        exposures = 20 if bench.smoke else 1000
        people = int(rate * seconds / (cells * exposures * TOKENS))
        people = min(max(people, 200), 200 if bench.smoke else 100_000)
        planned = [line for line in bench.recorded() if line["case"] == "plan"]  # by an earlier call
        plan = {"num_people": people, "tokens_per_s": round(rate), "seconds": round(seconds)}
        people = (planned or [bench.record("frontier", "plan", **plan)])[0]["num_people"]
        file, sizes = frontier_files(bench, people, exposures)
        if has_workers():
            wait([start(bench, ["sweep", str(file), "--workers", str(cells)], "frontier")], bench.ends)
        else:
            commands = [["sweep", str(file), "--cell", str(number)] for number in range(cells)]
            wait([start(bench, words, f"frontier-{i}") for i, words in enumerate(commands)], bench.ends)
            wait([start(bench, ["sweep", str(file), "--report_only"], "frontier")], bench.ends + RESERVE)
        folder = bench.folder / "sweeps" / "frontier"
        for run in sorted(folder.glob("*/model/capacity.json")):
            found = json.loads(run.read_text())
            keys = ("num_parameters", "bits_per_parameter", "max_bits_per_parameter", "confidence_interval")
            bench.record("frontier", run.parent.parent.name, **{key: found[key] for key in keys})
            shutil.rmtree(run.parent.parent / "checkpoints", ignore_errors=True)
        bench.record("frontier", "results", sizes=sizes, page=str(folder / "report.html"))


def slowest_rate(bench: Bench) -> float:
    """Tokens a second of all cells at once, of the measured size nearest the frontier's from above."""
    found = [line for line in bench.recorded() if line["step"] == "speed" and line.get("at_once", 1) > 1]
    found = [line for line in found if line["num_parameters"] < 5e6]
    return min((line["tokens_per_s"] for line in found), default=20_000.0 if bench.smoke else 1e6)


def frontier_files(bench: Bench, people: int, exposures: int) -> tuple[Path, list[str]]:
    """The sweep and its base, and the same with int8 and int4 in quantized/; the models' names."""
    base = BIOD | {
        "num_people": people, "exposures": exposures, "block_size": 93, "windows": "aligned",
        "precision": "fp32" if bench.smoke else "bf16", "train_batch_size": 32 if bench.smoke else 256, "head_dim": 8,
        "learning_rate": 3e-3, "warmup_steps": 20,
        "initializer_range": 0.1, "output_dir": str(bench.folder), "save_steps": 10**6, "logging_steps": 50,
        "quantization_group_size": 0,
    }  # fmt: skip
    bits = biod_of(Recipe(**{key: value for key, value in base.items() if key != "quantize_bits"})).knowledge()
    wanted = [R_MAX * factor for factor in ((1.0,) if bench.smoke else (0.6, 0.85, 1.2, 1.7))]
    names = [model_near(bits.total_bits / ratio) for ratio in wanted]
    grid = {"model_name": names, "learning_rate": [2e-3, 5e-3]}
    for folder, copies in ((bench.folder, []), (bench.folder / "quantized", [8, 4])):
        folder.mkdir(exist_ok=True)
        (folder / "base.yaml").write_text(yaml.safe_dump(base | {"quantize_bits": copies}))
        sweep = {"base": "base.yaml", "grid": grid, "best_of": "learning_rate"}
        (folder / "frontier.yaml").write_text(yaml.safe_dump(sweep, sort_keys=False))
    return bench.folder / "frontier.yaml", names


def model_near(parameters: float) -> str:
    """The model of four layers (two heads or more, of 8) whose size is nearest."""
    sizes = {"vocab_size": 64 + 6 + 32 + 1, "block_size": 93, "head_dim": 8}
    names = [f"gpt2-{layers}-{heads}" for layers, heads in product((2, 4), range(2, 65))]
    return min(names, key=lambda name: abs(math.log(closed_form_parameters(name, **sizes) / parameters)))


def has_workers() -> bool:
    """Whether `knowcap sweep` runs cells at once."""
    done = subprocess.run([sys.executable, "-m", "knowcap.cli", "sweep", "--help"], capture_output=True, text=True)
    return "--workers" in done.stdout


def main() -> int:
    """All steps; the exit status is 2 without a GPU, unless --smoke."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=9.0, help="the whole may take [9]")
    parser.add_argument("--output_dir", type=Path, default=Path("gpu"))
    parser.add_argument("--smoke", action="store_true", help="tiny cases on the CPU, to try the script")
    given = parser.parse_args()
    if not given.smoke and not torch.cuda.is_available():
        print("no GPU was found, and this measures one; --smoke tries all steps on the CPU, with tiny models")
        return 2
    given.output_dir.mkdir(parents=True, exist_ok=True)
    began = time.monotonic()
    bench = Bench(given.output_dir.absolute(), given.smoke, began, began + 60 * given.minutes)
    device = "CPU, smoke test" if given.smoke else torch.cuda.get_device_name(0)
    bench.record("machine", device, torch=torch.__version__, cpus=os.cpu_count())
    works(bench, began + 60 * given.minutes * SHARES["works"])
    speed(bench, began + 60 * given.minutes * (SHARES["works"] + SHARES["speed"]))
    frontier(bench)
    print(f"int8 and int4, on a CPU: knowcap sweep {bench.folder / 'quantized' / 'frontier.yaml'}", flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
