"""What the keys of JSON results hold, by the name of the file; earlier versions' results lack some of them."""

from __future__ import annotations

from typing import Any

from knowcap.files import (
    CAPACITY_FILE,
    CELLS_FILE,
    EXTRACTION_FILE,
    KNOWLEDGE_FILE,
    QUANTIZATION_FILE,
    TRAINING_FILE,
    TUNING_FILE,
)


NUMBER, ANY_NUMBER, TEXT, FLAG = "a number", "a number or NaN", "a text", "true or false"
WHOLE, COUNT = "a whole number", "a whole number >= 0"

# A tuple of one is that kind or null; a list of one, a list of such items; `*`, keys of any name.
_ATTRIBUTES = {"*": {"*": (NUMBER,)}}
_COUNTS = {
    "num_parameters": COUNT,
    "num_parameters_non_embedding": COUNT,
    "num_parameters_used_vocabulary": (COUNT,),
}
_FILES = {"*": TEXT}

KINDS: dict[str, dict[str, Any]] = {
    KNOWLEDGE_FILE: {
        "name": TEXT,
        "version": TEXT,
        "num_people": COUNT,
        "seed": WHOLE,
        "entity_column": TEXT,
        "name_log2_candidates": (NUMBER,),
        "attributes": [
            {
                "name": TEXT,
                "candidates": (COUNT,),
                "log2_candidates": NUMBER,
                "determined_by": (TEXT,),
                "stated": (COUNT,),
            }
        ],
        "diversity_terms": [
            {
                "fact": TEXT,
                "attribute": TEXT,
                "first_chunk": TEXT,
                "diversity": NUMBER,
                "credited": NUMBER,
                "log2_candidates": NUMBER,
            }
        ],
        "text_prefix": TEXT,
        "bound": FLAG,
        "missing_texts": COUNT,
        "files": _FILES,
    },
    TRAINING_FILE: {
        "model_name": TEXT,
        "dataset": TEXT,
        "seed": WHOLE,
        "exposures": NUMBER,
        "num_tokens": COUNT,
        "num_steps": COUNT,
        "train_seconds": NUMBER,
        "final_loss": (ANY_NUMBER,),
        "num_parameters": COUNT,
        "used_token_ids": (COUNT,),
        "block_size": COUNT,
        "knowledge": {"*": (None,)},
        "log_history": [{"step": COUNT, "loss": ANY_NUMBER, "learning_rate": ANY_NUMBER, "tokens": COUNT}],
        "knowledge_history": [{"*": ANY_NUMBER}],
        "versions": {"*": TEXT},
        "files": _FILES,
    },
    CAPACITY_FILE: {
        **_COUNTS,
        "bits_per_parameter": NUMBER,
        "max_bits_per_parameter": NUMBER,
        "knowledge_bits": NUMBER,
        "max_knowledge_bits": NUMBER,
        "num_entities": COUNT,
        "confidence_interval": [(NUMBER,)],
        "confidence_level": NUMBER,
        "attributes": _ATTRIBUTES,
        "memorizable_accuracy": (NUMBER,),
        "memorizable_attributes": [TEXT],
        "control_bits_per_entity": [(NUMBER,)],
        "bound": FLAG,
        "precision": TEXT,
        "quantization": ({},),
        "stored_bits_per_parameter": (NUMBER,),
        "exposures": (NUMBER,),
        "model_name": TEXT,
        "dataset": TEXT,
        "seed": (WHOLE,),
        "versions": {"*": TEXT},
        "bands": [{}],
        "inputs": _FILES,
    },
    QUANTIZATION_FILE: {
        **_COUNTS,
        "bits": COUNT,
        "group_size": (COUNT,),
        "symmetric": FLAG,
        "embeddings": FLAG,
        "exclude": [TEXT],
        "excluded": [TEXT],
        "quantized_fraction": NUMBER,
        "quantized_fraction_all": NUMBER,
        "stored_bits_per_parameter": NUMBER,
        "files": _FILES,
    },
    TUNING_FILE: {"settings": {}, "files": _FILES},
    CELLS_FILE: {"cells": {"*": {"settings": {}, "row": {}, "train_seconds": NUMBER}}},
    EXTRACTION_FILE: {
        "extractable_accuracy": NUMBER,
        "memorizable_accuracy": NUMBER,
        "people_asked": COUNT,
        "num_people": COUNT,
        "extractable_attributes": [TEXT],
        "extractable_share": (NUMBER,),
        "attributes": _ATTRIBUTES,
        "limit": (COUNT,),
        "seed": WHOLE,
    },
}

# What any reader of the file uses.
NEEDED: dict[str, tuple[str, ...]] = {
    CAPACITY_FILE: ("bits_per_parameter",),
    QUANTIZATION_FILE: ("bits",),
    TUNING_FILE: ("settings",),
    CELLS_FILE: ("cells",),
    EXTRACTION_FILE: ("extractable_accuracy",),
}
# What cards, reports and tables use.
CAPACITY_NEEDS = (
    "bits_per_parameter", "max_bits_per_parameter", "num_parameters", "num_entities", "knowledge_bits",
    "max_knowledge_bits", "confidence_interval", "confidence_level", "attributes", "control_bits_per_entity",
    "precision", "quantization", "stored_bits_per_parameter", "exposures", "model_name", "dataset",
)  # fmt: skip
QUANTIZATION_NEEDS = (
    "bits", "num_parameters", "num_parameters_non_embedding", "num_parameters_used_vocabulary", "quantized_fraction",
    "quantized_fraction_all", "stored_bits_per_parameter",
)  # fmt: skip
TRAINING_NEEDS = ("model_name", "num_tokens", "num_steps", "train_seconds", "final_loss")
EXTRACTION_NEEDS = ("extractable_accuracy", "memorizable_accuracy", "people_asked", "limit")
