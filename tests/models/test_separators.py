"""The tokens around a text: what each kind of tokenizer puts first, and what models of knowcap are trained after."""

from __future__ import annotations

import json

import pytest
import tiny
from tokenizers import processors
from transformers import PreTrainedTokenizerFast

from knowcap.models import ModelError, Separators
from knowcap.models.separators import start_text


BOS, END, GMASK = "<s>", "</s>", "[gMASK]"


def tokenizer_of(template: str | None = None, **special: str | None) -> PreTrainedTokenizerFast:
    """Single bytes, and three special tokens that a template of the post-processor may put around a text."""
    made = tiny.byte_tokenizer(trim_offsets=False, **({"eos_token": END, "bos_token": BOS} | special))
    made.add_special_tokens({"additional_special_tokens": [BOS, END, GMASK]})
    if template is not None:
        ids = [(token, made.convert_tokens_to_ids(token)) for token in (BOS, END, GMASK)]
        made.backend_tokenizer.post_processor = processors.TemplateProcessing(single=template, special_tokens=ids)
    return made


@pytest.mark.parametrize(
    ("template", "special", "before", "after", "end"),
    [
        (f"{BOS} $A", {}, [BOS], [], END),  # Llama, Mistral, Gemma
        (f"{BOS} $A {END}", {}, [BOS], [END], END),
        (f"{GMASK} {BOS} $A", {}, [GMASK, BOS], [], END),  # GLM: two tokens
        (f"$A {END}", {"bos_token": None}, [END], [], END),  # the end of the text before
        (None, {}, [BOS], [], END),  # it puts nothing: BOS
        (None, {"bos_token": None}, [END], [], END),  # Qwen: no BOS
        (None, {"bos_token": END}, [END], [], END),  # GPT2, GPT-NeoX and ours: BOS is EOS
        (None, {"eos_token": None}, [BOS], [], BOS),
    ],
)
def test_what_the_tokenizer_puts_first_decides_then_bos_then_eos(template, special, before, after, end):
    made = tokenizer_of(template, **special)
    found = Separators.of(made)
    ids = made.convert_tokens_to_ids
    assert (found.before, found.after, found.end) == (tuple(map(ids, before)), tuple(map(ids, after)), ids(end))
    assert found.size == len(before) + len(after)
    assert start_text(made, found) == "".join(before)


def test_a_start_token_that_is_chosen_is_taken_and_one_that_is_missing_is_an_error():
    made = tokenizer_of(f"{BOS} $A")
    bos, end = made.convert_tokens_to_ids([BOS, END])
    chosen = {name: Separators.of(made, name) for name in ("bos", "eos", "none")}
    assert {name: found.before for name, found in chosen.items()} == {"bos": (bos,), "eos": (end,), "none": ()}
    assert all(found.after == () for found in chosen.values())
    with pytest.raises(ModelError, match="start_token=bos, but the tokenizer has no bos_token; use auto"):
        Separators.of(tokenizer_of(bos_token=None), "bos")
    with pytest.raises(ModelError, match="neither eos_token nor bos_token, and puts nothing before a text"):
        Separators.of(tokenizer_of(bos_token=None, eos_token=None))
    with pytest.raises(ModelError, match="start_token='sep'; expected auto, bos, eos, none"):
        Separators.of(made, "sep")


def test_a_model_that_knowcap_trained_starts_after_eos_whatever_its_tokenizer_puts_first(tmp_path):
    made = tokenizer_of(f"{BOS} $A")
    bos, end = made.convert_tokens_to_ids([BOS, END])
    assert Separators.of_model(tmp_path, made).before == Separators.of_model(None, made).before == (bos,)
    (tmp_path / "training.json").write_text("{}")
    assert Separators.of_model(tmp_path, made).before == (end,)
    assert Separators.of_model(tmp_path, made, "bos").before == (bos,)
    adapter = tmp_path / "adapter"
    adapter.mkdir()
    (adapter / "adapter_config.json").write_text(json.dumps({"base_model_name_or_path": ".."}))
    for name in ("config.json", "model.safetensors"):
        (tmp_path / name).write_text("{}")
    assert Separators.of_model(adapter, made).before == (end,), "an adapter of a model that knowcap trained"
