"""Measuring on texts that may hint at facts: reported as no bound, with neutral texts beside them."""

from __future__ import annotations

import json
import math
import shutil
import warnings
from pathlib import Path

import pyarrow.parquet as pq
import pytest
import torch
from run_folders import make_capacity, make_run, read_card
from scored_facts import fact, knowledge_json, perfect_facts, uniform_facts
from scored_facts import write as write_scores
from tiny import bpe_tokenizer
from transformers import GPT2Config, GPT2LMHeadModel
from writer_server import RuleWriter

from knowcap.capacity import LeakError, capacity
from knowcap.cli import main
from knowcap.dataset.folder import read_rows
from knowcap.dataset.rewrite import Task, rewrite
from knowcap.dataset.stage import write
from knowcap.recipe import Recipe
from knowcap.report.card.results import read_capacities
from knowcap.report.plots import plot_frontier
from knowcap.report.stage import report, report_table
from knowcap.run import pipeline as stages
from knowcap.run import push as hub
from knowcap.scoring import NEUTRAL_MODE, ScoringError, read_measurement, score


TASK = Task(num_people=6, texts_per_person=2, control_people=100, seed=2)
DIGESTS = {"inputs", "content_digest"}  # of files that name the model's folder and data set


@pytest.fixture(scope="module")
def dataset_dir(tmp_path_factory) -> Path:
    return rewrite(TASK, RuleWriter(), tmp_path_factory.mktemp("data") / "bioR", progress=False)


@pytest.fixture(scope="module")
def model_dir(dataset_dir, tmp_path_factory) -> Path:
    """A random model that can spell anything."""
    made = tmp_path_factory.mktemp("model") / "tiny"
    tokenizer = bpe_tokenizer([row.text for row, _ in read_rows(dataset_dir, "neutral")], vocab_size=600)
    torch.manual_seed(1)
    config = GPT2Config(vocab_size=len(tokenizer), n_positions=512, n_embd=8, n_layer=1, n_head=1)
    GPT2LMHeadModel(config).save_pretrained(made)
    tokenizer.save_pretrained(made)
    return made


@pytest.fixture(scope="module")
def measured(model_dir, dataset_dir, tmp_path_factory) -> Path:
    """A run folder whose model and a copy of it, in place of a quantized one, are measured on bioR."""
    run_dir = tmp_path_factory.mktemp("runs") / "bior"
    for folder in ("model", "quantized/int8"):
        shutil.copytree(model_dir, run_dir / folder)
        (run_dir / folder / "training.json").write_text(json.dumps({"model_name": "gpt2"}))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # what a random model gives away is not the point here
        (run_dir / "knowledge").symlink_to(dataset_dir)
        stages.measure_run(run_dir, Recipe(dataset_name=str(dataset_dir)))
    return run_dir


def read(folder: Path) -> dict:
    return json.loads((folder / "capacity.json").read_text())


def test_both_texts_of_every_model_are_measured_and_only_neutral_ones_are_a_bound(measured):
    for folder in (measured / "model", measured / "quantized" / "int8"):
        assert read(folder)["bound"] is False and read(folder / "neutral")["bound"] is True
        assert read(folder)["renderings"] == 2 and read(folder / "neutral")["renderings"] == 4
        assert pq.read_metadata(folder / "nll.parquet").num_rows == 6 * 2 * 7
        assert not list(folder.rglob(".*")), "no part files are left"
    assert read_measurement(measured / "model" / "nll.parquet")["knowledge"]["bound"] is False
    original, copy = (read(measured / name) for name in ("model", "quantized/int8"))
    assert {k for k in original if original[k] != copy[k]} <= DIGESTS, "the copy is the same model"


def test_neutral_texts_are_measured_as_those_of_bios_would_be(measured, model_dir, tmp_path):
    """To the last bit: the same people, sentences and control, from a data set of templates alone."""
    bios = write(Recipe(num_people=6, control_people=100, seed=2, renderings=4), tmp_path / "bioS")
    shutil.copytree(model_dir, tmp_path / "model")
    score(tmp_path / "model", bios, progress=False)
    capacity(tmp_path / "model")
    for name in ("nll.parquet", "control.parquet", "control_swapped.parquet"):
        tables = [pq.read_table(folder / name) for folder in (measured / "model" / "neutral", tmp_path / "model")]
        assert tables[0].equals(tables[1])
    differing = {k for k, v in read(tmp_path / "model").items() if v != read(measured / "model" / "neutral")[k]}
    assert differing - DIGESTS == {"dataset", "trained_here"}


