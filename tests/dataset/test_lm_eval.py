"""The exported task: lm-evaluation-harness's log likelihood of every target is minus our nll."""

from __future__ import annotations

import json
from collections import defaultdict
from pathlib import Path

import pyarrow.parquet as pq
import pytest
import tiny
import torch
from transformers import GPT2Config, GPT2LMHeadModel

from knowcap.cli import main
from knowcap.dataset.folder import read_rows
from knowcap.dataset.stage import write
from knowcap.recipe import Recipe
from knowcap.scoring import score


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A data set of biographies, a model with random weights, its scores, and the task that the command writes."""
    place = tmp_path_factory.mktemp("exported")
    data = write(Recipe(num_people=6, control_people=100, seed=2, renderings=2), place / "data")
    tokenizer = tiny.bpe_tokenizer([row.text for row, _ in read_rows(data)], 500)
    torch.manual_seed(0)
    sizes = {"vocab_size": len(tokenizer), "bos_token_id": 0, "eos_token_id": 0, "n_positions": 256}
    GPT2LMHeadModel(GPT2Config(**sizes, n_layer=2, n_head=2, n_embd=32)).save_pretrained(place / "model")
    tokenizer.save_pretrained(place / "model")
    score(place / "model", data, progress=False, batch_size=8)
    words = ["export", "lm-eval", str(data), "--model", str(place / "model"), "--output_dir", str(place / "tasks")]
    assert main(words) == 0
    return place


def lines_of(place: Path) -> list[dict]:
    return [json.loads(line) for line in (place / "tasks" / "knowcap_bios.jsonl").read_text().splitlines()]


def check(place: Path, likelihoods: list[float]) -> None:
    """The sums over the targets of each fact are its nll in nll.parquet."""
    sums: defaultdict[tuple, float] = defaultdict(float)
    for line, likelihood in zip(lines_of(place), likelihoods, strict=True):
        sums[line["entity"], line["rendering"], line["attribute"]] -= likelihood
    rows = pq.read_table(place / "model" / "nll.parquet").to_pylist()
    assert len(rows) == len(sums) == 6 * 2 * 7
    for row in rows:
        found = sums[row["entity"], row["rendering"], row["attribute"]]
        assert found == pytest.approx(row["nll"], abs=1e-5 * max(1.0, row["nll"])), row


def test_the_log_likelihood_of_each_target_by_the_harness_convention_is_our_nll(exported):
    """Its convention written again: prompt and target are tokenized together, and split after the prompt's tokens."""
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(exported / "model")
    model = GPT2LMHeadModel.from_pretrained(exported / "model").eval()
    likelihoods = []
    for line in lines_of(exported):
        assert line["prompt"].startswith(tiny.EOS) and line["prompt"] == line["prompt"].rstrip()
        whole, skip = tokenizer.encode(line["prompt"] + line["target"]), len(tokenizer.encode(line["prompt"]))
        with torch.no_grad():
            logp = torch.log_softmax(model(torch.tensor([whole])).logits[0].double(), dim=-1)
        likelihoods.append(sum(float(logp[i - 1, whole[i]]) for i in range(skip, len(whole))))
    check(exported, likelihoods)


def test_the_harness_itself_finds_our_nll(exported):
    lm_eval = pytest.importorskip("lm_eval", reason='needs the harness; pip install -e ".[lm-eval]"')
    from lm_eval.models.huggingface import HFLM
    from lm_eval.tasks import TaskManager

    model = HFLM(pretrained=str(exported / "model"), device="cpu", dtype="float32", batch_size=8)
    manager = TaskManager(include_path=str(exported / "tasks"), include_defaults=False)
    found = lm_eval.simple_evaluate(model, tasks=["knowcap_bios"], task_manager=manager, bootstrap_iters=0)
    samples = sorted(found["samples"]["knowcap_bios"], key=lambda sample: sample["doc_id"])
    check(exported, [sample["filtered_resps"][0][0] for sample in samples])


def test_only_the_first_entities_are_exported_and_a_fact_of_two_spans_has_two_lines(exported, tmp_path):
    words = ["export", "lm-eval", str(exported / "data"), "--output_dir", str(tmp_path), "--limit", "2"]
    assert main(words) == 0
    lines = [json.loads(line) for line in (tmp_path / "knowcap_bios.jsonl").read_text().splitlines()]
    assert len({line["entity"] for line in lines}) == 2
    whole = {row.entity: row.text for row, rendering in read_rows(exported / "data") if rendering == 0}
    for line in lines:
        if line["rendering"] == 0:
            assert whole[line["entity"]].startswith(line["prompt"] + line["target"])
    assert main(["export", "lm-eval", str(tmp_path / "nowhere")]) == 2
