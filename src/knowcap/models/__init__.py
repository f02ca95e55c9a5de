"""Models by name, such as gpt2-rotary-2-4: building stock transformers models, counting parameters, loading.

A name is family-L-H: L layers, H heads, hidden size d = H * head_dim; a mixture's is family-L-H-E, with E experts.
torch and transformers are imported inside the functions that need them, so that checking a recipe takes no seconds.
"""

from knowcap.models.configs import build_model, model_config, recipe_config, text_config
from knowcap.models.counts import (
    ParameterCounts,
    closed_form_active_parameters,
    closed_form_parameters,
    count_parameters,
)
from knowcap.models.folders import check_model_folder, find_model
from knowcap.models.loading import LoadOptions, load_model, load_tokenizer
from knowcap.models.names import (
    ACTIVATIONS,
    MODEL_FAMILIES,
    Family,
    ModelError,
    ModelName,
    model_problems,
    parse_model_name,
    pattern,
)
from knowcap.models.separators import Separators


__all__ = [
    "ACTIVATIONS",
    "MODEL_FAMILIES",
    "Family",
    "LoadOptions",
    "ModelError",
    "ModelName",
    "ParameterCounts",
    "Separators",
    "build_model",
    "check_model_folder",
    "closed_form_active_parameters",
    "closed_form_parameters",
    "count_parameters",
    "find_model",
    "load_model",
    "load_tokenizer",
    "model_config",
    "model_problems",
    "parse_model_name",
    "pattern",
    "recipe_config",
    "text_config",
]
