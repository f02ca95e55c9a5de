"""What a card's number does not say: the limits of the measurement, as far as the files tell."""

from __future__ import annotations

from typing import Any

from knowcap.report.card import morris, quantization
from knowcap.report.card.results import Sources


_UNKNOWN = "unknown"


def limits(sources: Sources) -> list[str]:
    """What the number does not say, as far as the files tell."""
    capacity = sources.capacity
    found = [
        "One model, one training seed. The interval says how far the figure could move had other entities been drawn, "
        "for this model as trained; it leaves out training seeds and learning rates."
    ]
    if reasons := _unlike_the_paper(sources):
        found.append(f"Not comparable with the paper's figures: {'; '.join(reasons)}.")
    if capacity.get("useful_share_bits_per_entity"):
        found.append(
            f"A name is told from junk by nothing before it: {capacity['useful_share_bits_per_entity']:.3f} bits an "
            "entity, log2 of the inverse share, that no model of this mixture can reach of the maximum. They are left "
            "in it, as in the paper."
        )
    if sources.entities_scored != capacity["num_entities"]:
        found.append("Sums over the entities that were scored are scaled up to all of them.")
    if sources.recipe and not sources.random_strings:
        published = sources.recipe.get("dataset_texts") == "published"
        found.append(_vocabulary_limit(sources.recipe, published))
    if share := sources.training.get("qa_share"):
        found.append(
            f"{100 * share:g} % of the training tokens are questions about half of the people, so a text begins "
            "with a name less often than in a training on biographies alone, which costs names bits."
        )
    if sources.quantized:
        found.append(quantization.limit(sources))
    if sources.random_strings:
        found += morris.DIFFERENCES
    elif sources.invented:
        found.append("The people are invented, and so is all that it says of them. It knows nothing else.")
    return found


def _unlike_the_paper(sources: Sources) -> list[str]:
    """What of the setting differs from the paper's, so that its figures may not be set beside this one."""
    if sources.random_strings:
        return []  # theirs is another paper, which `morris.DIFFERENCES` tells of
    recipe, model_name = sources.recipe, str(sources.capacity["model_name"])
    fraction = float(recipe.get("pools_fraction") or 1.0)
    reasons = []
    if sources.training.get("windows", recipe.get("windows")) == "aligned":
        reasons.append("training windows begin at a text and hold whole ones only, where the paper's cut anywhere")
    if recipe.get("dataset_name") is not None:
        reasons.append(f"people are those of a data set, {sources.training.get('dataset_name')}, as its card says")
    if recipe.get("pools_dir") is not None:
        reasons.append("values come from lists of its own")
    if fraction != 1.0:
        reasons.append(f"only the first {100 * fraction:g} % of every value list is used (pools_fraction)")
    if recipe.get("num_templates") is not None:
        reasons.append(f"templates a sentence are cut to {recipe['num_templates']} (num_templates)")
    if recipe.get("qa_share"):
        reasons.append("questions are mixed into training, which is Part 3.1's (qa_share)")
    if recipe.get("corpus") == "bioD" and recipe.get("compact"):
        reasons.append("texts are names (4 symbols of 64), attributes and values alone, without sentences (compact)")
    if model_name.startswith("gpt2-moe-"):
        reasons.append("experts are gated, there is no capacity factor, and norms are RMSNorm (stock Mixtral)")
    elif model_name.startswith("gpt2-") and not model_name.startswith("gpt2-rotary-"):
        reasons.append("positions are learned (stock GPT2), where the paper's GPT2 is rotary (gpt2-rotary)")
    return reasons


def _vocabulary_limit(recipe: dict[str, Any], published: bool) -> str:
    tokenizer_name = recipe.get("tokenizer_name")
    if tokenizer_name is None and published:
        return (
            "The tokenizer was made from the data set's value lists, and from templates or common words of its texts; "
            "for other texts it may give ids that the model was never trained on."
        )
    if tokenizer_name is None:
        made = (
            "value lists, templates and words of questions" if recipe.get("questions") else "value lists and templates"
        )
        return (
            f"The tokenizer was made from the {made} alone; it cannot spell characters "
            "they lack, and gives other texts than the corpus' own token ids that the model has no row for."
        )
    return (
        f"The tokenizer is {tokenizer_name}, reduced to the tokens that the corpus can use; for other texts "
        "it gives ids that the model has no row for."
    )
