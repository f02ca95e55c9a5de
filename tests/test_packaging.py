"""What an installed knowcap holds: every file of the package, and the recipes."""

from __future__ import annotations

import subprocess
import sys
import zipfile
from pathlib import Path

import pytest


ROOT = Path(__file__).parents[1]


def test_pyproject_names_no_package():
    text = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    assert 'packages = ["src/knowcap"]' in text and 'recipes = "knowcap/recipes"' in text
    assert "knowcap." not in text.split("[tool.hatch", 1)[1].split("[tool.ruff", 1)[0]


@pytest.mark.slow  # builds a wheel, and fetches the build backend
def test_a_wheel_has_every_file_of_the_package_and_the_recipes(tmp_path):
    command = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "-w", str(tmp_path), str(ROOT)]
    subprocess.run(command, check=True)
    (wheel,) = tmp_path.glob("*.whl")
    held = {name for name in zipfile.ZipFile(wheel).namelist() if name.startswith("knowcap/")}
    wanted = set()
    for folder, place in ((ROOT / "src" / "knowcap", "knowcap"), (ROOT / "recipes", "knowcap/recipes")):
        files = (p for p in folder.rglob("*") if p.is_file() and "__pycache__" not in p.parts)
        wanted |= {f"{place}/{p.relative_to(folder).as_posix()}" for p in files}
    assert held == wanted
