"""Checks of a run's data set against its recipe, before a stage uses it."""

from __future__ import annotations

from pathlib import Path

from knowcap.files import KNOWLEDGE_FILE
from knowcap.recipe import Recipe, RecipeError


def check_start_token(recipe: Recipe, dataset_dir: Path) -> None:
    """Raises RecipeError if texts begin with a scored name that nothing would predict."""
    from knowcap.dataset.folder import read_knowledge

    knowledge = read_knowledge(dataset_dir)
    if recipe.start_token == "none" and knowledge.name_log2_candidates is not None and not knowledge.text_prefix:
        raise RecipeError(
            [
                "start_token: none, but each text begins with a name that is scored, and nothing would predict its "
                "first token; expected auto, bos or eos"
            ]
        )


def check_own_knowledge(run_dir: Path, recipe: Recipe) -> None:
    """Checks that a run's data set is undamaged, and that its knowledge.json is what the recipe makes; one of another
    version of the corpus, and a copy of another data set, are used as they are.

    Raises:
        FileError, DatasetError: it is not.
    """
    from knowcap.dataset.corpora import corpus_of
    from knowcap.dataset.folder import check_manifest, read_knowledge
    from knowcap.dataset.stage import check_knowledge

    folder = run_dir / "knowledge"
    if (folder / KNOWLEDGE_FILE).is_file():
        check_manifest(folder)
    if recipe.dataset_name is None and recipe.corpus != "table" and (folder / KNOWLEDGE_FILE).is_file():
        expected = corpus_of(recipe).knowledge()
        if read_knowledge(folder).version == expected.version:
            check_knowledge(folder, expected)
