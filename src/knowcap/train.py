"""Training, in this process or in those that accelerate launches.

    accelerate launch --config_file recipes/accelerate/cpu.yaml -m knowcap.train --config RECIPE [--key value …]

In Python, `knowcap.train(recipe, run_dir)` trains; the module itself is callable, because both have this name.
"""

from __future__ import annotations

import sys
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING


if TYPE_CHECKING:
    from knowcap.recipe import Recipe


class _CallableModule(ModuleType):
    def __call__(self, recipe: Recipe, run_dir: str | Path) -> Path:
        """Trains the recipe's model into `run_dir/model`, unless it is there, and resumes from the newest checkpoint.

        Args:
            recipe: from `knowcap.load_recipe`.
            run_dir: the run folder, such as `recipe.run_dir`.

        Returns:
            the model folder.
        """
        from knowcap.training.stage import train

        return train(recipe, Path(run_dir))


if __name__ == "__main__":
    from knowcap.cli import train_main

    sys.exit(train_main(sys.argv[1:]))
sys.modules[__name__].__class__ = _CallableModule
