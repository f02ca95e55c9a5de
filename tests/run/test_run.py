"""The chained stages: one command makes everything, goes on where it was stopped, and keeps what is finished."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from knowcap.capacity import LeakError
from knowcap.cli import main


RECIPE = """
num_people: 60
model_name: gpt2-2-2
head_dim: 8
quantization_group_size: 16
pools_fraction: 0.05
num_templates: 1
vocab_size: 200
exposures: 4
renderings: 1
control_people: 100
block_size: 160
windows: aligned
train_batch_size: 8
learning_rate: 3e-3
warmup_steps: 2
quantize_bits: [8]
"""
STAGES = ["knowledge", "train", "score", "capacity", "quantize", "score", "capacity", "report"]


def command(folder: Path, *words: str) -> list[str]:
    (folder / "mine.yaml").write_text(RECIPE)
    return ["run", "--config", str(folder / "mine.yaml"), "--output_dir", str(folder / "runs"), *words]


def stage_lines(text: str) -> list[tuple[str, str]]:
    lines = [line[1:].split("] ", 1) for line in text.splitlines() if line.startswith("[") and "] " in line]
    return [(name, rest) for name, rest in lines if name in STAGES]


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """A finished run, folder and all that its command printed."""
    folder = tmp_path_factory.mktemp("finished")
    with pytest.MonkeyPatch.context() as patch:
        lines: list[str] = []
        patch.setattr("knowcap.run.log.logger.info", lambda text, *args: lines.append(text % args))
        assert main(command(folder)) == 0
    return folder, lines


def results(run_dir: Path) -> dict[str, dict]:
    """capacity.json of every model of a run."""
    return {str(path.relative_to(run_dir)): json.loads(path.read_text()) for path in run_dir.rglob("*capacity.json")}


def test_every_stage_ends_with_one_line_of_what_where_and_how_long(finished):
    folder, lines = finished
    found = stage_lines("\n".join(lines))
    assert [name for name, _ in found] == STAGES
    for _, rest in found:
        assert f" → {folder}/runs/mine/" in rest
        assert rest.endswith(" s)")


def test_a_run_leaves_the_folder_of_the_design(finished):
    run_dir = finished[0] / "runs" / "mine"
    for name in (
        "recipe.yaml", "capacity.json", "knowledge/README.md", "knowledge/knowledge.json", "model/config.json",
        "model/model.safetensors", "model/README.md", "model/nll.parquet", "model/capacity.json",
        "quantized/int8/nll.parquet", "quantized/int8/capacity.json", "quantized/int8/README.md",
    ):  # fmt: skip
        assert (run_dir / name).is_file(), name
    assert (run_dir / "capacity.json").read_text() == (run_dir / "model" / "capacity.json").read_text()
    assert list((run_dir / "plots").glob("*.png"))


def test_the_same_command_again_keeps_everything_and_shows_the_table(finished, capsys):
    folder, _ = finished
    kept = [path for path in (folder / "runs").rglob("*") if path.suffix in (".parquet", ".safetensors", ".json")]
    kept = [path for path in kept if path.name not in ("report.json",) and path.parent.name != "mine"]
    before = {path: path.stat().st_mtime_ns for path in kept}
    assert main(command(folder)) == 0
    out, err = capsys.readouterr()
    assert {path: path.stat().st_mtime_ns for path in kept} == before
    assert all(rest.endswith("(finished before, kept)") for name, rest in stage_lines(err) if name != "report")
    table = [[cell.strip() for cell in line.split("|")[1:-1]] for line in out.splitlines() if line.startswith("|")]
    assert [row[5] for row in table[2:]] == ["fp32", "int8"]


def test_neither_a_finished_run_nor_a_dry_run_imports_torch_or_draws(finished):
    code = (
        "import sys; from knowcap.cli import main; from knowcap.report import plots; plots.BESIDE_PNG = (); "
        "status = main(sys.argv[1:]), main([*sys.argv[1:], '--dry_run']); "
        "print(*status, {'torch', 'transformers', 'matplotlib', 'datasets', 'optimum'} & set(sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", code, *command(finished[0])], capture_output=True, text=True)
    assert done.stdout.splitlines()[-1] == "0 0 set()", done.stderr
    assert "as it took; the model is trained" in done.stdout


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda run: flip(run / "model" / "model.safetensors"), "is not the file that training.json was written"),
        (lambda run: flip(run / "quantized" / "int8" / "quanto.safetensors"), "the file that quantization.json was"),
        (lambda run: (run / "model" / "model.safetensors").unlink(), "model.safetensors is missing"),
        (lambda run: flip(next((run / "knowledge" / "biographies").glob("*"))), "the file that knowledge.json was"),
        (lambda run: swap(run / "knowledge" / "knowledge.json", '"num_people": 60', '"num_people": 61'), "changed"),
        (lambda run: swap(run / "quantized" / "int8" / "training.json", '"seed"', '"Seed"'), "is not the file that"),
        (lambda run: swap(run / "quantized" / "int8" / "quantization.json", '"quanto"', '"gptq"'), "was changed"),
    ],
    ids=["weights", "copy", "no weights", "texts", "knowledge", "training", "settings"],
)
def test_a_finished_run_that_was_changed_is_not_taken_for_the_recipes(finished, tmp_path, capsys, damage, message):
    shutil.copytree(finished[0] / "runs", tmp_path / "runs")
    damage(tmp_path / "runs" / "mine")
    assert main(command(tmp_path)) == 2
    assert message in capsys.readouterr().err


def flip(path: Path) -> None:
    """Changes the last byte of a file."""
    content = path.read_bytes()
    path.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))


def swap(path: Path, old: str, new: str) -> None:
    """Changes a part of a text file."""
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new))


def test_a_run_stopped_in_every_stage_goes_on_to_the_same_result(finished, tmp_path, monkeypatch, capsys):
    def stop(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    for stage in (
        "dataset.stage.build", "training.stage.train", "scoring.score", "capacity.capacity",
        "models.quantized.stage.quantize", "report.stage.report",
    ):  # fmt: skip
        with monkeypatch.context() as patch:
            patch.setattr(f"knowcap.{stage}", stop)
            assert main(command(tmp_path)) == 130
    capsys.readouterr()
    assert main(command(tmp_path)) == 0
    assert [name for name, rest in stage_lines(capsys.readouterr().err) if "kept" not in rest] == ["report"]
    ours, theirs = results(tmp_path / "runs" / "mine"), results(finished[0] / "runs" / "mine")
    assert ours.keys() == theirs.keys()
    for path, result in ours.items():
        assert result["bits_per_parameter"] == pytest.approx(theirs[path]["bits_per_parameter"], abs=1e-6)


def test_quantize_and_measure_add_a_precision_to_a_finished_run(finished, tmp_path, capsys):
    folder, _ = finished
    run_dir = str(folder / "runs" / "mine")
    assert main(["quantize", run_dir, "--bits", "4"]) == 0
    assert main(["measure", run_dir]) == 0
    out, err = capsys.readouterr()
    assert "int4" in out
    assert [name for name, rest in stage_lines(err) if "kept" not in rest] == [
        "quantize",
        "score",
        "capacity",
        "report",
    ]
    assert main(["report", str(folder / "runs")]) == 0
    assert "int4" in capsys.readouterr().out
    before = results(folder / "runs" / "mine")
    assert main(["measure", run_dir, "--dtype", "bfloat16", "--overwrite"]) == 2
    message = capsys.readouterr().err
    assert "has quantized copies (int4" in message and "[score]" not in message and "model alone" in message
    assert results(folder / "runs" / "mine") == before


def test_a_model_folder_is_measured_alone_and_again_when_asked_to(finished, capsys):
    model = finished[0] / "runs" / "mine" / "model"
    assert main(["measure", str(model), "--limit", "30"]) == 2
    assert "is a measurement of 60 entities" in capsys.readouterr().err
    try:
        assert main(["measure", str(model), "--limit", "30", "--overwrite", "--batch_size", "7"]) == 0
        assert json.loads(pq.read_schema(model / "nll.parquet").metadata[b"knowcap"])["entities_scored"] == 30
    finally:
        assert main(["measure", str(model), "--overwrite"]) == 0
    assert results(model)["capacity.json"] == json.loads((model.parent / "capacity.json").read_text())


def test_a_model_outside_of_runs_needs_a_data_set_and_is_left_as_it_is(finished, tmp_path, capsys, monkeypatch):
    run_dir = finished[0].absolute() / "runs" / "mine"
    monkeypatch.chdir(tmp_path)
    tmp_path = tmp_path / "theirs"
    tmp_path.mkdir()
    for name in ("config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json"):
        (tmp_path / name).write_bytes((run_dir / "model" / name).read_bytes())
    assert main(["measure", str(tmp_path)]) == 2
    assert "give --dataset_name" in capsys.readouterr().err
    assert main(["measure", str(tmp_path), "--dataset_name", str(run_dir / "knowledge")]) == 0
    found = json.loads(Path("measured/theirs/capacity.json").read_text())
    assert found["bits_per_parameter"] == pytest.approx(results(run_dir)["capacity.json"]["bits_per_parameter"])
    out = capsys.readouterr().out
    assert "|Dataset|" in out and f"{found['bits_per_parameter']:.4f}" in out
    assert len(list(tmp_path.iterdir())) == 4 and "bits of knowledge" in Path("measured/theirs/README.md").read_text()


@pytest.fixture
def facts(finished, tmp_path):
    """A table of prompts: texts of the run's people up to their birth date, and that date."""
    folder = finished[0] / "runs" / "mine" / "knowledge" / "biographies"
    rows = pq.read_table(sorted(folder.glob("*.parquet"))[0]).to_pylist()
    lines = ["prompt,answer,candidates"]
    for row in rows[:12:2]:
        span = next(span for span in row["spans"] if span["attribute"] == "birth_date")
        prompt, answer = row["text"][: span["start"]].strip(), row["text"][span["start"] : span["end"]]
        lines.append(f'"{prompt}","{answer}",64')
    table = tmp_path / "facts.csv"
    table.write_text("\n".join(lines) + "\n")
    return table


