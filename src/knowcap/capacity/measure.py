"""Bits per parameter of any causal language model on any facts, in one call."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from knowcap.capacity.tables import CapacityError
from knowcap.facts import Knowledge, Row
from knowcap.files import KNOWLEDGE_FILE


if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerFast

    from knowcap.dataset.prompts import PromptOptions


def measure_capacity(
    model: str | Path | PreTrainedModel,
    dataset: str | Path | Iterable[Mapping[str, Any]] | Iterable[Row],
    *,
    tokenizer: PreTrainedTokenizerFast | None = None,
    knowledge: Knowledge | None = None,
    scoring: str = "token",
    context: str = "isolated",
    start_token: str = "auto",
    window: int | None = None,
    dtype: str = "float32",
    device_map: str | None = None,
    attn_implementation: str | None = None,
    limit: int | None = None,
    batch_size: int | None = None,
    output_dir: str | Path | None = None,
    prompts: PromptOptions | None = None,
    confidence_level: float = 0.95,
    seed: int = 0,
    progress: bool = False,
) -> dict[str, Any]:
    """The bits of these facts that a model holds per parameter, with interval, null control and bits by attribute.

    Args:
        model: a folder, a Hub id, or a model with its `tokenizer`; any causal language model, or an adapter.
        dataset: a data set folder or Hub id; a table of prompt, answer, candidates, or such rows (see
            `knowcap.dataset.prompts`), read by `prompts`; or rows of `knowcap.facts` with `knowledge`.
        tokenizer, knowledge: of a model object; the number of candidates of each attribute of the rows.
        scoring, context, start_token: see `knowcap.scoring.ScoringMode`.
        window, dtype, device_map, attn_implementation: see `knowcap.scoring.score` and `knowcap.models.LoadOptions`.
        limit, batch_size: entities to score, the first ones; texts per forward pass, by default as many as fit.
        output_dir: where nll.parquet, control.parquet and capacity.json are written; by default they are not kept.
        confidence_level, seed, progress: of the bootstrap interval; show progress bars.

    Returns:
        The content of capacity.json: `bits_per_parameter`, `max_bits_per_parameter`, `confidence_interval`, … (bits).

    Raises:
        CapacityError: a model without tokenizer, or rows without knowledge.
        ModelError, DatasetError, FactError, TextError: a model, data set, table or texts that cannot be used.
        LeakError: the null control holds bits.
    """
    from knowcap.capacity.summary import capacity
    from knowcap.models.folders import find_model
    from knowcap.models.loading import LoadOptions
    from knowcap.scoring.mode import ScoringMode
    from knowcap.scoring.stage import score

    folder, loaded = (find_model(model), None) if isinstance(model, str | Path) else (None, (model, tokenizer))
    if loaded is not None and tokenizer is None:
        raise CapacityError("tokenizer=None, but the model is passed as an object; pass its tokenizer as well")
    with tempfile.TemporaryDirectory(prefix="knowcap-measure-") as place:
        check = partial(text_problems, folder, loaded)
        data = dataset_folder(dataset, Path(place) / "data", knowledge, prompts, check)
        options = {"batch_size": batch_size, "limit": limit, "progress": progress, "overwrite": True, "window": window}
        options["loading"] = LoadOptions(dtype, device_map, attn_implementation)
        options["mode"] = ScoringMode(scoring, context, start_token=start_token)
        path = score(folder, data, output_dir=output_dir or f"{place}/out", loaded=cast(Any, loaded), **options)
        return capacity(path.parent, confidence_level=confidence_level, seed=seed)


def dataset_folder(
    dataset: str | Path | Iterable[Mapping[str, Any]] | Iterable[Row],
    place: Path,
    knowledge: Knowledge | None = None,
    prompts: PromptOptions | None = None,
    check: Callable[[Sequence[Row], Knowledge], Mapping[int, str]] | None = None,
) -> Path:
    """The data set as a folder: itself, downloaded from the Hub, or written to `place`.

    Args:
        dataset, knowledge, prompts: see `measure_capacity`.
        place: the folder to write, of a table or rows.
        check: what is wrong with a table's texts for a model, by index; these are left out.

    Raises:
        CapacityError, DatasetError: see `measure_capacity`.
    """
    from knowcap.dataset.folder import write_rows
    from knowcap.dataset.prompts import PromptOptions, read_prompts, write_prompts
    from knowcap.dataset.prompts.reading import SUFFIXES
    from knowcap.dataset.source import WHOLE, find_source

    given, prompts = prompts, prompts or PromptOptions()
    if isinstance(dataset, str | Path):
        path = Path(dataset).expanduser()
        is_file = path.is_file() or (path.suffix.lower() in SUFFIXES and not path.is_dir())
        if is_file and not path.is_file():
            raise CapacityError(f"{dataset}: there is no such file; pass a table, a data set folder or a Hub id")
        if (path / KNOWLEDGE_FILE).is_file():
            if given not in (None, PromptOptions()):
                raise CapacityError(f"{dataset} is a data set folder; columns and the like are for tables of prompts")
            return find_source(str(dataset)).fetch(*WHOLE)
        if is_file or path.is_dir() or prompts.names_columns:
            return write_prompts(read_prompts(dataset, prompts), place, path.stem, prompts, check)
        return find_source(str(dataset)).fetch(*WHOLE)
    rows: list[Any] = list(dataset)
    if rows and isinstance(rows[0], Row):
        if knowledge is None:
            raise CapacityError(
                "knowledge=None, but rows do not contain the number of candidates; pass a knowcap.facts.Knowledge"
            )
        return write_rows(place, knowledge, _numbered(rows))
    return write_prompts(rows, place, options=prompts, text_problems=check)


def text_problems(
    model_dir: Path | None,
    loaded: tuple[PreTrainedModel, PreTrainedTokenizerFast | None] | None,
    rows: Sequence[Row],
    knowledge: Knowledge,
) -> dict[int, str]:
    """What is wrong with texts for a model and its tokenizer, by index: too long, or not in its vocabulary.

    Args:
        model_dir: the model's folder, which is not loaded; or None for a `loaded` one.
        loaded: a model and its tokenizer.
        rows, knowledge: the texts and their facts.
    """
    from knowcap.models.loading import load_tokenizer
    from knowcap.models.separators import Separators
    from knowcap.scoring.fits import unscorable

    if loaded is not None:
        tokenizer, config = cast(Any, loaded[1]), loaded[0].config
    elif model_dir is not None and (model_dir / "config.json").is_file():
        from knowcap.models.registration import read_model_config

        tokenizer, config = load_tokenizer(model_dir), read_model_config(model_dir)
    else:
        return {}
    return unscorable(rows, tokenizer, config, knowledge, Separators.longest(model_dir, tokenizer))


def _numbered(rows: Iterable[Row]) -> list[tuple[Row, int]]:
    """Each row with the number of its rendering: the number of earlier rows of its entity."""
    seen: dict[int | str, int] = {}
    numbered = []
    for row in rows:
        number = seen.setdefault(row.entity, 0)
        seen[row.entity] += 1
        numbered.append((row, number))
    return numbered
