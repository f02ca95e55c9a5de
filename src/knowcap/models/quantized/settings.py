"""How a model is to be quantized, and what speaks against it before anything is loaded. Imports no torch."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any


if TYPE_CHECKING:
    from knowcap.recipe import Recipe


METHODS = ("quanto", "gptq")
BITS = (8, 4)
GPTQ_INPUTS = 32  # gptqmodel's kernels pack weights of a multiple of so many inputs
# What each method needs, by the module that shows whether it is there.
_NEEDS = {
    "quanto": ("optimum", 'pip install "optimum>=2.3,<2.4" "optimum-quanto==0.2.7"'),
    "gptq": ("gptqmodel", 'pip install "gptqmodel==7.6.0" "numpy==2.2.6"'),
}
_NAMES = {
    "method": "quantization_method",
    "group_size": "quantization_group_size",
    "symmetric": "quantization_symmetric",
    "exclude": "quantization_exclude",
    "embeddings": "quantize_embeddings",
}


class QuantizationError(ValueError):
    """A model cannot be quantized, or its copy is wrong; the message says what was got, expected, and how to mend."""


@dataclass(frozen=True, kw_only=True)
class Settings:
    """How to quantize.

    Attributes:
        bits: of a weight: 8 or 4.
        method: quanto rounds to the nearest step; gptq chooses roundings that keep each layer's outputs on texts.
        group_size: so many weights of a row (one output's) share a scale; 0: the whole row does. quanto's int8 has
            one scale a row, whatever this says.
        symmetric: steps lie evenly around zero, else they reach from a group's least to its greatest weight; by
            default quanto's int8 and gptq are symmetric, quanto's int4 isn't.
        embeddings: token and position embeddings and the output head too, not only the transformer blocks.
        exclude: names of layers that stay as they are, as patterns such as `*.mlp.*`.
    """

    bits: int
    method: str = "quanto"
    group_size: int = 32
    symmetric: bool | None = None
    embeddings: bool = False
    exclude: tuple[str, ...] = ()

    @classmethod
    def of(cls, recipe: Recipe, bits: int) -> Settings:
        """What a recipe's keys say of a copy of so many bits."""
        return cls(bits=bits, **{name: getattr(recipe, key) for name, key in _NAMES.items()})

    @property
    def is_symmetric(self) -> bool:
        """Whether steps lie evenly around zero, by the method's default where it isn't said."""
        return (self.method == "gptq" or self.bits == 8) if self.symmetric is None else self.symmetric

    @property
    def row_group(self) -> int | None:
        """Weights that share a scale; None for a whole row."""
        return None if self.group_size == 0 or (self.method == "quanto" and self.bits == 8) else self.group_size

    @property
    def folder(self) -> str:
        """The name of the folder of such a copy: int8, int4, int4-gptq, int8-embeddings."""
        gptq, embeddings = "-gptq" * (self.method == "gptq"), "-embeddings" * self.embeddings
        return f"int{self.bits}{gptq}{embeddings}"

    def problems(self) -> list[str]:
        """All that is wrong with these settings, or missing here to follow them; one message each."""
        if self.method not in METHODS:
            return [f"quantization method {self.method!r}: expected {' or '.join(METHODS)}"]
        found = []
        if self.bits not in BITS or isinstance(self.bits, bool):
            found.append(f"bits={self.bits!r}; expected 8 or 4, which is what {self.method} is used for here")
        if self.group_size < 0:
            found.append(
                f"group_size={self.group_size}; expected the weights that share a scale, or 0 for a whole row"
            )
        elif self.method == "gptq" and self.group_size % GPTQ_INPUTS:
            found.append(
                f"group_size={self.group_size} with gptq; expected 0 for a whole row, or a multiple of {GPTQ_INPUTS}"
            )
        if self.method == "quanto" and self.bits == 8 and self.symmetric is False:
            found.append("quanto's int8 is symmetric and can't be otherwise; leave symmetric out, or use method gptq")
        if self.method == "gptq" and self.embeddings:
            found.append("gptq quantizes transformer blocks alone; leave embeddings out, or use method quanto")
        module, line = _NEEDS[self.method]
        if find_spec(module) is None:
            found.append(f"method {self.method} needs {module}, which is not installed; {line}")
        return found

    def content(self) -> dict[str, Any]:
        """The settings as quantization.json has them."""
        return {
            "method": self.method,
            "bits": self.bits,
            "group_size": self.row_group,
            "symmetric": self.is_symmetric,
            "embeddings": self.embeddings,
            "exclude": list(self.exclude),
        }


def check_recipe(recipe: Recipe, widths: Iterable[int]) -> list[str]:
    """What is wrong with a recipe's quantizing, in its keys' names, once each.

    Args:
        recipe: with valid values.
        widths: of the rows of the model's weights, its own and its MLP's; empty where the model is not known.
    """
    copies = [Settings.of(recipe, bits) for bits in recipe.quantize_bits]
    found = [problem for settings in copies for problem in settings.problems()]
    found += [problem for settings in copies for problem in _width_problems(settings, [w for w in widths if w])]
    return list(dict.fromkeys(_with_keys(problem) for problem in found))


def _width_problems(settings: Settings, widths: Iterable[int]) -> list[str]:
    multiple = GPTQ_INPUTS if settings.method == "gptq" else 1
    unfit = [width for width in widths if width % (settings.row_group or 1) or width % multiple]
    if not unfit:
        return []
    mend = f"gptq needs multiples of {multiple}, else use quanto" if multiple > 1 else "give one that divides them"
    rows = " and ".join(map(str, dict.fromkeys(unfit)))
    return [
        f"group_size={settings.group_size}: rows of {rows} weights can't be cut into groups for {settings.method}'s "
        f"int{settings.bits}; {mend}, or 0 for whole rows"
    ]


def _with_keys(problem: str) -> str:
    for name, key in _NAMES.items():
        if problem.startswith(f"{name}="):
            return key + problem.removeprefix(name)
    return problem
