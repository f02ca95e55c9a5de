"""The bioS corpus: people drawn from value lists, rendered in six sentences, whose order and words are drawn again at
every exposure or fixed, by the variant.

A biography is first · middle · last · (opener · tail) x 6 · end of text: an opener is the pronoun (after the first
sentence) and a template's words before the value, a tail is the value with what follows it. Where full names stand in
for pronouns, every later sentence begins with first · middle · last too. A token that marks useful or junk texts may
stand first.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace

import numpy as np

from knowcap.corpus.junk import Junk
from knowcap.corpus.pieces import MARKER, Parts, Pieces, PieceTexts
from knowcap.corpus.questions import (
    ANSWER,
    QUESTION_END,
    QUESTION_START,
    question_columns,
    question_groups,
    question_junctions,
)
from knowcap.corpus.renderings import Forms, Templates, Variant, draw_forms, render
from knowcap.corpus.templates import SENTENCES, Template
from knowcap.facts import CorpusError, Knowledge, Row
from knowcap.knowledge.people import CODES, COLUMNS, ENTITY_COLUMN, People
from knowcap.knowledge.pools import (
    DAYS_PER_MONTH,
    FIRST_YEAR,
    MONTHS,
    NUM_YEARS,
    PRONOUNS,
    birth_dates,
)


_NAMES = ("first_name", "middle_name", "last_name")
_LATER_NAMES = ("later_first_name", "middle_name", "last_name")
_VALUE_CODE = [CODES.index("employer" if sentence == "work_city" else sentence) for sentence in SENTENCES]
_CODES_KEPT = 4_000_000  # people whose codes (36 bytes each) are kept in memory rather than drawn for every shard
_WEIGHT = 2000  # the number of repetitions of a list as a whole in the tokenizer's training texts


class BioS:
    """Biographies of `people` in sentences from `templates`, rendered by `variant`; `junk` people come after them.

    If `with_questions`, the vocabulary has the words of questions too.

    Raises:
        CorpusError: more people than names.
    """

    def __init__(
        self,
        people: People,
        templates: Templates,
        variant: Variant | None = None,
        junk: Junk | None = None,
        with_questions: bool = False,
    ) -> None:
        self.people, self.templates, self.variant, self.junk = people, templates, variant or Variant(), junk or Junk()
        if self.junk.num_people > people.num_outsiders:
            raise CorpusError(
                f"num_people={people.num_people:,} and junk_people={self.junk.num_people:,}, but the lists have "
                f"{people.pools.num_names:,} names, and names are distinct; lower one, or give larger lists"
            )
        self.with_questions = with_questions
        self._openers = ("",) if self.variant.full_name else ("", *PRONOUNS)  # what an opener begins with
        self._codes: np.ndarray | None = None
        self._tables: tuple[Pieces, np.ndarray, np.ndarray] | None = None

    @property
    def num_people(self) -> int:
        """N; people with numbers from N on are junk, and outsiders after that."""
        return self.people.num_people

    @property
    def first_outsider(self) -> int:
        """The number of the first person that no training text is about."""
        return self.people.num_people + self.junk.num_people

    @property
    def num_outsiders(self) -> int:
        """The number of possible people outside the sample and the junk."""
        return self.people.num_outsiders - self.junk.num_people

    @property
    def seed(self) -> int:
        """The seed of people, texts and their order."""
        return self.people.seed

    def knowledge(self) -> Knowledge:
        """The content of knowledge.json; without the gender if no text states it."""
        knowledge = replace(self.people.knowledge("bioS"), text_prefix=self.junk.prefix)
        if not self.variant.full_name:
            return knowledge
        return replace(knowledge, attributes=tuple(a for a in knowledge.attributes if a.name != "pronoun"))

    def people_columns(self, first: int, end: int) -> dict[str, list[int] | list[str]]:
        """The people config's columns for people first … end - 1."""
        texts = list(self.people.texts(self.people.codes(np.arange(first, end))))
        columns: dict[str, list[int] | list[str]] = {ENTITY_COLUMN: list(range(first, end))}
        return columns | {column: [person[column] for person in texts] for column in COLUMNS[1:]}

    def rows(self, persons: np.ndarray, exposure: int) -> Iterator[Row]:
        """The biographies of persons (n,) at one exposure as text with spans."""
        rows = render(self.people, persons, exposure, self.templates, self.variant)
        if not self.junk.markers:
            return rows
        return self.junk.marked(rows, persons, self.num_people, self.seed)

    def questions(self, persons: np.ndarray) -> dict[str, list[int] | list[str]]:
        """The qa config's columns for persons (n,)."""
        return question_columns(self.people, persons)

    def vocabulary_texts(self) -> Iterator[str]:
        """Every list and the templates, each repeated by its weight in a biography, to train a tokenizer on.

        All symbols of all values occur, whether a sampled person uses them or not.
        """
        pools = self.people.pools
        lists = [list(pools.first_names)]
        for values in (pools.middle_names, pools.last_names, pools.birth_cities, pools.universities, pools.majors):
            lists.append([" " + value for value in values])
        lists += [[" " + value for value in values] for values in (pools.employers, pools.work_cities)]
        lists.append([" " + month for month in MONTHS])
        lists.append([f" {day}," for day in range(1, DAYS_PER_MONTH + 1)])
        lists.append([f" {year}." for year in range(FIRST_YEAR, FIRST_YEAR + NUM_YEARS)])
        if self.variant.full_name:
            lists.append([" " + name for name in pools.first_names])
        else:
            lists.append([" " + pronoun for pronoun in PRONOUNS for _ in range(5)])
        for sentence in SENTENCES:
            lists.append([template.prefix.rstrip() + template.suffix for template in self.templates[sentence]])
        if self.with_questions:
            words = question_groups()
            lists += [[" " + text for text in words[QUESTION_START]], words[QUESTION_END]]
        for values in lists:
            for value in values:
                for _ in range(max(1, round(_WEIGHT / len(values)))):
                    yield value

    def piece_texts(self) -> PieceTexts:
        """The pieces of all possible biographies."""
        pools = self.people.pools
        groups = {
            "first_name": list(pools.first_names),
            "middle_name": [" " + name for name in pools.middle_names],
            "last_name": [" " + name for name in pools.last_names],
        }
        if self.variant.full_name or self.with_questions:
            groups["later_first_name"] = [" " + name for name in pools.first_names]
        values: dict[str, Sequence[str]] = {
            "birth_date": birth_dates(),
            "birth_city": pools.birth_cities,
            "university": pools.universities,
            "major": pools.majors,
            "employer": pools.employers,
            "work_city": pools.work_cities,
        }
        for sentence in SENTENCES:
            for pronoun in self._openers:
                subject = " " + pronoun if pronoun else ""
                groups[f"opener{pronoun}/{sentence}"] = [subject + t.prefix[:-1] for t in self.templates[sentence]]
            suffixes = _suffixes(self.templates[sentence])
            groups[f"tail/{sentence}"] = [f" {value}{suffix}" for suffix in suffixes for value in values[sentence]]
        parts = {"tail/birth_date": _date_parts(_suffixes(self.templates["birth_date"]))}
        junctions, beginnings = _junctions(self.variant.full_name), {MARKER, "first_name"}
        if self.with_questions:
            groups |= question_groups(values)
            parts[f"{ANSWER}/birth_date"] = _date_parts(["."])
            junctions += question_junctions()
            beginnings.add(QUESTION_START)
        if self.junk.markers:
            groups[MARKER] = [f"{marker} " for marker in self.junk.markers]
            junctions.append((MARKER, "first_name"))
        return PieceTexts(groups, junctions, frozenset(beginnings), parts)

    def compose(self, pieces: Pieces, persons: np.ndarray, exposure: int | np.ndarray) -> np.ndarray:
        """The pieces of the biographies of persons (n,) at one exposure: (n, 16) int32, end of text included.

        (n, 31) with full names in place of pronouns; one more with tokens in front of texts.
        """
        forms = draw_forms(self.people.seed, persons, exposure, self.templates, self.variant)
        opener, tail = self._piece_tables(pieces)
        codes = self._codes_of(persons)
        step = self._pieces_a_sentence
        marked = int(bool(self.junk.markers))
        whole = np.empty((len(persons), marked + 4 + step * (len(SENTENCES) - 1) + 2), dtype=np.int32)
        if marked:
            whole[:, 0] = self.junk.marker_pieces(pieces, persons, self.num_people, self.seed)
        out = whole[:, marked:]
        for column, part in enumerate(_NAMES):
            out[:, column] = codes[column] + pieces.groups[part].start
        if self.variant.full_name:
            for column, part in enumerate(_LATER_NAMES):
                out[:, step + column : -1 : step] = (codes[column] + pieces.groups[part].start)[:, None]
        self._compose_sentences(out, codes, forms, opener, tail)
        out[:, -1] = pieces.eos
        return whole

    def longest(self, pieces: Pieces) -> int:
        """No biography has more tokens than this, its end of text included."""
        names = sum(pieces.longest(part) for part in _NAMES)
        if self.variant.full_name:
            names += (len(SENTENCES) - 1) * sum(pieces.longest(part) for part in _LATER_NAMES)
        openers = sum(max(pieces.longest(f"opener{p}/{sentence}") for p in self._openers) for sentence in SENTENCES)
        tails = sum(pieces.longest(f"tail/{sentence}") for sentence in SENTENCES)
        return names + openers + tails + 1 + int(bool(self.junk.markers))

    @property
    def _pieces_a_sentence(self) -> int:
        """In later sentences: opener and tail, and the pieces of a repeated name."""
        return 2 + (len(_LATER_NAMES) if self.variant.full_name else 0)

    def _compose_sentences(
        self, out: np.ndarray, codes: np.ndarray, forms: Forms, opener: np.ndarray, tail: np.ndarray
    ) -> None:
        order, chosen = forms.order.astype(np.intp), forms.templates.astype(np.intp)
        pronoun = 0 if self.variant.full_name else codes[CODES.index("pronoun")].astype(np.intp) + 1
        values = codes[_VALUE_CODE].T  # (n, 6): the value of each sentence
        for place in range(len(SENTENCES)):
            s, t = order[:, place], chosen[:, place]
            column = 3 + self._pieces_a_sentence * place
            out[:, column] = opener[pronoun if place else 0, s, t]
            out[:, column + 1] = tail[s, t] + np.take_along_axis(values, s[:, None], axis=1)[:, 0]

    def _codes_of(self, persons: np.ndarray) -> np.ndarray:
        if self.num_people > _CODES_KEPT or (persons.size and int(persons.max()) >= self.num_people):
            return self.people.codes(persons)
        if self._codes is None:
            self._codes = self.people.codes(np.arange(self.num_people))
        return self._codes[:, persons]

    def _piece_tables(self, pieces: Pieces) -> tuple[np.ndarray, np.ndarray]:
        """From (pronoun or none, sentence, template) to the opener, from (sentence, template) to the first tail."""
        if self._tables is None or self._tables[0] is not pieces:
            most = max(len(ts) for ts in self.templates.values())
            opener = np.zeros((len(self._openers), len(SENTENCES), most), dtype=np.int32)
            tail = np.zeros((len(SENTENCES), most), dtype=np.int32)
            for s, sentence in enumerate(SENTENCES):
                suffixes = _suffixes(self.templates[sentence])
                size = len(pieces.groups[f"tail/{sentence}"]) // len(suffixes)
                for t, template in enumerate(self.templates[sentence]):
                    tail[s, t] = pieces.groups[f"tail/{sentence}"].start + size * suffixes.index(template.suffix)
                    for p, pronoun in enumerate(self._openers):
                        opener[p, s, t] = pieces.groups[f"opener{pronoun}/{sentence}"].start + t
            self._tables = (pieces, opener, tail)
        return self._tables[1], self._tables[2]


