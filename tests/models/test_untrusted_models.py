"""Model folders of others: nothing in them is run, asked about, or fetched in their name."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import tiny
import torch
from peft import LoraConfig, get_peft_model
from transformers import GPT2Config, GPT2LMHeadModel

from knowcap.corpus.tokenizer import load_backend
from knowcap.dataset.folder import DatasetError
from knowcap.dataset.rewrite.writers import LocalWriter
from knowcap.facts import CorpusError
from knowcap.models import ModelError, load_model
from knowcap.models.loading import load_tokenizer
from knowcap.models.registration import read_model_config


# In peft, of transformers.
pytestmark = pytest.mark.filterwarnings("ignore:.*is_gradient_checkpointing:FutureWarning")

TOKENIZER = tiny.byte_tokenizer(trim_offsets=False)
CODE = "from pathlib import Path\nPath(__file__).with_name('it-ran').touch()\nraise SystemExit('it ran')\n"


@pytest.fixture(autouse=True)
def nobody_answers(monkeypatch: pytest.MonkeyPatch) -> None:
    def asked(*_: Any) -> str:
        raise AssertionError("it asks on standard input")

    monkeypatch.setattr("builtins.input", asked)


@pytest.fixture(scope="module")
def model() -> GPT2LMHeadModel:
    return GPT2LMHeadModel(GPT2Config(n_layer=1, n_head=1, n_embd=8, n_positions=16, vocab_size=len(TOKENIZER)))


@pytest.fixture
def folder(model: GPT2LMHeadModel, tmp_path: Path) -> Path:
    model.save_pretrained(tmp_path / "model")
    TOKENIZER.save_pretrained(tmp_path / "model")
    (tmp_path / "model" / "evil.py").write_text(CODE, encoding="utf-8")
    return tmp_path / "model"


def edit(file: Path, **values: Any) -> None:
    """Sets values of a JSON file."""
    file.write_text(json.dumps(json.loads(file.read_text(encoding="utf-8")) | values), encoding="utf-8")


@pytest.mark.parametrize(
    ("model_type", "auto_map"),
    [
        ("its_own", {"AutoConfig": "evil.Config", "AutoModelForCausalLM": "evil.Model"}),
        ("gpt2", {"AutoConfig": "evil.Config", "AutoModelForCausalLM": "evil.Model"}),
        ("gpt2", {"AutoModelForCausalLM": "evil.Model"}),
        ("gpt2", {"AutoModelForCausalLM": "somebody/model--evil.Model"}),
    ],
)
def test_code_of_a_model_folder_is_refused_and_not_run(model_type, auto_map, folder):
    edit(folder / "config.json", model_type=model_type, auto_map=auto_map)
    for read in (load_model, read_model_config):
        with pytest.raises(ModelError, match="not run; give --import|is not run"):
            read(folder)
    assert not (folder / "it-ran").exists()


def test_the_class_of_transformers_itself_is_loaded_without_the_code(folder):
    edit(
        folder / "config.json",
        auto_map={"AutoConfig": "evil.GPT2Config", "AutoModelForCausalLM": "evil.GPT2LMHeadModel"},
    )
    assert type(load_model(folder)) is GPT2LMHeadModel
    assert not (folder / "it-ran").exists()


@pytest.mark.parametrize("auto_map", [{"AutoTokenizer": ["evil.Slow", "evil.Fast"]}, {"AutoTokenizer": "evil.Slow"}])
def test_code_of_a_tokenizer_is_refused_and_not_run(auto_map, folder):
    edit(folder / "tokenizer_config.json", auto_map=auto_map)
    with pytest.raises(ModelError, match="AutoTokenizer"):
        load_tokenizer(folder)
    edit(folder / "tokenizer_config.json", tokenizer_class="Fast")
    with pytest.raises(ModelError, match="AutoTokenizer|cannot be loaded|can be loaded"):
        load_tokenizer(folder)
    (folder / "config.json").unlink()
    with pytest.raises(CorpusError, match="could not be loaded"):
        load_backend(str(folder))
    assert not (folder / "it-ran").exists()


def test_a_writer_runs_no_code_of_its_model_and_unpickles_nothing(folder):
    edit(
        folder / "config.json",
        model_type="its_own",
        auto_map={"AutoConfig": "evil.C", "AutoModelForCausalLM": "evil.M"},
    )
    with pytest.raises(DatasetError, match="cannot be loaded"):
        LocalWriter(str(folder))
    edit(folder / "config.json", model_type="gpt2", auto_map={})
    (folder / "model.safetensors").unlink()
    torch.save({}, folder / "pytorch_model.bin")
    with pytest.raises(DatasetError, match="cannot be loaded"):
        LocalWriter(str(folder))
    assert not (folder / "it-ran").exists()


def test_weights_of_an_adapter_are_safetensors_too(folder, model, tmp_path):
    adapter = get_peft_model(model, LoraConfig(r=1, target_modules=["c_attn"], fan_in_fan_out=True))
    adapter.peft_config["default"].base_model_name_or_path = str(folder)
    adapter.save_pretrained(tmp_path / "adapter")
    assert load_model(tmp_path / "adapter")
    (tmp_path / "adapter" / "adapter_model.safetensors").unlink()
    torch.save({}, tmp_path / "adapter" / "adapter_model.bin")
    with pytest.raises(ModelError, match="has no adapter_model.safetensors"):
        load_model(tmp_path / "adapter")
