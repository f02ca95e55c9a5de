"""A user's own facts as a corpus: texts, pieces and bits agree, and it goes the whole way to capacity.json."""

from __future__ import annotations

import json
import logging
import math
import re
import shlex
from collections import Counter
from itertools import permutations
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from countries import COUNTRIES, TEMPLATES, write_table
from tiny import table_model

from knowcap.capacity import capacity
from knowcap.cli import main
from knowcap.corpus.base import Corpus, tokenizer_of
from knowcap.corpus.tokenizer import EOS_ID, wrap
from knowcap.dataset.corpora import corpus_of
from knowcap.dataset.folder import DatasetError, read_knowledge, read_rows
from knowcap.dataset.stage import build
from knowcap.facts import CorpusError, check_row, check_values
from knowcap.recipe import Recipe, RecipeError
from knowcap.run.preflight import check_recipe, load_recipe
from knowcap.scoring import score, score_rows
from knowcap.training.stage import train
from knowcap.training.windows import stream_of


SETTINGS = {
    "run_name": "countries", "model_name": "gpt2-rotary-1-1", "head_dim": 16, "vocab_size": 300, "block_size": 80,
    "windows": "aligned", "exposures": 6, "train_batch_size": 16, "warmup_steps": 2, "renderings": 2,
    "quantization_group_size": 16,
}  # fmt: skip
EVERYBODY = np.arange(len(COUNTRIES))
ALL_BY_FREQUENCY = TEMPLATES.replace("entity_space: 1000\n", "").replace("    candidates: 195\n", "")
BY_FREQUENCY = "attributes:\n  capital: {templates: ['{entity} has {value}.']}\n"


@pytest.fixture(scope="module")
def recipe(tmp_path_factory) -> Recipe:
    return Recipe(**SETTINGS, **write_table(tmp_path_factory.mktemp("facts")))


@pytest.fixture(scope="module")
def corpus(recipe) -> Corpus:
    return corpus_of(recipe)


@pytest.fixture(scope="module")
def stream(recipe, corpus):
    tokenizer, _ = tokenizer_of(recipe, corpus)
    made = stream_of(recipe, corpus, tokenizer)
    made.tokenizer = tokenizer
    return made


def table(folder, facts, templates, **keys) -> Corpus:
    return corpus_of(Recipe(**write_table(folder, facts, templates), **keys))


def test_texts_say_every_fact_of_the_file_once_and_mark_it(corpus):
    for exposure in range(5):
        for row in corpus.rows(EVERYBODY, exposure):
            check_row(row, corpus.knowledge())
            check_values(row, COUNTRIES[row.entity], corpus.knowledge())
            found = {span.attribute: row.text[span.start : span.end] for span in row.spans}
            assert found == COUNTRIES[row.entity] | {"name": row.entity}
            assert len(row.spans) == len(found)


def test_the_name_comes_first_and_later_sentences_begin_with_the_subject(corpus, tmp_path):
    text = next(corpus.rows(np.array([0]), 0)).text
    assert text.startswith("Algeria ") and text.count("Algeria") == 1 and text.count(" It ") == 2
    other = table(tmp_path, COUNTRIES, TEMPLATES + "subject: This country\n")
    assert next(other.rows(np.array([0]), 0)).text == text.replace(" It ", " This country ")


def test_assembled_tokens_equal_whole_text_tokenization(corpus, stream):
    for exposure in range(40):
        tokens, lengths = stream.pieces.gather(corpus.compose(stream.pieces, EVERYBODY, exposure))
        starts = np.cumsum(lengths) - lengths
        for row, start, length in zip(corpus.rows(EVERYBODY, exposure), starts, lengths, strict=True):
            whole = stream.tokenizer.encode(row.text, add_special_tokens=False).ids
            assert tokens[start : start + length].tolist() == [*whole, EOS_ID], row.text


