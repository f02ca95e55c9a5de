"""Recipes in YAML and on the command line: read, and converted to the types of their keys. No value is checked."""

from __future__ import annotations

import math
import re
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from knowcap.recipe import KEYS, Recipe, RecipeError, nearest, unknown_key
from knowcap.recipe.plain_names import LINE, is_line
from knowcap.recipe.yaml_reader import YamlError, compose_file, load, plain


Overrides = Sequence[str] | Mapping[str, Any]


METADATA_KEYS = ("git_revision", "versions")  # what a run folder's recipe.yaml holds besides the recipe


_PACKAGE = Path(__file__).resolve().parent


# The wheel holds the recipes inside the package; in a checkout they lie at its top.
RECIPES_DIR = _PACKAGE / "recipes" if (_PACKAGE / "recipes").is_dir() else _PACKAGE.parents[1] / "recipes"


_NOT_RECIPES = {"accelerate", "slurm", "sweeps"}


def read_recipe(config: str | Path, overrides: Overrides = ()) -> tuple[Recipe, list[str], set[str]]:
    """Reads and converts a recipe.

    Args:
        config: a YAML file (a run folder's recipe.yaml too), or the name of a packaged recipe such as `quickstart`.
        overrides: `["--key", "value", "--key=value", …]` or `{key: value}`; they win over the file.

    Returns:
        the recipe; its problems; the keys that are missing or could not be converted, which have their defaults.

    Raises:
        RecipeError: there is no such recipe.
    """
    path = find_recipe(config)
    problems: list[str] = []
    found = _located(_from_yaml(path, problems), path.parent)
    found |= _located(_from_overrides(overrides, problems), Path())
    values: dict[str, Any] = {}
    for name, (value, where) in found.items():
        try:
            values[name] = convert(value, KEYS[name].type)
        except ValueError as error:
            problems.append(f"{KEYS[name].wrong_type(value, error)} ({where})")
    corpus, dataset_name = values.get("corpus"), values.get("dataset_name")
    required = [name for name, key in KEYS.items() if key.is_required(corpus, dataset_name)]
    missing = [name for name in required if name not in found]
    problems += [KEYS[name].missing() for name in missing]
    recipe = resolve(Recipe(**values), path)
    return recipe, problems, {*missing, *(found.keys() - values.keys())}


def _located(found: dict[str, tuple[Any, str]], folder: Path) -> dict[str, tuple[Any, str]]:
    """The same, with model_name as the absolute path of its configuration, if it names a local one."""
    name, where = found.get("model_name", (None, ""))
    if isinstance(name, str):
        found["model_name"] = (locate_model(name, folder), where)
    return found


def locate_model(name: str, folder: Path) -> str:
    """A model_name with the path of a configuration, if it has one, made absolute; others, Hub ids too, as they are.

    A path has a `/` or ends in `.json`. It is relative to the file that has the model_name; else to the current
    folder; else to knowcap's recipes, which have `architectures/qwen3.json`.

    Args:
        name: the model_name.
        folder: of the recipe or the sweep file; the current one for the command line.
    """
    if "/" not in name and not name.endswith(".json"):
        return name
    for place in (folder, Path(), RECIPES_DIR):
        if (path := place / Path(name).expanduser()).exists():
            return str(path.resolve())
    return name


def resolve(recipe: Recipe, config: str | Path) -> Recipe:
    """The recipe with its run_name, the recipe file's stem where none is given."""
    return recipe if recipe.run_name else replace(recipe, run_name=Path(config).stem)


def packaged_recipes() -> dict[str, Path]:
    """The recipes that come with knowcap, by the name that `--config` takes."""
    paths = {path.relative_to(RECIPES_DIR).with_suffix(""): path for path in sorted(RECIPES_DIR.rglob("*.yaml"))}
    return {name.as_posix(): path for name, path in paths.items() if name.parts[0] not in _NOT_RECIPES}


def packaged_architectures() -> list[Path]:
    """The configurations that come with knowcap: `architectures/qwen3.json` and so on, as model_name takes them."""
    return sorted((RECIPES_DIR / "architectures").glob("*.json"))


def find_recipe(config: str | Path) -> Path:
    """The file of a recipe: a path, or else a packaged name. Raises RecipeError with the names that exist."""
    if Path(config).is_file():
        return Path(config)
    packaged = packaged_recipes()
    name = str(config).removesuffix(".yaml")
    if name in packaged:
        return packaged[name]
    names = ", ".join(packaged) or "none"
    problem = f"there is no such file, and no packaged recipe of that name ({names}){nearest(name, packaged)}"
    raise RecipeError([problem], f"recipe {str(config)!r}")


def _from_yaml(path: Path, problems: list[str]) -> dict[str, tuple[Any, str]]:
    """Key → (value, its line). Scalars stay text, as written; only `convert` decides on types."""
    from yaml.nodes import MappingNode

    try:
        root = compose_file(path)
    except YamlError as error:
        problems.append(f"cannot be read as YAML in UTF-8: {error}")
        return {}
    if root is None:
        return {}
    if not isinstance(root, MappingNode):
        problems.append("expected one `key: value` a line, such as `num_people: 1000`")
        return {}
    found: dict[str, tuple[Any, str]] = {}
    for key, node in root.value:
        name, where = key.value, f"line {key.start_mark.line + 1}"
        if name in METADATA_KEYS:
            continue
        if name in found:
            problems.append(f"{name}: given twice ({found[name][1]}, {where}); remove one")
        elif name not in KEYS:
            problems.append(f"{unknown_key(name)} ({where})")
        else:
            found[name] = (plain(node, problems, f"{name}: "), where)
    return found


