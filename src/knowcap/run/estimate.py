"""The size and cost of a run before it starts: bits, parameters, tokens, steps and, roughly, time."""

from __future__ import annotations

import time
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, cast

from knowcap.corpus.base import tokenizer_of
from knowcap.corpus.pieces import CHECKED
from knowcap.dataset.corpora import knowledge_of, sample_of
from knowcap.facts import CorpusError
from knowcap.files import TRAINING_FILE
from knowcap.knowledge.frequencies import EVEN, frequencies_of
from knowcap.models import describe_size, is_config, parameters_of, parse_model_name, widths_of
from knowcap.models.devices import uses_gpu
from knowcap.models.names import inner_size
from knowcap.models.quantized.settings import Settings
from knowcap.models.quantized.settings import check_recipe as check_quantizing
from knowcap.recipe import Recipe
from knowcap.report.duration import duration
from knowcap.run.folder import is_run_of
from knowcap.sealed import read_result
from knowcap.training.packing import Stream, TrainingError
from knowcap.training.windows import Mixture, stream_of


if TYPE_CHECKING:
    from transformers import PreTrainedModel

_SAMPLE = 1000  # biographies that tokens and windows are counted on
_FEW = 40  # whole texts and pairs of pieces that a dry run checks of our own tokenizer, which is made for them
_PROBE_FLOP = 2e10  # of one forward and backward pass of the speed probe, about
_PROBE_SECONDS = 2.0
_LARGEST_PROBE = 300_000_000  # parameters; larger models are not built for an estimate


@dataclass(frozen=True)
class SampleCounts:
    """What one biography adds to training, averaged over a sample of them.

    Attributes:
        rows: of the vocabulary.
        tokens, windows: with the junk or the questions that are trained on beside a biography.
        own_tokens: without those.
    """

    rows: int
    tokens: float
    windows: float
    own_tokens: float


@dataclass(frozen=True)
class Estimate:
    """A run in numbers; tokens include the ends of texts, and those of junk and questions where there are some.

    `widths` are those that num_parameters picks, in words. `train_seconds` are those of the finished run in the run
    folder, else roughly those of steps timed on this machine in one process; None if neither is known. `time` says
    which. `frequencies` are those of `knowcap.knowledge.frequencies` in JSON, if people are not equally frequent.
    """

    num_people: int
    bits_per_person: float
    total_bits: float
    num_parameters: int
    widths: str
    max_bits_per_parameter: float
    tokens_per_biography: float
    num_tokens: int
    num_windows: int
    num_steps: int
    train_seconds: float | None
    time: str
    frequencies: dict[str, Any] | None = None


def check_texts(recipe: Recipe) -> list[str]:
    """Problems that appear when texts are tokenized: an unfit tokenizer, windows that cannot hold a biography.

    Takes seconds, unlike `knowcap.run.preflight.check_recipe`, which should have found nothing before.
    """
    return sampled(recipe, CHECKED)[1]


def check_model(recipe: Recipe) -> list[str]:
    """Problems that appear when the model is built for the vocabulary: no widths of that many parameters, logits that
    see later tokens, weights that cannot be quantized. Imports torch only for configurations.

    `check_texts` should have found nothing before.
    """
    try:
        if is_config(recipe.model_name):
            return _check_configuration(recipe, _sample_stream(recipe)[1])
        if recipe.num_parameters is None and recipe.num_active_parameters is None:
            return []
        name = parse_model_name(recipe.model_name)
        width = name.num_heads * widths_of(recipe, _sample_stream(recipe)[1])["head_dim"]
        return check_quantizing(recipe, (width, inner_size(name.of, width)))
    except ValueError as error:
        return [str(error)]


