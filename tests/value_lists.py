"""Value lists for tests: written as files, and some that tokenizers handle wrongly."""

from __future__ import annotations

from pathlib import Path

from knowcap.knowledge.pools import Pools


NASTY = Pools(("Al", "Ann", "Anna"), ("Jo", "Joan"), ("Li", "Lin", "O'Neil Jr."), ("Washington D.C.", "York"),
              ("Texas Tech", "Texas Tech University"), ("Art", "Art History"), ("Disney", "Disney+", "Dow Inc."),
              ("Washington D.C.", "York", "York"))  # fmt: skip


GOOD = {
    "first_name.txt": "Ada\nBen\nCleo\n",
    "middle_name.txt": "Lee\nMae\n",
    "last_name.txt": "Hill\nStone\nWard\nYork\n",
    "city.txt": "Salem, OH\nTroy, NY\n",
    "university.txt": "Iowa State\nUtah Tech\n",
    "field.txt": "Law\nArt\n",
    "company.txt": "Apex Foods; Troy, NY\nDelta Bank; New York, NY\nOrion Air; Troy, NY\n",
}


def write_lists(folder: Path, **changes: str | bytes | None) -> Path:
    """The good lists with some files replaced (by their name without `.txt`) or, at None, left out."""
    folder.mkdir(exist_ok=True)
    for name, content in (GOOD | {f"{name}.txt": content for name, content in changes.items()}).items():
        if content is not None:
            (folder / name).write_bytes(content.encode() if isinstance(content, str) else content)
    return folder
