"""Names of folders that every file system has, and that no library reads as a pattern; texts of one line."""

from __future__ import annotations

from knowcap.facts import CONTROL


LONGEST_FOLDER = 200  # bytes in UTF-8: file systems end at 255, and unfinished files have longer names
LONGEST_TEXT = 1000  # characters of a name or a path
# Windows' devices, with any ending too; and what knowcap itself writes into a folder of run folders.
_DEVICES = {"con", "prn", "aux", "nul", *(f"{port}{n}" for port in ("com", "lpt") for n in range(1, 10))}
_OURS = {
    "sweeps", "sweep.yaml", "results.parquet", "report.html", "report.md", "report.json", "readme.md", "recipe.yaml",
    "bits_vs_parameters.png",
}  # fmt: skip
_PATTERN = "*?["  # `datasets` reads a path with these as a pattern, and may find other folders than the one named
FOLDER_NAME = (
    f'a plain folder name of at most {LONGEST_FOLDER} bytes, without / \\ : * ? [ ] < > | " and control characters, '
    "without a dot in front, or a dot or a space at the end; and none that Windows or knowcap reserves"
)
LINE = f"text of one line, of at most {LONGEST_TEXT:,} characters, without control characters"


def is_folder_name(name: str) -> bool:
    """Whether a name is `FOLDER_NAME`; "" is one too, for the default."""
    stem = name.lower().split(".")[0].rstrip()
    return (
        is_line(name)
        and len(name.encode("utf-8", errors="replace")) <= LONGEST_FOLDER
        and not set(name) & set('/\\:*?[]<>|"')
        and not name.startswith((".", " "))
        and not name.endswith((".", " "))
        and stem not in _DEVICES
        and name.lower() not in _OURS
    )


def is_line(text: str) -> bool:
    """Whether a text is `LINE`."""
    return len(text) <= LONGEST_TEXT and not CONTROL.search(text)


def pattern_in(path: str) -> str | None:
    """The first part of a path that `datasets` would read as a pattern or as several; None if there is none."""
    found = [mark for mark in (*_PATTERN, "::") if mark in path]
    return found[0] if found else None
