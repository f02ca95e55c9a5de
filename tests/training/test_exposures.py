"""Every biography once an exposure, or as its person's frequency says, through the Trainer's own DataLoader, on one
process and on several.

Run as a script under `accelerate launch`, it is one of the processes: python tests/training/test_exposures.py FOLDER
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections import Counter
from dataclasses import asdict, replace
from functools import lru_cache
from pathlib import Path

import numpy as np
import pytest
import torch
from accelerate.data_loader import BatchSamplerShard
from countries import write_table
from launched import launch

from knowcap.corpus.base import Corpus, tokenizer_of
from knowcap.corpus.tokenizer import EOS_ID
from knowcap.dataset.corpora import corpus_of
from knowcap.knowledge.frequencies import frequencies_of
from knowcap.recipe import Recipe
from knowcap.training.stage import StreamTrainer, train
from knowcap.training.windows import stream_of


MODEL = {"model_name": "gpt2-1-1", "head_dim": 8, "exposures": 3, "train_batch_size": 12, "warmup_steps": 1}
BIOS = Recipe(
    run_name="bios", num_people=101, pools_fraction=0.05, num_templates=2, vocab_size=200, block_size=150,
    windows="aligned", shard_size=40, **MODEL,
)  # fmt: skip
RECIPES = {
    "bioS, aligned": BIOS,
    "bioS, cut": replace(BIOS, windows="cut", block_size=64),
    "bioD": replace(
        BIOS, corpus="bioD", num_templates=None, num_attributes=3, diversity=20, windows="cut", block_size=64
    ),
    "bioD, compact": replace(BIOS, corpus="bioD", num_templates=None, pools_fraction=1.0, diversity=20, compact=True),
    "bioS, power law": replace(BIOS, windows="cut", block_size=64, exposures_exponent=1.0),
    "bioD, power law, warm-up": replace(
        BIOS, corpus="bioD", num_templates=None, pools_fraction=1.0, diversity=20, compact=True,
        exposures_exponent=0.7, warmup_exposures=1, warmup_people_share=0.3,
    ),
    "table": Recipe(run_name="table", vocab_size=250, block_size=120, windows="cut", shard_size=20, **MODEL),
}  # fmt: skip
CONFIG = Path(__file__).parents[2] / "recipes" / "accelerate" / "cpu_2.yaml"
Batches = list[np.ndarray]


def recipe_of(name: str, folder: Path) -> Recipe:
    return replace(RECIPES[name], **write_table(folder)) if name == "table" else RECIPES[name]


def batches_of_this_process(recipe: Recipe, run_dir: Path) -> Batches:
    """What the Trainer's DataLoader gives this process: (batch, length) a step, -1 where masked."""
    seen: Batches = []

    def watch(trainer: StreamTrainer, **_) -> None:
        for batch in trainer.get_train_dataloader():
            masked = torch.where(batch["labels"] == -100, -1, batch["input_ids"])
            seen.append(masked.cpu().numpy())
        raise StopIteration

    original, StreamTrainer.train = StreamTrainer.train, watch
    try:
        train(recipe, run_dir)
    except StopIteration:
        return seen
    finally:
        StreamTrainer.train = original
    raise RuntimeError("nothing was trained")


@lru_cache
def expected(recipe: Recipe) -> tuple[list[Counter], np.ndarray]:
    """The token ids of each exposure's texts, tokenized whole; and how many windows each shard has."""
    corpus = corpus_of(recipe)
    tokenizer, _ = tokenizer_of(recipe, corpus)
    texts = [_texts(recipe, corpus, exposure) for exposure in range(recipe.exposures)]
    counts, _ = stream_of(recipe, corpus, tokenizer).count()
    return [Counter(tuple(tokenizer.encode(text).ids) for text in of_one) for of_one in texts], counts


def _texts(recipe: Recipe, corpus: Corpus, exposure: int) -> list[str]:
    """The texts of an exposure: one of each person, or as many as it has there."""
    people, law = np.arange(corpus.num_people), frequencies_of(recipe, corpus.num_people)
    if law is None:
        return [row.text for row in corpus.rows(people, exposure)]
    persons, numbers = law.texts(exposure, people)
    return [row.text for number in set(numbers.tolist()) for row in corpus.rows(persons[numbers == number], number)]


def texts_in(windows: list[list[int]], aligned: bool) -> Counter:
    """The texts in a shard's windows, taken apart at the ends of text."""
    stream = [token for ids in windows for token in (ids[1:] if aligned else ids)]
    texts, part = Counter(), []
    for token in stream if aligned else stream[1:]:
        if token == EOS_ID:
            texts[tuple(part)] += 1
            part = []
        else:
            part.append(token)
    assert not part
    return texts