def test_no_text_is_longer_than_the_longest_which_counts_one_subject_too_many(corpus, stream):
    seen = max(stream.pieces.gather(corpus.compose(stream.pieces, EVERYBODY, e))[1].max() for e in range(300))
    assert corpus.longest(stream.pieces) == seen + 1


def test_a_text_depends_on_seed_entity_and_exposure_alone(recipe, corpus):
    everybody = [list(corpus.rows(EVERYBODY, e)) for e in (0, 1)]
    some = np.array([17, 3])
    assert list(corpus_of(recipe).rows(some, 1)) == [everybody[1][i] for i in some]
    assert everybody[0] != everybody[1]


def test_orders_and_templates_are_uniform_and_independent(corpus):
    forms = Counter()
    for exposure in range(600):
        for row in corpus.rows(np.arange(0, 6), exposure):
            if len(row.spans) == 4:
                words = [w for w in ("its capital in", "governed", "lies", "found", "belongs") if w in row.text]
                forms[tuple(span.attribute for span in row.spans[1:]), *words] += 1
    total, kinds = sum(forms.values()), len(list(permutations(range(3)))) * 2 * 3
    assert total == 600 * 6 and len(forms) == kinds
    chi_square = sum((n - total / kinds) ** 2 / (total / kinds) for n in forms.values())
    assert chi_square < kinds - 1 + 4 * math.sqrt(2 * (kinds - 1))


CHINESE = """
subject: 它
attributes:
  capital: {templates: ['{entity}的首都是{value}。', '{entity}以{value}为首都。'], candidates: 195}
  continent: {templates: ['{entity}位于{value}。']}
"""


def test_texts_of_scripts_without_spaces_have_none(tmp_path):
    facts = {"法国": {"capital": "巴黎", "continent": "欧洲"}, "日本": {"capital": "东京", "continent": "亚洲"}}
    facts |= {"秘鲁": {"capital": "利马", "continent": "美洲"}}
    settings = SETTINGS | {"vocab_size": 400}
    recipe = Recipe(**settings, **write_table(tmp_path, facts, CHINESE))
    corpus = corpus_of(recipe)
    tokenizer, _ = tokenizer_of(recipe, corpus)
    pieces = stream_of(recipe, corpus, tokenizer).pieces
    everybody, seen = np.arange(3), set()
    for exposure in range(20):
        tokens, lengths = pieces.gather(corpus.compose(pieces, everybody, exposure))
        starts = np.cumsum(lengths) - lengths
        for row, start, length in zip(corpus.rows(everybody, exposure), starts, lengths, strict=True):
            check_row(row, corpus.knowledge())
            check_values(row, facts[row.entity], corpus.knowledge())
            whole = tokenizer.encode(row.text, add_special_tokens=False).ids
            assert tokens[start : start + length].tolist() == [*whole, EOS_ID], row.text
            seen.add(row.text)
    assert {"法国的首都是巴黎。它位于欧洲。", "法国位于欧洲。它以巴黎为首都。"} <= seen and not any(
        " " in text for text in seen
    )


def test_bits_equal_the_closed_forms(corpus):
    knowledge = corpus.knowledge()
    expected = len(COUNTRIES) * math.log2(1000 / len(COUNTRIES))  # names, out of entity_space
    expected += len(COUNTRIES) * math.log2(195)  # capitals, as declared
    for attribute in ("continent", "currency"):  # by frequency, fact by fact
        values = [facts[attribute] for facts in COUNTRIES.values() if attribute in facts]
        expected += sum(-math.log2(values.count(value) / len(values)) for value in values)
    assert knowledge.total_bits == pytest.approx(expected)


