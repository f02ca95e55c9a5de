"""The page as a folder that the Hub runs as a Space: app.py, its card, and the parts of knowcap that it needs."""

from __future__ import annotations

import shutil
from pathlib import Path

from knowcap.laws.law import LawError


_HERE = Path(__file__).parent
_KNOWCAP = Path(__file__).parents[3]
_FILES = ("README.md", "app.py", "requirements.txt")
# What the planner imports; torch is not among it. Packages are written without what they export.
_MODULES = (
    "facts.py", "files.py", "sealed/*.py", "recipe/*.py", "recipe_file.py", "laws/law.py", "laws/published.py",
    "laws/quantity.py", "laws/repeated.py", "laws/plan/*.py", "knowledge/pools.py", "knowledge/tuples.py",
    "corpus/credit.py", "corpus/sentences.py", "corpus/templates.py", "report/duration.py", "report/text_table.py",
    "metrics/bits_per_parameter/table_text.py",
)  # fmt: skip


def save_space(folder: str | Path) -> Path:
    """Writes the folder. Raises LawError if it exists and is not empty."""
    folder = Path(folder).expanduser()
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise LawError(f"{folder} exists and is not an empty folder; give another, or remove it")
    for name in _FILES:
        _copy(_HERE / name, folder / name)
    for pattern in _MODULES:
        for path in sorted(_KNOWCAP.glob(pattern)):
            copied = folder / "knowcap" / path.relative_to(_KNOWCAP)
            _copy(path, copied)
            (copied.parent / "__init__.py").touch()
    (folder / "knowcap" / "__init__.py").touch()
    return folder


def _copy(source: Path, target: Path) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    shutil.copyfile(source, target)
