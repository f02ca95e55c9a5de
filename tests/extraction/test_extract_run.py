"""`knowcap extract` on a run: what it finds, keeps, refuses and goes on with; its cards, and what it publishes."""

from __future__ import annotations

import json
import math
import shutil
from dataclasses import replace
from pathlib import Path

import huggingface_hub
import pyarrow.parquet as pq
import pytest
import torch
from hub_server import TOKEN, HubServer
from peft import PeftModel
from transformers import AutoModelForCausalLM, AutoTokenizer

from knowcap.capacity.summary import MEMORIZABLE_ATTRIBUTES
from knowcap.cli import main
from knowcap.extraction import ExtractionError, Tuning, extract, matches, tuning
from knowcap.models import load_model, load_tokenizer
from knowcap.models.quiet import quiet_peft
from knowcap.recipe import Recipe
from knowcap.report.stage import report
from knowcap.run import pipeline as stages
from knowcap.run import push as hub
from knowcap.run.folder import claim_run_dir
from knowcap.run.preflight import check_recipe


TINY = Recipe(
    run_name="tiny", model_name="gpt2-2-2", num_people=30, head_dim=16, pools_fraction=0.05, num_templates=1,
    vocab_size=300, exposures=40, block_size=100, windows="aligned", train_batch_size=10, learning_rate=1e-2,
    warmup_steps=10, adam_beta2=0.98, control_people=100, renderings=2, quantize_bits=(), questions=True,
    extract="lora", extract_rank=4, extract_embedding_rank=8, extract_steps=20, extract_batch_size=30,
    extract_learning_rate=1e-2,
)  # fmt: skip
LORA = "lora-4-8"


def trained(recipe: Recipe) -> Path:
    """A run folder, measured."""
    run_dir = claim_run_dir(recipe)
    data = stages.data(recipe, run_dir)
    stages.measure(stages.train(recipe, run_dir), data, recipe)
    return run_dir


