"""Model cards: front matter that huggingface_hub reads back, and no figure that is not in a JSON file."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import yaml
from run_folders import (
    RECIPE,
    make_capacity,
    make_run,
    make_training,
    read_card,
)

from knowcap.report.card import ReportError, write_card
from knowcap.report.stage import report
from knowcap.scoring.measurement import COUNTS, SETTINGS


def test_the_front_matter_is_read_back_by_huggingface_hub(tmp_path: Path) -> None:
    data, _ = read_card(make_run(tmp_path / "tiny") / "model")
    assert data["language"] == "en"
    assert data["license"] == "apache-2.0"
    assert data["library_name"] == "transformers"
    assert data["pipeline_tag"] == "text-generation"
    assert data["metrics"] == ["bits_per_parameter"]
    assert set(data["tags"]) == {"knowledge-capacity", "physics-of-language-models", "synthetic"}
    assert "base_model" not in data
    assert "datasets" not in data, "bioS is a name, no id on the Hub"


def test_the_model_index_holds_the_figures_of_every_precision(tmp_path: Path) -> None:
    run_dir = make_run(tmp_path / "tiny")
    data, _ = read_card(run_dir / "model")
    (index,) = data["model-index"]
    (result,) = index["results"]
    assert result["dataset"]["name"] == "bioS(800)"
    assert result["dataset"]["args"] == {"num_people": 800, "seed": 7}
    found = {(m["name"].split(", ")[1], m["type"]): m["value"] for m in result["metrics"]}
    for precision, folder in (("fp32", "model"), ("int8", "quantized/int8"), ("int4", "quantized/int4")):
        capacity = json.loads((run_dir / folder / "capacity.json").read_text())
        for metric in ("bits_per_parameter", "max_bits_per_parameter"):
            assert found.pop((precision, metric)) == pytest.approx(capacity[metric], abs=1e-6)
    assert not found


def test_the_text_has_the_numbers_of_the_files(tmp_path: Path) -> None:
    run_dir = make_run(tmp_path / "tiny")
    _, text = read_card(run_dir / "model")
    capacity = make_capacity()
    ratio = capacity["bits_per_parameter"]
    assert "It was trained for 465 exposures of 800 invented people of bioS." in text
    assert f"stores **{ratio:.3f} ± 0.020 bits of knowledge per parameter**" in text
    assert f"| fp32 | {ratio:.3f} | {ratio - 0.02:.3f} to {ratio + 0.02:.3f} |" in text
    assert f"| int8 | {ratio * 0.99:.3f} |" in text
    assert f"| int4 | {ratio * 0.35:.3f} |" in text
    assert text.index("| fp32 |") < text.index("| int8 |") < text.index("| int4 |")
    assert "95 % interval" in text
    assert "| birth_date | 8.000 | 10.000 | 80.0 % |" in text
    assert "| training tokens, without padding | 17,000,000 |" in text
    assert "| time | 4.0 min |" in text
    assert "It shows -1.250 ± 0.050 bits per entity" in text
    assert "all 800 entities" in text
    assert "training seeds" in text
    assert "git revision 0123abc" in text
    assert "knowcap 0.1.0, torch 2.13.0" in text
    assert "2404.05405" in text


def test_the_card_names_the_architecture(tmp_path: Path) -> None:
    _, text = read_card(make_run(tmp_path / "ours") / "model")
    assert "The architecture is gpt2-rotary (rotary positions, standard MLP, tied embeddings)." in text
    _, text = read_card(make_run(tmp_path / "theirs", model_name="qwen3") / "model")
    assert "The architecture is qwen3." in text


def test_a_number_that_is_no_bound_has_its_reason_on_the_card_and_under_the_table(tmp_path: Path) -> None:
    reason = "the null control exchanges values only"
    run_dir = make_run(tmp_path / "tiny", bound=False, bound_reason=reason)
    _, text = read_card(run_dir / "model")
    assert "(one seed) (not a bound)" in text and f"not a bound on what the weights hold, because {reason}." in text
    report(tmp_path)
    table = (tmp_path / "report.md").read_text()
    assert f"- not a bound: the weights may hold less, because {reason}" in table


def test_the_card_has_the_device_and_what_questions_cost(tmp_path: Path) -> None:
    _, text = read_card(make_run(tmp_path / "plain") / "model")
    assert "| device | NVIDIA H200 |" in text and "whether the text is a question" not in text
    run = make_run(tmp_path / "mixed", qa_share=0.5, qa_share_bits_per_entity=1.0)
    _, text = read_card(run / "model")
    assert "whether the text is a question. This costs 1.000 bits per entity" in text
    _, text = read_card(make_run(tmp_path / "packed", qa_share=0.5, qa_share_bits_per_entity=None) / "model")
    assert "whether the text is a question" not in text


def test_the_recipe_is_shown_without_folders_of_the_machine(tmp_path: Path) -> None:
    _, text = read_card(make_run(tmp_path / "tiny") / "model")
    block = text.split("```yaml\n")[1].split("```")[0]
    expected = {key: value for key, value in RECIPE.items() if value is not None and key != "output_dir"}
    assert yaml.safe_load(block) == expected
    assert "/home" not in text
    assert str(tmp_path) not in text


def test_markdown_is_well_formed(tmp_path: Path) -> None:
    for folder in ("model", "quantized/int4"):
        run_dir = tmp_path / "tiny"
        _, text = read_card((run_dir if run_dir.exists() else make_run(run_dir)) / folder)
        lines = text.splitlines()
        for previous, line in zip(lines, lines[1:], strict=False):
            if line.startswith("|") and previous.startswith("|"):
                assert line.count("|") == previous.count("|"), line
            if line.startswith("#"):
                assert previous == "", f"no empty line before {line!r}"
        assert text.count("```") % 2 == 0
        assert "{{" not in text and "{%" not in text
        assert "None" not in text and "nan" not in text


@pytest.mark.parametrize(
    ("recipe", "words"),
    [
        ({"pools_fraction": 0.25}, "the first 25 % of every value list"),
        ({"num_templates": 12}, "templates per sentence is limited to 12"),
        ({"pools_dir": "/data/lists"}, "custom lists"),
        ({"lists": "short"}, "fewer tokens than the paper's (lists: short)"),
    ],
)
def test_differences_from_the_paper_are_listed(tmp_path: Path, recipe: dict[str, Any], words: str) -> None:
    _, plain = read_card(make_run(tmp_path / "plain") / "model")
    assert "Not comparable" not in plain
    _, text = read_card(make_run(tmp_path / "changed", recipe=recipe) / "model")
    assert words in text.split("Not comparable with the paper's figures")[1]


def test_aligned_windows_and_learned_positions_are_listed(tmp_path: Path) -> None:
    run_dir = make_run(tmp_path / "tiny", model_name="gpt2-2-2")
    (run_dir / "model" / "training.json").write_text(json.dumps(make_training(windows="aligned")))
    _, text = read_card(run_dir / "model")
    assert "Training windows start at a text and hold whole texts only" in text
    assert "Positions are learned" in text


def test_a_mixture_differs_from_the_papers_in_its_experts_not_its_positions(tmp_path: Path) -> None:
    _, text = read_card(make_run(tmp_path / "tiny", model_name="gpt2-moe-2-2-4") / "model")
    assert "Experts are gated, there is no capacity factor" in text and "Positions are learned" not in text


def test_a_sample_of_the_entities_is_mentioned(tmp_path: Path) -> None:
    run_dir = make_run(tmp_path / "tiny")
    settings = dict.fromkeys((*COUNTS, *SETTINGS, "num_entities", "name_is_prefix_free", "knowledge"))
    measurement = settings | {"entities_scored": 100, "control_kind": "outsiders", "control_entities": 500}
    table = pa.table({"nll": [0.0]}).replace_schema_metadata({b"knowcap": json.dumps(measurement).encode()})
    pq.write_table(table, run_dir / "model" / "nll.parquet")
    _, text = read_card(run_dir / "model")
    assert "for 100 of 800 entities" in text
    assert "scaled up" in text
    assert "about 500 people outside the sample" in text


def test_a_quantized_card_names_its_original_and_how_to_load_it(tmp_path: Path) -> None:
    run_dir = make_run(tmp_path / "tiny")
    data, text = read_card(run_dir / "quantized" / "int4", base_model="lab/tiny")
    assert data["base_model"] == "lab/tiny"
    assert data["base_model_relation"] == "quantized"
    assert data["library_name"] == "knowcap", "transformers alone would load random weights"
    assert len(data["model-index"][0]["results"][0]["metrics"]) == 2, "its own figures only"
    assert "from knowcap.models import load_model" in text
    assert "group size 32" in text
    assert "47.0 % are quantized. Embeddings are\n52.2 % of all parameters and are not quantized." in text
    unknown, _ = read_card(run_dir / "quantized" / "int8")
    assert "base_model" not in unknown and "base_model_relation" not in unknown


def test_a_quantized_card_has_the_loss_of_each_attribute(tmp_path: Path) -> None:
    run_dir = make_run(tmp_path / "tiny")
    path = run_dir / "quantized" / "int4" / "capacity.json"
    capacity = json.loads(path.read_text())
    before = json.loads((run_dir / "model" / "capacity.json").read_text())["attributes"]
    lost = {"name": 0.5, "birth_date": 3.0, "employer": 0.5, "pronoun": 0.0}
    for name, bits in lost.items():
        capacity["attributes"][name]["bits_per_entity"] = before[name]["bits_per_entity"] - bits
    path.write_text(json.dumps(capacity))
    _, text = read_card(run_dir / "quantized" / "int4")
    assert "| birth_date | 8.000 | 5.000 | 3.000 | 37.5 % | 75.0 % |" in text
    assert "| employer | 6.400 | 5.900 | 0.500 | 7.8 % | 12.5 % |" in text
    known = sum(row["bits_per_entity"] for row in before.values())
    assert f"int4 lost 4.000 bits per entity, {100 * 4 / known:.1f} % of the bits before;" in text
    assert "the largest loss is that of birth date: 3.000 bits" in text
    assert "Knowledge lost" not in read_card(run_dir / "model")[1]
    capacity["renderings"] = 2  # measured in another way than the original: no loss can be computed
    path.write_text(json.dumps(capacity))
    assert "Knowledge lost" not in read_card(run_dir / "quantized" / "int4")[1]


def test_the_quantization_method_is_described(tmp_path: Path) -> None:
    run_dir = make_run(tmp_path / "tiny")
    path = run_dir / "quantized" / "int4" / "capacity.json"
    capacity = json.loads(path.read_text())
    capacity["quantization"] = {
        "method": "gptq", "bits": 4, "group_size": 64, "symmetric": True, "embeddings": False, "exclude": ["*.mlp.*"],
        "excluded": ["wte", "lm_head"], "calibration": {"texts": 1000, "tokens": 64_123},
    }  # fmt: skip
    path.write_text(json.dumps(capacity))
    data, text = read_card(run_dir / "quantized" / "int4", base_model="lab/tiny")
    assert "GPTQ, the paper's method, calibrated on 1,000 training biographies (64,123 tokens)" in text
    assert "group size 64; symmetric. Excluded by the recipe: `*.mlp.*`." in text
    assert "Layers in full precision: `wte`, `lm_head`." in text
    assert {"int4", "gptq"} <= set(data["tags"]) and "quanto" not in data["tags"]
    assert "bits per parameter, int4 gptq" in {m["name"] for m in data["model-index"][0]["results"][0]["metrics"]}
    stored = capacity["bits_per_parameter"] / 11.0
    assert f"| 47.0 % | 11.00 | {stored:.3f} |" in text


def test_plots_travel_with_the_model(tmp_path: Path) -> None:
    run_dir = make_run(tmp_path / "tiny")
    (run_dir / "plots").mkdir()
    (run_dir / "plots" / "loss.png").write_bytes(b"png")
    _, text = read_card(run_dir / "model", plots=[run_dir / "plots" / "loss.png"])
    assert "![loss](plots/loss.png)" in text
    assert (run_dir / "model" / "plots" / "loss.png").read_bytes() == b"png"
    _, again = read_card(run_dir / "model")
    assert again == text, "those that are there are kept"


def test_a_folder_without_a_run_gets_a_card_of_what_is_known(tmp_path: Path) -> None:
    folder = tmp_path / "custom"
    folder.mkdir()
    capacity = make_capacity(
        dataset="lab/places",
        exposures=None,
        seed=None,
        confidence_interval=[None, None],
        control_bits_per_entity=[None, None],
    )
    capacity["attributes"]["employer"] |= {"bits_per_entity": None, "max_bits_per_entity": None, "accuracy": None}
    (folder / "capacity.json").write_text(json.dumps(capacity))
    data, text = read_card(folder)
    assert data["datasets"] == ["lab/places"]
    assert "synthetic" not in data["tags"]
    assert "invented" not in text
    assert "no training.json" in text
    assert "| employer | not stated |  |  |" in text
    assert "None" not in text


def test_the_recipe_can_be_given_and_the_hub_id_goes_into_the_example(tmp_path: Path) -> None:
    run_dir = make_run(tmp_path / "tiny")
    _, text = read_card(run_dir / "model", recipe=RECIPE | {"quantize_bits": (8,)}, hub_model_id="lab/tiny")
    assert "quantize_bits:\n- 8\n" in text
    assert 'path = "lab/tiny"' in text
    _, quantized = read_card(run_dir / "quantized" / "int8", hub_model_id="lab/tiny-int8")
    assert 'path = snapshot_download("lab/tiny-int8")' in quantized


def test_the_same_files_give_the_same_card(tmp_path: Path) -> None:
    model_dir = make_run(tmp_path / "tiny") / "model"
    first = write_card(model_dir).read_bytes()
    assert write_card(model_dir).read_bytes() == first
    assert not list(model_dir.glob(".*"))


def test_an_unmeasured_folder_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ReportError, match=r"has no capacity\.json; measure the model first"):
        write_card(tmp_path)


def test_the_loading_example_runs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    from tokenizers import Tokenizer, models
    from transformers import GPT2Config, GPT2LMHeadModel, PreTrainedTokenizerFast

    model_dir = make_run(tmp_path / "tiny") / "model"
    words = Tokenizer(models.WordLevel({"<|endoftext|>": 0, "Anya": 1, "Forger": 2}, unk_token="<|endoftext|>"))
    PreTrainedTokenizerFast(tokenizer_object=words, eos_token="<|endoftext|>").save_pretrained(model_dir)
    config = GPT2Config(vocab_size=3, n_positions=128, n_embd=8, n_layer=1, n_head=1, bos_token_id=0, eos_token_id=0)
    GPT2LMHeadModel(config).save_pretrained(model_dir)
    _, text = read_card(model_dir)
    monkeypatch.chdir(model_dir)
    exec(text.split("```python\n")[1].split("```")[0], {})
    assert set(capsys.readouterr().out.split()) <= {"Anya", "Forger"}
