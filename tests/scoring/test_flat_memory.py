"""Measuring holds one shard of texts at a time, whatever their number, and a process reads its own shards alone."""

from __future__ import annotations

import random
import tracemalloc
import weakref
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import tiny
from scored_texts import CITIES, WORK, full_knowledge, gpt2

from knowcap.dataset import contract, folder
from knowcap.dataset.folder import read_rows
from knowcap.dataset.statements import Numbering
from knowcap.facts import Row
from knowcap.scoring import batches, score
from knowcap.scoring import stage as stage_module
from knowcap.scoring.batches import NAME_TOKENS
from knowcap.scoring.parts import is_prefix_free


SHARD, GROUP, CONTROL = 50, 40, 120  # rows of a shard and of a row group; entities outside the sample
BYTES = 250  # a person, most of them of the name


class CountedRows:
    """Makes rows, and counts those that exist, the most that did at once, and all that were made."""

    def __init__(self) -> None:
        self.alive, self.most, self.made, self._refs = 0, 0, 0, {}

    def __call__(self, *arguments: Any) -> Row:
        row = Row(*arguments)
        self.made, self.alive = self.made + 1, self.alive + 1
        self.most = max(self.most, self.alive)
        self._refs[self.made] = weakref.ref(row, lambda _, number=self.made: self._gone(number))
        return row

    def _gone(self, number: int) -> None:
        self.alive -= 1
        del self._refs[number]


@pytest.fixture
def counted(monkeypatch: pytest.MonkeyPatch) -> CountedRows:
    """Small shards, made scores in place of forward passes, and the rows that data set folders give are counted."""

    def made_scores(_: Any, encoded: Any, *__: Any) -> tuple[np.ndarray, np.ndarray]:
        return 10.0 + encoded.truths % 7, encoded.truths % 2 == 0

    rows = CountedRows()
    monkeypatch.setattr(stage_module, "SHARD_ROWS", SHARD)
    monkeypatch.setattr(folder, "_AT_ONCE", 16)
    monkeypatch.setattr(batches, "_score_targets", made_scores)
    monkeypatch.setattr(folder, "Row", rows)
    return rows


def people(num_people: int, renderings: int = 1, first: int = 0) -> list[tuple[Row, int]]:
    """People whose values are drawn, each with texts that are the same."""
    pairs = []
    for i in range(first, first + num_people):
        generator = random.Random(i)
        employer, pronoun = generator.choice(list(WORK)), generator.choice(("He", "She"))
        born = (" was born in ", ("birth_city", generator.choice(CITIES)), ". ", ("pronoun", pronoun))
        work = (" works at ", ("employer", employer), ", lives in ", ("work_city", WORK[employer]), ".")
        row = tiny.say(i, ("name", f"{'ABCDEFGHIJ'[i % 10]}na {i}"), *born, *work)
        pairs += [(row, rendering) for rendering in range(renderings)]
    return pairs