def contents(run_dir: Path, *without: str) -> dict[str, bytes]:
    """The files of a run folder but the lock, and but those in some folders."""
    files = {path.relative_to(run_dir).as_posix(): path for path in run_dir.rglob("*") if path.is_file()}
    return {name: path.read_bytes() for name, path in files.items() if not name.startswith((".lock", *without))}


def test_another_data_set_is_measured_beside_the_runs_own_figures(finished, facts, capsys):
    run_dir = finished[0] / "runs" / "mine"
    before = contents(run_dir)
    assert main(["measure", str(run_dir), "--dataset_name", str(facts)]) == 0
    try:
        out = capsys.readouterr().out
        assert contents(run_dir, "measured/") == before
        place = run_dir / "measured" / "facts"
        found = [json.loads((folder / "capacity.json").read_text()) for folder in (place, place / "quantized/int8")]
        assert [(c["precision"], c["num_entities"]) for c in found] == [("fp32", 6), ("int8", 6)]
        for capacity in found:
            assert f"{capacity['bits_per_parameter']:.4f}|" in out
        assert {"nll.parquet", "control.parquet", "README.md", "data"} <= {path.name for path in place.iterdir()}
        assert main(["measure", str(run_dir), "--dataset_name", str(facts), "--json"]) == 0  # kept
        models = {model.pop("folder"): model for model in json.loads(capsys.readouterr().out)["models"]}
        assert [models[str(place)], models[str(place / "quantized" / "int8")]] == found
        assert main(["measure", str(run_dir / "model"), "--dataset_name", str(facts), "--json"]) == 0
        assert json.loads(capsys.readouterr().out) == found[0]
        compare = ["measure", str(run_dir / "quantized" / "int8"), "--compare", str(run_dir)]
        assert main([*compare, "--dataset_name", str(facts)]) == 0
        assert f"int8, {found[1]['num_parameters']:,} parameters), {found[1]['bits_per_parameter']:.4f} bits" in (
            capsys.readouterr().out
        )
        assert contents(run_dir, "measured/") == before
    finally:
        shutil.rmtree(run_dir / "measured")


