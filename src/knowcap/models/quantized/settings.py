"""Settings of quantization, those of a finished copy, and their checks, before anything is loaded. No torch."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

from knowcap.files import QUANTIZATION_FILE, TRAINING_FILE
from knowcap.models.folders import check_undamaged
from knowcap.models.names import ModelError
from knowcap.recipe.quantization import BOTH, METHODS
from knowcap.sealed import read_result


if TYPE_CHECKING:
    from knowcap.recipe import Recipe


BITS = (8, 4)
# The module that each method needs, and the command that installs it.
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


@dataclass(frozen=True, kw_only=True)
class Settings:
    """How to quantize.

    Attributes:
        bits: of a weight: 8 or 4.
        method: quanto rounds to nearest; gptq chooses roundings that preserve each layer's outputs on texts.
        group_size: weights of a row (one output) that share a scale; 0 for the whole row. quanto's int8 always has
            one scale per row.
        symmetric: symmetric quantization around zero, or affine from a group's minimum to its maximum; by default
            quanto's int8 and gptq are symmetric, quanto's int4 is not.
        embeddings: also quantize token and position embeddings and the output head.
        exclude: patterns, such as `*.mlp.*`, of the names of layers that are not quantized.
    """

    bits: int
    method: str = "quanto"
    group_size: int = 32
    symmetric: bool | None = None
    embeddings: bool = False
    exclude: tuple[str, ...] = ()

    @classmethod
    def of(cls, recipe: Recipe, bits: int) -> Settings:
        """The settings of a recipe for a copy with `bits` bits; of both methods, quanto."""
        given: dict[str, Any] = {name: getattr(recipe, key) for name, key in _NAMES.items()}
        if given["method"] == BOTH:
            given["method"] = METHODS[0]
        return cls(bits=bits, **given)

    @classmethod
    def copies(cls, recipe: Recipe, every: Iterable[int] | None = None) -> list[Settings]:
        """Those of each copy of a recipe, by bits (by default the recipe's), and by method if it has both."""
        methods = METHODS if recipe.quantization_method == BOTH else (recipe.quantization_method,)
        found = [cls.of(recipe, bits) for bits in (recipe.quantize_bits if every is None else every)]
        return [replace(settings, method=method) for settings in found for method in methods]

    @classmethod
    def fake(cls, recipe: Recipe) -> Settings | None:
        """Those of the copy whose weights the recipe trains with; None without fake quantization."""
        bits = recipe.fake_quantization_bits
        return None if bits is None else replace(cls.of(recipe, bits), method="quanto")

    def unlike_training(self, recipe: Recipe) -> str:
        """How the recipe's fake quantization differs, of quanto's copy with as many bits; "" if it does not."""
        fake = self.fake(recipe)
        if fake is None or (fake.bits, fake.method) != (self.bits, self.method):
            return ""
        found, ours = fake.content(), self.content()
        return ", ".join(f"{key}={value}" for key, value in found.items() if value != ours[key])

    @property
    def is_symmetric(self) -> bool:
        """Whether quantization is symmetric, by the method's default if `symmetric` is None."""
        return (self.method == "gptq" or self.bits == 8) if self.symmetric is None else self.symmetric

    @property
    def row_group(self) -> int | None:
        """Weights that share a scale; None for a whole row."""
        return None if self.group_size == 0 or (self.method == "quanto" and self.bits == 8) else self.group_size

    @property
    def packed_together(self) -> int:
        """Weights that are stored together: rows are a multiple of so many (two of gptq's int4 are one byte)."""
        return 2 if self.method == "gptq" and self.bits == 4 else 1

    @property
    def folder(self) -> str:
        """The name of the copy's folder: int8, int4, int4-gptq, int8-embeddings."""
        gptq, embeddings = "-gptq" * (self.method == "gptq"), "-embeddings" * self.embeddings
        return f"int{self.bits}{gptq}{embeddings}"

    def problems(self) -> list[str]:
        """The problems of these settings, a package that is not installed among them; one message each."""
        if self.method not in METHODS:
            return [f"quantization method {self.method!r}: expected {' or '.join(METHODS)}"]
        found = []
        if self.bits not in BITS or isinstance(self.bits, bool):
            found.append(f"bits={self.bits!r}; expected 8 or 4")
        if self.group_size < 0:
            found.append(
                f"group_size={self.group_size}; expected the weights that share a scale, or 0 for a whole row"
            )
        if self.method == "quanto" and self.bits == 8 and self.symmetric is False:
            found.append("quanto's int8 is always symmetric; remove symmetric, or use method gptq")
        if self.method == "gptq" and self.embeddings:
            found.append("gptq quantizes only transformer blocks; remove embeddings, or use method quanto")
        module, line = _NEEDS[self.method]
        if find_spec(module) is None:
            found.append(f"method {self.method} needs {module}, which is not installed; {line}")
        return found

    def content(self) -> dict[str, Any]:
        """The settings as in quantization.json."""
        return {
            "method": self.method,
            "bits": self.bits,
            "group_size": self.row_group,
            "symmetric": self.is_symmetric,
            "embeddings": self.embeddings,
            "exclude": list(self.exclude),
        }


def read_quantization(folder: Path) -> dict[str, Any]:
    """The content of quantization.json.

    Raises:
        ModelError: the method is unknown, or a setting is missing.
    """
    path = folder / QUANTIZATION_FILE
    record = read_result(path)
    if record.get("method") not in METHODS:
        raise ModelError(f"{path}: method={record.get('method')!r}; expected {' or '.join(METHODS)}")
    missing = [key for key in Settings(bits=8).content() if key not in record]
    if missing:
        raise ModelError(f"{path} lacks {', '.join(missing)}; quantize the model again with this version of knowcap")
    return record


def settings_of(record: dict[str, Any]) -> Settings:
    """The settings in the content of a quantization.json."""
    known = {key: record[key] for key in Settings(bits=8).content()}
    return Settings(**known | {"group_size": record["group_size"] or 0, "exclude": tuple(record["exclude"])})


def is_quantized(folder: Path) -> bool:
    """Whether the folder has a complete quantized model; raises ModelError if it has other content."""
    if not folder.exists() or (folder.is_dir() and not any(folder.iterdir())):
        return False
    if not (folder / QUANTIZATION_FILE).is_file():
        raise ModelError(f"{folder} exists and is not a quantized model; choose another output_dir, or remove it")
    return True


def check_kept(model_dir: Path, output_dir: Path, settings: Settings) -> None:
    """Raises ModelError unless output_dir was made from this model's training run, with these settings; FileError if
    its files were changed since.
    """
    check_undamaged(output_dir)
    found, expected = read_quantization(output_dir), settings.content()
    other = [f"{key}={found[key]!r}, expected {value!r}" for key, value in expected.items() if found[key] != value]
    if other:
        raise ModelError(
            f"{output_dir} was quantized with other settings: {'; '.join(other)}; choose another output_dir, or "
            "quantize again with --overwrite (overwrite=True)"
        )
    ours, theirs = model_dir / TRAINING_FILE, output_dir / TRAINING_FILE
    if ours.is_file() and theirs.is_file() and ours.read_bytes() != theirs.read_bytes():
        raise ModelError(
            f"{output_dir} was made from another training run than {model_dir}: their training.json files differ; "
            "quantize again with --overwrite (overwrite=True)"
        )


def check_recipe(recipe: Recipe, widths: Iterable[int]) -> list[str]:
    """The problems of a recipe's quantization, by its keys' names, once each.

    Args:
        recipe: with valid values.
        widths: of the rows of the model's weights (hidden size and MLP); empty if the model is unknown.
    """
    fake = Settings.fake(recipe)
    copies = Settings.copies(recipe) + ([] if fake is None else [fake])
    found = [problem for settings in copies for problem in settings.problems()]
    found += [problem for settings in copies for problem in _width_problems(settings, [w for w in widths if w])]
    return list(dict.fromkeys(_with_keys(problem) for problem in found))


def _width_problems(settings: Settings, widths: Iterable[int]) -> list[str]:
    multiple = settings.packed_together
    unfit = [width for width in widths if width % (settings.row_group or 1) or width % multiple]
    if not unfit:
        return []
    odd = any(width % multiple for width in unfit)
    fix = f"gptq needs multiples of {multiple}, else use quanto" if odd else "give one that divides them"
    rows = " and ".join(map(str, dict.fromkeys(unfit)))
    return [
        f"group_size={settings.group_size} does not divide rows of {rows} weights into groups for {settings.method}'s "
        f"int{settings.bits}; {fix}, or 0 for whole rows"
    ]


def _with_keys(problem: str) -> str:
    for name, key in _NAMES.items():
        if problem.startswith(f"{name}="):
            return key + problem.removeprefix(name)
    return problem
