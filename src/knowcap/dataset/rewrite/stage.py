"""The stage that makes a data set folder of biographies written by a language model."""

from __future__ import annotations

import logging
import shutil
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import numpy as np
from tqdm.auto import tqdm

from knowcap.dataset.card import RewriteSummary, dataset_card
from knowcap.dataset.corpora import corpus_of
from knowcap.dataset.folder import DatasetError, write_folder
from knowcap.dataset.head import write_corpus_pools
from knowcap.dataset.rewrite.locate import Locator
from knowcap.dataset.rewrite.shards import Journal, Progress, Shard, ShardFiles, Tally, Text, format_counts, shards_of
from knowcap.dataset.rewrite.task import PROMPT_VERSION, MissingTexts, Task, prompt_of, save_passes, settings_of, start
from knowcap.dataset.rewrite.writers import Reply, Request, Writer
from knowcap.dataset.stage import tables
from knowcap.facts import MIN_CONTROL, Knowledge, Row
from knowcap.files import locked
from knowcap.knowledge.people import People
from knowcap.knowledge.pools import load_pools
from knowcap.recipe import Recipe


MAX_UNUSABLE_REPLIES = 200  # replies without a usable one after which writing stops

logger = logging.getLogger(__name__)


def rewrite(
    task: Task,
    writer: Writer,
    folder: Path,
    *,
    max_attempts: int = 5,
    allow_missing: bool = False,
    num_proc: int = 1,
    progress: bool = True,
) -> Path:
    """Makes the data set folder from texts of the writer; resumes an interrupted call.

    Until the folder is complete, the texts are in a hidden folder beside it. Another call requests missing texts up to
    `max_attempts` times more, unless it has `allow_missing`.

    Args:
        task: the texts to write.
        writer: the writer of the texts.
        folder: the folder to make.
        max_attempts: the maximum number of requests for one text.
        allow_missing: finish without the missing texts, which card and knowledge.json count. Every person must have at
            least one text.
        num_proc: the number of processes that write the folder's files.
        progress: show a progress bar.

    Returns:
        The folder.

    Raises:
        DatasetError: the folder exists, or was started with other settings, or a number is out of range; or the writer
            cannot continue.
        MissingTexts: texts are missing, or none of the replies can be used.
    """
    folder = Path(folder)
    if folder.exists():
        raise DatasetError(f"{folder} already exists; choose another output_dir, or remove it")
    if max_attempts < 1:
        raise DatasetError(f"max_attempts={max_attempts}: expected 1 or more")
    recipe = task.recipe()
    people = People(load_pools(task.pools_dir, lists=task.lists), task.num_people, task.seed)
    parts = folder.with_name(f".{folder.name}.parts")
    with locked(parts):
        if folder.exists():  # another call may have made it while this one waited
            raise DatasetError(f"{folder} already exists; choose another output_dir, or remove it")
        settings = settings_of(task, writer, people.pools)
        passes = start(parts, settings)
        work = _Work(task, people, writer, ShardFiles(parts), max_attempts, passes, settings["texts_a_shard"])
        tally, without = work.write_all(again=not allow_missing, progress=progress)
        save_passes(parts, passes + 1)
        _check_missing(task, tally, without, allow_missing, parts)
        _finish(folder, recipe, work, tally, num_proc)
        shutil.rmtree(parts)
    logger.info("%s: %d texts, from %d replies", folder, sum(t.kept for t in tally.values()), _sum(tally).replies)
    return folder


