"""The questions with their options by name, as the command line and the page ask them."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from knowcap.laws.law import LawError
from knowcap.laws.plan.activations import SHAPE, Shape, shape_of
from knowcap.laws.plan.answer import Answer
from knowcap.laws.plan.compute import compute
from knowcap.laws.plan.content import content_of
from knowcap.laws.plan.fitted import read_laws
from knowcap.laws.plan.memory import memory
from knowcap.laws.plan.passes import passes
from knowcap.laws.plan.setting import Hardware, Setting, positive
from knowcap.laws.plan.size import holds, size
from knowcap.laws.plan.train import train


_CONTENT = ("bits", "num_people", "facts", "facts_templates", "entity_space")
_SETTING = ("exposures", "architecture", "precision", "junk")
_HARDWARE = ("gpu", "utilisation", "num_gpus", "price")


def ask(question: str, law: Iterable[str | Path] = (), **options: Any) -> Answer:
    """The answer to a question.

    Args:
        question: size, holds, train, compute, memory or passes.
        law: files of `knowcap fit`, used in place of the papers' laws.
        options: those of the question; None: not given.

    Raises:
        LawError: with every problem of the options.
    """
    given = {name: value for name, value in options.items() if value is not None}
    return computed(given, lambda: _QUESTIONS[question](given, law))


def computed(given: Mapping[str, Any], answers: Callable[[], Answer]) -> Answer:
    """The answer, all of whose numbers are finite.

    Args:
        given: the options, for messages.
        answers: computes it.

    Raises:
        LawError: of `answers`; or a number cannot be computed.
    """
    try:
        answer = answers()
    except LawError:
        raise
    except (ArithmeticError, ValueError, TypeError) as error:
        # TypeError: a power of a negative number is complex, and has no order. ValueError: a logarithm has no value.
        raise LawError(
            f"{_shown(given)}: a number here is too large or too small to compute with ({error}); {_LARGE}"
        ) from error
    wild = [name for name, value in _numbers(answer) if isinstance(value, complex) or not math.isfinite(value)]
    if wild:
        raise LawError(f"{_shown(given)}: {', '.join(dict.fromkeys(wild))} cannot be computed; {_LARGE}")
    return answer


def _numbers(answer: Answer) -> Iterator[tuple[str, float | complex]]:
    """The numbers of an answer's results, steps and table, by name."""
    yield from answer.results.items()
    yield from ((step.what, step.value) for step in answer.steps if step.value is not None)
    for row in answer.table:
        yield from ((name, value) for name, value in row.items() if isinstance(value, (float, complex)))


_LARGE = "correct the numbers, or the constants of the fit"


def _shown(given: Mapping[str, Any]) -> str:
    numbers = {name: value for name, value in given.items() if isinstance(value, (int, float))}
    return ", ".join(f"{name}={value:g}" for name, value in numbers.items()) or "the law"


def _size(given: Mapping[str, Any], law: Iterable[str | Path]) -> Answer:
    content, setting, laws = _all(
        lambda: content_of(**_some(given, _CONTENT)), lambda: Setting(**_some(given, _SETTING)), lambda: read_laws(law)
    )
    return size(content, setting, laws)


def _holds(given: Mapping[str, Any], law: Iterable[str | Path]) -> Answer:
    setting, laws, number = _all(
        lambda: Setting(**_some(given, _SETTING)), lambda: read_laws(law), lambda: _needed(given, "num_parameters")
    )
    return holds(number, setting, laws)


def _train(given: Mapping[str, Any], law: Iterable[str | Path]) -> Answer:
    content, setting, hardware, laws, number, shape = _all(
        lambda: content_of(**_some(given, _CONTENT)),
        lambda: Setting(**_some(given, _SETTING)),
        lambda: Hardware(**_some(given, _HARDWARE)),
        lambda: read_laws(law),
        lambda: _needed(given, "num_parameters"),
        lambda: _shape(given),
    )
    return train(number, content, setting, hardware, laws, given.get("tokens_per_exposure"), shape)


def _compute(given: Mapping[str, Any], law: Iterable[str | Path]) -> Answer:
    laws, flops, hardware = _all(
        lambda: read_laws(law), lambda: _needed(given, "flops"), lambda: Hardware(**_some(given, _HARDWARE))
    )
    return compute(flops, laws, hardware=hardware, **_some(given, ("num_parameters", "unique_tokens")))


def _memory(given: Mapping[str, Any], law: Iterable[str | Path]) -> Answer:
    shape, setting, hardware, laws = _all(
        lambda: _shape(given),
        lambda: Setting(**_some(given, ("architecture", "precision"))),
        lambda: Hardware(**_some(given, _HARDWARE)),
        lambda: read_laws(law),
    )
    if shape is None:
        raise LawError("num_layers and hidden_size are missing; give both, the shape of the model")
    if laws:
        raise LawError(f"plan memory: got the law {', '.join(laws)}, expected none: bytes are counted, not fitted")
    return memory(shape, given.get("num_parameters"), setting.precision, hardware)


def _passes(given: Mapping[str, Any], law: Iterable[str | Path]) -> Answer:
    laws, number, unique = _all(
        lambda: read_laws(law),
        lambda: _needed(given, "num_parameters"),
        lambda: _needed(given, "unique_tokens"),
    )
    return passes(number, unique, given.get("passes", 1.0), laws, given.get("bits", math.inf))


def _shape(given: Mapping[str, Any]) -> Shape | None:
    return shape_of(**_some(given, (*SHAPE, "architecture")))


_QUESTIONS: dict[str, Callable[[Mapping[str, Any], Iterable[str | Path]], Answer]] = {
    "size": _size, "holds": _holds, "train": _train, "compute": _compute, "memory": _memory, "passes": _passes,
}  # fmt: skip


def _some(given: Mapping[str, Any], names: Iterable[str]) -> dict[str, Any]:
    return {name: given[name] for name in names if name in given}


def _needed(given: Mapping[str, Any], name: str) -> float:
    if name not in given:
        raise LawError(f"{name} is missing; give a number above 0")
    return positive(name, given[name])


def _all(*builders: Callable[[], Any]) -> list[Any]:
    """The result of each. Raises LawError with the problems of all."""
    made, problems = [], []
    for make in builders:
        try:
            made.append(make())
        except LawError as error:
            problems += error.problems
    if problems:
        raise LawError(problems)
    return made
