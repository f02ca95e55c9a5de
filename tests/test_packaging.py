"""What an installed knowcap holds: every package, and the recipes."""

from __future__ import annotations

import tomllib
from pathlib import Path


ROOT = Path(__file__).parents[1]


def test_every_package_is_listed_and_the_recipes_are_one():
    setuptools = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]
    found = {".".join(path.parent.relative_to(ROOT / "src").parts) for path in (ROOT / "src").rglob("__init__.py")}
    assert set(setuptools["packages"]) == found | {"knowcap.recipes"}
    assert setuptools["package-dir"] == {"": "src", "knowcap.recipes": "recipes"}


def test_every_kind_of_data_file_is_installed():
    data = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]["package-data"]
    for package, folder in (("knowcap", ROOT / "src" / "knowcap"), ("knowcap.recipes", ROOT / "recipes")):
        names = {path for path in folder.rglob("*") if path.is_file() and "__pycache__" not in path.parts}
        covered = {path for pattern in data[package] for path in folder.glob(pattern)}
        assert {path for path in names - covered if path.suffix != ".py"} == set()