def _from_overrides(overrides: Overrides, problems: list[str]) -> dict[str, tuple[Any, str]]:
    """Key → (value, how it was given), from a mapping or from command-line words; the last one of a key wins."""
    found: dict[str, tuple[Any, str]] = {}
    given = overrides.items() if isinstance(overrides, Mapping) else _pairs(overrides, problems)
    for name, value in given:
        if name not in KEYS:
            problems.append(f"{unknown_key(name)} (--{name})")
        else:
            found[name] = (value, f"--{name}")
    return found


def _pairs(words: Sequence[str], problems: list[str]) -> Iterator[tuple[str, Any]]:
    """(key, value) of `--key value` and `--key=value`; a list may be several words, a true flag may have none."""
    groups: list[list[str]] = []
    for word in words:
        if word.startswith("--"):
            name, *rest = word[2:].split("=", 1)
            groups.append([name.replace("-", "_"), *rest])
        elif groups:
            groups[-1].append(word)
        else:
            problems.append(f"{word!r}: expected --key value")
    for name, *values in groups:
        hint = KEYS[name].type if name in KEYS else None
        if hint is None or len(values) == 1:
            yield name, "".join(values)
        elif hint is bool and not values:
            yield name, "true"
        elif hint in (tuple[int, ...], tuple[str, ...], dict[str, Any] | None):
            yield name, ",".join(values)
        else:
            problems.append(f"{name}: got {' '.join(values) or 'no value'}, expected one value (--{name})")


def convert(value: Any, hint: Any) -> Any:
    """A YAML or command-line value as the type of its key; text is read, such as `1e-3`, `[8, 4]` or `null`.

    Raises:
        ValueError: the message is what was expected.
    """
    for kind in (int, str):
        if hint == tuple[kind, ...]:
            return tuple(convert(item, kind) for item in _items(value))
    if hint == dict[str, Any] | None:
        return _mapping(value)
    kind = next(k for k in (bool, int, float, str) if hint in (k, k | None))
    text = "" if value is None or isinstance(value, (list, dict)) else str(value).strip()
    if hint != kind and (value is None or text.lower() in ("null", "none", "~")):
        return None
    if kind is str and text:
        if not is_line(text):
            raise ValueError(f"expected {LINE}")
        return text
    if kind is bool and text.lower() in ("true", "yes", "on", "false", "no", "off"):
        return text.lower() in ("true", "yes", "on")
    number = parse_number(text)
    if kind is float and number is not None and abs(number) <= sys.float_info.max:
        return float(number)
    if kind is int and isinstance(number, int):
        return number
    expected = {str: "text", bool: "true or false", int: "a whole number such as 1000", float: "a number such as 1e-3"}
    raise ValueError(f"expected {expected[kind]}{'' if hint == kind else ' or null'}")


def _mapping(value: Any) -> dict[str, Any] | None:
    """A mapping from YAML or Python, from JSON text or `a=1,b=[x, y]`; numbers, true, false and null are read."""
    if isinstance(value, str) and value.strip().lower() not in ("null", "none", "~"):
        text = value.strip()
        flow = text if text.startswith("{") else "{" + re.sub(r"(\w+)\s*=\s*", r"\1: ", text) + "}"
        try:
            value = load(flow) if "=" in text or text.startswith("{") else text
        except YamlError:
            value = text
    elif isinstance(value, str):
        return None
    if value is None or (isinstance(value, dict) and all(isinstance(key, str) for key in value)):
        return _scalars(value)
    raise ValueError("expected a mapping such as {num_hidden_layers: 2}, a=1,b=2 on the command line, or null")


def _scalars(value: Any) -> Any:
    """The same, with text that is a number, true, false or null read as such, at any depth."""
    if isinstance(value, dict):
        return {key: _scalars(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_scalars(item) for item in value]
    if not isinstance(value, str):
        return value
    if value.lower() in (words := {"true": True, "false": False, "null": None, "~": None}):
        return words[value.lower()]
    number = parse_number(value)
    is_float = isinstance(number, int) and not re.fullmatch(r"[+-]?[\d_,]+", value.strip())
    return value if number is None else float(number) if is_float else number


def _items(value: Any) -> Sequence[Any]:
    """`[8, 4]`, `8,4`, `8`, `[]` and `null` as the items that they list."""
    if isinstance(value, (list, tuple)):
        return value
    text = "" if value is None or str(value).lower() in ("null", "none") else str(value)
    return [item for item in re.split(r"[,\s]+", text.strip("[] ")) if item]


def parse_number(text: str) -> int | float | None:
    """`195`, `1_000`, `1,000`, `1e6` or `0.5` as a number, an int if it is whole; None if it is no finite number."""
    plain = text.strip()
    if re.fullmatch(r"[+-]?\d{1,3}(,\d{3})+(\.\d*)?", plain):
        plain = plain.replace(",", "")
    try:
        if re.fullmatch(r"[+-]?\d[\d_]*", plain):
            return int(plain)
        number = float(plain)
    except ValueError:
        return None
    if not math.isfinite(number):
        return None
    return int(number) if number.is_integer() else number
