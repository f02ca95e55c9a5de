"""Trains one step of every given recipe and keeps its gradients; accelerate launches it in one process or several.

accelerate launch --config_file recipes/accelerate/cpu_2.yaml tests/gradients.py OUTPUT_DIR RECIPE.yaml …
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

from safetensors.torch import save_file

from knowcap.recipe import Recipe
from knowcap.run.preflight import load_recipe
from knowcap.training import stage as training
from knowcap.training.trainer import TrainingProgress


class Stop(Exception):
    """The gradients of the first step are kept."""


def keep_gradients(recipe: Recipe, run_dir: Path) -> Path:
    """The file of the first step's gradients, summed over micro-batches and averaged over processes, unclipped."""
    file = run_dir / "gradients.safetensors"

    class Keeping(TrainingProgress):
        def on_pre_optimizer_step(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
            if state.is_world_process_zero:
                model = kwargs["model"]
                model = getattr(model, "module", model)  # DDP's
                save_file({name: p.grad.clone() for name, p in model.named_parameters()}, file)
            raise Stop

    bar, training.TrainingProgress = training.TrainingProgress, Keeping
    try:
        training.train(recipe, run_dir)
    except Stop:
        return file
    finally:
        training.TrainingProgress = bar
    raise AssertionError("no step was trained")


def main(output_dir: str, *configs: str) -> None:
    """One step of every recipe, in a folder of its number."""
    for number, config in enumerate(configs):
        folder = Path(output_dir) / str(number)
        folder.mkdir(parents=True, exist_ok=True)
        keep_gradients(load_recipe(config), folder)


if __name__ == "__main__":
    main(*sys.argv[1:])
