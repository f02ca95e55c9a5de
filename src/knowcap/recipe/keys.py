"""A key of a recipe: help, range and choices, where it has an effect, what it shapes; its problems in words."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from difflib import get_close_matches
from typing import Any, Literal, NamedTuple


CORPORA = ("bioS", "bioD", "morris", "table")
LISTS = ("short", "paper")  # the package's value lists, each with sentence templates of its own
EXTRACT_METHODS = ("lora", "full", "as_trained")
START_TOKENS = ("auto", "bos", "eos", "none")  # what stands before each text

# What a key's value changes. `run`: only where and under which name results are saved; `draws`: all that is random.
Shapes = Literal["run", "draws", "texts", "tokens", "windows", "training", "scoring", "quantization", "extraction"]


class RecipeError(ValueError):
    """All problems of a recipe, a sweep or a run folder.

    Attributes:
        problems: one message for each problem.
        source: the recipe, file or folder that has them.
    """

    def __init__(self, problems: Sequence[str], source: object = "recipe") -> None:
        self.problems, self.source = list(problems), source
        numbered = [f"  {n}. {problem}" for n, problem in enumerate(self.problems, start=1)]
        several = "\n".join([f"{len(numbered)} problems", *numbered])
        super().__init__(f"{source}: {self.problems[0] if len(numbered) == 1 else several}")

    def __reduce__(self) -> tuple[type[RecipeError], tuple[list[str], object]]:
        return type(self), (self.problems, self.source)


class Range(NamedTuple):
    """The values that a key may have: a test, and the same in words after "expected"."""

    holds: Callable[[Any], bool]
    expected: str


NOT_NEGATIVE = Range(lambda v: v >= 0, "0 or more")
POSITIVE = Range(lambda v: v > 0, "more than 0")


@dataclass(frozen=True)
class Condition:
    """When a key has an effect.

    Attributes:
        holds: whether it has one, of a Recipe.
        otherwise: completes "has no effect …" where it has none; values of the recipe are inserted by their keys.
        keys: the keys that `holds` reads.
    """

    holds: Callable[[Any], bool]
    otherwise: str
    keys: tuple[str, ...]


GENERATED_HERE = Condition(
    lambda recipe: recipe.dataset_name is None,
    "with dataset_name={dataset_name!r}, which has its own people",
    ("dataset_name",),
)
WITH_DATASET = Condition(lambda recipe: recipe.dataset_name is not None, "without dataset_name", ("dataset_name",))
TEXTS_GENERATED = Condition(
    lambda recipe: recipe.dataset_name is None or recipe.dataset_texts != "published",
    "with dataset_texts: published, which trains on the texts of {dataset_name!r} as they are",
    ("dataset_name", "dataset_texts"),
)
WITH_WARMUP = Condition(lambda recipe: recipe.warmup_exposures > 0, "without warmup_exposures", ("warmup_exposures",))
WITH_JUNK = Condition(lambda recipe: recipe.junk_people > 0, "without junk_people", ("junk_people",))


@dataclass(frozen=True, kw_only=True)
class Key:
    """What is known of a recipe key.

    Attributes:
        name: in YAML, on the command line and of the Recipe's attribute.
        section: the dataclass that has it.
        type: of its values.
        default: its value where none is given.
        help: one line.
        shapes: what its value changes first; what is made from that changes too.
        amount: it changes how many texts or shards there are, not what they are like.
        range, choices: the values that it may have; None and (): all of its type.
        refused: values that might be expected among the choices, with the reason why they are not.
        required: it has no default, except with the corpora `given_by`, which have a value of their own.
        free: may change between two calls on one run folder.
        corpora: the corpora that it has an effect on.
        used_with: further conditions for an effect.
        mixtures: it has an effect on mixtures of experts only.
        path: it may name a file or folder that texts or tokens are made from.
    """

    name: str
    section: type
    type: Any
    default: Any
    help: str
    shapes: Shapes
    amount: bool = False
    range: Range | None = None
    choices: tuple[str, ...] = ()
    refused: Mapping[str, str] = field(default_factory=dict, hash=False)
    required: bool = False
    given_by: tuple[str, ...] = ()
    free: bool = False
    corpora: tuple[str, ...] = CORPORA
    used_with: tuple[Condition, ...] = ()
    mixtures: bool = False
    path: bool = False

    def is_required(self, corpus: object, dataset_name: object) -> bool:
        """Whether a recipe with that corpus or data set must give the key."""
        given = dataset_name is not None and GENERATED_HERE in self.used_with
        return self.required and not given and corpus not in self.given_by

    def missing(self) -> str:
        """The problem of a required key that is not given."""
        return f"{self.name} is missing ({self.help}); add `{self.name}: …`"

    def wrong_type(self, value: object, error: ValueError) -> str:
        """The problem of a value that cannot be converted; `error` has what was expected."""
        shown = "null" if value is None else repr(value)
        return f"{self.name}: got {shown if len(shown) <= 200 else shown[:200] + '…'}, {error}"

    def wrong_value(self, value: Any) -> str | None:
        """The problem of a value that is out of range or none of the choices; None where there is none."""
        if self.choices and value not in self.choices:
            reason = f"{self.refused[value]}; " if value in self.refused else ""
            hint = "" if reason else nearest(value, self.choices)
            return f"{self.name}={value!r}: {reason}expected {' or '.join(self.choices)}{hint}"
        if self.range is not None and not self.range.holds(value):
            return f"{self.name}={value!r}: expected {self.range.expected}"
        return None

    def no_effect(self, value: Any, why: str = "") -> str:
        """The problem of a key that is set but not used; `why` completes "has no effect …"; default: its corpora."""
        *most, last = self.corpora
        why = why or f"without corpus: {', '.join(most)}{' or ' if most else ''}{last}"
        return f"{self.name}={value!r} has no effect {why}; leave it out"


def key_field(default: Any, text: str, **metadata: Any) -> Any:
    """A recipe key as a dataclass field; `metadata` are attributes of `Key`."""
    return field(default=default, metadata={"help": text} | metadata)


def nearest(name: object, known: Iterable[str]) -> str:
    """`; did you mean …?` with the nearest of the known names; empty where none is near."""
    close = get_close_matches(str(name), list(known), n=1)
    return f"; did you mean {close[0]!r}?" if close else ""
