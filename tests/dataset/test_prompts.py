"""Tables of prompts: figures that do not depend on the order of lines, priors, rows that are left out, and reading."""

from __future__ import annotations

import json
import logging
import math
import os
import random
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import tiny
import torch
from hub_server import TOKEN, HubServer
from transformers import GPT2Config, GPT2LMHeadModel

from knowcap import cli, measure_capacity
from knowcap.dataset.folder import DatasetError, read_candidates, read_knowledge, read_rows
from knowcap.dataset.prompts import PromptOptions, read_prompts, write_prompts
from knowcap.dataset.prompts.facts import candidates_of
from knowcap.scoring import score_rows
from knowcap.scoring.closed_set import ClosedSets
from knowcap.scoring.rows import biographies, control_rows


TOKENIZER = tiny.byte_tokenizer()


def net() -> torch.nn.Module:
    """A GPT2 of 64 positions with random weights."""
    torch.manual_seed(0)
    sizes = {"vocab_size": len(TOKENIZER), "n_layer": 1, "n_head": 2, "n_embd": 16, "n_positions": 64}
    return GPT2LMHeadModel(GPT2Config(**sizes, bos_token_id=0, eos_token_id=0))


def people(count: int = 120) -> list[dict[str, Any]]:
    """Rows of two relations, of which a third of the entities state the second."""
    rows = []
    for i in range(count):
        name = f"N{i:03d}"
        rows.append(fact(f"{name} speaks", f"L{i * 7 % 50}", 50, "language", name))
        if i % 3 == 0:
            rows.append(fact(f"{name} was born in", 1900 + i * 13 % 100, 100, "year", name))
    return rows


def fact(prompt: str, answer: Any, candidates: Any, attribute: str | None = None, entity: str | None = None) -> dict:
    """A row of a table; without attribute and entity it has no such columns."""
    row = {"prompt": prompt, "answer": answer, "candidates": candidates}
    return row | {key: v for key, v in (("attribute", attribute), ("entity", entity)) if v is not None}


def capitals(*answers: str, candidates: Any = 195) -> list[dict[str, Any]]:
    return [fact(f"The capital of C{i} is", answer, candidates) for i, answer in enumerate(answers)]


def bits_of(folder: Path, model: torch.nn.Module, closed: bool = False) -> tuple[list[float], list[bool]]:
    """The bits of every fact of a folder, and whether it was matched."""
    sets = ClosedSets(TOKENIZER, read_candidates(folder), 0) if closed else None
    found = score_rows(model, TOKENIZER, read_rows(folder), read_knowledge(folder), closed_sets=sets).to_pylist()
    bits = [row["log2_candidates"] - row["nll"] / math.log(2) for row in found]
    return bits, [row["greedy_match"] for row in found]


