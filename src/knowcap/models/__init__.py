"""Models by name, such as gpt2-rotary-2-4, or by a config.json: building transformers' models, counting parameters,
loading.

A name is family-L-H: L layers, H heads, hidden size d = H * head_dim; a mixture's is family-L-H-E, with E experts.
torch and transformers are imported inside the functions that need them, so that checking a recipe takes no seconds.
"""

from knowcap.models.architectures import is_config, snapshot_name
from knowcap.models.configs import build_model, check_causal, model_config, text_config
from knowcap.models.counts import (
    ParameterCounts,
    closed_form_active_parameters,
    closed_form_parameters,
    count_active_parameters,
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
from knowcap.models.registration import register_models, use_packages
from knowcap.models.separators import Separators
from knowcap.models.sizes import (
    Parameters,
    architecture_problems,
    describe_size,
    description,
    hidden_size_of,
    parameters_of,
    recipe_config,
    shown_name,
    widths_of,
)


__all__ = [
    "ACTIVATIONS",
    "MODEL_FAMILIES",
    "Family",
    "LoadOptions",
    "ModelError",
    "ModelName",
    "ParameterCounts",
    "Parameters",
    "Separators",
    "architecture_problems",
    "build_model",
    "check_causal",
    "check_model_folder",
    "closed_form_active_parameters",
    "closed_form_parameters",
    "count_active_parameters",
    "count_parameters",
    "describe_size",
    "description",
    "find_model",
    "hidden_size_of",
    "is_config",
    "load_model",
    "load_tokenizer",
    "model_config",
    "model_problems",
    "parameters_of",
    "parse_model_name",
    "pattern",
    "recipe_config",
    "register_models",
    "shown_name",
    "snapshot_name",
    "text_config",
    "use_packages",
    "widths_of",
]
