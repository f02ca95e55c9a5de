"""`knowcap ls`."""

from __future__ import annotations

import argparse
from collections.abc import Mapping
from pathlib import Path
from textwrap import wrap
from typing import Any

from knowcap.cli.parsers import add_command
from knowcap.recipe_file import packaged_architectures, packaged_recipes
from knowcap.sweep import packaged_sweeps


def add(commands: Any, name: str) -> None:
    """Adds the command's parser."""
    examples = ("knowcap ls recipes", "knowcap ls models", "knowcap ls sweeps")
    parser = add_command(commands, name, _ls, examples)
    parser.add_argument("what", choices=("recipes", "models", "sweeps"))


def _ls(args: argparse.Namespace, _: list[str]) -> None:
    if args.what == "models":
        _ls_models()
    else:
        _ls_files(packaged_sweeps() if args.what == "sweeps" else packaged_recipes())


def _ls_files(recipes: Mapping[str, Path]) -> None:
    """Prints every packaged recipe or sweep with its first line, its purpose."""
    from knowcap.report.text_table import text_table

    purposes = {name: path.read_text(encoding="utf-8").splitlines()[0].lstrip("# ") for name, path in recipes.items()}
    print(text_table([*purposes.items()], left=(0, 1)))


def _ls_models() -> None:
    """Prints every family with the parameters of one size, a description, and its name in the paper."""
    from knowcap.models import MODEL_FAMILIES, closed_form_parameters, pattern
    from knowcap.report.text_table import text_table

    print("L layers, H heads, hidden size d = H x head_dim, E experts; parameters with all experts and embeddings,")
    print("of L = H = 12, head_dim 64, E = 32 and the paper's 3,275 tokens:\n")
    rows = []
    for name, family in MODEL_FAMILIES.items():
        model_name = pattern(name).replace("L-H", "12-12").replace("-E", "-32")
        size = closed_form_parameters(model_name, vocab_size=3275, block_size=512)
        rows.append([pattern(name), f"{size:,}", family.text])
        rows += [["", "", line] for line in wrap(f"in the paper: {family.paper}", 74)]
    print(text_table(rows, left=(0, 2)))
    print(
        "\nor the config.json of any causal language model of transformers, its path, folder or Hub id; packaged are"
    )
    print("  " + ", ".join(f"{path.parent.name}/{path.name}" for path in packaged_architectures()))