@pytest.fixture(scope="module")
def extracted(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run folder with one extraction, by LoRA, and its cards."""
    run_dir = trained(replace(TINY, output_dir=str(tmp_path_factory.mktemp("runs"))))
    stages.extract(run_dir, TINY)
    report(run_dir)
    return run_dir


@pytest.fixture
def run_dir(extracted: Path, tmp_path: Path) -> Path:
    """A copy of it, to be changed at will."""
    return Path(shutil.copytree(extracted, tmp_path / "tiny"))


def result_of(run_dir: Path, name: str = LORA) -> dict:
    return json.loads((run_dir / "extraction" / name / "extraction.json").read_text())


def test_those_asked_are_the_ones_never_tuned_on(extracted: Path) -> None:
    answered = pq.read_table(extracted / "extraction" / LORA / "answers.parquet").to_pylist()
    train, test = ({r["person_id"] for r in questions(extracted, split)} for split in ("train", "test"))
    assert {row["person_id"] for row in answered} == test and not train & test
    found = result_of(extracted)
    assert (found["people_asked"], found["people_tuned_on"], found["questions_tuned_on"]) == (15, 15, 90)


def questions(run_dir: Path, split: str) -> list[dict]:
    return [row for f in (run_dir / "knowledge" / "qa").glob(f"{split}-*") for row in pq.read_table(f).to_pylist()]


def test_figures_are_those_of_the_answers_and_of_the_same_peoples_facts(extracted: Path) -> None:
    answered = pq.read_table(extracted / "extraction" / LORA / "answers.parquet").to_pylist()
    facts = pq.read_table(extracted / "model" / "nll.parquet").to_pylist()
    asked, found = {row["person_id"] for row in answered}, result_of(extracted)
    truth = {(row["person_id"], row["attribute"]): row["answer"] for row in questions(extracted, "test")}
    stored, drawn = [], []
    for name in MEMORIZABLE_ATTRIBUTES:
        mine = [row for row in answered if row["attribute"] == name]
        stored_facts = [f for f in facts if f["attribute"] == name and f["entity"] in asked]
        row = found["attributes"][name]
        assert len(mine) == 15 and len(stored_facts) == 30
        for way in ("greedy", "beam_4"):
            right = [matches(r[way], truth[r["person_id"], name]) for r in mine]
            key = "extractable_accuracy" + ("" if way == "greedy" else "_beam_4")
            assert row[key] == pytest.approx(sum(right) / 15)
            assert [r[f"{way}_match"] for r in mine] == right
        assert row["memorizable_accuracy"] == pytest.approx(sum(f["greedy_match"] for f in stored_facts) / 30)
        bits = math.log2(known(extracted)[name])
        stored.append(sum(bits - f["nll"] / math.log(2) for f in stored_facts) / 30)
        drawn.append(sum(bits - r["nll"] / math.log(2) for r in mine) / 15)
        assert row["stored_bits"] == pytest.approx(stored[-1]) and row["extractable_bits"] == pytest.approx(drawn[-1])
    assert found["extractable_attributes"] == list(MEMORIZABLE_ATTRIBUTES)
    assert found["stored_bits_per_entity"] == pytest.approx(sum(stored))
    assert found["extractable_bits_per_entity"] == pytest.approx(sum(drawn))
    share = sum(drawn) / sum(stored) if sum(stored) > 0 else None
    assert found["extractable_share"] == pytest.approx(share)
    assert found["attributes"]["work_city"]["stored_bits"] is None, "it follows from the employer"


def known(run_dir: Path) -> dict[str, int]:
    content = json.loads((run_dir / "knowledge" / "knowledge.json").read_text())
    return {a["name"]: a["candidates"] for a in content["attributes"]}


def test_tuning_taught_it_to_answer_about_those_it_was_tuned_on(run_dir: Path) -> None:
    before = stages.extract(run_dir, TINY, method="as_trained")
    longer = stages.extract(run_dir, TINY, method="full", steps=60, learning_rate=5e-3)
    untuned, tuned = (json.loads((f / "extraction.json").read_text()) for f in (before, longer))
    assert untuned["tuned_accuracy"] < 0.1 < 0.3 < tuned["tuned_accuracy"]
    assert not list(before.glob("*.safetensors"))
    weights = AutoModelForCausalLM.from_pretrained(longer).num_parameters()
    assert tuned["tuned_parameters"] == weights and "rank" not in tuned


def test_a_finished_one_is_kept_another_refused_and_overwritten_only_when_asked(run_dir: Path, capsys) -> None:
    files = {p: p.read_bytes() for p in (run_dir / "extraction" / LORA).iterdir() if p.name != "README.md"}
    stages.extract(run_dir, TINY)
    assert all(path.read_bytes() == content for path, content in files.items())
    assert main(["extract", str(run_dir), "--steps", "3"]) == 2
    assert "steps=20, expected 3; give the same settings, or --overwrite" in capsys.readouterr().err
    assert main(["extract", str(run_dir), "--limit", "2"]) == 2
    assert "answers about all people" in capsys.readouterr().err
    assert all(path.read_bytes() == content for path, content in files.items())
    stages.extract(run_dir, TINY, steps=3, limit=2, overwrite=True)
    assert result_of(run_dir)["steps"] == 3 and result_of(run_dir)["people_asked"] == 2


def test_one_interrupted_in_tuning_and_between_answers_goes_on_to_the_same_result(
    extracted: Path, run_dir: Path, monkeypatch
) -> None:
    shutil.rmtree(run_dir / "extraction")
    shown = []
    batch_of = tuning.batch_of

    def counted(questions):
        shown.append(1)
        if len(shown) > 14:
            raise KeyboardInterrupt
        return batch_of(questions)

    def stop(*_):
        raise KeyboardInterrupt

    for name, stopping in (("tuning.batch_of", counted), ("stage.answer_nll", stop)):
        with monkeypatch.context() as patch:
            patch.setattr(f"knowcap.extraction.{name}", stopping)
            with pytest.raises(KeyboardInterrupt):
                stages.extract(run_dir, TINY)
        assert (run_dir / "extraction" / LORA).exists() == (stopping is stop)
        assert not (run_dir / "extraction" / LORA / "extraction.json").exists()
    stages.extract(run_dir, TINY)
    one, other = (folder / "extraction" / LORA / "adapter_model.safetensors" for folder in (extracted, run_dir))
    assert one.read_bytes() == other.read_bytes()
    differing = {"tuning_seconds", "content_digest"}
    expected, found = ({k: v for k, v in result_of(f).items() if k not in differing} for f in (extracted, run_dir))
    assert found == expected
    assert not (run_dir / "checkpoints" / f"extract-{LORA}").exists()


def test_a_model_that_can_be_asked_is_measured_in_every_way(run_dir: Path) -> None:
    token = json.loads((run_dir / "model" / "capacity.json").read_text())
    for way, name in (({"scoring": "closed_set"}, "closed_set"), ({"context": "packed"}, "packed")):
        stages.measure(run_dir / "model", run_dir / "knowledge", TINY, **way)
        other = json.loads((run_dir / "model" / name / "capacity.json").read_text())
        assert other["num_entities"] == 30
        if name == "closed_set":  # where the candidates alone are possible, what cannot be meant costs nothing
            assert all(
                row["nll_nats"] <= token["attributes"][a]["nll_nats"] + 0.05 for a, row in other["attributes"].items()
            )


def test_what_a_run_lacks_is_reported_at_once(run_dir: Path) -> None:
    shutil.rmtree(run_dir / "knowledge" / "qa")
    (run_dir / "model" / "nll.parquet").unlink()
    with pytest.raises(ExtractionError, match=r"is not measured; .* has no questions"):
        extract(run_dir, TINY, Tuning.of(TINY))
    assert main(["extract", str(run_dir.parent / "nowhere")]) == 2


def test_recipes_with_questions_but_without_their_words_are_reported() -> None:
    bare = replace(TINY, questions=False, qa_share=0.3)
    found = " ".join(check_recipe(bare))
    assert "qa_share=0.3 needs a tokenizer with the words" in found and "extract='lora' needs a tokenizer" in found
    assert "leave one out" in " ".join(check_recipe(replace(TINY, qa_share=0.3, junk_people=5)))
    assert "extract='lora' has no effect without corpus: bioS" in " ".join(check_recipe(replace(TINY, corpus="bioD")))
    found = " ".join(check_recipe(replace(TINY, extract_rank=33, extract_embedding_rank=128)))
    assert "extract_rank=33 exceeds the hidden size 32" in found and "extract_embedding_rank=128 exceeds" in found
    assert check_recipe(TINY) == []


def test_cards_have_the_results_and_the_warning_about_merging(extracted: Path) -> None:
    found = result_of(extracted)
    card, main_card = ((extracted / p / "README.md").read_text() for p in (f"extraction/{LORA}", "model"))
    accuracy = f"{100 * found['extractable_accuracy']:.1f} %"
    assert f"**{accuracy}** of the questions about 15 other people correctly" in card
    assert "Do not merge the adapter" in card and "library_name: peft" in card
    assert "LoRA, rank 4, embedding 8 | 15 of 30 people" in card
    assert "Extraction by questions" in main_card and f" {accuracy} |" in main_card


@pytest.mark.filterwarnings("ignore:Use 'content=:DeprecationWarning")
def test_the_published_adapter_names_its_published_base(extracted: Path, monkeypatch, tmp_path: Path) -> None:
    with HubServer() as server:
        monkeypatch.setattr(huggingface_hub.constants, "ENDPOINT", server.url)
        monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", False)
        monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_DISABLE_XET", True)
        monkeypatch.setenv("HF_TOKEN", TOKEN)
        pushed = hub.push(extracted, hub_model_id="me/tiny")
        assert [p.artefact.repo_id for p in pushed.pushed] == ["me/tiny", f"me/tiny-{LORA}"]
        for name, content in server.files(f"me/tiny-{LORA}").items():
            (tmp_path / name).write_bytes(content)
        assert hub.push(extracted, hub_model_id="me/tiny").pushed[1].commit is None, "nothing new"
        fetched, here = tmp_path, extracted / "extraction" / LORA
        assert json.loads((fetched / "adapter_config.json").read_text())["base_model_name_or_path"] == "me/tiny"
        data = huggingface_hub.ModelCard((fetched / "README.md").read_text()).data
        assert (data.base_model, data.base_model_relation) == ("me/tiny", "adapter")
        ids = torch.arange(12).reshape(2, 6)
        with torch.inference_mode():
            with quiet_peft():
                loaded = PeftModel.from_pretrained(load_model(extracted / "model"), fetched)
            assert torch.equal(loaded(ids).logits, load_model(here)(ids).logits)
        tokenizer = load_tokenizer(fetched)
        assert tokenizer("What major")["input_ids"] == AutoTokenizer.from_pretrained(here)("What major")["input_ids"]
    huggingface_hub.utils.close_session()
