"""Recipes: every setting of a run. `keys` describes a key, `sections` holds all of them."""

from knowcap.recipe.keys import (
    CORPORA,
    EXTRACT_METHODS,
    LISTS,
    START_TOKENS,
    Key,
    RecipeError,
    nearest,
)
from knowcap.recipe.optimizer import OptimizerSection
from knowcap.recipe.quantization import FAKE_QUANTIZER, QuantizationSection
from knowcap.recipe.sections import (
    GROUP_BY_LENGTH,
    KEYS,
    RENDERING_KEYS,
    SECTIONS,
    BioDSection,
    JunkSection,
    ModelSection,
    QuestionSection,
    Recipe,
    TableSection,
    section_keys,
    shaping_keys,
    unknown_key,
)


__all__ = [
    "CORPORA",
    "EXTRACT_METHODS",
    "FAKE_QUANTIZER",
    "GROUP_BY_LENGTH",
    "KEYS",
    "LISTS",
    "RENDERING_KEYS",
    "SECTIONS",
    "START_TOKENS",
    "BioDSection",
    "JunkSection",
    "Key",
    "ModelSection",
    "OptimizerSection",
    "QuantizationSection",
    "QuestionSection",
    "Recipe",
    "RecipeError",
    "TableSection",
    "nearest",
    "section_keys",
    "shaping_keys",
    "unknown_key",
]
