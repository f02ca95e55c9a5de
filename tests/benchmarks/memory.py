"""Seconds and peak memory of each command against the number of people, each in a process of its own. Run by hand:

    OMP_NUM_THREADS=1 python tests/benchmarks/memory.py --people 10000 100000 1000000

`capacity`, `report` and `compare` read a made nll.parquet of bioS' seven facts a person, since a model that scores a
million people takes hours. `measure` reads real texts, tokenizes and aligns them, and writes every file, with made
scores in place of the forward passes; `data` makes the texts. `questions` reads, tokenizes and keeps the questions
that a model is tuned on, and `calibration` the texts of GPTQ, both without a model. The last column is what 20 million
people would take, extrapolated: the straight line through the two largest numbers of people.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import yaml

from knowcap.corpus.base import tokenizer_of
from knowcap.corpus.tokenizer import wrap
from knowcap.dataset.corpora import corpus_of
from knowcap.dataset.stage import build
from knowcap.facts import NAME
from knowcap.models import build_model, model_config
from knowcap.recipe import Recipe
from knowcap.scoring.measurement import knowledge_content


STAGES = ("data", "measure", "questions", "calibration", "capacity", "report", "compare")
TEXTS = ("measure", "questions", "calibration")  # stages that read a data set
LARGE = 20_000_000  # people, of the extrapolation
_AT_A_TIME = 10_000  # people
_OUTSIDERS = 1000


def main() -> None:
    """Prints a table in Markdown; or runs one stage, in a process that `measured` started."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--people", type=int, nargs="+", default=[10_000, 100_000, 1_000_000])
    parser.add_argument("--stages", nargs="+", choices=STAGES, default=["measure", "capacity", "report", "compare"])
    parser.add_argument("--place", type=Path, help="keep the folders here, and use those that are there")
    parser.add_argument("--run", choices=STAGES, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.run:
        run(given.run, given.place, given.people[0])
        return
    with tempfile.TemporaryDirectory() as made:
        place = given.place or Path(made)
        found = {(stage, n): measured(stage, place, n) for n in given.people for stage in given.stages}
    show(found, given.stages, given.people)


def measured(stage: str, place: Path, people: int) -> tuple[float, float]:
    """Seconds, and the peak resident memory in MiB, of a process that runs a stage."""
    prepare(stage, place, people)
    command = [sys.executable, __file__, "--run", stage, "--people", str(people), "--place", str(place)]
    began = time.perf_counter()
    child = subprocess.Popen(command, stdout=subprocess.DEVNULL)
    _, status, usage = os.wait4(child.pid, 0)
    if status:
        raise SystemExit(f"{stage} of {people} people failed")
    seconds, memory = time.perf_counter() - began, usage.ru_maxrss / 1024
    print(f"{stage}, {people:,} people: {seconds:.1f} s, {memory:,.0f} MiB", file=sys.stderr, flush=True)
    return seconds, memory


def prepare(stage: str, place: Path, people: int) -> None:
    """Makes what a stage reads, unless it is there."""
    if stage in TEXTS:
        data(place, people)
    elif stage != "data":
        for side, seed in (("a", 0), ("b", 1)):
            if not (place / f"{side}{people}" / "recipe.yaml").is_file():
                scored(place / f"{side}{people}", people, seed)
            if stage != "capacity" and not (place / f"{side}{people}/model/capacity.json").is_file():
                subprocess.run([sys.executable, "-c", _CAPACITY, f"{place}/{side}{people}/model"], check=True)


_CAPACITY = "import sys; from knowcap.capacity import capacity; capacity(sys.argv[1])"


def run(stage: str, place: Path, people: int) -> None:
    """One stage, which `measured` measures."""
    a, b = place / f"a{people}", place / f"b{people}"
    if stage == "data":
        data(Path(tempfile.mkdtemp(dir=place)), people)
    elif stage == "measure":
        measure(place, people)
    elif stage == "questions":
        questions(place, people)
    elif stage == "calibration":
        from knowcap.models.quantized.stage import read_calibration

        read_calibration(data(place, people), tokenizer(recipe_of(people))[0])
    elif stage == "capacity":
        from knowcap.capacity import capacity

        capacity(a / "model")
    elif stage == "report":
        from knowcap.report.stage import report

        report(a)
    else:
        from knowcap.capacity.comparison import compare

        print(compare(a / "model", b / "model"))


def recipe_of(people: int) -> Recipe:
    """One text of each person."""
    return Recipe(num_people=people, renderings=1, model_name="gpt2-rotary-1-1", vocab_size=1000, block_size=128)


def data(place: Path, people: int) -> Path:
    """The data set of `recipe_of`, made unless it is there."""
    return build(recipe_of(people), place / f"data{people}")


def measure(place: Path, people: int) -> None:
    """Scores a model that is not run: every target token has made nats and hits."""
    from knowcap.scoring import batches, score

    def made_scores(_passes: Any, encoded: Any, contexts: Any, *_: Any) -> tuple[np.ndarray, np.ndarray]:
        generator = np.random.default_rng(len(encoded.targets))
        return generator.exponential(5.0, len(encoded.targets)) + 10.0, np.zeros(len(encoded.targets), dtype=bool)

    batches._score_targets = made_scores
    recipe = recipe_of(people)
    words, rows = tokenizer(recipe)
    config = model_config(recipe.model_name, vocab_size=rows, block_size=recipe.block_size)
    output = Path(tempfile.mkdtemp(dir=place))
    loaded = (build_model(config, 0).eval(), words)
    score(None, data(place, people), output_dir=output, loaded=loaded, progress=False)


def questions(place: Path, people: int) -> None:
    """Keeps the questions about half of the people as tuning does."""
    from knowcap.extraction.questions import questions_of
    from knowcap.extraction.stored import StoredQuestions

    words, rows = tokenizer(replace(recipe_of(people), questions=True))
    with StoredQuestions(questions_of(data(place, people), "train", words, rows), place):
        pass


def tokenizer(recipe: Recipe) -> tuple[Any, int]:
    """A recipe's tokenizer, and the rows of the vocabulary."""
    backend, rows = tokenizer_of(recipe, corpus_of(recipe))
    return wrap(backend, recipe.block_size), rows


def scored(run_dir: Path, people: int, seed: int) -> None:
    """A run folder with made nll.parquet and controls of bioS, and what the report reads of training."""
    (run_dir / "model").mkdir(parents=True, exist_ok=True)
    knowledge = knowledge_content(corpus_of(recipe_of(people)).knowledge())
    measurement = {b"knowcap": json.dumps(measurement_of(people, knowledge))}
    for kind, first, end in (
        ("control", people, people + _OUTSIDERS),
        ("control_swapped", people, people + _OUTSIDERS),
        ("nll", 0, people),
    ):
        with pq.ParquetWriter(run_dir / "model" / f"{kind}.parquet", _schema().with_metadata(measurement)) as writer:
            for table in tables(knowledge, first, end, seed, known=0.7 if kind == "nll" else 0.0):
                writer.write_table(table)
    training = {"log_history": [], "model_name": "gpt2-rotary-1-1", "exposures": 100, "num_tokens": 10**9}
    training |= {"num_steps": 1000, "train_seconds": 100.0, "world_size": 1, "device": "cpu", "seed": seed}
    training |= {"windows": "cut", "block_size": 128, "precision": "fp32", "final_loss": 1.0, "versions": {}}
    (run_dir / "model" / "training.json").write_text(json.dumps(training))
    (run_dir / "recipe.yaml").write_text(yaml.safe_dump(asdict(recipe_of(people))))


def _schema() -> pa.Schema:
    names = ("entity", "attribute", "rendering", "nll", "log2_candidates", "greedy_match")
    kinds = (pa.int64(), pa.string(), pa.int32(), pa.float64(), pa.float64(), pa.bool_())
    return pa.schema(list(zip(names, kinds, strict=True)))


def tables(knowledge: dict[str, Any], first: int, end: int, seed: int, known: float) -> Iterator[pa.Table]:
    """Rows of nll.parquet of people first … end - 1, of whose facts a share is known and the rest guessed."""
    bits = {NAME: knowledge["name_log2_candidates"]}
    bits |= {a["name"]: a["log2_candidates"] for a in knowledge["attributes"] if a.get("determined_by") is None}
    names, most = list(bits), np.array([*bits.values()])
    generator = np.random.default_rng([seed, first])
    for start in range(first, end, _AT_A_TIME):
        people = np.arange(start, min(end, start + _AT_A_TIME))
        references = np.tile(most, len(people))
        is_known = generator.random(len(references)) < known
        left = np.where(is_known, np.tile(np.array(names) == NAME, len(people)) * np.log(max(end, 2)), 0.0)
        nll = np.where(is_known, left, references * np.log(2)) + generator.exponential(0.1, len(references))
        columns = [np.repeat(people, len(names)), pa.array(names * len(people)), np.zeros(len(nll), dtype=np.int32)]
        yield pa.table([*columns, nll, references, is_known], schema=_schema())


def measurement_of(people: int, knowledge: dict[str, Any]) -> dict[str, Any]:
    """The measurement in the schema of a made nll.parquet."""
    counts = {f"num_parameters{part}": 30 * people for part in ("", "_non_embedding", "_used_vocabulary")}
    nothing = ("quantization", "quantized_fraction", "quantized_fraction_all", "window", "float32_difference")
    chosen = {"scoring": "token", "context": "isolated", "precision": "fp32", "control_kind": "outsiders"}
    chosen |= {"model_name": "gpt2-rotary-1-1", "dataset": "bioS", "start_token": "<|endoftext|>", "dtype": "float32"}
    numbers = {"num_entities": people, "entities_scored": people, "renderings": 1, "exposures": 100, "seed": 0}
    numbers |= {"stored_bits_per_parameter": 32.0, "trained_here": True, "parameters_counted": "all"}
    kept = {"versions": {}, "name_is_prefix_free": True, "knowledge": knowledge}
    return counts | dict.fromkeys(nothing) | chosen | numbers | kept


def show(found: dict[tuple[str, int], tuple[float, float]], stages: list[str], people: list[int]) -> None:
    """The table."""
    large = [f"{LARGE:,} (extrapolated)"] if len(people) > 1 else []
    print("| stage | " + " | ".join([*(f"{n:,}" for n in people), *large]) + " |")
    print("|---|" + "---:|" * (len(people) + len(large)))
    for stage in stages:
        cells = [found[stage, n] for n in people]
        if large:
            x, y = np.array(people[-2:]), np.array(cells[-2:])
            cells.append(tuple(y[1] + (y[1] - y[0]) * (LARGE - x[1]) / (x[1] - x[0])))
        print(f"| {stage} | " + " | ".join(f"{seconds:,.1f} s, {memory:,.0f} MiB" for seconds, memory in cells) + " |")


if __name__ == "__main__":
    main()