def files_of(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


# The order of rows, limits, and the null control.


def test_the_order_of_lines_has_no_effect(tmp_path):
    rows, model = people(), net()
    by_relation = sorted(rows, key=lambda row: row["attribute"])
    mixed = random.Random(1).sample(rows, len(rows))
    folders = [write_prompts(r, tmp_path / str(i)) for i, r in enumerate((rows, by_relation, mixed))]
    assert files_of(folders[0]) == files_of(folders[1]) == files_of(folders[2])
    one, other = (measure_capacity(model, r, tokenizer=TOKENIZER, limit=10) for r in (rows, by_relation))
    assert one == other and {*one["attributes"]} == {"language", "year"}


def test_a_limit_takes_all_facts_of_its_entities(tmp_path):
    rows = sorted(people(), key=lambda row: row["attribute"])
    folder = write_prompts(rows, tmp_path / "data")
    texts = biographies(folder, "biographies", read_knowledge(folder), 10)
    found = [(row.entity, row.spans[1].attribute) for row, _ in texts.read(0, len(texts))]
    chosen = {entity for entity, _ in found}
    assert len(chosen) == 10 and len(texts) == len(found)
    assert {(row["entity"], row["attribute"]) for row in rows if row["entity"] in chosen} == {*found}


@pytest.mark.parametrize("limit", [1, 3000])
def test_the_null_control_covers_every_relation(tmp_path, limit):
    """Each entity has one relation, and lines are sorted by relation: the first 1,000 entities have the first one."""
    rows = [fact(f"E{i} r{i // 1500}", f"v{i}", 5000, f"r{i // 1500}", f"E{i}") for i in range(3001)]
    folder = write_prompts(rows[:-1], tmp_path / "data")
    control, kind = control_rows(folder, ("biographies", "control"), read_knowledge(folder), limit)
    values = {a: {} for a in ("r0", "r1")}
    for row, _ in control:
        span = row.spans[1]
        values[span.attribute][row.entity] = row.text[span.start : span.end]
    assert kind == "shuffled" and all(len(of) >= 100 for of in values.values())
    true = {row["entity"]: row["answer"] for row in rows}
    for of in values.values():
        assert all(true[entity] != value for entity, value in of.items())
        assert {*of.values()} == {true[entity] for entity in of}


def test_one_entity_is_measured_without_an_interval():
    found = measure_capacity(net(), people(), tokenizer=TOKENIZER, limit=1)
    assert found["confidence_interval"] == [None, None] and found["num_entities"] == 120


# Candidates.


@pytest.mark.parametrize(
    ("cell", "expected"),
    [
        (195, (195, ())), ("195", (195, ())), ("195.0", (195, ())), (195.0, (195, ())), ("1e6", (10**6, ())),
        ("1,000", (1000, ())), ("b|a", (2, ("a", "b"))), ('["b", "a, c"]', (2, ("a, c", "b"))),
        (["b", 0], (2, ("0", "b"))), ("frequency", (None, ())), ("Frequency ", (None, ())),
    ],
)  # fmt: skip
def test_candidates_are_a_number_a_list_or_frequency(cell, expected):
    assert candidates_of(cell) == expected


@pytest.mark.parametrize(
    "cell", [195.7, "195.7", math.inf, "inf", "nan", math.nan, 0, -3, None, "", "many", "a|a", "a|", "[1", [], True]
)
def test_anything_else_is_no_number_of_candidates(cell):
    with pytest.raises(ValueError, match="got"):
        candidates_of(cell)


OPTIONS = [["ant", "bee", "cat", "dog"], ["elm", "fir", "oak", "yew"], ["red", "blue", "green", "white"]]


@pytest.mark.parametrize("kind", ["lists", "texts"])
def test_a_uniform_model_holds_nothing_of_options_that_begin_differently(tmp_path, kind):
    rows = [fact(f"Question {i}:", options[i], options) for i, options in enumerate(OPTIONS)]
    if kind == "texts":
        rows = [row | {"candidates": "|".join(row["candidates"])} for row in rows]
    folder = write_prompts(rows, tmp_path / "data")
    bits, hits = bits_of(folder, tiny.UniformModel(len(TOKENIZER)), closed=True)
    assert bits == pytest.approx([0.0] * 3, abs=1e-9)
    assert hits == [False] * 3, "a tie is no correct answer"
    control, _ = control_rows(folder, ("biographies", "control"), read_knowledge(folder), None)
    for row, _ in control:
        assert row.text[row.spans[1].start :] in OPTIONS[int(str(row.entity)[9])]


def test_options_of_their_own_are_measured_to_the_end():
    rows = [fact(f"Question {i}:", options[i], options) for i, options in enumerate(OPTIONS)]
    found = measure_capacity(net(), rows, tokenizer=TOKENIZER, scoring="closed_set")
    assert found["max_knowledge_bits"] == pytest.approx(3 * 2.0)
    assert found["num_entities"] == 3 and abs(found["knowledge_bits"]) < 3.0
    assert found["control_bits_per_entity"][0] is not None


def test_the_options_of_different_lengths_are_different_attributes(tmp_path):
    rows = [
        fact(f"Question {i}:", "a", ["a", "b", "c", "d"][: 2 + i % 3] + [f"x{i}"], None, f"q{i}") for i in range(6)
    ]
    found = read_knowledge(write_prompts(rows, tmp_path / "data")).attributes
    assert [(a.name, a.candidates, a.stated) for a in found] == [(f"answer of {n}", n, 2) for n in (3, 4, 5)]


def knows_shares(rows: Sequence[dict[str, Any]], shares: dict[str, float]) -> torch.nn.Module:
    """A model that says each answer after any prompt with the probability of its share."""
    texts = [(tiny.say(1, f"{row['prompt']} {value}"), share) for row in rows for value, share in shares.items()]
    return tiny.table_model(texts, TOKENIZER)


def test_a_model_that_knows_how_common_answers_are_holds_nothing(tmp_path, caplog):
    shares = {"aa": 0.8, "b": 0.15, "cc": 0.05}
    answers = [value for value, share in shares.items() for _ in range(round(100 * share))]
    entropy = -sum(share * math.log2(share) for share in shares.values())
    for number, candidates in enumerate((16, "frequency", "aa|b|cc")):
        rows = capitals(*answers, candidates=candidates)
        with caplog.at_level(logging.INFO, "knowcap"):
            folder = write_prompts([row | {"entity": row["prompt"]} for row in rows], tmp_path / str(number))
        assert "80 of 100 are 'aa'" in caplog.text and f"{entropy:.2f} bits a fact" in caplog.text
        caplog.clear()
        assert sum(bits_of(folder, knows_shares(rows, shares))[0]) == pytest.approx(0.0, abs=1e-3)
        assert read_knowledge(folder).attributes[0].candidates is None


def test_even_answers_keep_their_declared_number(tmp_path):
    for number, answers in enumerate((["a", "b", "c"] * 20, [f"v{i}" for i in range(6)])):
        rows = [row | {"entity": row["prompt"]} for row in capitals(*answers)]
        declared = 3 if number == 0 else 195
        folder = write_prompts([row | {"candidates": declared} for row in rows], tmp_path / str(number))
        assert read_knowledge(folder).attributes[0].log2_candidates == math.log2(declared)


def test_more_answers_than_candidates_are_refused(tmp_path):
    with pytest.raises(DatasetError, match="2 candidates, but the table has 3 different answers"):
        write_prompts(capitals("a", "b", "c", candidates=2), tmp_path / "data")


# Rows that are left out.


@pytest.mark.parametrize(
    ("prompt", "answer", "copied"),
    [
        ("What letter begins water?", "W", False),
        ("Arthur studied", "Art", False),
        ("In 1950 there were", "5", False),
        ("Nothing is", "no", False),
        ("Is it red?", "red", True),
        ("The no. 5 is", "5", True),
        ("法国的首都是", "法国", True),
    ],
)  # fmt: skip
def test_whole_words_of_the_prompt_can_be_copied(tmp_path, caplog, prompt, answer, copied):
    rows = [*capitals("Lima", "Rome", "Oslo"), fact(prompt, answer, 195)]
    folder = write_prompts(rows, tmp_path / "data")
    assert len(list(read_rows(folder))) == 4 - copied
    assert ("left out 1 row: the answer stands in the prompt" in caplog.text) == copied
    if copied:
        with pytest.raises(DatasetError, match="row 4: .*--strict"):
            write_prompts(rows, tmp_path / "strict", options=PromptOptions(strict=True))
        kept = write_prompts(rows, tmp_path / "kept", options=PromptOptions(keep_copied=True))
        assert len(list(read_rows(kept))) == 4 and not read_knowledge(kept).bound


@pytest.mark.parametrize(
    ("bad", "message"),
    [
        (fact("The capital of Peru is", "Lima", 195.7), "row 5: got 195.7"),
        (fact("The capital of Peru is", "Lima", "inf"), "row 5: got 'inf'"),
        (fact("The capital of Peru is", None, 195), "row 5: prompt 'The capital of Peru is', answer ''"),
        (fact(" ", "Lima", 195), "no text in the prompt"),
        (fact("The capital of Peru is", "Lima", "Rome|Oslo"), "'Lima' is not among"),
        (fact("The capital of C0 is", "a", 195), "1 row: repeated (row 5: as row 1"),
        (fact("The capital of Peru is", "Lima", 7), "row 5: 7, but 195 in most rows"),
        (fact("The capital of Peru is", ["Lima"], 195), "the answer is no text"),
        (fact("The capital of C0 is", "e", 195, None, "Peru"), "the prompt is that of another entity, too"),
        (fact("Peru is in", "America", 6, "continent"), "the only entity with its attribute"),
    ],
)
def test_a_row_that_cannot_be_measured_is_left_out_and_shown(tmp_path, caplog, bad, message):
    rows = [*capitals("a", "b", "c", "d"), bad]
    assert len(list(read_rows(write_prompts(rows, tmp_path / "data")))) == 4
    assert message in caplog.text and "1 of 5 rows are left out" in caplog.text
    with pytest.raises(DatasetError, match="Correct them"):
        write_prompts(rows, tmp_path / "strict", options=PromptOptions(strict=True))
    assert not (tmp_path / "strict").exists()


def test_texts_that_are_too_long_or_unknown_to_the_tokenizer_are_left_out(tmp_path, caplog):
    rows = [*capitals("a", "b", "c"), fact("x" * 70, "d", 195)]
    found = measure_capacity(net(), rows, tokenizer=TOKENIZER)
    assert found["num_entities"] == 3
    assert "row 4: 72 tokens before the end of the answer, the model has 64 positions" in caplog.text
    caplog.clear()
    letters = tiny.char_tokenizer("".join(row["prompt"] + "abc? " for row in rows[:3]), unk_token="?")
    rows = [*capitals("a", "b", "c"), fact("The capital of C9 is", "é", 195)]
    assert measure_capacity(net(), rows, tokenizer=letters)["num_entities"] == 3
    assert "row 4: " in caplog.text and "é" in caplog.text


def test_a_control_text_that_is_too_long_with_another_answer_is_left_out(tmp_path):
    """The longest prompt with the longest answer: neither row is at fault."""
    rows = [fact("x" * 55 + f"{i}", f"a{i}", 99) for i in range(2)] + [
        fact(f"y{i}", "b" * 30 + f"{i}", 99) for i in range(2)
    ]
    rows = [row | {"entity": row["prompt"]} for row in rows]
    found = measure_capacity(net(), rows, tokenizer=TOKENIZER)
    assert found["num_entities"] == 4 and found["control_bits_per_entity"][0] < 0


def test_zero_is_zero(tmp_path):
    rows = [fact(f"Number {i + 5}, minus itself, plus {i}:", i, 10, None, i) for i in range(3)]
    pq.write_table(
        pa.Table.from_pylist([row | {"entity": i} for i, row in enumerate(rows)]), tmp_path / "zero.parquet"
    )
    options = PromptOptions(keep_copied=True)
    folder = write_prompts(read_prompts(tmp_path / "zero.parquet"), tmp_path / "data", options=options)
    found = {row.entity: row.text[row.spans[1].start :] for row, _ in read_rows(folder)}
    assert found == {"0": "0", "1": "1", "2": "2"}


# Entities.


def test_several_prompts_of_one_fact_are_averaged(tmp_path):
    one = [fact(f"The capital of {c} is", v, 195, "capital", c) for c, v in (("Peru", "Lima"), ("Italy", "Rome"))]
    other = [fact(f"{c} is governed from", v, 195, "capital", c) for c, v in (("Peru", "Lima"), ("Italy", "Rome"))]
    model = net()
    both, first, second = (measure_capacity(model, r, tokenizer=TOKENIZER) for r in (one + other, one, other))
    mean = (first["knowledge_bits"] + second["knowledge_bits"]) / 2
    assert both["knowledge_bits"] == pytest.approx(mean, rel=1e-6)
    assert both["max_knowledge_bits"] == pytest.approx(2 * math.log2(195))
    with pytest.raises(DatasetError, match="row 1 gives 'Lima' as the capital of 'Peru', row 3 gives 'Cusco'"):
        write_prompts([*one, other[0] | {"answer": "Cusco"}], tmp_path / "data")


PARAPHRASES = [
    [f"The capital of {c} is", f"{c}'s capital city is"] for c in ("Peru", "Italy", "Cuba", "Norway", "Japan")
]


@pytest.mark.parametrize(
    ("rows", "fine"),
    [
        ([(f"The native language of {n} is", "Thai" if i % 2 else "Urdu") for i, n in enumerate("ABCDEF")], True),
        ([(f"{n} was born in", "Rome" if "o" in n else "Oslo") for n in ("John Doe", "John Fox", "Ann Law")], True),
        ([(p, answer) for answer, prompts in zip("abcde", PARAPHRASES, strict=True) for p in prompts], False),
        ([("France has as its capital", "Paris"), ("France is governed from", "Paris"),
          ("Italy has as its capital", "Rome"), ("Italy is governed from", "Rome")], False),
        ([("Does ice float?", "yes"), ("Is snow warm?", "no"), ("Can a fish swim?", "yes")], False),
    ],
)  # fmt: skip
def test_prompts_without_entities_must_differ_in_their_subject(tmp_path, rows, fine):
    rows = [fact(prompt, answer, 50) for prompt, answer in rows]
    if fine:
        write_prompts(rows, tmp_path / "data")
        return
    with pytest.raises(DatasetError, match=r"Add a column `entity`.*--columns entity=prompt"):
        write_prompts(rows, tmp_path / "data")
    write_prompts([row | {"entity": row["prompt"]} for row in rows], tmp_path / "data")


# Reading.

HEADER = ["Question ", "OBJ Label", "n", "note"]
CELLS = [["The capital of Peru is", "Lima", "1,000", "x"], ["The capital of Österreich is", "Wien", "1000", "y, z"],
         ["The capital of Norway is", "Oslo", "1e3", "q"]]  # fmt: skip
OF_PERU = PromptOptions(columns={"prompt": "question", "answer": "obj label", "candidates": "n"})


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-16-le", "utf-16-be", "cp1252"])
@pytest.mark.parametrize("delimiter", [",", ";", "\t"])
def test_tables_are_read_as_they_are(tmp_path, caplog, encoding, delimiter):
    lines = [delimiter.join(f'"{c}"' if delimiter in c else c for c in cells) for cells in (HEADER, *CELLS)]
    (tmp_path / "facts.csv").write_bytes("\r\n".join(lines).encode(encoding))
    with caplog.at_level(logging.INFO, "knowcap"):
        rows = read_prompts(tmp_path / "facts.csv", OF_PERU)
    assert [list(row.values()) for row in rows] == [cells[:3] for cells in CELLS]
    assert [row.where for row in rows] == ["line 2", "line 3", "line 4"]
    assert "columns note are ignored" in caplog.text
    assert ("is read as" in caplog.text) == (not encoding.startswith("utf-8"))
    folder = write_prompts(rows, tmp_path / "data")
    assert read_knowledge(folder).attributes[0].candidates == 1000


def test_a_table_that_cannot_be_read_says_why(tmp_path):
    table = tmp_path / "facts.csv"
    table.write_bytes(b"prompt,answer,candidates\nA,\x81,3\n")
    with pytest.raises(DatasetError, match="byte 0x81 at 27 is neither UTF-8 nor cp1252; save it as UTF-8"):
        read_prompts(table)
    table.write_text("Prompt,prompt ,answer,candidates\na,b,c,3\n")
    with pytest.raises(DatasetError, match="columns 'Prompt' and 'prompt ' have the same name"):
        read_prompts(table)
    table.write_text("prompt,answer\na,b\n")
    with pytest.raises(DatasetError, match="no column for answer=obj; the table has prompt, answer"):
        read_prompts(table, PromptOptions(columns={"answer": "obj"}))
    with pytest.raises(DatasetError, match="got reply, expected prompt"):
        PromptOptions(columns={"reply": "answer"})
    table.write_text('prompt,answer,candidates\nC1 is,b,9\nC2 is,b,c,9\nC3 is,"d",9\nC4 is,e,9\n')
    write_prompts(read_prompts(table), tmp_path / "data")
    with pytest.raises(DatasetError, match="line 3: 4 cells, but the header has 3"):
        write_prompts(read_prompts(table), tmp_path / "strict", options=PromptOptions(strict=True))


def test_a_wide_table_has_one_attribute_a_column(tmp_path, caplog):
    table = tmp_path / "wide.csv"
    table.write_text("Name;capital;region\nFrance;Paris;Europe\nPeru;Lima;America\nCuba;Havana;\n")
    with caplog.at_level(logging.INFO, "knowcap"):
        folder = write_prompts(read_prompts(table, PromptOptions(entity="name")), tmp_path / "data")
    assert {row.text for row, _ in read_rows(folder)} == {
        "The capital of France is Paris", "The capital of Peru is Lima", "The capital of Cuba is Havana",
        "The region of France is Europe", "The region of Peru is America",
    }  # fmt: skip
    assert "1 empty cells" in caplog.text
    found = read_knowledge(folder)
    assert [(a.name, a.log2_candidates, a.stated) for a in found.attributes] == [
        ("capital", pytest.approx(math.log2(3)), None), ("region", 1.0, 2)
    ]  # fmt: skip


def test_prompts_and_answers_of_scripts_without_spaces_are_joined_without_one(tmp_path):
    rows = [
        fact("法国的首都是", "巴黎", 195),
        fact("日本的首都是", "东京", 195),
        fact("پایتخت ایران", "می‌روم", 9, "x", "i"),
    ]
    rows.append(fact("L'heure de Pau", "12 h", 9, "x", "j"))
    folder = write_prompts([row | {"attribute": row.get("attribute", "y"), "entity": str(i)} for i, row in
                            enumerate(rows)], tmp_path / "data")  # fmt: skip
    texts = {row.text for row, _ in read_rows(folder)}
    assert texts == {"法国的首都是巴黎", "日本的首都是东京", "پایتخت ایران می‌روم", "L'heure de Pau 12 h"}


def test_a_folder_of_files_is_a_data_set_with_columns(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HF_DATASETS_CACHE", str(tmp_path / "cache"))
    net().save_pretrained("net")
    TOKENIZER.save_pretrained("net")
    Path("lama").mkdir()
    rows = [{"sub_label": c, "obj_label": v, "q": f"The capital of {c} is", "rel": "P36"} for c, v in
            (("Peru", "Lima"), ("Italy", "Rome"), ("Cuba", "Havana"))]  # fmt: skip
    Path("lama/test.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    words = ["measure", "net", "--dataset_name", "lama", "--split", "test", "--json", "--columns", "prompt=q"]
    words += ["answer=obj_label", "candidates=195", "attribute=rel", "entity=sub_label"]
    assert cli.main(words) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["num_entities"] == 3 and found["attributes"]["P36"]["max_bits_per_entity"] == math.log2(195)
    assert "Drawn: P36 from 195 candidates;" in Path("measured/net/README.md").read_text()
    assert cli.main([*(word for word in words if word != "--json"), "--limit", "1", "--overwrite"]) == 0
    assert "|±|      |" in capsys.readouterr().out  # one entity has no interval
    assert cli.main([*words[:-1], "entity=who", "--overwrite"]) == 2
    assert "no column for entity=who; the table has sub_label, obj_label, q, rel" in capsys.readouterr().err
    assert cli.main([*words[:4], "--split", "dev", "--columns", "prompt=q"]) == 2
    assert "split='dev'" in capsys.readouterr().err
    with pytest.raises(SystemExit):
        cli.main([*words[:4], "--columns", "prompt"])
    assert "expected KEY=COLUMN" in capsys.readouterr().err


FROM_THE_HUB = """
from huggingface_hub import HfApi
from knowcap.dataset.prompts import PromptOptions, read_prompts

HfApi().create_repo("me/lama", repo_type="dataset")
HfApi().upload_folder(repo_id="me/lama", repo_type="dataset", folder_path="lama")
columns = {"prompt": "question", "answer": "obj_label", "candidates": "n"}
print([dict(row) for row in read_prompts("me/lama", PromptOptions(columns=columns, split="test"))])
"""


def test_a_data_set_of_the_hub_is_read_by_its_columns(tmp_path):
    (tmp_path / "lama").mkdir()
    row = {"question": "The capital of Peru is", "obj_label": "Lima", "n": 195, "more": 1}
    (tmp_path / "lama" / "test.jsonl").write_text(json.dumps(row) + "\n")
    with HubServer() as hub:
        settings = {"HF_ENDPOINT": hub.url, "HF_TOKEN": TOKEN, "HF_HOME": str(tmp_path / "home")}
        settings |= {"HF_HUB_DISABLE_XET": "1", "HF_HUB_OFFLINE": "0", "HF_DATASETS_OFFLINE": "0"}
        command, options = [sys.executable, "-c", FROM_THE_HUB], {"env": os.environ | settings, "cwd": tmp_path}
        done = subprocess.run(command, **options, capture_output=True, text=True)
    expected = {"prompt": "The capital of Peru is", "answer": "Lima", "candidates": 195}
    assert done.stdout.strip() == str([expected]), done.stderr