def check_all_exposures(recipe: Recipe, shares: list[Batches]) -> None:
    """Of the processes' batches, in the order of the steps, every text comes once in every exposure."""
    steps = [batch for step in zip(*shares, strict=True) for batch in step]
    windows = [row[row >= 0].tolist() for batch in steps for row in batch]
    texts, counts = expected(recipe)
    assert all(len(batch) == recipe.train_batch_size // len(shares) for batch in steps)
    assert [bool(ids) for ids in windows] == [n < counts.sum() for n in range(len(windows))]  # the rest fills up
    first = 0
    for exposure, of_shards in enumerate(counts.tolist()):
        seen = Counter()
        for count in of_shards:
            seen += texts_in(windows[first : first + count], recipe.windows == "aligned")
            first += count
        assert seen == texts[exposure]


@pytest.fixture(scope="module", params=RECIPES)
def alone(request, tmp_path_factory) -> tuple[Recipe, Batches]:
    """A recipe, and the batches of one process."""
    folder = tmp_path_factory.mktemp("alone")
    recipe = recipe_of(request.param, folder)
    return recipe, batches_of_this_process(recipe, folder / "run")


def test_every_biography_comes_once_an_exposure_on_one_process(alone):
    recipe, batches = alone
    check_all_exposures(recipe, [batches])


@pytest.mark.parametrize("processes", [2, 3])
def test_the_shards_that_accelerate_makes_of_the_batches_lose_and_double_nothing(alone, processes):
    """The batches of several processes, as accelerate's own sampler hands them round."""
    recipe, batches = alone
    rows = [row[row >= 0] for batch in batches for row in batch]
    size = recipe.train_batch_size // processes
    sampler = torch.utils.data.BatchSampler(range(len(rows)), size, drop_last=False)
    shares = []
    for rank in range(processes):
        mine = BatchSamplerShard(sampler, num_processes=processes, process_index=rank)
        shares.append([_padded([rows[i] for i in batch]) for batch in mine])
    check_all_exposures(recipe, shares)


def _padded(rows: list[np.ndarray]) -> np.ndarray:
    out = np.full((len(rows), max(1, *map(len, rows))), -1)
    for number, row in enumerate(rows):
        out[number, : len(row)] = row
    return out


@pytest.mark.parametrize(
    ("processes", "forked"),
    [(2, True)] + [pytest.param(number, False, marks=pytest.mark.slow) for number in (2, 3)],
)
def test_every_biography_comes_once_an_exposure_on_several_processes(processes, forked, tmp_path):
    recipes = {name: recipe_of(name, tmp_path) for name in RECIPES if name != "bioS, aligned"}
    (tmp_path / "recipes.json").write_text(json.dumps({name: asdict(r) for name, r in recipes.items()}))
    if forked:
        launch(main, tmp_path, log=tmp_path / "log", processes=processes)
    else:
        options = ["--config_file", str(CONFIG), "--num_processes", str(processes)]
        command = [sys.executable, "-m", "accelerate.commands.launch", *options, __file__, str(tmp_path)]
        helpers = os.pathsep.join(filter(None, [str(Path(__file__).parents[1]), os.environ.get("PYTHONPATH")]))
        done = subprocess.run(
            command, env=os.environ | {"PYTHONPATH": helpers}, capture_output=True, text=True, timeout=300
        )
        assert done.returncode == 0, done.stderr[-3000:]
    for name, recipe in recipes.items():
        shares = []
        for rank in range(processes):
            with np.load(tmp_path / f"{name}-{rank}.npz") as kept:
                shares.append([kept[f"arr_{step}"] for step in range(len(kept.files))])
        check_all_exposures(recipe, shares)


@pytest.mark.filterwarnings("ignore:This DataLoader will create 4 worker processes")
@pytest.mark.parametrize("name", ["bioS, aligned", "bioD", "table"])
def test_token_ids_are_the_same_whatever_the_number_of_loading_workers(name, tmp_path):
    recipe = recipe_of(name, tmp_path)
    one, four = (batches_of_this_process(replace(recipe, dataloader_num_workers=n), tmp_path / str(n)) for n in (0, 4))
    assert len(one) == len(four) > 3
    assert all(np.array_equal(a, b) for a, b in zip(one, four, strict=True))


def main(folder: Path) -> None:
    """One process' batches of every recipe, kept for the test."""
    rank, world = int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"])
    for name, keys in json.loads((folder / "recipes.json").read_text()).items():
        recipe = Recipe(**keys | {"quantize_bits": tuple(keys["quantize_bits"])})
        seen = batches_of_this_process(recipe, folder / name)
        if torch.distributed.get_world_size() != world:
            raise RuntimeError(f"{torch.distributed.get_world_size()} processes, expected {world}")
        np.savez(folder / f"{name}-{rank}.npz", *seen)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
