"""What results record about their origin: versions of the code and of the libraries, and the git revision.

`import knowcap` imports this module, so it imports the standard library's slower modules when they are used.
"""

from __future__ import annotations

from functools import cache
from pathlib import Path


__version__ = "0.1.0"
_PACKAGES = ("torch", "transformers", "accelerate", "datasets", "evaluate", "optimum-quanto", "tokenizers", "numpy")


def versions() -> dict[str, str]:
    """The versions of knowcap, Python and the libraries that affect a result; those not installed are left out."""
    import platform

    found = {"knowcap": __version__, "python": platform.python_version()}
    return found | {package: version for package in _PACKAGES if (version := _version(package)) is not None}


@cache
def _version(package: str) -> str | None:
    """The version of an installed package, read once in a process; None where it is not installed."""
    from importlib import metadata

    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None


def git_revision() -> str | None:
    """The commit that this package runs from, with `-dirty` if files differ from it; None outside a checkout."""
    import subprocess

    package = Path(__file__).resolve().parent

    def git(*words: str) -> str | None:
        try:
            done = subprocess.run(["git", "-C", str(package), *words], capture_output=True, text=True, timeout=10)
        except (OSError, subprocess.TimeoutExpired):
            return None
        return done.stdout.strip() if done.returncode == 0 else None

    # An installed package may lie within another project's checkout: only a tracked file belongs to this one.
    if git("ls-files", "--error-unmatch", "__init__.py") is None:
        return None
    return git("describe", "--always", "--dirty", "--abbrev=40", "--exclude=*")