def test_an_earlier_result_stays_until_the_new_one_is_whole(finished, facts, monkeypatch):
    run_dir = finished[0] / "runs" / "mine"
    words = ["measure", str(run_dir), "--dataset_name", str(facts), "--overwrite"]
    try:
        assert main(words) == 0
        before = contents(run_dir)
        facts.write_text(facts.read_text().replace(",64", ",32"))

        def reject(*_, **__):
            raise LeakError("the control holds bits")

        with monkeypatch.context() as patch:
            patch.setattr("knowcap.capacity.capacity", reject)
            assert main(words) == 2
            assert contents(run_dir) == before
            assert main(["measure", str(run_dir), "--overwrite"]) == 2
            assert contents(run_dir) == before
        facts.write_text("prompt,answer,candidates\n")
        assert main(words) == 2
        assert contents(run_dir) == before
    finally:
        shutil.rmtree(run_dir / "measured")


def test_a_run_is_measured_into_another_folder(finished, tmp_path, capsys):
    run_dir = finished[0] / "runs" / "mine"
    before = contents(run_dir)
    assert main(["measure", str(run_dir), "--limit", "30", "--output_dir", str(tmp_path / "new")]) == 0
    assert contents(run_dir) == before
    out = capsys.readouterr().out
    for folder in (tmp_path / "new", tmp_path / "new" / "quantized" / "int8"):
        assert json.loads(pq.read_schema(folder / "nll.parquet").metadata[b"knowcap"])["entities_scored"] == 30
        assert f"{json.loads((folder / 'capacity.json').read_text())['bits_per_parameter']:.4f}|" in out
