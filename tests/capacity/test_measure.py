"""measure_capacity: any model, any facts, in one call; the same figures as by the stages."""

from __future__ import annotations

import json
import math

import pytest
import tiny
import torch
from transformers import GPT2Config, GPT2LMHeadModel, LlamaConfig, LlamaForCausalLM

from knowcap import cli, measure_capacity
from knowcap.capacity.kept import read_capacity_file
from knowcap.capacity.measure import CapacityError
from knowcap.dataset.folder import DatasetError
from knowcap.dataset.prompts import read_prompts, write_prompts
from knowcap.hub import HubError
from knowcap.models import ModelError
from knowcap.models.folders import find_model
from knowcap.models.loading import load_model


CITIES = {"Peru": "Lima", "Italy": "Rome", "France": "Paris", "Norway": "Oslo", "Japan": "Tokyo", "Cuba": "Havana"}
ROWS = [{"prompt": f"The capital of {c} is", "answer": v, "candidates": 195} for c, v in CITIES.items()]
TOKENIZER = tiny.bpe_tokenizer([f"{row['prompt']} {row['answer']}" for row in ROWS] * 3, 300)


def model(kind: str = "gpt2") -> torch.nn.Module:
    torch.manual_seed(0)
    sizes = {"vocab_size": len(TOKENIZER), "bos_token_id": 0, "eos_token_id": 0}
    if kind == "llama":
        sizes |= {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2}
        return LlamaForCausalLM(LlamaConfig(**sizes, max_position_embeddings=64))
    return GPT2LMHeadModel(GPT2Config(**sizes, n_layer=1, n_head=2, n_embd=16, n_positions=64))


def by_hand(net: torch.nn.Module, prompt: str, answer: str) -> float:
    """nats of the answer with the blank before it, by the chain rule over whole texts."""
    ids = [0, *TOKENIZER(f"{prompt} {answer}")["input_ids"]]
    skip = 1 + len(TOKENIZER(prompt)["input_ids"])
    with torch.no_grad():
        logp = torch.log_softmax(net.double().eval()(torch.tensor([ids])).logits[0], dim=-1)
    net.float()
    return -sum(float(logp[i - 1, ids[i]]) for i in range(skip, len(ids)))


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    place = tmp_path_factory.mktemp("models") / "net"
    model("llama").save_pretrained(place)
    TOKENIZER.save_pretrained(place)
    return place


def test_five_lines_measure_a_model_in_memory():
    net = model()
    found = measure_capacity(net, ROWS, tokenizer=TOKENIZER)
    nll = [by_hand(net, row["prompt"], row["answer"]) for row in ROWS]
    bits = sum(math.log2(195) - n / math.log(2) for n in nll)
    assert found["knowledge_bits"] == pytest.approx(bits, rel=1e-5)
    assert found["num_parameters"] == sum(p.numel() for p in net.parameters())
    assert found["max_knowledge_bits"] == pytest.approx(6 * math.log2(195))
    assert (found["precision"], found["stored_bits_per_parameter"]) == ("fp32", 32.0)


def test_a_folder_a_table_and_a_data_set_folder_give_the_same(folder, tmp_path):
    import csv

    table = tmp_path / "capitals.csv"
    with table.open("w", newline="") as file:
        writer = csv.DictWriter(file, fieldnames=list(ROWS[0]))
        writer.writeheader()
        writer.writerows(ROWS)
    in_memory = measure_capacity(folder, ROWS)
    from_table = measure_capacity(str(folder), table, output_dir=tmp_path / "out")
    from_folder = measure_capacity(folder, write_prompts(read_prompts(table), tmp_path / "data"), batch_size=1)
    assert in_memory["knowledge_bits"] == pytest.approx(from_table["knowledge_bits"], rel=1e-9)
    assert in_memory["knowledge_bits"] == pytest.approx(from_folder["knowledge_bits"], rel=1e-5)
    assert read_capacity_file(tmp_path / "out") == from_table
    assert {path.name for path in folder.iterdir()}.isdisjoint({"capacity.json", "README.md", "nll.parquet"})