@dataclass
class _Work:
    """The writing of all shards."""

    task: Task
    people: People
    writer: Writer
    files: ShardFiles
    max_attempts: int
    passes: int
    texts_a_shard: int

    def __post_init__(self) -> None:
        task = self.task
        self.num_control = min(task.control_people, self.people.num_outsiders)
        if self.num_control < MIN_CONTROL:  # as in every data set folder
            self.num_control = 0
        n, each = task.num_people, task.texts_per_person
        a_shard = max(1, self.texts_a_shard // each)
        self.shards = {
            "biographies": shards_of("biographies", 0, n, each, a_shard),
            "control": shards_of("control", n, n + self.num_control, 1, self.texts_a_shard),
        }
        self._locator = Locator(self.people.pools)
        self._kept_any, self._replies, self._rejected = False, 0, 0

    def write_all(self, again: bool, progress: bool) -> tuple[dict[str, Tally], int]:
        """Writes all shards that are not finished; with `again` also the missing texts of an earlier pass.

        Returns:
            The counts of each config, and the number of people without a text.
        """
        total = self.task.num_people * self.task.texts_per_person + self.num_control
        tally = dict.fromkeys(self.shards, Tally())
        without = 0
        with tqdm(total=total, desc="writing", unit=" texts", disable=not progress, smoothing=0.02) as bar:
            for config, shards in self.shards.items():
                for shard in shards:
                    finished = self.files.tally(shard)
                    if finished is None or (again and finished[0].missing and finished[1] <= self.passes):
                        found, textless = self._write(shard, bar)
                    else:
                        found, textless = finished[0], self._without_text(shard) if finished[0].missing else 0
                        _advance(bar, found.kept)
                    tally[config] += found
                    without += textless if config == "biographies" else 0
        return tally, without

    def _write(self, shard: Shard, bar: tqdm) -> tuple[Tally, int]:
        """Writes one shard, attempt by attempt."""
        persons = np.arange(shard.first, shard.end)
        columns = dict(enumerate(self.people.texts(self.people.codes(persons)), start=shard.first))

        def judge(text: Text, reply: Reply) -> Row | str:
            if reply.failed is not None:
                return reply.failed
            found = self._locator.locate(reply.text, columns[text[0]], text[0])
            return found if isinstance(found, Row) else found[0]

        state = self.files.load(shard, judge)
        _advance(bar, len(state.rows))
        with Journal(self.files.journal(shard)) as journal:
            while todo := self._todo(shard, state, columns):
                for request, reply in self.writer.write(todo):
                    person, rendering, attempt = request.key
                    journal.add((person, rendering), attempt, reply)
                    kept_before = len(state.rows)
                    state.take((person, rendering), judge((person, rendering), reply))
                    kept = len(state.rows) - kept_before
                    self._rejected += 1 - kept
                    bar.set_postfix(rejected=self._rejected, refresh=False)
                    bar.update(kept)
                    self._check_any_usable(state)
        self.files.save(shard, state, self.passes + 1)
        return state.tally(), len(set(columns) - {person for person, _ in state.rows})

    def _todo(self, shard: Shard, state: Progress, columns: dict[int, dict[str, str]]) -> list[Request]:
        """A request for each text that is not kept and has attempts left."""
        todo = []
        for person, rendering in shard.texts():
            text = (person, rendering)
            if text in state.rows or state.attempts[text] >= state.before[text] + self.max_attempts:
                continue
            attempt = state.attempts[text]
            prompt, seed = prompt_of(columns[person], person, rendering, attempt, self.task.seed)
            todo.append(Request((person, rendering, attempt), prompt, seed))
        return todo

    def _without_text(self, shard: Shard) -> int:
        """The number of people of a finished shard without a text."""
        batch = self.files.batch([shard], shard.first, shard.end)
        return shard.end - shard.first - len(batch.column(0).unique())

    def _check_any_usable(self, state: Progress) -> None:
        """Raises MissingTexts if no reply so far can be used, which more requests would not change."""
        self._replies += 1
        self._kept_any = self._kept_any or bool(state.rows)
        if not self._kept_any and self._replies >= MAX_UNUSABLE_REPLIES:
            raise MissingTexts(
                f"none of the first {self._replies} replies of {self.writer.model_name} could be used "
                f"({format_counts(state.rejected)}); choose a model that follows instructions better, or a larger "
                "max_new_tokens if texts are cut off"
            )


def _finish(folder: Path, recipe: Recipe, work: _Work, tally: dict[str, Tally], num_proc: int) -> None:
    """Writes the data set folder."""
    corpus = corpus_of(recipe)
    made = []
    for table in tables(recipe, corpus):
        if table.config in work.shards:  # the texts of templates go to the neutral configs
            shards = work.shards[table.config]
            made.append(replace(table, batch=partial(work.files.batch, shards)))
            neutral = {"biographies": "neutral", "control": "neutral_control"}[table.config]
            table = replace(table, config=neutral)
        made.append(table)
    made.sort(key=lambda table: table.config.startswith("neutral"))
    missing = _sum(tally).missing.total()
    knowledge = bior_knowledge(work.people, missing)
    pools = partial(write_corpus_pools, corpus=corpus)
    summary = _summary(work, tally)
    card = partial(dataset_card, recipe=recipe, corpus=corpus, tokenizer=None, rewrite=summary)
    write_folder(folder, made, knowledge, pools, card, num_proc)


def _summary(work: _Work, tally: dict[str, Tally]) -> RewriteSummary:
    """What the data set's card reports of the writing."""
    counts = [
        [config, f"{c.kept:,}", f"{c.replies:,}", format_counts(c.rejected), format_counts(c.missing)]
        for config, c in tally.items()
        if c.replies
    ]
    writer, texts = work.writer, work.task.texts_per_person
    return RewriteSummary(
        writer.model_name, f"{writer.temperature:g}", writer.max_new_tokens, texts, PROMPT_VERSION, counts
    )


def bior_knowledge(people: People, missing_texts: int = 0) -> Knowledge:
    """knowledge.json: that of bioS, but the bits scored on the texts are no bound."""
    return replace(people.knowledge("bioR"), bound=False, missing_texts=missing_texts)


def _check_missing(task: Task, tally: dict[str, Tally], without: int, allow_missing: bool, parts: Path) -> None:
    """Raises MissingTexts if the folder cannot be finished."""
    found = _sum(tally)
    if not found.missing:
        return
    total = found.kept + found.missing.total()
    counts = f"texts missing: {format_counts(found.missing)}, of {total:,}"
    again = f"the finished texts are kept in {parts}; run again without --allow_missing to request the missing ones"
    if without:
        raise MissingTexts(f"{counts}; {without:,} of {task.num_people:,} people have no text; {again}")
    if not allow_missing:
        raise MissingTexts(f"{counts}; {again}, or with it to finish without them")
    control = tally["control"]
    if control.missing and control.kept < MIN_CONTROL:
        raise MissingTexts(
            f"{counts}; the null control has {control.kept} texts, expected {MIN_CONTROL} or more; {again}"
        )


def _advance(bar: tqdm, count: int) -> None:
    """Moves the bar by texts of an earlier call, which do not count for the speed."""
    if not bar.disable:  # a disabled bar has no `initial`
        bar.initial += count
    bar.update(count)


def _sum(tally: dict[str, Tally]) -> Tally:
    return sum(tally.values(), Tally())
