"""What the card of a bioR data set says of how its texts were written."""

from __future__ import annotations

from knowcap.dataset.card import CardText
from knowcap.dataset.rewrite.shards import Tally, listed
from knowcap.dataset.rewrite.task import PROMPT_VERSION
from knowcap.dataset.rewrite.writers import Writer


_ABOUT = (
    "Biographies of people who don't exist, written by a language model, after bioR of Part 3.3 of *Physics of "
    "Language Models* (arXiv:2404.05405)."
)


def making(tally: dict[str, Tally], writer: Writer, texts_per_person: int) -> CardText:
    """The card's own part, from what was counted.

    Args:
        tally: the counts of the configs `biographies` and `control`.
        writer: who wrote.
        texts_per_person: how many were asked for.
    """
    table = ["| config | texts kept | replies | replies rejected | texts missing |", "|---|---|---|---|---|"]
    for config, counts in tally.items():
        if counts.replies:
            rejected, missing = listed(counts.rejected), listed(counts.missing)
            table.append(f"| {config} | {counts.kept:,} | {counts.replies:,} | {rejected} | {missing} |")
    lines = [
        f"Written by {writer.model_name} (temperature {writer.temperature:g}, at most {writer.max_new_tokens} "
        f"tokens), asked for {texts_per_person} texts a person and one an outsider with knowcap's prompts, version "
        f"{PROMPT_VERSION}. A reply is kept if it begins with the full name and every fact is found in it, and is "
        "asked for again otherwise; dates stand in whatever form the model gave them.",
        "",
        *table,
        "",
        "Free prose may hint at a fact before it states it, so **bits scored on these texts are not a bound** on what "
        "a model's weights hold. The configs `neutral` and `neutral_control` tell the same people by sentence "
        "templates; bits scored on those are.",
        "",
        "What may be done with the texts is up to the licence of the model that wrote them; knowcap adds no terms of "
        "its own. `dataset_scripts/bior.py` asks for such a data set again; a model's answers may differ.",
    ]
    return CardText(_ABOUT, "other", lines)
