"""Biographies as token ids without tokenizing them: every piece is tokenized once, a biography is gathered from pieces
by numpy.

A biography is first · middle · last · (opener · tail) x 6 · end of text: an opener is the pronoun (after the first
sentence) and a template's words before the value, a tail is the value with what follows it. At build time every piece
is held against its neighbours: what is assembled equals tokenizing the whole text, or building fails.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np
from tokenizers import Tokenizer

from knowcap.corpus.forms import Forms, draw_forms
from knowcap.corpus.render import render
from knowcap.corpus.templates import SENTENCES, Template
from knowcap.knowledge.people import CODES, People
from knowcap.knowledge.pools import (
    BIRTH_DATES,
    DAYS_PER_MONTH,
    FIRST_YEAR,
    MONTHS,
    NUM_YEARS,
    PRONOUNS,
    Pools,
    format_birth_date,
)
from knowcap.tokens import EOS_ID, TokenizerError


_VALUE_CODE = [CODES.index("employer" if sentence == "work_city" else sentence) for sentence in SENTENCES]
_CHECKED_PER_JUNCTION = 4000
_CHECKED_WHOLE = 256


class Pieces:
    """The token ids of every piece of a bioS corpus, and how to gather biographies from them."""

    def __init__(self, pools: Pools, templates: dict[str, tuple[Template, ...]], tokenizer: Tokenizer) -> None:
        """Tokenizes every piece.

        Raises:
            TokenizerError: the tokenizer merges across pieces, or cannot spell a piece.
        """
        self.pools, self.templates = pools, templates
        self._ids: list[list[int]] = []
        self._texts = _piece_texts(pools, templates)
        self.groups: dict[str, range] = {}
        for group, encoded in _encode_pieces(self._texts, templates, tokenizer).items():
            self.groups[group] = range(len(self._ids), len(self._ids) + len(encoded))
            self._ids += encoded
        for ids, text in zip(self._ids, (t for texts in self._texts.values() for t in texts), strict=True):
            if EOS_ID in ids:
                raise TokenizerError(f"the tokenizer cannot spell {text!r}; choose another tokenizer or list")
        _check_junctions(self, tokenizer)
        self.eos = len(self._ids)
        self._ids.append([EOS_ID])
        self._pack()

    def _pack(self) -> None:
        """Flat arrays, and tables from sentence, template and pronoun to pieces."""
        self.lengths = np.array([len(ids) for ids in self._ids], dtype=np.int32)
        self.starts = np.concatenate([[0], np.cumsum(self.lengths[:-1], dtype=np.int64)])
        self.tokens = np.array([token for ids in self._ids for token in ids], dtype=np.int32)
        del self._ids
        most = max(len(ts) for ts in self.templates.values())
        self._opener = np.zeros((1 + len(PRONOUNS), len(SENTENCES), most), dtype=np.int32)
        self._tail = np.zeros((len(SENTENCES), most), dtype=np.int32)
        for s, sentence in enumerate(SENTENCES):
            suffixes = _suffixes(self.templates[sentence])
            size = len(self.groups[f"tail/{sentence}"]) // len(suffixes)
            for t, template in enumerate(self.templates[sentence]):
                self._tail[s, t] = self.groups[f"tail/{sentence}"].start + size * suffixes.index(template.suffix)
                for p, opener in enumerate(("", *PRONOUNS)):
                    self._opener[p, s, t] = self.groups[f"opener{opener}/{sentence}"].start + t

    def compose(self, codes: np.ndarray, forms: Forms) -> np.ndarray:
        """Which pieces make up each biography, the end of text among them.

        Args:
            codes: (9, n), from `People.codes`.
            forms: of the same n people.

        Returns:
            (n, 16) int32.
        """
        out = np.empty((codes.shape[1], 4 + 2 * len(SENTENCES)), dtype=np.int32)
        for column, part in enumerate(("first_name", "middle_name", "last_name")):
            out[:, column] = codes[column] + self.groups[part].start
        order, chosen = forms.order.astype(np.intp), forms.templates.astype(np.intp)
        pronoun = codes[CODES.index("pronoun")].astype(np.intp) + 1
        values = codes[_VALUE_CODE].T  # (n, 6): the value of each sentence
        for place in range(len(SENTENCES)):
            s, t = order[:, place], chosen[:, place]
            out[:, 3 + 2 * place] = self._opener[pronoun if place else 0, s, t]
            out[:, 4 + 2 * place] = self._tail[s, t] + np.take_along_axis(values, s[:, None], axis=1)[:, 0]
        out[:, -1] = self.eos
        return out

    def gather(self, composed: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Token ids of the biographies one after another, each with its end of text, and the length of each.

        Args:
            composed: (n, 16), from `compose`.

        Returns:
            tokens (total,) int32, lengths (n,) int64.
        """
        flat = composed.ravel()
        lengths = self.lengths[flat]
        ends = np.cumsum(lengths, dtype=np.int64)
        index = np.repeat(self.starts[flat] - ends + lengths, lengths)
        index += np.arange(index.size)
        return self.tokens[index], self.lengths[composed].sum(axis=1, dtype=np.int64)

    def used(self) -> np.ndarray:
        """The token ids that any biography can use, sorted, end of text included."""
        return np.unique(self.tokens)

    @property
    def longest(self) -> int:
        """No biography has more tokens than this, its end of text included."""
        names = sum(
            int(self.lengths[list(self.groups[part])].max()) for part in ("first_name", "middle_name", "last_name")
        )
        sentences = 0
        for sentence in SENTENCES:
            openers = max(int(self.lengths[list(self.groups[f"opener{p}/{sentence}"])].max()) for p in ("", *PRONOUNS))
            tail = self.groups[f"tail/{sentence}"]
            sentences += openers + int(self.lengths[tail.start : tail.stop].max())
        return names + sentences + 1


