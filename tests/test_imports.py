"""Imports run one way: no cycles, and each folder imports from lower ones alone.

Imports in functions and under TYPE_CHECKING count.
"""

from __future__ import annotations

import ast
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest


SOURCE = Path(__file__).resolve().parents[1] / "src"
# Lowest first. A part may import from itself and from those before it.
ORDER = (
    "provenance", "files", "sealed", "facts", "recipe", "recipe_file", "processes", "progress", "hub", "metrics",
    "knowledge", "corpus", "dataset", "models", "scoring", "capacity", "training", "extraction", "report", "laws",
    "run", "sweep", "findings", "cli", "train", "__main__",
)  # fmt: skip


def name_of(path: Path) -> str:
    """The dotted name of a module's file."""
    parts = path.relative_to(SOURCE).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


MODULES = {name_of(path): path for path in (SOURCE / "knowcap").rglob("*.py")}


def imports_of(name: str) -> set[str]:
    """The package's modules that a module imports, wherever in it."""
    found, path = set(), MODULES[name]
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            parts = name.split(".") if path.name == "__init__.py" else name.split(".")[:-1]
            relative = parts[: len(parts) - node.level + 1] if node.level else []
            base = ".".join([*relative, *([node.module] if node.module else [])])
            # A module of the package, or a name that the package itself has.
            names = (f"{base}.{alias.name}" for alias in node.names)
            found |= {full if full in MODULES else base for full in names}
    return {target for target in found if target in MODULES and target != name}


GRAPH = {name: imports_of(name) for name in MODULES}


def part_of(name: str) -> str:
    """The folder, or the module at the package's top."""
    return name.split(".")[1] if "." in name else "knowcap"


def test_there_is_no_cycle():
    try:
        TopologicalSorter(GRAPH).prepare()
    except CycleError as error:
        pytest.fail(f"imports in a circle: {' → '.join(error.args[1])}")
    assert len(GRAPH) > 100 and sum(map(len, GRAPH.values())) > 300  # the graph was read


def test_folders_import_from_lower_ones_alone():
    parts = {part_of(name) for name in MODULES} - {"knowcap"}
    assert parts == set(ORDER)
    rank = {part: number for number, part in enumerate(ORDER)}
    backwards = [
        f"{name} imports {target}"
        for name, targets in GRAPH.items()
        for target in targets
        if name != "knowcap" and (target == "knowcap" or rank[part_of(target)] > rank[part_of(name)])
    ]
    assert backwards == []


def test_the_laws_are_for_the_command_line_alone():
    users = {part_of(name) for name, targets in GRAPH.items() for t in targets if part_of(t) == "laws"}
    assert users <= {"laws", "cli"}


def test_the_top_of_the_package_is_small():
    assert len(list((SOURCE / "knowcap").glob("*.py"))) <= 9


def test_no_two_modules_of_the_tests_have_one_name():
    """The tests' folders are no packages: of two files of one name pytest collects only the first."""
    names = [path.name for path in Path(__file__).resolve().parent.rglob("*.py") if path.name != "conftest.py"]
    assert sorted(names) == sorted(set(names))
