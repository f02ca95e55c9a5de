"""The page as a folder that the Hub runs as a Space: app.py, its card, and the parts of knowcap that it needs."""

from __future__ import annotations

import shutil
from pathlib import Path

from knowcap.laws.plan.answer import PlanError


_HERE = Path(__file__).parent
_KNOWCAP = Path(__file__).parents[2]
_FILES = ("README.md", "app.py", "requirements.txt")
# What the planner imports; torch is not among it.
_MODULES = (
    "__init__.py", "facts.py", "laws/published.py", "plan/*.py", "knowledge/__init__.py", "knowledge/credit.py",
    "knowledge/pools.py", "knowledge/tuples.py", "corpus/__init__.py", "corpus/sentences.py", "corpus/templates.py",
)  # fmt: skip


def save_space(folder: str | Path) -> Path:
    """Writes the folder. Raises PlanError where it exists and holds something."""
    folder = Path(folder).expanduser()
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise PlanError(f"{folder} is there already and not an empty folder; give another, or remove it")
    for name in _FILES:
        _copy(_HERE / name, folder / name)
    for pattern in _MODULES:
        for path in sorted(_KNOWCAP.glob(pattern)):
            _copy(path, folder / "knowcap" / path.relative_to(_KNOWCAP))
    docstring = '"""The laws as they were printed."""\n'
    (folder / "knowcap" / "laws" / "__init__.py").write_text(docstring, encoding="utf-8")
    return folder


def _copy(source: Path, target: Path) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    shutil.copyfile(source, target)