def used_tokens(
    pools: Pools, templates: dict[str, tuple[Template, ...]], tokenizer: Tokenizer, extras: Sequence[str] = ()
) -> set[int]:
    """The ids that lists, templates and extras (questions, a domain token) can use with any tokenizer."""
    used = {
        token
        for encoding in tokenizer.encode_batch_fast(list(extras), add_special_tokens=False)
        for token in encoding.ids
    }
    for encoded in _encode_pieces(_piece_texts(pools, templates), templates, tokenizer).values():
        for ids in encoded:
            used.update(ids)
    return used


def _suffixes(templates: Iterable[Template]) -> list[str]:
    return list(dict.fromkeys(template.suffix for template in templates))


def _piece_texts(pools: Pools, templates: dict[str, tuple[Template, ...]]) -> dict[str, list[str]]:
    """The text of every piece by group; all but first names begin with their blank."""
    texts = {
        "first_name": list(pools.first_names),
        "middle_name": [" " + name for name in pools.middle_names],
        "last_name": [" " + name for name in pools.last_names],
    }
    values: dict[str, Sequence[str]] = {
        "birth_date": [format_birth_date(i) for i in range(BIRTH_DATES)],
        "birth_city": pools.birth_cities,
        "university": pools.universities,
        "major": pools.majors,
        "employer": pools.employers,
        "work_city": pools.work_cities,
    }
    for sentence in SENTENCES:
        for pronoun in ("", *PRONOUNS):
            subject = " " + pronoun if pronoun else ""
            texts[f"opener{pronoun}/{sentence}"] = [subject + t.prefix[:-1] for t in templates[sentence]]
        texts[f"tail/{sentence}"] = [
            f" {value}{suffix}" for suffix in _suffixes(templates[sentence]) for value in values[sentence]
        ]
    return texts


def _encode_pieces(
    texts: dict[str, list[str]], templates: dict[str, tuple[Template, ...]], tokenizer: Tokenizer
) -> dict[str, list[list[int]]]:
    """The ids of every piece by group; dates are put together from month, day and year (the junction checks see them
    whole).
    """
    encoded = {}
    for group, pieces in texts.items():
        if group != "tail/birth_date":
            encoded[group] = _encode_after("" if group == "first_name" else "a", pieces, tokenizer)
            continue
        months = _encode_after("a", [f" {month}" for month in MONTHS], tokenizer)
        days = _encode_after("a", [f" {day}," for day in range(1, DAYS_PER_MONTH + 1)], tokenizer)
        years = [f" {year}" for year in range(FIRST_YEAR, FIRST_YEAR + NUM_YEARS)]
        encoded[group] = [
            month + day + year
            for suffix in _suffixes(templates["birth_date"])
            for year in _encode_after(",", [year + suffix for year in years], tokenizer)
            for month in months
            for day in days
        ]
    return encoded


