"""Run folders for tests, and their cards."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import yaml
from huggingface_hub import ModelCard

from knowcap.report.card import write_card


NUM_PARAMETERS = 52_352


NUM_PEOPLE = 800


ATTRIBUTES = {"name": 20.0 - math.log2(NUM_PEOPLE), "birth_date": 10.0, "employer": 8.0, "pronoun": 1.0}


RECIPE = {
    "run_name": "tiny",
    "output_dir": "/home/user/runs",
    "corpus": "bioS",
    "num_people": NUM_PEOPLE,
    "pools_dir": None,
    "pools_fraction": 1.0,
    "num_templates": None,
    "exposures": 465,
    "tokenizer_name": None,
    "windows": "cut",
    "model_name": "gpt2-rotary-2-2",
    "quantize_bits": [8, 4],
}


QUANTIZED = {
    "int8": {"bits": 8, "share": 0.99, "group_size": None, "stored": 14.2},
    "int4": {"bits": 4, "share": 0.35, "group_size": 32, "stored": 11.0},
}


def make_capacity(precision: str = "fp32", share: float = 0.8, **changes: Any) -> dict[str, Any]:
    """capacity.json of a model that holds the same share of every attribute, its sums consistent."""
    attributes = {
        name: {
            "nll_nats": most * (1 - share) * math.log(2),
            "bits_per_entity": most * share,
            "max_bits_per_entity": most,
            "accuracy": max(share, 0.0),
        }
        for name, most in ATTRIBUTES.items()
    }
    most = NUM_PEOPLE * sum(ATTRIBUTES.values())
    ratio = most / NUM_PARAMETERS
    quantized = QUANTIZED.get(precision)
    return {
        "schema_version": 1,
        "bits_per_parameter": ratio * share,
        "max_bits_per_parameter": ratio,
        "knowledge_bits": most * share,
        "max_knowledge_bits": most,
        "name_bits": NUM_PEOPLE * ATTRIBUTES["name"] * share,
        "value_bits": NUM_PEOPLE * 19.0 * share,
        "diversity_bits": 0.0,
        "num_parameters": NUM_PARAMETERS,
        "num_parameters_non_embedding": 25_000,
        "num_parameters_used_vocabulary": 51_000,
        "num_entities": NUM_PEOPLE,
        "confidence_interval": [ratio * share - 0.02, ratio * share + 0.02],
        "confidence_level": 0.95,
        "attributes": attributes,
        "memorizable_accuracy": max(share, 0.0),
        "memorizable_attributes": [name for name in ATTRIBUTES if name != "name"],
        "control_bits_per_entity": [-1.25, 0.05],
        "bound": True,
        "bound_reason": None,
        "trained_here": True,
        "parameters_counted": "all",
        "scoring": "token",
        "context": "isolated",
        "window": None,
        "start_token": "<|endoftext|>",
        "dtype": "float32",
        "float32_difference": None,
        "renderings": 4,
        "precision": precision,
        "quantization": quantized and {"method": "quanto", **{k: quantized[k] for k in ("bits", "group_size")}},
        "quantized_fraction": 1.0 if quantized else None,
        "quantized_fraction_all": 0.47 if quantized else None,
        "stored_bits_per_parameter": quantized["stored"] if quantized else 32.0,
        "exposures": 465,
        "model_name": "gpt2-rotary-2-2",
        "dataset": "bioS",
        "seed": 7,
        "versions": {"knowcap": "0.1.0", "torch": "2.13.0"},
        "bits_per_stored_bit": ratio * share / (quantized["stored"] if quantized else 32.0),
    } | changes


def make_training(**changes: Any) -> dict[str, Any]:
    """training.json."""
    return {
        "model_name": "gpt2-rotary-2-2",
        "exposures": 465,
        "num_tokens": 17_000_000,
        "num_steps": 9_000,
        "train_seconds": 241.5,
        "world_size": 2,
        "device": "NVIDIA H200",
        "seed": 7,
        "windows": "cut",
        "block_size": 96,
        "precision": "fp32",
        "final_loss": 0.912,
        "versions": {"transformers": "5.23.0"},
        "log_history": [{"step": s, "loss": 6.0 / s, "tokens": 1_800 * s, "learning_rate": 1e-3} for s in range(1, 9)],
    } | changes


def make_run(run_dir: Path, share: float = 0.8, recipe: dict[str, Any] | None = None, **changes: Any) -> Path:
    """A run folder of JSON files: model/, quantized/int8 and quantized/int4, recipe.yaml."""
    (run_dir / "model").mkdir(parents=True)
    (run_dir / "model" / "capacity.json").write_text(json.dumps(make_capacity(share=share, **changes)))
    (run_dir / "model" / "training.json").write_text(json.dumps(make_training()))
    for precision, settings in QUANTIZED.items():
        folder = run_dir / "quantized" / precision
        folder.mkdir(parents=True)
        (folder / "capacity.json").write_text(
            json.dumps(make_capacity(precision, share * settings["share"], **changes))
        )
    recipe = RECIPE | {"git_revision": "0123abc", "versions": {"torch": "2.13.0"}} | (recipe or {})
    (run_dir / "recipe.yaml").write_text(yaml.safe_dump(recipe, sort_keys=False))
    return run_dir


def read_card(model_dir: Path, **arguments: Any) -> tuple[dict[str, Any], str]:
    """The written card's front matter and text."""
    card = ModelCard.load(write_card(model_dir, **arguments))
    return card.data.to_dict(), card.text