def test_what_is_measured_is_kept_and_other_texts_are_reported(measured, model_dir, dataset_dir, tmp_path):
    model = measured / "model"
    before = {path: path.stat().st_mtime_ns for path in model.rglob("*.parquet")}
    stages.measure(model, dataset_dir, Recipe())
    assert before == {path: path.stat().st_mtime_ns for path in model.rglob("*.parquet")} and len(before) == 6
    other = rewrite(Task(6, 2, 100, seed=3), RuleWriter(), tmp_path / "other", progress=False)
    with pytest.raises(ScoringError, match="other texts"):
        score(model, other, mode=NEUTRAL_MODE, progress=False)


def test_a_measurement_on_other_texts_leaves_no_neutral_figure_behind(measured, tmp_path):
    model = Path(shutil.copytree(measured / "model", tmp_path / "model"))
    bios = write(Recipe(num_people=6, control_people=100, seed=2, renderings=1), tmp_path / "bioS")
    stages.measure(model, bios, Recipe(), overwrite=True)
    assert read(model)["bound"] is True and not (model / "neutral" / "capacity.json").exists()


def test_the_command_measures_both(model_dir, dataset_dir, tmp_path, capsys):
    model = Path(shutil.copytree(model_dir, tmp_path / "model"))
    keep = ["--output_dir", str(model)]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        assert main(["measure", str(model), "--dataset_name", str(dataset_dir), "--limit", "4", *keep]) == 0
    assert read(model)["num_entities"] == 6 and read(model / "neutral")["num_entities"] == 6
    assert set(pq.read_table(model / "nll.parquet")["entity"].to_pylist()) == set(range(4))
    card = (model / "README.md").read_text()
    assert "(not a bound; on neutral templates" in card and ", not a bound" in capsys.readouterr().err


def test_texts_that_some_people_lack_are_all_scored_under_a_limit(model_dir, tmp_path):
    """Person 0 has one text, the others two: none is dropped when the first three are scored."""
    writer = RuleWriter(lambda request: "omit" if request.key[:2] == (0, 1) else None)
    data = rewrite(TASK, writer, tmp_path / "bioR", max_attempts=1, allow_missing=True, progress=False)
    model = Path(shutil.copytree(model_dir, tmp_path / "model"))
    score(model, data, limit=3, progress=False)
    rows = pq.read_table(model / "nll.parquet").to_pylist()
    assert {(row["entity"], row["rendering"]) for row in rows} == {(0, 0), (1, 0), (1, 1), (2, 0), (2, 1)}


def leaking(folder: Path, bound: bool) -> Path:
    """Scores whose control holds half a bit of the pronoun more than nothing."""
    control = uniform_facts(range(1000, 1040))
    for row in control:
        if row["attribute"] == "pronoun":
            row["nll"] -= 0.5 * math.log(2)
    knowledge = knowledge_json() | ({} if bound else {"bound": False})
    return write_scores(folder, perfect_facts(), control, knowledge=knowledge)


def test_a_leak_is_an_error_where_bits_are_a_bound_and_a_warning_where_they_are_not(tmp_path):
    with pytest.raises(LeakError, match="null control holds bits"):
        capacity(leaking(tmp_path / "bound", bound=True))
    with pytest.warns(UserWarning, match=r"control holds bits.*bound: false.*not a bound on what the weights hold"):
        result = capacity(leaking(tmp_path / "not", bound=False))
    assert result["bound"] is False and result["control_bits_per_entity"][0] == pytest.approx(0.5)
    rest = capacity(write_scores(tmp_path / "fine", perfect_facts()))
    assert rest["bound"] is True
    assert {k: v for k, v in rest.items() if k not in ("bound", "bound_reason", "control_bits_per_entity")} == {
        k: v for k, v in result.items() if k not in ("bound", "bound_reason", "control_bits_per_entity")
    }