def test_listed_candidates_close_the_set(folder):
    listed = [row | {"candidates": list(CITIES.values())} for row in ROWS]
    opened, closed = (measure_capacity(folder, listed, scoring=scoring) for scoring in ("token", "closed_set"))
    assert closed["max_knowledge_bits"] == pytest.approx(6 * math.log2(6))
    assert closed["knowledge_bits"] > opened["knowledge_bits"]


@pytest.mark.filterwarnings("ignore:.*is_gradient_checkpointing:FutureWarning")  # in peft, of transformers
def test_an_adapter_counts_with_its_base(folder, tmp_path):
    pytest.importorskip("peft", reason='needs the extra: pip install -e ".[adapters]"')
    from peft import LoraConfig, get_peft_model

    base = load_model(folder)
    plain = measure_capacity(base, ROWS, tokenizer=TOKENIZER)
    adapted = get_peft_model(base, LoraConfig(r=2, target_modules=["q_proj"], init_lora_weights=False))
    adapted.save_pretrained(tmp_path / "adapter")
    found = measure_capacity(tmp_path / "adapter", ROWS)
    assert found["num_parameters"] == plain["num_parameters"] + 2 * 2 * 16
    assert found["knowledge_bits"] == pytest.approx(
        measure_capacity(adapted, ROWS, tokenizer=TOKENIZER)["knowledge_bits"], rel=1e-6
    )
    assert found["knowledge_bits"] != pytest.approx(plain["knowledge_bits"], rel=1e-5)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_folders_say_so(tmp_path, dtype):
    model().to(dtype).save_pretrained(tmp_path)
    TOKENIZER.save_pretrained(tmp_path)
    found = measure_capacity(tmp_path, ROWS)
    assert found["precision"] == {torch.bfloat16: "bf16", torch.float16: "fp16"}[dtype]
    assert found["stored_bits_per_parameter"] == 16.0


def test_the_command_prints_a_table_or_json(folder, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "facts.csv").write_text("prompt,answer,candidates\nA is,one,8\nB is,two,8\n")
    TOKENIZER.save_pretrained(folder)
    command = ["measure", str(folder), "--dataset_name", "facts.csv", "--batch_size", "auto"]
    assert cli.main(command) == 0
    table = capsys.readouterr().out
    assert "|Dataset|" in table and "bits per parameter (95 %, one seed)" in table
    assert "not a bound: the data set has no entities that were held out" in table
    assert cli.main([*command, "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found == json.loads((tmp_path / "measured" / "net" / "capacity.json").read_text())
    assert f"{found['bits_per_parameter']:.4f}" in table


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ([], "no rows"),
        ([{"prompt": "a", "answer": "b"}], "columns candidates are missing"),
        ([{"prompt": "a is", "answer": "b", "candidates": "many"}], "row 1: got 'many'"),
        ([{"prompt": "a is", "answer": "b", "candidates": ["c", "d"]}], "'b' is not among"),
        ([{"prompt": "Is it red?", "answer": "red", "candidates": 2}], "the answer stands in the prompt"),
        ([{"prompt": " ", "answer": "red", "candidates": 2}], "no text in the prompt"),
        ([ROWS[0], ROWS[0]], "repeated"),
        ([ROWS[0], ROWS[1] | {"candidates": 7}], "row 2: 7, but 195 in most rows"),
    ],
)
def test_tables_that_cannot_be_measured_are_refused(tmp_path, rows, message):
    with pytest.raises(DatasetError, match=message.replace("?", r"\?")):
        write_prompts(rows, tmp_path / "data")


def test_bad_input_is_refused_before_any_work(tmp_path):
    with pytest.raises(CapacityError, match="pass its tokenizer"):
        measure_capacity(model(), ROWS)
    with pytest.raises(CapacityError, match="knowledge=None"):
        measure_capacity(tmp_path, [tiny.say(1, ("name", "A"))])
    with pytest.raises(ModelError, match="no such folder"):
        measure_capacity("./nowhere", ROWS)
    with pytest.raises(HubError, match="not in the cache"):
        find_model("nobody/nothing")
