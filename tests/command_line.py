"""The command line as tests run it."""

from __future__ import annotations

from knowcap.cli import main


def fails(capsys, *words: str) -> str:
    """The message of a command that ends with status 2."""
    assert main(words) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith("knowcap: ")
    assert "Traceback" not in err
    return err