def _check_configuration(recipe: Recipe, rows: int) -> list[str]:
    from knowcap.models import build_model, check_causal, recipe_config
    from knowcap.models.configs import meta_model
    from knowcap.models.quantized.stage import check_layers

    config = recipe_config(recipe, rows)
    if parameters_of(recipe, rows).num_parameters <= _LARGEST_PROBE:
        check_causal(build_model(config, recipe.seed))
    fake = Settings.fake(recipe)
    for settings in Settings.copies(recipe) + ([] if fake is None else [fake]):
        check_layers(config, settings)
    if recipe.extract == "lora":
        from knowcap.extraction.tuning import attention_targets

        attention_targets(meta_model(config))
    return []


def sampled(recipe: Recipe, checked: int = _FEW) -> tuple[SampleCounts | None, list[str]]:
    """The counts of a sample of the texts, and the problems of `check_texts`; None if they cannot be counted.

    Args:
        recipe: a checked recipe.
        checked: whole texts, and pairs of pieces at each place of a text, that are checked at most; all of another
            tokenizer than ours.
    """
    try:
        stream, rows = _sample_stream(recipe, checked)
        longest = stream.corpus.longest(stream.pieces)
        counts = _counted(recipe, stream, rows)
    except (CorpusError, TrainingError) as error:
        return None, [str(error)]
    if longest <= recipe.block_size:
        return counts, []
    return counts, [
        f"block_size={recipe.block_size}, but a biography can have {longest} tokens and is scored in one piece; "
        f"set block_size to {longest} or more"
    ]