def test_bits_equal_an_entropy_that_was_worked_out_by_hand(tmp_path):
    """Eight entities; colours 4:2:1:1 of 8, sizes 3:1 of the 4 that state one, codes out of 1024 as declared."""
    colours, sizes = ["red"] * 4 + ["blue"] * 2 + ["green", "pink"], ["big"] * 3 + ["small"]
    facts = {f"E{i}": {"colour": colour, "code": f"c{i}"} for i, colour in enumerate(colours)}
    for i, size in enumerate(sizes):
        facts[f"E{i}"]["size"] = size
    says = "templates: ['{entity} has {value}.']"
    templates = f"attributes:\n  colour: {{{says}}}\n  size: {{{says}}}\n  code: {{candidates: 1024, {says}}}\n"
    knowledge = table(tmp_path, facts, templates).knowledge()
    colour = 8 * 1.75  # 1/2 * 1 + 1/4 * 2 + 2 * 1/8 * 3 bits
    size = 4 * 0.8112781244591328  # -(3/4 log2 3/4 + 1/4 log2 1/4) bits
    assert knowledge.total_bits == pytest.approx(colour + size + 8 * 10, rel=1e-12)


def test_orders_and_templates_are_uniform_whatever_an_entity_lacks(corpus):
    """Of the entities that state two facts: 2 orders x 2 x 3 templates, at many exposures."""
    lacking = np.array([i for i, facts in enumerate(COUNTRIES.values()) if len(facts) == 2])
    words = ("its capital in", "governed", "lies", "found", "belongs")
    forms = Counter()
    for exposure in range(500):
        for row in corpus.rows(lacking, exposure):
            forms[tuple(s.attribute for s in row.spans[1:]), *(w for w in words if w in row.text)] += 1
    total = 500 * len(lacking)
    assert len(lacking) == 8 and len(forms) == 12
    chi_square = sum((n - total / 12) ** 2 / (total / 12) for n in forms.values())
    assert abs(chi_square - 11) < 4 * math.sqrt(2 * 11)


def test_a_model_that_knows_the_table_is_measured_to_hold_all_of_it(corpus, stream):
    rows = [(row, e) for e in range(3) for row in corpus.rows(EVERYBODY, e)]
    tokenizer, knowledge = wrap(stream.tokenizer, 80), corpus.knowledge()
    weights = [(row, 1.0) for row, _ in rows]
    scored = score_rows(table_model(weights, tokenizer), tokenizer, rows, knowledge).to_pylist()
    bits = [r["log2_candidates"] - r["nll"] / math.log(2) for r in scored if r["attribute"] != "name"]
    names = len(COUNTRIES) * math.log2(1000 / len(COUNTRIES))
    assert sum(bits) / 3 == pytest.approx(knowledge.total_bits - names, rel=1e-6)


def test_names_count_nothing_unless_their_space_is_declared(tmp_path):
    facts = {"Peru": {"capital": "Lima"}, "Cuba": {"capital": "Havana"}}
    knowledge = table(tmp_path, facts, BY_FREQUENCY).knowledge()
    assert knowledge.name_log2_candidates is None and knowledge.total_bits == pytest.approx(2.0)


def test_the_tokenizer_knows_letters_of_names_alone(recipe, tmp_path):
    def tokenizer(facts, seed=0):
        made = Recipe(**SETTINGS | {"seed": seed}, **write_table(tmp_path, facts))
        return tokenizer_of(made, corpus_of(made))[0].to_str()

    ours = tokenizer(COUNTRIES)
    letters = dict.fromkeys("".join(COUNTRIES))
    shuffled = dict(zip(letters, [*letters][::-1], strict=True))
    strangers = {"".join(shuffled[c] for c in name)[::-1].strip(): facts for name, facts in COUNTRIES.items()}
    strangers = {f"x{' '.join(name.split())}x": facts for name, facts in strangers.items()}
    assert ours == tokenizer(strangers) == tokenizer(COUNTRIES, seed=5)


def test_a_value_out_of_more_candidates_than_the_table_has_is_no_token(corpus):
    texts = set(corpus.vocabulary_texts())
    assert " Europe" in texts and " euro" in texts
    assert not [text for text in texts for facts in COUNTRIES.values() if facts["capital"] in text]