def data_set(place: Path, num_people: int, renderings: int = 1) -> Path:
    """A folder of people in three files with small row groups, and a control of one size."""
    made = tiny.write_dataset(
        place, full_knowledge(num_people), people(num_people, renderings), people(CONTROL, first=99_000)
    )
    whole = made / "biographies" / "train-00000-of-00001.parquet"
    table = pq.read_table(whole)
    for number, first in enumerate(range(0, len(table), -(-len(table) // 3))):
        part = table.slice(first, -(-len(table) // 3))
        pq.write_table(part, whole.with_name(f"train-{number:05d}-of-00003.parquet"), row_group_size=GROUP)
    whole.unlink()
    return made


def loaded() -> Any:
    tokenizer = tiny.bpe_tokenizer([row.text for row, _ in people(50)])
    return gpt2(len(tokenizer)).eval(), tokenizer


def test_the_texts_in_memory_are_those_of_a_shard_however_many_people(tmp_path: Path, counted: CountedRows) -> None:
    most = []
    for num_people in (300, 3000):
        made = data_set(tmp_path / str(num_people), num_people)
        counted.most, counted.made = 0, 0
        score(None, made, output_dir=tmp_path / f"out{num_people}", loaded=loaded(), progress=False)
        most.append(counted.most)
        sample = min(num_people, 64)
        assert counted.made == num_people + CONTROL + sample
    assert most[0] == most[1] <= 2 * CONTROL + SHARD


def test_a_limit_holds_no_more_texts_than_a_shard(tmp_path: Path, counted: CountedRows) -> None:
    made, limit = data_set(tmp_path / "data", 2000), 1500
    path = score(None, made, output_dir=tmp_path / "out", loaded=loaded(), progress=False, limit=limit)
    assert counted.most <= 2 * CONTROL + SHARD
    assert set(pq.read_table(path)["entity"].to_pylist()) == set(range(limit))


@pytest.mark.parametrize("world", [2, 3])
def test_processes_read_their_own_shards_and_together_write_the_bytes_of_one(
    tmp_path: Path, counted: CountedRows, monkeypatch: pytest.MonkeyPatch, world: int
) -> None:
    made, tokenizer = data_set(tmp_path / "data", 330, renderings=2), loaded()[1]
    gpt2(len(tokenizer)).save_pretrained(tmp_path / "model")
    tokenizer.save_pretrained(tmp_path / "model")

    def scored(name: str, rank: int, world: int) -> int:
        """The rows that a process reads."""
        state = {"process_index": rank, "num_processes": world, "is_main_process": rank == 0, "device": "cpu"}
        counted.made = 0
        with monkeypatch.context() as patch:
            patch.setattr(
                stage_module, "PartialState", lambda **_: SimpleNamespace(**state, wait_for_everyone=lambda: None)
            )
            score(tmp_path / "model", made, output_dir=tmp_path / name, progress=False)
        return counted.made

    scored("one", 0, 1)
    with monkeypatch.context() as patch:  # the main process would wait for the others before it joins the parts
        patch.setattr(stage_module, "join_parts", lambda *_: 0)
        read = [scored("many", rank, world) - CONTROL - 64 * (rank == 0) for rank in range(world)]
    assert scored("many", 0, world) == CONTROL + 64
    assert sum(read) == 660 and max(read) - min(read) <= SHARD
    for name in ("nll", "control", "control_swapped"):
        one, many = ((tmp_path / folder_name / f"{name}.parquet").read_bytes() for folder_name in ("one", "many"))
        assert one == many


def test_rows_at_places_are_those_of_all_and_other_row_groups_are_not_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = data_set(tmp_path / "data", 330, renderings=2)
    everything, groups = list(read_rows(made)), []
    assert everything == people(330, 2)
    iter_batches = pq.ParquetFile.iter_batches

    def noted(file: pq.ParquetFile, *arguments: Any, row_groups: list[int], **options: Any) -> Iterator[Any]:
        groups.extend(row_groups)
        return iter_batches(file, *arguments, row_groups=row_groups, **options)

    monkeypatch.setattr(pq.ParquetFile, "iter_batches", noted)
    generator = random.Random(0)
    choices = [sorted(generator.sample(range(660), generator.choice((1, 3, 40, 600)))) for _ in range(30)]
    for places in (range(0), range(660), range(199, 260), range(659, 660), *map(np.array, choices)):
        groups.clear()
        assert list(read_rows(made, places=places)) == [everything[i] for i in places]
        of_each_file = [(int(i) // 220, int(i) % 220 // GROUP) for i in places]
        assert len(groups) == len(set(of_each_file))


def test_checking_a_data_set_takes_few_bytes_a_person(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(contract, "CHUNK", 100)
    peaks = []
    for num_people in (500, 4000):
        made = data_set(tmp_path / str(num_people), num_people)
        knowledge = folder.read_knowledge(made)
        tracemalloc.start()
        contract.check_contract(made, knowledge)
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
    assert peaks[1] - peaks[0] < 3500 * BYTES


def test_numbers_of_ids_are_those_of_a_dictionary() -> None:
    generator = random.Random(1)
    for _ in range(200):
        first, numbering, known = generator.choice((0, 7, -3)), Numbering(), {}
        for _ in range(generator.randrange(1, 5)):
            end = first + len(known)
            ids: list[Any] = [generator.randrange(first, end + 1) for _ in range(3)] + list(range(end, end + 4))
            ids += generator.choice(([], [], [end + 9], ["Ann"], [None]))
            assert numbering.numbers(ids).tolist() == [known.setdefault(entity, len(known)) for entity in ids]
        assert list(numbering) == list(known) and len(numbering) == len(known)
        assert [numbering.id_of(number) for number in range(len(known))] == list(known)
        assert all((entity in numbering) == (entity in known) for entity in [*known, end + 99, first - 1, "Bob"])


def test_a_prefix_among_names_is_found_as_by_comparing_all_pairs() -> None:
    generator = random.Random(2)
    for _ in range(300):
        pairs = [(generator.randrange(6), bytes(generator.choices(b"ab", k=generator.randrange(4)))) for _ in range(5)]
        names = [None if generator.random() < 0.1 else name for _, name in pairs]
        known = {(entity, name) for (entity, _), name in zip(pairs, names, strict=True) if name is not None}
        expected = not any(one != other and one[1].startswith(other[1]) for one in known for other in known)
        columns = {"entity": [entity for entity, _ in pairs], NAME_TOKENS: pa.array(names, pa.large_binary())}
        assert is_prefix_free(pa.table(columns)) == expected