def estimate(recipe: Recipe, measure_speed: bool = False, counts: SampleCounts | None = None) -> Estimate:
    """Counts exactly what it can, and the rest on a sample of texts; without torch unless speed is measured.

    Args:
        recipe: a checked recipe.
        measure_speed: build the model and time a few training steps (seconds); not of a finished run.
        counts: from `sampled` or `sample_counts`, if they are known.
    """
    counts = counts or sample_counts(recipe)
    knowledge = knowledge_of(recipe)
    parameters = parameters_of(recipe, counts.rows).num_parameters
    biographies = knowledge.num_people * recipe.exposures
    windows = max(1, round(counts.windows * biographies))
    steps = -(-windows // recipe.train_batch_size)
    frequencies = frequencies_of(recipe, knowledge.num_people)
    seconds, how = None, "not measured; --measure_speed times a few steps"
    trained = recipe.run_dir / "model" / TRAINING_FILE
    if trained.is_file() and is_run_of(recipe):
        seconds, how = read_result(trained, ("train_seconds",))["train_seconds"], "as it took; the model is trained"
    elif measure_speed and parameters > _LARGEST_PROBE:
        how = f"not measured; only models of {_LARGEST_PROBE:,} parameters or less are built for it"
    elif measure_speed:
        seconds = steps * seconds_per_step(recipe, counts.rows, parameters)
        how = "roughly, on this machine in one process; without the other stages"
    return Estimate(
        num_people=knowledge.num_people,
        bits_per_person=knowledge.bits_per_person,
        total_bits=knowledge.total_bits,
        num_parameters=parameters,
        widths=describe_size(recipe, counts.rows),
        max_bits_per_parameter=knowledge.total_bits / parameters,
        tokens_per_biography=counts.own_tokens,
        num_tokens=round(counts.tokens * biographies),
        num_windows=windows,
        num_steps=steps,
        train_seconds=seconds,
        time=how if seconds is None else f"{duration(seconds)}, {how}",
        frequencies=None if frequencies is None else frequencies.content(),
    )


def describe(e: Estimate) -> str:
    """The estimate as lines for a terminal."""
    rows = {
        "people": f"{e.num_people:,}",
        "bits per person": f"{e.bits_per_person:.4f}",
        "bits in total": f"{e.total_bits:,.0f}",
        "parameters": f"{e.num_parameters:,}",
        **({"widths": e.widths} if e.widths else {}),
        "max bits per parameter": f"{e.max_bits_per_parameter:.4f}",
        "tokens per biography": f"{e.tokens_per_biography:.1f}",
        "tokens in total, about": f"{e.num_tokens:,}",
        "windows, about": f"{e.num_windows:,}",
        "steps, about": f"{e.num_steps:,}",
        **_frequency_rows(e.frequencies),
        "training": e.time,
    }
    return "\n".join(f"{name:<28}{value}" for name, value in rows.items())


def _frequency_rows(content: dict[str, Any] | None) -> dict[str, str]:
    """The lines about frequencies."""
    if content is None:
        return {}
    rows = {"exposures of a person": "{smallest:,} to {largest:,}, mean {exposures:,}".format(**content)}
    if content["people_never_seen"]:
        rows["people never seen"] = f"{content['people_never_seen']:,}; their facts count in the maximum"
    return rows


def sample_counts(recipe: Recipe) -> SampleCounts:
    """Packs one exposure of the first people as the recipe does, and counts; without torch.

    Raises:
        CorpusError, TrainingError: texts that the tokenizer or the windows cannot hold.
    """
    return _counted(recipe, *_sample_stream(recipe))


def _counted(recipe: Recipe, stream: Stream | Mixture, rows: int) -> SampleCounts:
    counts, tokens = stream.count()
    sample = stream.corpus.num_people
    own = tokens * (recipe.useful_share if recipe.junk_people else 1 - recipe.qa_share)
    return SampleCounts(rows, tokens / sample, int(counts.sum()) / sample, own / sample)


def _sample_stream(recipe: Recipe, checked: int = _FEW) -> tuple[Stream | Mixture, int]:
    """One exposure of the first people, as the recipe packs them; and the vocabulary rows."""
    sample, corpus = replace(recipe, exposures=1, **EVEN), sample_of(recipe, _SAMPLE)
    tokenizer, rows = tokenizer_of(sample, corpus)
    return stream_of(sample, corpus, tokenizer, checked if recipe.tokenizer_name is None else CHECKED), rows


def seconds_per_step(recipe: Recipe, rows: int, parameters: int) -> float:
    """Time of one training step: passes over a batch small enough to be quick, and the updates, are measured."""
    import torch

    from knowcap.models import build_model, recipe_config
    from knowcap.training.optimizer import optimizer_of

    model = build_model(recipe_config(recipe, rows), recipe.seed)
    model.to(torch.device("cuda" if uses_gpu() else "cpu"))  # pyright: ignore[reportArgumentType]
    optimizer = optimizer_of(recipe, model)
    micro = recipe.train_batch_size // recipe.gradient_accumulation_steps
    batch = max(1, min(micro, int(_PROBE_FLOP / (6 * parameters * recipe.block_size))))
    passes, updates = seconds_per_pass(model, recipe, batch), []
    for _ in range(3):
        began = time.perf_counter()
        optimizer.step()
        next(model.parameters()).sum().item()  # waits for the device
        updates.append(time.perf_counter() - began)
    return passes / batch * recipe.train_batch_size + min(updates[1:])


def seconds_per_pass(model: PreTrainedModel, recipe: Recipe, windows: int) -> float:
    """The least seconds of a forward and backward pass over so many full windows, as in training; gradients stay."""
    import torch

    from knowcap.training.kernels import faster_training

    device, rows = model.device, cast(Any, model.get_input_embeddings()).weight.shape[0]
    ids = torch.arange(windows * recipe.block_size, device=device).reshape(windows, -1) % rows
    kind = {"bf16": torch.bfloat16, "fp16": torch.float16}.get(recipe.precision)
    times: list[float] = []
    end = time.perf_counter() + _PROBE_SECONDS
    with faster_training(model.train(), recipe.torch_compile):
        while len(times) < 2 or (time.perf_counter() < end and len(times) < 10):
            model.zero_grad()
            began = time.perf_counter()
            with torch.autocast(device.type, kind, enabled=kind is not None):
                loss = model(input_ids=ids, labels=ids)["loss"]
            loss.backward()
            loss.item()  # waits for the device
            times.append(time.perf_counter() - began)
    return min(times[1:])  # the first one warms up
