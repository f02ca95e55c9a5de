"""The value lists that bioS draws people from, and the bits of each attribute.

A list is a text file with one value a line. The package has two sets of them (`knowledge/lists`), each with sentence
templates of its own: `short`, values that a tiny model can learn to spell, and `paper`, as long in GPT-2's tokens as
the paper's (tests/corpus/test_gpt2_tokens.py). A folder with files of the same names replaces them. Birth dates and
pronouns need no list: 12 x 28 x 200 dates, 2 pronouns (Part 3.3, 2.2).
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Collection
from dataclasses import dataclass, field
from functools import cache
from importlib.resources import files
from importlib.resources.abc import Traversable
from itertools import pairwise
from pathlib import Path

from knowcap.facts import CorpusError


MONTHS = (
    "January", "February", "March", "April", "May", "June",
    "July", "August", "September", "October", "November", "December",
)  # fmt: skip
DAYS_PER_MONTH = 28
FIRST_YEAR, NUM_YEARS = 1900, 200
BIRTH_DATES = len(MONTHS) * DAYS_PER_MONTH * NUM_YEARS  # 67,200
PRONOUNS = ("He", "She")
LIST_FILES = {
    "first_names": "first_name.txt",
    "middle_names": "middle_name.txt",
    "last_names": "last_name.txt",
    "birth_cities": "city.txt",
    "universities": "university.txt",
    "majors": "field.txt",
    "employers": "company.txt",
}
HEADQUARTERS_SEPARATOR = "; "
DEFAULT_LISTS = "short"
LISTS_VERSIONS = {"short": 1, "paper": 2}  # the first number of the version of what is made from them
Lines = list[tuple[int, str]]  # (line number from 1, stripped text)


def format_birth_date(index: int) -> str:
    """Birth date number `index` as text, e.g. `"October 2, 1996"`.

    Dates are numbered `(year - 1900) * 336 + (month - 1) * 28 + (day - 1)`. Outside `[0, 67200)`: a ValueError.
    """
    if not 0 <= index < BIRTH_DATES:
        raise ValueError(f"birth date index: got {index}, expected 0 to {BIRTH_DATES - 1}; take it modulo BIRTH_DATES")
    year, rest = divmod(int(index), len(MONTHS) * DAYS_PER_MONTH)
    month, day = divmod(rest, DAYS_PER_MONTH)
    return f"{MONTHS[month]} {day + 1}, {FIRST_YEAR + year}"


@cache
def birth_dates() -> tuple[str, ...]:
    """All birth dates as text, by number."""
    return tuple(format_birth_date(index) for index in range(BIRTH_DATES))


@dataclass(frozen=True)
class Pools:
    """The candidates of every attribute of a person; all values of a list are equally likely.

    Values of a list are distinct. `employers[i]` has its headquarters in `work_cities[i]`, so the work city is
    determined by the employer and has no bits of its own. `lists` is the name of the package's lists that these are
    the first part of, or whose templates render them.
    """

    first_names: tuple[str, ...]
    middle_names: tuple[str, ...]
    last_names: tuple[str, ...]
    birth_cities: tuple[str, ...]
    universities: tuple[str, ...]
    majors: tuple[str, ...]
    employers: tuple[str, ...]
    work_cities: tuple[str, ...]
    lists: str = field(default=DEFAULT_LISTS, repr=False)

    def __post_init__(self) -> None:
        """Raises CorpusError for empty lists, repeated values and employers without headquarters."""
        problems = []
        for column in LIST_FILES:
            values = getattr(self, column)
            if len(set(values)) != len(values) or not values:
                problems.append(f"{column}: got {len(values)} values of which {len(set(values))} differ, "
                                "expected at least 1 and all distinct; remove the repeated ones")  # fmt: skip
        if len(self.employers) != len(self.work_cities):
            problems.append(f"work_cities: got {len(self.work_cities)}, expected one for each of the "
                            f"{len(self.employers)} employers; give every employer its headquarters")  # fmt: skip
        if problems:
            raise CorpusError("\n".join(problems))

    @property
    def num_names(self) -> int:
        """N0, the number of full names: first x middle x last."""
        return len(self.first_names) * len(self.middle_names) * len(self.last_names)

    @property
    def name_log2_candidates(self) -> float:
        """log2 N0 (bits)."""
        return math.log2(self.num_names)

    @property
    def candidates(self) -> dict[str, int]:
        """The number of candidates of each attribute that has bits, by the people's column name."""
        return {
            "birth_date": BIRTH_DATES,
            "birth_city": len(self.birth_cities),
            "university": len(self.universities),
            "major": len(self.majors),
            "employer": len(self.employers),
            "pronoun": len(PRONOUNS),
        }

    @property
    def log2_candidates(self) -> dict[str, float]:
        """log2 of `candidates` (bits per person), by the people's column name."""
        return {name: math.log2(count) for name, count in self.candidates.items()}

    @property
    def values_log2(self) -> float:
        """log2 S0 (Part 3.3, Def. 4.3): the bits per person in all values, without the name."""
        return math.fsum(self.log2_candidates.values())

    def version(self, base: str) -> str:
        """The version of draws from these lists: `lists_version` for the package's or their first part, else with a
        digest of the values after it.
        """
        version, ours, package = lists_version(base, self.lists), self._values(), _packaged(self.lists)._values()
        if all(values == of_package[: len(values)] for values, of_package in zip(ours, package, strict=True)):
            return version
        return f"{version}+{hashlib.sha256(repr(ours).encode()).hexdigest()[:12]}"

    def _values(self) -> tuple[tuple[str, ...], ...]:
        return tuple(getattr(self, column) for column in (*LIST_FILES, "work_cities"))

    @property
    def has_name_prefixes(self) -> bool:
        """Whether a first, middle or last name is a string prefix of another one of its list."""
        return any(map(_has_prefixes, (self.first_names, self.middle_names, self.last_names)))


