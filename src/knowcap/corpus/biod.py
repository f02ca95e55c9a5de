"""The bioD corpus (Part 3.3, Definition 2.2): people with K random values each, in sentences or in the compact form.

    Anya Briar Forger's ID 7 is 104 131, 117 100. ID 2 is 109 109, 126 113.
    N12 N40 N3 N40 ID7 104 131 117 100 ID2 109 109 126 113

Names are those of bioS, and values are in an order drawn for every exposure. Later sentences do not have "Her" as in
the paper: a pronoun would state a gender, which is not part of the definition. Symbols are numbers with more digits
than any attribute's, and always single tokens. The compact form, for tiny models, has
names of 4 of 64 symbols, one token per attribute, and no other words.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from itertools import pairwise

import numpy as np
from tokenizers import Tokenizer

from knowcap.corpus.junk import Junk
from knowcap.corpus.pieces import MARKER, Pieces, PieceTexts, used_tokens
from knowcap.corpus.tokenizer import alphabet_of, reduce_tokenizer, train_tokenizer, with_words, word_tokenizer
from knowcap.facts import NAME, Attribute, CorpusError, Knowledge, Row, Span
from knowcap.knowledge.diversity import Diversity, compact_names, english_names
from knowcap.knowledge.philox import KeyedPermutation, words
from knowcap.knowledge.pools import Pools, load_pools
from knowcap.recipe import Recipe


VERSION = "1.0.0"  # of sets, values and sentences; with the first number of the lists of names (Pools.version)
ENTITY_COLUMN = "person_id"
_VALUES_KEPT = 16_000_000  # chunk numbers (4 bytes each) kept in memory rather than drawn for every shard
_WEIGHT = 2000  # the number of repetitions of a list as a whole in the tokenizer's training texts


def biod_of(recipe: Recipe, pools: Pools | None = None) -> BioD:
    """The recipe's bioD, its names from `pools` where they are given.

    Raises:
        CorpusError: lists or numbers that cannot be used.
    """
    if recipe.compact and recipe.tokenizer_name is not None:
        raise CorpusError(
            f"tokenizer_name={recipe.tokenizer_name!r}, but the compact form has its own vocabulary, one token per "
            "symbol; leave out tokenizer_name or compact"
        )
    keys = ("num_attributes", "chunks_per_value", "diversity", "chunk_length", "alphabet_size", "seed")
    diversity = Diversity(**{key: getattr(recipe, key) for key in keys})
    if pools is None and not recipe.compact:
        pools = load_pools(recipe.pools_dir, recipe.pools_fraction, recipe.lists)
    junk = Junk(recipe.junk_people, recipe.domain_token, recipe.junk_tokens)
    return BioD(diversity, recipe.num_people, None if recipe.compact else pools, junk)


class BioD:
    """Texts of `num_people` people; names are from `pools`; without pools the texts have the compact form. `junk`
    people come after them; their values are from the same diversity sets.

    Attributes:
        name_lists: the lists that names consist of; a space begins the texts of all but the first.
        symbols: all T of them, as text.

    Raises:
        CorpusError: more people than names.
    """

    def __init__(
        self, diversity: Diversity, num_people: int, pools: Pools | None = None, junk: Junk | None = None
    ) -> None:
        self.diversity, self.num_people, self.pools, self.junk = diversity, num_people, pools, junk or Junk()
        self.name_lists = compact_names() if pools is None else english_names(pools)
        self._sizes = tuple(len(part) for part in self.name_lists)
        self._num_names = math.prod(self._sizes)
        if not 1 <= num_people <= self._num_names:
            raise CorpusError(
                f"num_people={num_people:,}, expected 1 to {self._num_names:,}, the number of distinct names; lower it"
                f"{', or give larger lists' if pools is not None else ''}"
            )
        if self.first_outsider > self._num_names:
            raise CorpusError(
                f"num_people={num_people:,} and junk_people={self.junk.num_people:,}, but there are "
                f"{self._num_names:,} names, and names are distinct; lower one"
            )
        least = 10 ** max(2, len(str(diversity.num_attributes)))
        self.symbols = [str(number) for number in range(least, least + diversity.alphabet_size)]
        self._numbers = range(1, diversity.num_attributes + 1)
        self._knowledge: Knowledge | None = None
        self._strings: np.ndarray | None = None
        self._chunks: np.ndarray | None = None

    @property
    def compact(self) -> bool:
        """Whether texts have only names, attributes and values."""
        return self.pools is None

    @property
    def seed(self) -> int:
        """The seed of names, sets, values and their order."""
        return self.diversity.seed

    @property
    def first_outsider(self) -> int:
        """The number of the first person that no training text is about."""
        return self.num_people + self.junk.num_people

    @property
    def num_outsiders(self) -> int:
        """The number of possible people outside the sample and the junk."""
        return self._num_names - self.first_outsider

    def knowledge(self) -> Knowledge:
        """The content of knowledge.json: C log2 D bits per value, S log2(T^L / D) bits per attribute's diversity set.

        S is D if every string of the set is the first chunk of a person's value, as the theorem needs (N >= D log N).
        For small N only the S strings that are first chunks are credited, since p3 measures no others. A set of all
        T^L strings has 0 bits and no term.
        """
        if self._knowledge is None:
            d, attributes = self.diversity, [f"id_{number}" for number in self._numbers]
            credited = d.num_first_chunks(self.num_people) if d.log2_strings else []
            self._knowledge = Knowledge(
                name="bioD",
                version=VERSION if self.pools is None else self.pools.version(VERSION),
                num_people=self.num_people,
                seed=self.seed,
                entity_column=ENTITY_COLUMN,
                name_log2_candidates=math.log2(self._num_names),
                text_prefix=self.junk.prefix,
                attributes=tuple(Attribute(name, d.candidates, d.log2_candidates) for name in attributes),
                diversity_terms=tuple(
                    {
                        "attribute": name,
                        "fact": f"{name}.first_chunk",
                        "first_chunk": rf"\d+(?: \d+){{{d.chunk_length - 1}}}",
                        "diversity": d.diversity,
                        "credited": count,
                        "log2_candidates": count * d.log2_strings,
                    }
                    for name, count in zip(attributes, credited, strict=bool(credited))
                ),
            )
        return self._knowledge

    def people_columns(self, first: int, end: int) -> dict[str, list]:
        """Names, and the values of attributes 1 … K, of people first … end - 1."""
        persons = np.arange(first, end)
        values = [[self.value(a, c) for a, c in enumerate(of_one)] for of_one in self._chunks_of(persons).tolist()]
        return {ENTITY_COLUMN: persons.tolist(), NAME: list(self._full_names(persons)), "values": values}

    def rows(self, persons: np.ndarray, exposure: int) -> Iterator[Row]:
        """The texts of persons (n,) at one exposure, one row each, in their order."""
        rows = self._rows(persons, exposure)
        return self.junk.marked(rows, persons, self.num_people, self.seed) if self.junk.markers else rows

    def _rows(self, persons: np.ndarray, exposure: int) -> Iterator[Row]:
        orders = self._orders(persons, exposure).tolist()
        chunks = self._chunks_of(persons).tolist()
        for person, text, order, of_one in zip(
            persons.tolist(), self._full_names(persons), orders, chunks, strict=True
        ):
            spans = [Span(NAME, 0, len(text))]
            for place, attribute in enumerate(order):
                text += self._opener(attribute + 1, first=place == 0) + " "
                value = self.value(attribute, of_one[attribute])
                spans.append(Span(f"id_{attribute + 1}", len(text), len(text) + len(value)))
                text += value + ("" if self.compact else ".")
            yield Row(text, tuple(spans), person)

    def vocabulary_texts(self) -> Iterator[str]:
        """Names and words, each repeated by its weight in a text, for the tokenizer; symbols are tokens anyway."""
        openers = [self._opener(number, first) for number in self._numbers for first in (True, False)]
        for texts in (*self.name_lists, openers, [","], ["."]):
            for text in texts:
                for _ in range(max(1, round(_WEIGHT / len(texts)))):
                    yield text

    def own_tokenizer(self, vocab_size: int) -> tuple[Tokenizer, int]:
        """The corpus' own tokenizer, and the vocabulary rows that a model needs.

        Sentences: a BPE of at most `vocab_size` tokens for names and words, plus a token for each symbol.
        Compact: a token for each symbol (also of names) and each attribute; `vocab_size` has no effect.
        """
        pieces = self.piece_texts()
        if self.compact:
            words = [text.strip() for name, texts in pieces.groups.items() if name != MARKER for text in texts]
            if taken := sorted(set(pieces.markers) & set(words)):
                raise CorpusError(
                    f"domain_token={taken[0]!r} is a token of the compact form already; choose another word"
                )
            return word_tokenizer([*words, *pieces.markers])
        backend = with_words(train_tokenizer(self.vocabulary_texts(), vocab_size), pieces.groups["symbol"])
        return reduce_tokenizer(backend, used_tokens(pieces, backend) | alphabet_of(backend), pieces.markers)

    def piece_texts(self) -> PieceTexts:
        """The pieces of all possible texts: every symbol, used or not, is one."""
        parts = [f"name_{number}" for number in range(len(self.name_lists))]
        groups = dict(zip(parts, self.name_lists, strict=True))
        openers = ["opener"] if self.compact else ["opener/first", "opener"]
        for opener in openers:
            groups[opener] = [self._opener(number, opener != "opener") for number in self._numbers]
        if not self.compact:  # a token may span the end of a name such as "Lin Jr." and "'s"
            groups[parts[-1]] = [name + "'s" for name in self.name_lists[-1]]
            groups["opener/first"] = [opener.removeprefix("'s") for opener in groups["opener/first"]]
        groups["symbol"] = [f" {symbol}" for symbol in self.symbols]
        junctions = [*pairwise(parts), (parts[-1], openers[0]), ("symbol", "symbol")]
        junctions += [(opener, "symbol") for opener in openers]
        if self.compact:
            junctions.append(("symbol", "opener"))
        else:
            groups |= {"comma": [","], "stop": ["."]}
            junctions += [("symbol", "comma"), ("comma", "symbol"), ("symbol", "stop"), ("stop", "opener")]
        if self.junk.markers:
            groups[MARKER] = [f"{marker} " for marker in self.junk.markers]
            junctions.append((MARKER, parts[0]))
        return PieceTexts(groups, junctions, frozenset({MARKER, parts[0]}))

    def compose(self, pieces: Pieces, persons: np.ndarray, exposure: int | np.ndarray) -> np.ndarray:
        """The pieces of the texts of persons (n,) at one exposure, one per symbol: (n, pieces per text) int32.

        One more with tokens in front of texts.

        Raises:
            CorpusError: a symbol is not a single token.
        """
        starts = {group: numbers.start for group, numbers in pieces.groups.items()}
        self._check_symbols(pieces)
        order = self._orders(persons, exposure)[:, :, None]
        chunks = np.take_along_axis(self._chunks_of(persons), order, axis=1)
        n, k, c = chunks.shape
        values = self._sets()[order, chunks] + starts["symbol"]  # (n, K, C, L)
        openers = order + starts["opener"]
        if not self.compact:
            values = np.concatenate([values, np.full((n, k, c, 1), starts["comma"])], axis=3)
            values[:, :, -1, -1] = starts["stop"]
            openers[:, 0] += starts["opener/first"] - starts["opener"]
        sentences = np.concatenate([openers, values.reshape(n, k, -1)], axis=2).reshape(n, -1)
        names = self._name_codes(persons) + [starts[f"name_{part}"] for part in range(len(self.name_lists))]
        columns = [names, sentences, np.full((n, 1), pieces.eos)]
        if self.junk.markers:
            columns.insert(0, self.junk.marker_pieces(pieces, persons, self.num_people, self.seed)[:, None])
        return np.concatenate(columns, axis=1).astype(np.int32)

    def text_lengths(self, pieces: Pieces, persons: np.ndarray, exposure: int | np.ndarray) -> np.ndarray:
        """The tokens of the texts of persons (n,) at one exposure, end of text included: (n,) int64.

        They differ only in the name and in the opener of the first sentence.
        """
        self._check_symbols(pieces)
        starts = {group: numbers.start for group, numbers in pieces.groups.items()}
        names = self._name_codes(persons) + np.array([starts[f"name_{part}"] for part in range(len(self.name_lists))])
        d, openers = self.diversity, pieces.lengths[list(pieces.groups["opener"])].astype(np.int64)
        same = d.num_attributes * d.chunks_per_value * d.chunk_length + int(openers.sum()) + 1
        lengths = pieces.lengths[names].sum(axis=1, dtype=np.int64) + same
        if self.junk.markers:
            lengths += self.junk.marker_numbers(persons, self.num_people, self.seed) >= 0
        if self.compact:
            return lengths
        separators = (d.chunks_per_value - 1) * pieces.longest("comma") + pieces.longest("stop")
        more = pieces.lengths[list(pieces.groups["opener/first"])] - openers
        first = np.argmin(self._order_keys(persons, exposure), axis=0)
        return lengths + d.num_attributes * separators + more[first]

    def longest(self, pieces: Pieces) -> int:
        """No text has more tokens than this, its end of text included."""
        d = self.diversity
        name = sum(pieces.longest(f"name_{part}") for part in range(len(self.name_lists)))
        opener = max(pieces.longest(group) for group in pieces.groups if group.startswith("opener"))
        separators = 0 if self.compact else (d.chunks_per_value - 1) * pieces.longest("comma") + pieces.longest("stop")
        values = d.num_attributes * (opener + d.chunks_per_value * d.chunk_length + separators)
        return name + values + 1 + int(bool(self.junk.markers))

    def _opener(self, number: int, first: bool) -> str:
        if self.compact:
            return f" ID{number}"
        return f"'s ID {number} is" if first else f" ID {number} is"

    def value(self, attribute: int, chunks: list[int]) -> str:
        """A value of an attribute (0 … K - 1) as text, from the numbers of its chunks."""
        strings = self._sets()[attribute, chunks].tolist()
        strings_as_text = (" ".join(self.symbols[symbol] for symbol in string) for string in strings)
        return (" " if self.compact else ", ").join(strings_as_text)

    def _name_codes(self, persons: np.ndarray) -> np.ndarray:
        names = KeyedPermutation(self._num_names, self.seed, "names")(persons)
        return np.stack(np.unravel_index(names, self._sizes), axis=1)

    def _full_names(self, persons: np.ndarray) -> Iterator[str]:
        for codes in self._name_codes(persons).tolist():
            yield "".join(part[code] for part, code in zip(self.name_lists, codes, strict=True))

    def _orders(self, persons: np.ndarray, exposure: int | np.ndarray) -> np.ndarray:
        """The order of the attributes in each text: (n, K), uniform permutations."""
        return np.argsort(self._order_keys(persons, exposure).T, axis=1, kind="stable")

    def _order_keys(self, persons: np.ndarray, exposure: int | np.ndarray) -> np.ndarray:
        """The keys that attributes are sorted by: (K, n) random 32-bit words."""
        blocks = range(-(-self.diversity.num_attributes // 4))
        random = np.concatenate([words(self.seed, "biod/order", persons, exposure, block) for block in blocks])
        return random[: self.diversity.num_attributes]

    def _sets(self) -> np.ndarray:
        """All diversity sets: (K, D, L)."""
        if self._strings is None:
            kind = np.uint16 if self.diversity.alphabet_size <= 2**16 else np.int32
            self._strings = np.stack([self.diversity.strings(a).astype(kind) for a in range(len(self._numbers))])
        return self._strings

    def _chunks_of(self, persons: np.ndarray) -> np.ndarray:
        d = self.diversity
        many = self.num_people * d.num_attributes * d.chunks_per_value > _VALUES_KEPT
        if many or (persons.size and int(persons.max()) >= self.num_people):
            return d.chunks(persons)
        if self._chunks is None:
            self._chunks = d.chunks(np.arange(self.num_people))
        return self._chunks[persons]

    def _check_symbols(self, pieces: Pieces) -> None:
        numbers = pieces.groups["symbol"]
        lengths = pieces.lengths[numbers.start : numbers.stop]
        if (lengths > 1).any():
            worst = int(np.argmax(lengths > 1))
            fewer = f"give an alphabet_size of at most {worst}, or " if worst else ""
            raise CorpusError(
                f"the tokenizer makes {lengths[worst]} tokens of the symbol {self.symbols[worst]!r}, expected one; "
                f"{fewer}leave tokenizer_name out, to train a tokenizer that has all symbols"
            )
