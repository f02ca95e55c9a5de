"""Every exception class of the package survives pickling, as it must between processes."""

from __future__ import annotations

import inspect
import pickle
import pkgutil
from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest

import knowcap


LEFT_OUT = ("__main__", ".app", ".tests", ".recipes")  # commands, and what runs inside a Space only


def exception_classes() -> list[type[BaseException]]:
    """All exception classes that a module of knowcap defines."""
    found = {}
    for info in pkgutil.walk_packages(knowcap.__path__, "knowcap."):
        if not any(part in info.name for part in LEFT_OUT):
            module = import_module(info.name)
            for value in vars(module).values():
                if inspect.isclass(value) and issubclass(value, BaseException) and value.__module__ == module.__name__:
                    found[f"{value.__module__}.{value.__qualname__}"] = value
    return [found[name] for name in sorted(found)]


def argument(parameter: inspect.Parameter) -> Any:
    """An argument of the parameter's annotated type; messages where it has none."""
    annotation = str(parameter.annotation)
    if any(name in annotation for name in ("Sequence", "list", "Iterable", "tuple")):
        return ["num_people=0, expected 1 or more", "another problem"]
    for name, value in (("Path", Path("recipe.yaml")), ("bool", True), ("int", 3), ("float", 0.5)):
        if name in annotation:
            return value
    return "got 1, expected 2"


def instance(cls: type[BaseException]) -> BaseException:
    """An exception of the class, with arguments that fit its constructor."""
    init: Callable[..., Any] = cls.__init__
    if init is Exception.__init__ or not inspect.isfunction(init):
        return cls("got 1, expected 2")
    positional, named = [], {}
    for parameter in list(inspect.signature(init).parameters.values())[1:]:
        if parameter.kind is parameter.VAR_POSITIONAL:
            positional += ["num_people=0, expected 1 or more", "another problem"]
        elif parameter.kind is parameter.KEYWORD_ONLY:
            named[parameter.name] = argument(parameter)
        elif parameter.kind is not parameter.VAR_KEYWORD:
            positional.append(argument(parameter))
    return cls(*positional, **named)


@pytest.mark.parametrize("cls", exception_classes(), ids=lambda cls: cls.__name__)
def test_an_exception_survives_pickling(cls: type[BaseException]) -> None:
    error = instance(cls)
    copy = pickle.loads(pickle.dumps(error))
    assert type(copy) is cls
    assert str(copy) == str(error) != ""
    assert copy.args == error.args
    assert vars(copy) == vars(error)  # `problems` among them
    if hasattr(error, "problems"):
        assert copy.problems == error.problems and len(copy.problems) == 2


def test_the_classes_that_are_caught_are_found() -> None:
    names = {cls.__name__ for cls in exception_classes()}
    assert names >= {
        "RecipeError",
        "FactError",
        "CorpusError",
        "ScoringError",
        "TextError",
        "CapacityError",
        "LeakError",
    }