def _suffixes(templates: Sequence[Template]) -> list[str]:
    return list(dict.fromkeys(template.suffix for template in templates))


def _date_parts(suffixes: Sequence[str]) -> Parts:
    """Dates in the order of their numbers, year by year, as month · day · year, so that few texts need tokenizing."""
    years = [f" {year}{suffix}" for suffix in suffixes for year in range(FIRST_YEAR, FIRST_YEAR + NUM_YEARS)]
    lists = [
        ("a", [f" {month}" for month in MONTHS]),
        ("a", [f" {day}," for day in range(1, DAYS_PER_MONTH + 1)]),
        (",", years),
    ]
    year, month, day = np.indices((len(years), len(MONTHS), DAYS_PER_MONTH)).reshape(3, -1)
    return Parts(lists, np.stack([month, day, year], axis=1))


def _junctions(full_name: bool) -> list[tuple[str, str]]:
    junctions = [("first_name", "middle_name"), ("middle_name", "last_name")]
    junctions += [("last_name", f"opener/{sentence}") for sentence in SENTENCES]
    if full_name:
        junctions += [("later_first_name", "middle_name")]
        junctions += [(f"opener/{sentence}", f"tail/{sentence}") for sentence in SENTENCES]
        return junctions + [(f"tail/{sentence}", "later_first_name") for sentence in SENTENCES]
    junctions += [(f"opener{p}/{sentence}", f"tail/{sentence}") for sentence in SENTENCES for p in ("", *PRONOUNS)]
    return junctions + [(f"tail/{a}", f"opener{p}/{b}") for a in SENTENCES for b in SENTENCES for p in PRONOUNS]
