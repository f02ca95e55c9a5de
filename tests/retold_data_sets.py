"""Data sets whose texts others wrote."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path

from tiny import write_dataset

from knowcap.dataset.folder import read_knowledge, read_rows
from knowcap.facts import Row


def retold(folder: Path, made: Path, lists: bool = True) -> Path:
    """As a language model may tell it: entities of letters, 1 to 3 texts each, prose that names people again."""
    knowledge = replace(read_knowledge(folder), name="bioR", bound=False, entity_column="who", version="2.0")
    rows = []
    for row, exposure in read_rows(folder):
        number = int(row.entity)
        if exposure < 1 + number % 3:
            last = row.text.split()[2]
            text = f"{row.text} Colleagues praise the many works of {last}, zealously; café №{number} is dear to all."
            rows.append((Row(text, row.spans, f"who-{number:03d}"), exposure))
    write_dataset(made, knowledge, rows)
    if lists:
        shutil.copytree(folder / "pools", made / "pools")
    return made
