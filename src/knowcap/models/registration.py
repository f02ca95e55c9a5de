"""Classes of models that are not transformers' own: packages that register them with its Auto classes.

    from transformers import AutoConfig, AutoModelForCausalLM

    AutoConfig.register("my_type", MyConfig)
    AutoModelForCausalLM.register(MyConfig, MyForCausalLM)

Such a package is named by `knowcap COMMAND --import my_package`, or by an entry point of the group `knowcap.models`.
Code is never loaded from the Hub or from a model folder (trust_remote_code is off).
"""

from __future__ import annotations

import importlib
import os
import sys
from collections.abc import Mapping, Sequence
from functools import lru_cache
from importlib.metadata import entry_points
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

from knowcap.models.names import ModelError


if TYPE_CHECKING:
    from transformers import PreTrainedConfig

IMPORTS = "KNOWCAP_IMPORT"  # environment variable: names of packages, with commas; worker processes inherit it
ENTRY_POINTS = "knowcap.models"
_SAVE_AGAIN = "save the model again with save_pretrained"
_LOADED = ("AutoConfig", "AutoModelForCausalLM", "AutoModelForImageTextToText", "AutoTokenizer")


def packages() -> tuple[str, ...]:
    """The packages that are imported for their classes, besides those of entry points."""
    return tuple(name for name in os.environ.get(IMPORTS, "").split(",") if name)


def use_packages(names: Sequence[str]) -> None:
    """Adds packages, for this process and those that it starts. They are imported when a configuration is first read.

    Raises:
        ModelError: there is no package of that name, neither installed nor in the current folder.
    """
    for name in names:
        if not name.replace(".", "").isidentifier():
            raise ModelError(f"--import {name}: expected the name of a package or module, such as my_package")
        if not _is_importable(name):
            raise ModelError(
                f"--import {name}: no package or module of that name is installed or in {os.getcwd()}; install it, or "
                "run the command in its folder"
            )
    os.environ[IMPORTS] = ",".join(dict.fromkeys((*packages(), *names)))


def register_models() -> None:
    """Imports the packages, so that their classes are known; once per process.

    Raises:
        ModelError: a package cannot be imported, or is not there.
    """
    _imported(packages())


def read_model_config(folder: Path) -> PreTrainedConfig:
    """The configuration of a model folder, of transformers' own class or one that a package registered.

    Raises:
        ModelError: no class is known for it.
    """
    from transformers import AutoConfig

    register_models()
    try:
        config = AutoConfig.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
    except ValueError as error:
        raise ModelError(
            f"{folder}: unsupported architecture: {' '.join(str(error).split())[:120]}…; code in a model's folder is "
            "not run: give --import my_package, a package that registers its classes with AutoConfig and "
            "AutoModelForCausalLM"
        ) from error
    except (TypeError, AttributeError, LookupError) as error:
        raise ModelError(f"{folder}: its config.json is none of transformers: {error}; {_SAVE_AGAIN}") from error
    _check_classes(config, folder)
    return config


def _check_classes(config: PreTrainedConfig, folder: Path) -> None:
    """Raises ModelError where `auto_map` names other classes than those that would be loaded: the weights were trained
    by other code, so that the number would be that of another model.
    """
    from transformers import AutoModelForCausalLM, AutoModelForImageTextToText

    classes = {"AutoConfig": type(config).__name__}
    for auto in (AutoModelForCausalLM, AutoModelForImageTextToText):
        if type(config) in auto._model_mapping:
            found = auto._model_mapping[type(config)]
            classes[auto.__name__] = getattr(found, "__name__", str(found))
    check_auto_map(getattr(config, "auto_map", None), classes, folder)


def check_auto_map(auto_map: Any, classes: Mapping[str, str], folder: Path) -> None:
    """Checks that the code that an `auto_map` names is not needed.

    Args:
        auto_map: of a config.json or tokenizer_config.json; None: it has none.
        classes: the names of the classes that are loaded without it, by the Auto class.
        folder: of the file.

    Raises:
        ModelError: a class is another one.
    """
    for auto, named in auto_map.items() if isinstance(auto_map, dict) else ():
        names = [str(name).rpartition(".")[2] for name in (named if isinstance(named, list) else [named]) if name]
        if names and auto in _LOADED and classes.get(auto) not in names:
            raise ModelError(
                f"{folder}: its auto_map names code of its own for {auto} ({', '.join(names)}), which is not run; "
                "give --import my_package, a package that registers its classes with transformers' Auto classes, and "
                "remove auto_map"
            )


@lru_cache
def _imported(names: tuple[str, ...]) -> None:
    for name in names:
        _is_importable(name)
        try:
            importlib.import_module(name)
        except ImportError as error:
            raise ModelError(f"--import {name} cannot be imported: {error}") from error
    for entry in entry_points(group=ENTRY_POINTS):
        try:
            entry.load()
        except (ImportError, AttributeError) as error:
            raise ModelError(f"the entry point {entry.value} of {ENTRY_POINTS} cannot be loaded: {error}") from error


def _is_importable(name: str) -> bool:
    """Whether there is such a module; looks in the current folder too, which console scripts leave out."""
    top = name.split(".")[0]
    if find_spec(top) is None and os.getcwd() not in sys.path:
        sys.path.append(os.getcwd())
    return find_spec(top) is not None