def test_swapped_values_that_fit_worse_are_a_warning_where_bits_are_no_bound(tmp_path):
    folder = write_scores(tmp_path / "not", perfect_facts(), knowledge=knowledge_json() | {"bound": False})
    swapped = [fact(row["entity"], row["attribute"], row["nll"] + 1.0) for row in uniform_facts(range(1000, 1100))]
    own = uniform_facts(range(1000, 1100))
    write_scores(folder, perfect_facts(), own, knowledge=knowledge_json() | {"bound": False})
    write_scores(tmp_path / "swapped", swapped, knowledge=knowledge_json() | {"bound": False})
    shutil.copy(tmp_path / "swapped" / "nll.parquet", folder / "control_swapped.parquet")
    with pytest.warns(UserWarning, match="own values are more likely.*bound: false"):
        assert capacity(folder)["bound"] is False


def unbound_run(run_dir: Path, neutral: bool = True) -> Path:
    made = make_run(run_dir, bound=False)
    for folder in (made / "model", *(made / "quantized").iterdir()):
        if neutral:
            (folder / "neutral").mkdir()
            (folder / "neutral" / "capacity.json").write_text(json.dumps(make_capacity(share=0.5, bound=True)))
    return made


@pytest.mark.parametrize("neutral", [True, False])
def test_cards_put_it_beside_every_figure(tmp_path, neutral):
    run_dir = unbound_run(tmp_path / "bior", neutral)
    figure = f"{make_capacity(share=0.5)['bits_per_parameter']:.3f} ± 0.020"
    label = f"(not a bound; on neutral templates {figure})" if neutral else "(not a bound)"
    for folder in (run_dir / "model", run_dir / "quantized" / "int4"):
        data, text = read_card(folder)
        summary = next(line for line in text.splitlines() if "bits of knowledge per parameter" in line)
        assert label in summary and text.count(label) == 1 + 3, "summary, and a row of each precision"
        assert "is not a bound on what the weights hold" in text and "is a lower bound" not in text
        results = [m for r in data["model-index"][0]["results"] for m in r["metrics"]]
        names = [m["name"] for m in results]
        assert len(names) == (1 if "quantized" in str(folder) else 3) * (4 if neutral else 2)
        assert sum(name.endswith(", not a bound") for name in names) == len(names) // (2 if neutral else 1)


def test_the_report_puts_it_beside_every_figure(tmp_path):
    unbound_run(tmp_path / "runs" / "bior")
    make_run(tmp_path / "runs" / "bios")
    text = report(tmp_path / "runs").read_text()
    rows = [line for line in text.splitlines() if line.startswith("| bio")]
    assert [row.count("(not a bound; on neutral templates ") for row in rows] == [1, 1, 1, 0, 0, 0]
    assert "- not a bound: the weights may hold less, because the texts may hint" in text
    assert "- on neutral templates" in text and len({len(row) for row in rows}) == 1
    models = json.loads((tmp_path / "runs" / "report.json").read_text())["models"]
    assert [model.get("neutral", {}).get("bound") for model in models] == [True] * 3 + [None] * 3


@pytest.mark.usefixtures("rendered")
def test_nothing_changes_for_a_run_whose_bits_are_a_bound(tmp_path):
    old, new = (make_run(tmp_path / name / "bios", **changes) for name, changes in (("a", {}), ("b", {"bound": True})))
    assert report_table(old) == report_table(new) and "bound" not in report_table(new)
    cards = [read_card(run_dir / "model") for run_dir in (old, new)]
    assert cards[0] == cards[1] and "is a lower bound on what the weights hold" in cards[1][1]
    plots = [plot_frontier(list(read_capacities(run).values()), run / "p.png").read_bytes() for run in (old, new)]
    assert plots[0] == plots[1] != plot_frontier([make_capacity(bound=False)], tmp_path / "p.png").read_bytes()


def test_what_the_neutral_texts_gave_is_published_with_the_model(measured, tmp_path):
    run_dir = unbound_run(tmp_path / "bior")
    for folder in ("model", "quantized/int8"):
        shutil.copytree(measured / folder, run_dir / folder, dirs_exist_ok=True)
    artefacts = hub._models(run_dir, "me/tiny", None)
    names = {"nll.parquet", "control.parquet", "control_swapped.parquet", "capacity.json"}
    assert {f"neutral/{name}" for name in names} <= set(artefacts[0].files)
    assert b"(not a bound; on neutral templates" in artefacts[0].files["README.md"]
    assert hub._files_left_out(run_dir) == []