def lists_version(base: str, lists: str = DEFAULT_LISTS) -> str:
    """`base`, the version of the draws, with the first number of these lists of the package."""
    return f"{LISTS_VERSIONS[lists]}.{base.partition('.')[2]}"


def load_pools(pools_dir: str | Path | None = None, fraction: float = 1.0, lists: str = DEFAULT_LISTS) -> Pools:
    """Reads the package's value lists of that name, or those in `pools_dir` (all seven files, UTF-8, a value a line).

    `fraction` in (0, 1] keeps the first `max(2, round(fraction * length))` values of each list. Raises a ValueError if
    it is out of range and a CorpusError with all problems of all files: missing, not UTF-8, empty, repeated values,
    company lines that are not `Name; City, ST`.
    """
    if not 0 < fraction <= 1:
        raise ValueError(f"fraction: got {fraction}, expected 0 < fraction <= 1; use 1.0 for the whole lists")
    if pools_dir is not None:
        folder = Path(pools_dir).expanduser()
    else:
        folder = files("knowcap.knowledge").joinpath("lists", lists)
    contents, problems = read_lists(folder, LIST_FILES.values())
    companies, headquarters = _headquarters(contents[LIST_FILES["employers"]], problems)
    contents[LIST_FILES["employers"]] = companies
    for name, lines in contents.items():
        problems += repeated(lines, name)
    if problems:
        raise CorpusError(f"value lists in {folder}:\n" + "\n".join(problems))
    lines_of = {column: contents[name] for column, name in LIST_FILES.items()} | {"work_cities": headquarters}
    return Pools(**{column: _first(lines, fraction) for column, lines in lines_of.items()}, lists=lists)


@cache
def _packaged(lists: str) -> Pools:
    return load_pools(lists=lists)


def write_pools(pools: Pools, folder: Path) -> None:
    """Writes the lists into a new folder, for `load_pools`; lines end in LF on every platform."""
    folder.mkdir()
    for column, name in LIST_FILES.items():
        lines = getattr(pools, column)
        if column == "employers":
            lines = map(HEADQUARTERS_SEPARATOR.join, zip(pools.employers, pools.work_cities, strict=True))
        (folder / name).write_bytes("".join(f"{line}\n" for line in lines).encode())


def read_lists(folder: Traversable, names: Collection[str]) -> tuple[dict[str, Lines], list[str]]:
    """The non-blank lines of the UTF-8 files `names` of a folder, and the problems found; a file with a problem has no
    lines.

    A byte order mark and any line ends are accepted. Raises a CorpusError only if `folder` is not a folder.
    """
    if not folder.is_dir():
        raise CorpusError(f"got {folder}, expected a folder with {', '.join(names)}; check the path")
    contents: dict[str, Lines] = {name: [] for name in names}
    missing = [name for name in contents if not folder.joinpath(name).is_file()]
    problems = [f"missing: {', '.join(missing)}; add them to the folder, UTF-8, one entry a line"] if missing else []
    for name in [name for name in contents if name not in missing]:
        try:
            content = folder.joinpath(name).read_bytes().replace(b"\r\n", b"\n").replace(b"\r", b"\n")
            lines = content.decode("utf-8-sig").split("\n")
        except UnicodeDecodeError as error:
            number, byte = 1 + error.object.count(b"\n", 0, error.start), error.object[error.start]
            problems.append(f"{name} line {number}: got byte 0x{byte:02x}, expected UTF-8; save the file as UTF-8")
            continue
        contents[name] = [(number, line.strip()) for number, line in enumerate(lines, start=1) if line.strip()]
        if not contents[name]:
            problems.append(f"{name} line 1: got a file without entries, expected at least one; write one a line")
    return contents, problems


def repeated(lines: Lines, name: str) -> list[str]:
    """A problem for each line that repeats an earlier one of the file `name`."""
    first: dict[str, int] = {}
    return [
        f"{name} line {number}: got {text!r}, already on line {first[text]}, expected distinct lines; remove one"
        for number, text in lines
        if first.setdefault(text, number) != number
    ]


def _headquarters(lines: Lines, problems: list[str]) -> tuple[Lines, Lines]:
    companies, cities = [], []
    for number, line in lines:
        company, _, city = (part.strip() for part in line.rpartition(HEADQUARTERS_SEPARATOR))
        if not company or not city:
            problems.append(f"{LIST_FILES['employers']} line {number}: got {line!r}, expected 'Name; City, ST'; "
                            "write '; ' and the headquarters after the name")  # fmt: skip
            continue
        companies.append((number, company))
        cities.append((number, city))
    return companies, cities


def _first(lines: Lines, fraction: float) -> tuple[str, ...]:
    return tuple(text for _, text in lines[: max(2, round(fraction * len(lines)))])


def _has_prefixes(values: tuple[str, ...]) -> bool:
    # All values that sort between a value and an extension of it begin with that value, so neighbours suffice.
    return any(after.startswith(before) for before, after in pairwise(sorted(values)))