def test_a_tokenizer_from_elsewhere_may_not_tell_which_names_and_values_were_drawn(tmp_path):
    with pytest.raises(CorpusError, match="with entity_space, capital from more candidates than the table has"):
        corpus_of(Recipe(**write_table(tmp_path), tokenizer_name="gpt2"))
    assert corpus_of(Recipe(**write_table(tmp_path, templates=ALL_BY_FREQUENCY), tokenizer_name="gpt2"))


def test_a_determined_attribute_is_scored_with_its_determiner_and_worth_nothing(tmp_path):
    facts = {f"E{i}": {"region": f"r{i % 4}", "continent": f"c{i % 4 // 2}"} for i in range(12)}
    templates = (
        "attributes:\n  region: {candidates: 4, templates: ['{entity} is in {value}.']}\n"
        "  continent: {determined_by: region, templates: ['{entity} is on {value}.']}\n"
    )
    knowledge = table(tmp_path, facts, templates).knowledge()
    assert knowledge.attribute("continent").determined_by == "region"
    assert knowledge.bits_per_person == pytest.approx(2.0)


def test_a_determined_attribute_that_is_not_declared_is_an_error_before_training(tmp_path):
    """40 entities in 4 regions agree on the continent by chance with probability 2^-36; 12 with 2^-8."""
    templates = (
        "attributes:\n  region: {candidates: 4, templates: ['{entity} is in {value}.']}\n"
        "  continent: {candidates: 2, templates: ['{entity} is on {value}.']}\n"
    )
    facts = {f"E{i}": {"region": f"r{i % 4}", "continent": f"c{i % 4 // 2}"} for i in range(40)}
    with pytest.raises(CorpusError, match="continent always follows from region, so that one fact would count twice"):
        table(tmp_path, facts, templates)
    assert table(tmp_path, dict(list(facts.items())[:12]), templates)


@pytest.fixture(scope="module")
def trained(recipe, tmp_path_factory):
    run_dir = tmp_path_factory.mktemp("runs") / "countries"
    data = build(recipe, run_dir)
    model = train(recipe, run_dir)
    score(model, data, progress=False)
    return run_dir, capacity(model)


def test_a_table_goes_the_whole_way(trained, corpus):
    run_dir, result = trained
    knowledge = read_knowledge(run_dir / "knowledge")
    assert knowledge == corpus.knowledge()
    assert result["max_knowledge_bits"] == pytest.approx(knowledge.total_bits)
    assert result["bits_per_parameter"] < result["max_bits_per_parameter"]
    assert set(result["attributes"]) == {"name", "capital", "continent", "currency"}
    measured = pq.read_schema(run_dir / "model" / "nll.parquet").metadata
    assert any(b'"control_kind": "shuffled"' in content for content in measured.values())


def test_the_data_set_has_the_table_and_its_texts(trained):
    run_dir, _ = trained
    people = pq.read_table(run_dir / "knowledge" / "people").to_pylist()
    assert {p["entity"]: {a: p[a] for a in p if a != "entity" and p[a]} for p in people} == COUNTRIES
    rows = list(read_rows(run_dir / "knowledge"))
    assert len(rows) == 2 * len(COUNTRIES) and {row.entity for row, _ in rows} == set(COUNTRIES)
    assert not (run_dir / "knowledge" / "control").exists()


def test_a_table_that_changed_is_not_taken_for_the_one_that_was_built(tmp_path):
    keys = write_table(tmp_path)
    build(Recipe(**SETTINGS, **keys), tmp_path / "run")
    write_table(tmp_path, COUNTRIES | {"Japan": COUNTRIES["Japan"] | {"capital": "Kyoto"}})
    with pytest.raises(DatasetError):
        build(Recipe(**SETTINGS, **keys), tmp_path / "run")


def write_recipe(folder, **keys):
    path = folder / "mine.yaml"
    settings = SETTINGS | {"output_dir": str(folder / "runs")} | keys
    path.write_text("".join(f"{key}: {json.dumps(value)}\n" for key, value in settings.items()), encoding="utf-8")
    return path


