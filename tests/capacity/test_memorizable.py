"""Memorizable accuracy: greedy_match against what models really generate, and the reported mean."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest
import torch
from run_folders import make_run
from scored_facts import perfect_facts, write
from tiny import bpe_tokenizer, byte_tokenizer, knowledge, say, table_model
from tokenizers import decoders
from transformers import GPT2Config, GPT2LMHeadModel, PreTrainedTokenizerFast

from knowcap.capacity import capacity
from knowcap.capacity.summary import MEMORIZABLE_ATTRIBUTES
from knowcap.corpus.candidates import Candidates
from knowcap.facts import Row
from knowcap.report.card import write_card
from knowcap.report.stage import report_table
from knowcap.scoring import encode_rows, score_rows
from knowcap.scoring.closed_set import ClosedSets


NAMES = [
    f"{first} {last}" for first in ("Anya", "Bo", "Cy", "Dee", "Ed", "Flo") for last in ("Ash", "Birk", "Cole", "Day")
]
EMPLOYERS = ("Disney", "Disney+", "Caterpillar", "Caterpillar Inc.", "Acme", "Globex Partners")
MAJORS = ("Art", "Art History", "Botany", "Zoology")
KNOWN = knowledge({"employer": len(EMPLOYERS), "major": len(MAJORS)}, num_people=len(NAMES))


def biography(number: int, employer: str, major: str) -> Row:
    """A text of one person."""
    parts = (("name", NAMES[number]), " works at ", ("employer", employer), ". She studied ", ("major", major), ".")
    return say(number, *parts)


TRUE = [biography(i, EMPLOYERS[i * 5 % 6], MAJORS[i * 7 // 2 % 4]) for i in range(len(NAMES))]


STEPS = (25, 45, 140)


@pytest.fixture(scope="module")
def trained(tokenizer: PreTrainedTokenizerFast) -> dict[int, GPT2LMHeadModel]:
    """A small model as it is after some steps of training on TRUE."""
    torch.manual_seed(0)
    config = GPT2Config(
        vocab_size=len(tokenizer), n_positions=96, n_embd=48, n_layer=2, n_head=2, resid_pdrop=0.0, embd_pdrop=0.0,
        attn_pdrop=0.0, bos_token_id=0, eos_token_id=0, pad_token_id=0,
    )  # fmt: skip
    model = GPT2LMHeadModel(config)
    encoded = [[0, *tokenizer(row.text, add_special_tokens=False)["input_ids"], 0] for row in TRUE]
    width = max(map(len, encoded))
    ids = torch.tensor([row + [0] * (width - len(row)) for row in encoded])
    labels = torch.tensor([row + [-100] * (width - len(row)) for row in encoded])
    optimizer = torch.optim.AdamW(model.parameters(), lr=5e-3)
    found = {}
    for step in range(1, STEPS[-1] + 1):
        optimizer.zero_grad()
        model(input_ids=ids, labels=labels).loss.backward()
        optimizer.step()
        if step in STEPS:
            found[step] = copy.deepcopy(model).eval()
    return found


def generated(model: GPT2LMHeadModel, prompt: torch.Tensor, count: int) -> list[int]:
    """What the model generates next, greedily."""
    mask = torch.ones_like(prompt)
    out = model.generate(prompt, attention_mask=mask, max_new_tokens=count, do_sample=False, eos_token_id=None)
    return out[0, prompt.shape[1] :].tolist()


@pytest.fixture(scope="module")
def tokenizer() -> PreTrainedTokenizerFast:
    made = bpe_tokenizer([row.text for row in TRUE], vocab_size=330)
    made.backend_tokenizer.decoder = decoders.ByteLevel()
    return made


@pytest.mark.parametrize("steps", STEPS)
def test_a_greedy_match_is_a_value_that_the_model_generates(
    tokenizer: PreTrainedTokenizerFast, trained: dict[int, GPT2LMHeadModel], steps: int
) -> None:
    model = trained[steps]
    table = score_rows(model, tokenizer, [(row, 0) for row in TRUE], KNOWN).to_pylist()
    encoded = encode_rows(TRUE, tokenizer, KNOWN)
    matches = 0
    for number, (fact, scored) in enumerate(zip(encoded.facts, table, strict=True)):
        targets = torch.from_numpy(encoded.targets[encoded.target_facts == number])
        ids, start = torch.from_numpy(encoded.ids), int(encoded.row_starts[encoded.fact_rows[number]])
        said = generated(model, ids[start : targets[0]][None, :], len(targets))
        assert (said == ids[targets].tolist()) == scored["greedy_match"], (fact, tokenizer.decode(said))
        if fact.attribute != "name" and scored["greedy_match"]:
            text = TRUE[encoded.fact_rows[number]].text
            words, value = tokenizer.decode(said).strip(), text[fact.spans[0].start : fact.spans[0].end]
            assert words.startswith(value), "and with what follows, where a token holds both: `+.`"
            assert text[fact.spans[0].start :].startswith(words)
            matches += 1
    assert 0 < matches < 2 * len(TRUE), "neither none nor all are to match"


def test_a_value_that_is_a_prefix_of_another_needs_closed_sets(
    tokenizer: PreTrainedTokenizerFast, trained: dict[int, GPT2LMHeadModel]
) -> None:
    model = trained[STEPS[-1]]
    shorter = {"Disney+": "Disney", "Caterpillar Inc.": "Caterpillar"}
    asked = [(i, EMPLOYERS[i * 5 % 6]) for i in range(len(NAMES)) if EMPLOYERS[i * 5 % 6] in shorter]
    rows = [biography(i, shorter[employer], "Art") for i, employer in asked]
    known, pairs = knowledge({"employer": 6, "major": 4}, names=None), [(row, 0) for row in rows]
    lists = {"employer": Candidates((EMPLOYERS,)), "major": Candidates((MAJORS,))}
    closed = ClosedSets(tokenizer, lists, tokenizer.eos_token_id)
    tables = {
        kind: [
            f
            for f in score_rows(model, tokenizer, pairs, known, closed_sets=sets).to_pylist()
            if f["attribute"] == "employer"
        ]
        for kind, sets in (("token", None), ("closed_set", closed))
    }
    wrong = 0
    for number, (i, employer) in enumerate(asked):
        prompt = tokenizer(f"{NAMES[i]} works at", return_tensors="pt", add_special_tokens=False)["input_ids"]
        prompt = torch.cat([torch.zeros(1, 1, dtype=torch.int64), prompt], dim=1)
        said = tokenizer.decode(generated(model, prompt, 12)).strip()
        if not said.startswith(f"{employer}."):
            continue
        wrong += 1
        assert tables["token"][number]["greedy_match"] == tokenizes_as_a_beginning(tokenizer, rows[number], employer)
        assert not tables["closed_set"][number]["greedy_match"], "the model generates the longer one"
    assert wrong >= 4
    assert any(f["greedy_match"] for f in tables["token"]), "counted as right where its tokens are the longer one's"


def tokenizes_as_a_beginning(tokenizer: PreTrainedTokenizerFast, row: Row, longer: str) -> bool:
    """Whether the tokens of a row's employer are the first ones of a longer employer's."""
    encoded = encode_rows([row], tokenizer, knowledge({"employer": 6, "major": 4}, names=None))
    tokens = encoded.ids[encoded.targets[encoded.target_facts == 0]].tolist()
    whole = tokenizer(f" {longer}.", add_special_tokens=False)["input_ids"]
    return whole[: len(tokens)] == tokens


def test_a_city_said_first_must_have_been_generated_too() -> None:
    made = byte_tokenizer()
    first = say(0, ("name", "Bo"), " works in ", ("work_city", "Oslo"), " for ", ("employer", "Acme"), ".")
    wrong = say(0, ("name", "Bo"), " works in ", ("work_city", "Rome"), " for ", ("employer", "Acme"), ".")
    after = say(0, ("name", "Bo"), " is with ", ("employer", "Acme"), " in ", ("work_city", "Oslo"), ".")
    known = knowledge({"employer": 6}, determined={"work_city": "employer"})
    for liked, expected in ((wrong, False), (first, True)):
        model = table_model([(first, 1.0), (wrong, 1.0), (liked, 1.0), (after, 2.0)], made)
        facts = score_rows(model, made, [(first, 0), (after, 1)], known).to_pylist()
        found = [(f["attribute"], f["rendering"], f["greedy_match"]) for f in facts if f["attribute"] != "name"]
        assert found == [("employer", 0, expected), ("employer", 1, True)], "Acme alone is sure in both texts"


def person_facts(shares: dict[str, int]) -> list[dict[str, Any]]:
    """Eight people of whom so many have a match, by attribute; one bit a fact."""
    return [
        {"entity": i, "attribute": a, "rendering": 0, "nll": 0.0, "log2_candidates": 1.0, "greedy_match": i < count}
        for i in range(8)
        for a, count in shares.items()
    ]


def bits_of(attributes: dict[str, float]) -> dict[str, Any]:
    """knowledge.json of so many bits an attribute, without a name space."""
    listed = [{"name": a, "candidates": 2, "log2_candidates": bits} for a, bits in attributes.items()]
    return {"name": "bioS", "num_people": 8, "name_log2_candidates": None, "attributes": listed, "diversity_terms": []}


def test_it_is_the_mean_over_the_papers_five_attributes(tmp_path: Path) -> None:
    shares = dict(zip((*MEMORIZABLE_ATTRIBUTES, "pronoun"), (8, 6, 4, 2, 0, 8), strict=True))
    facts, known = person_facts(shares), bits_of(dict.fromkeys(shares, 1.0))
    control = [f | {"entity": 100 + f["entity"], "nll": 1.0} for f in facts]
    result = capacity(write(tmp_path, facts, control, knowledge=known))
    assert result["memorizable_attributes"] == list(MEMORIZABLE_ATTRIBUTES)
    assert result["memorizable_accuracy"] == pytest.approx((8 + 6 + 4 + 2 + 0) / 5 / 8)


def test_elsewhere_it_is_over_all_attributes_that_count_bits_but_the_name(tmp_path: Path) -> None:
    result = capacity(write(tmp_path, [f | {"greedy_match": f["attribute"] != "name"} for f in perfect_facts()]))
    assert result["memorizable_attributes"] == ["birth_date", "employer", "pronoun"]
    assert result["memorizable_accuracy"] == 1.0


def test_card_and_report_have_it(tmp_path: Path) -> None:
    figures = {"memorizable_accuracy": 0.625, "memorizable_attributes": ["birth_date", "employer"]}
    run_dir = make_run(tmp_path / "tiny", **figures)
    text = write_card(run_dir / "model").read_text()
    assert "Memorizable accuracy (mean over birth date, employer) is 62.5 %" in text
    assert "500 of 800." in text
    assert "62.5 % |" in report_table(run_dir)
    old = make_run(tmp_path / "old", memorizable_accuracy=None)
    assert "Memorizable" not in write_card(old / "model").read_text()
    assert "unknown |" in report_table(old)