def _encode_after(context: str, texts: list[str], tokenizer: Tokenizer) -> list[list[int]]:
    """The ids of each text where it follows the context, which must end a token."""
    before = tokenizer.encode(context, add_special_tokens=False).ids if context else []
    out = []
    for text, encoding in zip(
        texts, tokenizer.encode_batch_fast([context + t for t in texts], add_special_tokens=False), strict=True
    ):
        ids = encoding.ids
        if ids[: len(before)] != before or len(ids) == len(before):
            raise TokenizerError(f"the tokenizer merges {text!r} with the word before it; choose another tokenizer")
        out.append(ids[len(before) :])
    return out


def _check_junctions(pieces: Pieces, tokenizer: Tokenizer) -> None:
    """Every piece beside a neighbour at either side tokenizes as the two do alone.

    Of longer groups (dates) a few thousand pieces, spread evenly, are held against neighbours.
    """
    before_opener = [f"tail/{sentence}" for sentence in SENTENCES]
    junctions = [("first_name", "middle_name"), ("middle_name", "last_name")]
    junctions += [("last_name", f"opener/{sentence}") for sentence in SENTENCES]
    junctions += [(f"opener{p}/{sentence}", f"tail/{sentence}") for sentence in SENTENCES for p in ("", *PRONOUNS)]
    junctions += [(tail, f"opener{p}/{s}") for tail in before_opener for s in SENTENCES for p in PRONOUNS]
    for left, right in junctions:
        _check_junction(pieces, left, right, tokenizer)


def _check_junction(pieces: Pieces, left: str, right: str, tokenizer: Tokenizer) -> None:
    count = min(_CHECKED_PER_JUNCTION, max(len(pieces.groups[left]), len(pieces.groups[right])))
    lefts = np.linspace(0, max(count, len(pieces.groups[left])) - 1, count).astype(int) % len(pieces.groups[left])
    rights = np.linspace(0, max(count, len(pieces.groups[right])) - 1, count).astype(int)[::-1] % len(
        pieces.groups[right]
    )
    context = "" if left == "first_name" else "a"
    texts = [context + pieces._texts[left][a] + pieces._texts[right][b] for a, b in zip(lefts, rights, strict=True)]
    before = tokenizer.encode(context, add_special_tokens=False).ids if context else []
    for a, b, encoding in zip(
        lefts, rights, tokenizer.encode_batch_fast(texts, add_special_tokens=False), strict=True
    ):
        alone = before + pieces._ids[pieces.groups[left][a]] + pieces._ids[pieces.groups[right][b]]
        if encoding.ids != alone:
            raise TokenizerError(
                f"the tokenizer merges {pieces._texts[left][a]!r} and {pieces._texts[right][b]!r}: "
                f"{len(encoding.ids)} tokens together, {len(alone)} as two pieces; choose another tokenizer"
            )


def check_whole_texts(pieces: Pieces, people: People, tokenizer: Tokenizer, count: int = _CHECKED_WHOLE) -> None:
    """Holds assembled biographies against tokenizing their whole text.

    Raises:
        TokenizerError: names the first text that differs.
    """
    persons = np.unique(np.linspace(0, people.num_people - 1, min(count, people.num_people)).astype(np.int64))
    forms = draw_forms(people.seed, persons, 0, pieces.templates)
    tokens, lengths = pieces.gather(pieces.compose(people.codes(persons), forms))
    ends = np.cumsum(lengths)
    rows = list(render(people, persons, 0, pieces.templates))
    encodings = tokenizer.encode_batch_fast([row.text for row in rows], add_special_tokens=False)
    for row, end, length, encoding in zip(rows, ends, lengths, encodings, strict=True):
        if [*encoding.ids, EOS_ID] != tokens[end - length : end].tolist():
            raise TokenizerError(f"assembled and tokenized ids differ on {row.text!r}; choose another tokenizer")