def test_a_recipe_of_a_table_needs_no_num_people_and_is_estimated(tmp_path, capsys):
    path = write_recipe(tmp_path, **write_table(tmp_path))
    assert main(["run", "--config", str(path), "--dry_run"]) == 0
    shown = dict(line.split(None, 1) for line in capsys.readouterr().out.splitlines() if line.startswith("people"))
    assert shown == {"people": "50"}


def test_all_problems_of_recipe_table_and_templates_are_reported_at_once(tmp_path):
    keys = write_table(
        tmp_path, {"Peru": {"capital": "Lima", "anthem": "Somos libres"}}, BY_FREQUENCY + "subjekt: It\n"
    )
    with pytest.raises(RecipeError) as reported:
        load_recipe(write_recipe(tmp_path, **keys, exposures=0))
    message = str(reported.value)
    assert "exposures=0" in message and "did you mean 'subject'" in message
    assert "countries.csv line 3: there are no templates for attribute 'anthem'" in message


def test_a_recipe_without_its_files_or_with_another_number_of_entities_is_reported(tmp_path):
    keys = write_table(tmp_path)
    assert [p.split()[0] for p in check_recipe(Recipe(**SETTINGS, corpus="table"))] == [
        "facts_file",
        "facts_templates",
    ]
    missing = check_recipe(Recipe(**SETTINGS | keys | {"facts_file": str(tmp_path / "none.csv")}))
    assert len(missing) == 1 and "none.csv is not a file" in missing[0]
    idle = check_recipe(Recipe(**SETTINGS, **keys, full_name=True, pools_fraction=0.5))
    assert [problem.split("=")[0] for problem in idle] == ["pools_fraction", "full_name"]
    assert "has 50 entities" in check_recipe(Recipe(**SETTINGS, **keys, num_people=7))[0]
    assert "vocab_size=20 is too small" in check_recipe(Recipe(**SETTINGS | {"vocab_size": 20}, **keys))[0]
    assert check_recipe(Recipe(**SETTINGS, **keys)) == []


def test_num_templates_takes_the_first_ones(tmp_path):
    keys = write_table(tmp_path)
    one = corpus_of(Recipe(**keys, num_templates=1))
    assert not [row for row in one.rows(EVERYBODY, 0) if "governed" in row.text or "map" in row.text]
    with pytest.raises(CorpusError, match="num_templates=2, but an attribute of .* has 1"):
        corpus_of(Recipe(**keys, num_templates=2))


def test_what_is_doubtful_is_logged_once(tmp_path, caplog):
    keys = write_table(tmp_path, {f"E{i}": {"capital": f"v{i}"} for i in range(30)}, BY_FREQUENCY)
    with caplog.at_level(logging.WARNING, logger="knowcap.corpus.table"):
        corpus_of(Recipe(**keys))
        corpus_of(Recipe(**keys))
    assert len(caplog.records) == 1 and "all 30 values are unique" in caplog.text


def test_the_example_of_the_readme_runs(tmp_path, monkeypatch, capsys):
    text = (
        (Path(__file__).resolve().parents[2] / "src" / "knowcap" / "corpus" / "README.md")
        .read_text(encoding="utf-8")
        .split("## Your own facts")[1]
    )
    blocks = dict(re.findall(r"^```(csv|yaml|bash)\n(.*?)^```", text, re.M | re.S)[:3])
    (tmp_path / "countries.csv").write_text(blocks["csv"])
    (tmp_path / "countries.yaml").write_text(blocks["yaml"])
    monkeypatch.chdir(tmp_path)
    command, *words = shlex.split(blocks["bash"].replace("\\\n", ""))
    assert command == "knowcap"
    few = ["--exposures", "16", "--warmup_steps", "1", "--quantize_bits", "8"]
    assert main([*words, *few]) == 0
    assert "| countries" in capsys.readouterr().out
    result = json.loads((tmp_path / "runs" / "countries" / "capacity.json").read_text())
    assert result["num_entities"] == 3
    assert result["max_knowledge_bits"] == pytest.approx(3 * math.log2(195) + 2 * math.log2(3 / 2) + math.log2(3))
