"""Publishing over real HTTP, to the stand-in of hub_server.py: what arrives, what is not sent twice, what fails."""

from __future__ import annotations

import hashlib
import json
import logging
import os
import shutil
import subprocess
import sys
from contextlib import redirect_stderr, redirect_stdout
from io import StringIO
from pathlib import Path
from types import SimpleNamespace

import huggingface_hub
import pytest
import torch
from hub_server import TOKEN, HubServer
from huggingface_hub import HfApi, ModelCard

from knowcap.cli import main
from knowcap.recipe import Recipe
from knowcap.run import pipeline as stages
from knowcap.run import push as hub
from knowcap.run.folder import claim_run_dir
from knowcap.run.push import Artefact, HubError, Uploader


# huggingface_hub passes files to its HTTP client by an argument that the client would rather be passed otherwise.
pytestmark = pytest.mark.filterwarnings("ignore:Use 'content=:DeprecationWarning")

TINY = {
    "run_name": "tiny", "num_people": 30, "model_name": "gpt2-2-2", "head_dim": 8, "pools_fraction": 0.05,
    "num_templates": 1, "vocab_size": 200, "exposures": 2, "block_size": 160, "windows": "aligned",
    "train_batch_size": 8, "control_people": 100, "renderings": 1, "quantize_bits": (8, 4),
    "quantization_group_size": 16,
}  # fmt: skip


@pytest.fixture(scope="module")
def made_run(tmp_path_factory):
    """A run folder with all its parts."""
    recipe = Recipe(**TINY, output_dir=str(tmp_path_factory.mktemp("runs")))
    run_dir = claim_run_dir(recipe)
    stages.run(recipe, run_dir)
    return run_dir


@pytest.fixture
def run_dir(made_run, tmp_path):
    """A copy of it, to be changed at will."""
    return Path(shutil.copytree(made_run, tmp_path / "tiny"))


def publish_to(server: HubServer, monkeypatch: pytest.MonkeyPatch) -> None:
    """Makes the stand-in the place where this process publishes."""
    monkeypatch.setattr(huggingface_hub.constants, "ENDPOINT", server.url)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_DISABLE_XET", True)
    monkeypatch.setenv("HF_TOKEN", TOKEN)


@pytest.fixture
def server(monkeypatch):
    """The stand-in, as the place where this process publishes; nothing sleeps, seconds to wait go to `waits`."""
    with HubServer() as running:
        publish_to(running, monkeypatch)
        running.waits = []
        monkeypatch.setattr("time.sleep", running.waits.append)
        yield running
    huggingface_hub.utils.close_session()


def push(server: HubServer, folder: Path | None, **ids: object) -> hub.Push:
    return hub.push(folder, wait=server.waits.append, **ids)


def tree(folder: Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in folder.rglob("*") if p.is_file() and p.name != ".lock"}


def fails(capsys, *words: str) -> str:
    """The message of a command that ends with status 2."""
    assert main(["push", *words]) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert "Traceback" not in err
    assert TOKEN not in err
    return err


def subprocess_env(server: HubServer, home: Path) -> dict[str, str]:
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("HF_", "TRANSFORMERS_"))}
    settings = {"HF_ENDPOINT": server.url, "HF_HUB_DISABLE_XET": "1", "HF_TOKEN": TOKEN, "HF_HOME": str(home)}
    # Not the folders of modules that `evaluate` may have put on this process' path: the other one has its own.
    path = [entry for entry in sys.path if not (Path(entry) / "evaluate_modules").is_dir()]
    return kept | settings | {"HF_HUB_DISABLE_TELEMETRY": "1", "PYTHONPATH": os.pathsep.join(path)}


# Publishing everything by the command, and loading it as any user of the Hub does.

LOAD = """
import json, runpy, sys
import evaluate
from datasets import get_dataset_config_names, load_dataset
from transformers import AutoModelForCausalLM, AutoTokenizer
from safetensors.torch import save_file
from huggingface_hub import hf_hub_download, snapshot_download

model = AutoModelForCausalLM.from_pretrained("me/tiny")
save_file({name: p.detach().clone() for name, p in model.named_parameters()}, sys.argv[1])
tokenizer = AutoTokenizer.from_pretrained("me/tiny")
streamed = load_dataset("me/people", "people", split="train", streaming=True)
metric = evaluate.load("me/bits_per_parameter")
cases = runpy.run_path(hf_hub_download("me/bits_per_parameter", "tests.py", repo_type="space"))["test_cases"]
results = [metric.compute(**{name: value for name, value in case.items() if name != "result"}) for case in cases]
from knowcap.models import load_model
print(json.dumps({
    "tokens": tokenizer("He was born on")["input_ids"],
    "configs": get_dataset_config_names("me/people"),
    "people": load_dataset("me/people", "people", split="train").to_list(),
    "streamed": list(streamed),
    "texts": load_dataset("me/people", split="train")["text"][:3],
    "bits": metric.compute(predictions=[[0.0], [0.0]], references=[[8.0], [8.0]], num_parameters=4)[
        "bits_per_parameter"
    ],
    "cases": [[result, case["result"]] for result, case in zip(results, cases)],
    "int4": type(load_model(snapshot_download("me/tiny-int4"))).__name__,
}, default=str))
"""


def push_by_command(server: HubServer, *words: str) -> SimpleNamespace:
    """What `knowcap push` prints and logs while huggingface_hub logs every request, as with HF_DEBUG=1."""
    out, err = StringIO(), StringIO()
    logger, handler = logging.getLogger("huggingface_hub"), logging.StreamHandler(err)
    with pytest.MonkeyPatch.context() as patch, redirect_stdout(out), redirect_stderr(err):
        publish_to(server, patch)
        patch.setattr(huggingface_hub.constants, "HF_DEBUG", True)
        patch.setattr(logger, "level", logging.DEBUG)
        logger.addHandler(handler)
        try:
            assert main(["push", *words]) == 0, err.getvalue()
        finally:
            logger.removeHandler(handler)
            huggingface_hub.utils.close_session()
    return SimpleNamespace(stdout=out.getvalue(), stderr=err.getvalue())


@pytest.fixture(scope="module")
def published(made_run, tmp_path_factory):
    """All of a run published by the command, and loaded back in a process of its own."""
    home = tmp_path_factory.mktemp("home")
    weights = home / "weights.safetensors"
    with HubServer() as running:
        ids = ["--hub_model_id=me/tiny", "--hub_dataset_id=me/people", "--hub_space_id=me/bits_per_parameter"]
        pushed = push_by_command(running, str(made_run), *ids)
        words = [sys.executable, "-c", LOAD, str(weights)]
        loaded = subprocess.run(words, capture_output=True, text=True, env=subprocess_env(running, home))
        assert loaded.returncode == 0, loaded.stderr
        yield running, pushed, json.loads(loaded.stdout.splitlines()[-1]), weights, home


def test_the_model_comes_back_bit_by_bit(published, made_run):
    from safetensors.torch import load_file
    from transformers import AutoModelForCausalLM

    there = load_file(published[3])
    here = dict(AutoModelForCausalLM.from_pretrained(made_run / "model").named_parameters())
    assert there.keys() == here.keys()
    assert all(torch.equal(there[name], p) for name, p in here.items())
    assert published[2]["int4"] == "GPT2LMHeadModel"


def test_the_tokenizer_comes_back(published, made_run):
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(made_run / "model")
    assert published[2]["tokens"] == tokenizer("He was born on")["input_ids"]


def test_the_data_set_comes_back_whole_and_streamed(published, made_run):
    import pyarrow.parquet as pq

    loaded = published[2]
    here = json.loads(json.dumps(pq.read_table(made_run / "knowledge" / "people").to_pylist(), default=str))
    assert loaded["people"] == here
    assert loaded["streamed"] == here
    assert {"people", "biographies", "control"} <= set(loaded["configs"])
    assert loaded["texts"] == pq.read_table(made_run / "knowledge" / "biographies")["text"].to_pylist()[:3]


def test_the_metric_computes_from_its_space(published):
    assert published[2]["bits"] == pytest.approx(4.0)
    assert published[0].repos["space", "me/bits_per_parameter"].sdk == "gradio"
    assert set(published[0].files("me/bits_per_parameter", "space")) == {
        ".gitattributes", "README.md", "app.py", "bits.py", "bits_per_parameter.py", "requirements.txt",
        "table_text.py", "tests.py",
    }  # fmt: skip


def test_the_test_cases_come_with_the_metric_and_hold_there(published):
    cases = published[2]["cases"]
    assert len(cases) >= 5
    for results, expected in cases:
        assert {key: results[key] for key in expected} == pytest.approx(expected, rel=1e-15, abs=1e-15)


def test_one_commit_an_artefact_with_all_its_files(published, made_run):
    server = published[0]
    repos = [("me/tiny", "model"), ("me/tiny-int8", "model"), ("me/tiny-int4", "model")]
    repos += [("me/people", "dataset"), ("me/bits_per_parameter", "space")]
    assert set(server.repos) == {(kind, name) for name, kind in repos}
    assert [len(server.commits(*repo)) for repo in repos] == [1] * 5
    for repo, folder in (("me/tiny", "model"), ("me/tiny-int8", "quantized/int8"), ("me/tiny-int4", "quantized/int4")):
        there, here = server.files(repo), tree(made_run / folder)
        assert there.keys() == here.keys() | {".gitattributes"}
        assert all(there[path] == content for path, content in here.items() if path != "README.md")
    there = server.files("me/people", "dataset")
    assert {p: c for p, c in there.items() if p != ".gitattributes"} == tree(made_run / "knowledge")


def test_cards_name_where_they_stand_and_keep_their_figures(published, made_run):
    server = published[0]
    for repo, folder in (("me/tiny", "model"), ("me/tiny-int4", "quantized/int4")):
        card = ModelCard(server.files(repo)["README.md"].decode())
        local = ModelCard.load(made_run / folder / "README.md")
        assert card.data.datasets == ["me/people"]
        assert {r.dataset_type for r in card.data.eval_results} == {"me/people"}
        assert [r.metric_value for r in card.data.eval_results] == [r.metric_value for r in local.data.eval_results]
        assert f'"{repo}"' in card.text
        changed = set(card.text.splitlines()) ^ set(local.text.splitlines())
        assert all("path = " in line or "snapshot_download" in line for line in changed)
    assert card.data.base_model == "me/tiny"
    assert card.data.to_dict()["base_model_relation"] == "quantized"
    for bits in (8, 4):
        own = json.loads((made_run / "quantized" / f"int{bits}" / "capacity.json").read_text())
        index = ModelCard(server.files(f"me/tiny-int{bits}")["README.md"].decode()).data.eval_results
        figures = [round(own[key], 6) for key in ("bits_per_parameter", "max_bits_per_parameter")]
        assert [result.metric_value for result in index] == figures
        assert all(f"int{bits}" in result.metric_name for result in index)
    assert ModelCard(server.files("me/tiny")["README.md"].decode()).data.base_model is None


def test_the_token_appears_nowhere(published, made_run):
    server, pushed, _, _, home = published
    assert TOKEN not in pushed.stdout + pushed.stderr
    assert "POST" in pushed.stderr  # requests were logged
    for folder in (made_run, home, Path(os.environ["HF_HOME"])):
        assert not [path for path, content in tree(folder).items() if TOKEN.encode() in content]
    for kind, repo in server.repos:
        assert not [path for path, content in server.files(repo, kind).items() if TOKEN.encode() in content]
    assert TOKEN not in "".join(server.log)


def test_the_command_prints_what_was_uploaded_where(published):
    out = published[1].stdout
    for place in ("/me/tiny:", "/me/tiny-int8:", "/datasets/me/people:", "/spaces/me/bits_per_parameter:"):
        assert place in out
    assert "not published" not in out


# What is left out, and what a second push does.


def test_what_a_run_lacks_is_said(server, run_dir):
    shutil.rmtree(run_dir / "quantized")
    (run_dir / "model" / "notes.txt").write_text("mine")
    done = push(server, run_dir, hub_model_id="me/tiny")
    assert "the int8 copy (the run has none); the int4 copy (the run has none)" in str(done)
    assert "the data set (no --hub_dataset_id)" in str(done)
    assert "notes.txt" in str(done)
    assert "notes.txt" not in server.files("me/tiny")
    assert set(server.repos) == {("model", "me/tiny")}
    recipe = (run_dir / "recipe.yaml").read_text().partition("# SHA-256")[0]
    (run_dir / "recipe.yaml").write_text(recipe.replace("quantize_bits:\n- 8\n- 4\n", "quantize_bits: []\n"))
    shutil.rmtree(run_dir / "knowledge")
    done = push(server, run_dir, hub_model_id="me/tiny")
    assert "quantized copies (the run has none); the data set (the run has none)" in str(done)


def test_a_second_push_commits_and_sends_nothing(server, run_dir):
    before = tree(run_dir)
    ids = {"hub_model_id": "me/tiny", "hub_dataset_id": "me/people"}
    push(server, run_dir, **ids)
    sent = len(server.received)
    done = push(server, run_dir, **ids)
    assert [p.commit for p in done.pushed] == [None] * 4
    assert len(server.received) == sent
    assert len(server.commits("me/tiny")) == 1
    assert sum("/commit/" in request for request in server.log) == 4
    assert tree(run_dir) == before


def test_only_what_changed_is_sent_and_what_is_gone_is_deleted(server, run_dir):
    people = run_dir / "knowledge" / "people"
    (people / "train-00001-of-00002.parquet").write_bytes(b"PAR1 an old shard")
    push(server, run_dir, hub_dataset_id="me/people")
    repo = server.repos["dataset", "me/people"]
    repo.add(
        "main", "by hand", repo.branches["main"][-1].files | {"LICENSE": next(iter(repo.at("main").files.values()))}
    )
    (people / "train-00001-of-00002.parquet").unlink()
    with (run_dir / "knowledge" / "README.md").open("a") as card:
        card.write("\nMore.\n")
    server.received.clear()
    (done,) = push(server, run_dir, hub_dataset_id="me/people").pushed
    assert (done.uploaded, done.deleted) == (1, 1)
    assert server.received == []
    files = server.files("me/people", "dataset")
    assert "people/train-00001-of-00002.parquet" not in files
    assert "LICENSE" in files
    assert files["README.md"].endswith(b"\nMore.\n")


def test_a_data_set_folder_is_published_by_itself(server, run_dir):
    done = hub.push_dataset(run_dir / "knowledge", "me/people", wait=server.waits.append)
    assert done.uploaded == len(tree(run_dir / "knowledge"))
    assert done.url == f"{server.url}/datasets/me/people"


def test_a_branch_is_made_and_main_stays(server, run_dir):
    for _ in range(2):
        push(server, run_dir, hub_dataset_id="me/people", revision="next")
    assert len(server.commits("me/people", "dataset", "next")) == 1
    assert server.commits("me/people", "dataset") == []


def test_private_repos_are_private_and_public_ones_refused(server, run_dir):
    push(server, run_dir, hub_dataset_id="me/people", private=True)
    assert server.repos["dataset", "me/people"].private
    push(server, run_dir, hub_dataset_id="me/open")
    with pytest.raises(HubError, match="me/open is there and public"):
        push(server, run_dir, hub_dataset_id="me/open", private=True)


# Failures that pass.


@pytest.mark.parametrize(
    "on", ["whoami", "repos/create", "/tree/", "validate-yaml", "preupload", "info/lfs", "PUT", "/commit/"]
)
def test_passing_failures_are_tried_again(server, run_dir, on):
    for status in (429, 500, 503):
        server.fail(status, on=on)
    push(server, run_dir, hub_dataset_id="me/people")
    assert len(server.waits) == 3
    assert len(server.commits("me/people", "dataset")) == 1


def test_the_wait_is_the_one_that_the_hub_asks_for(server, run_dir):
    server.fail(429, on="repos/create", Retry_After="7")
    server.fail(429, on="/tree/", RateLimit='"api";r=0;t=55')
    push(server, run_dir, hub_dataset_id="me/people")
    assert server.waits == [7.0, 56.0]


def test_waiting_for_an_hour_is_left_to_the_user(server, run_dir):
    server.fail(429, on="/commit/", Retry_After="3500")
    with pytest.raises(HubError, match="too many requests .*asks to wait 3500 s; run the same command again"):
        push(server, run_dir, hub_dataset_id="me/people")
    assert server.waits == []


@pytest.mark.parametrize("on", ["PUT", "/commit/", "whoami"])
def test_a_dropped_connection_is_tried_again(server, run_dir, on):
    server.drop(times=1, on=on)
    push(server, run_dir, hub_dataset_id="me/people")
    assert len(server.waits) == 1
    assert len(server.commits("me/people", "dataset")) == 1


def test_a_commit_whose_answer_was_lost_is_not_made_twice(server, run_dir):
    server.drop(on="/commit/", after=True)
    (done,) = push(server, run_dir, hub_dataset_id="me/people").pushed
    assert len(server.commits("me/people", "dataset")) == 1
    assert done.commit is None


def test_a_commit_by_somebody_else_meanwhile_is_built_on(server, run_dir, monkeypatch):
    commit = HfApi.create_commit

    def slow(self, *args, **kwargs):
        repo = server.repos["dataset", "me/people"]
        if len(repo.branches["main"]) == 1:
            repo.add("main", "by hand", repo.at("main").files | {"LICENSE": repo.at("main").files[".gitattributes"]})
        return commit(self, *args, **kwargs)

    monkeypatch.setattr(HfApi, "create_commit", slow)
    push(server, run_dir, hub_dataset_id="me/people")
    assert {"LICENSE", "README.md"} <= server.files("me/people", "dataset").keys()
    assert server.waits == [1.0]  # the Hub refused to commit onto a commit that it does not have


def test_an_interrupted_push_is_completed_without_sending_files_again(server, run_dir):
    server.fail(503, times=100, on="/api/models/me/tiny-int8/commit/")
    with pytest.raises(HubError, match="tiny-int8: .* answered 503.* 6 times; run the same command again"):
        push(server, run_dir, hub_model_id="me/tiny", hub_dataset_id="me/people")
    sent = len(server.received)
    server.faults.clear()
    done = push(server, run_dir, hub_model_id="me/tiny", hub_dataset_id="me/people")
    assert [p.artefact.repo_id for p in done.pushed if p.commit] == ["me/tiny-int8"]
    assert len(server.received) == sent == len(set(server.received))
    assert len(server.commits("me/tiny-int8")) == len(server.commits("me/tiny")) == 1


def test_a_push_that_broke_in_the_middle_sends_the_missing_file_only(server, run_dir):
    weights = hashlib.sha256((run_dir / "model" / "model.safetensors").read_bytes()).hexdigest()
    server.drop(times=1000, on=f"PUT /storage/{weights}")
    with pytest.raises(HubError, match=rf"me/tiny: {server.url} failed 6 times .*; run the same command again"):
        push(server, run_dir, hub_model_id="me/tiny")
    assert server.commits("me/tiny") == []
    others = set(server.received)
    assert others
    server.faults.clear()
    server.received.clear()
    shutil.rmtree(run_dir / "quantized")
    push(server, run_dir, hub_model_id="me/tiny")
    assert server.received == [weights]
    assert len(server.commits("me/tiny")) == 1


# Failures that do not: one message, status 2, nothing uploaded.


def test_a_refused_token_is_one_message(server, run_dir, capsys):
    server.tokens = {"hf_Another"}
    message = fails(capsys, str(run_dir), "--hub_model_id=me/tiny")
    assert "refuses the token (401" in message
    assert "hf auth login" in message
    assert server.repos == {}
    assert len(server.log) == 1


def test_no_token_is_one_message(server, run_dir, capsys, monkeypatch):
    monkeypatch.delenv("HF_TOKEN")
    assert "no token; make one" in fails(capsys, str(run_dir), "--hub_model_id=me/tiny")
    assert server.log == []


def test_a_token_that_may_only_read_is_reported_before_anything_is_made(server, run_dir, capsys):
    server.role = "read"
    assert "the token of me may only read" in fails(capsys, str(run_dir), "--hub_model_id=me/tiny")
    assert server.repos == {}


def test_a_missing_permission_is_reported_before_anything_is_uploaded(server, run_dir, capsys):
    server.writable = False
    message = fails(capsys, str(run_dir), "--hub_model_id=others/tiny", "--hub_dataset_id=me/people")
    assert "may not write there (403" in message
    assert server.received == []
    assert server.repos == {}


def test_a_permission_lost_in_between_is_one_message(server, run_dir, capsys):
    push(server, run_dir, hub_dataset_id="me/people")
    server.writable = False
    (run_dir / "knowledge" / "README.md").write_text("---\nlicense: mit\n---\nnew\n")
    assert "may not write there (403" in fails(capsys, str(run_dir), "--hub_dataset_id=me/people")


def test_bad_ids_and_missing_parts_are_reported_at_once_without_a_request(server, run_dir, capsys):
    (run_dir / "model" / "capacity.json").unlink()
    (run_dir / "quantized" / "int8" / "quanto.safetensors").unlink()
    ids = ["--hub_model_id=tiny", "--hub_dataset_id=me/a--b", "--hub_space_id=me/bits"]
    message = fails(capsys, str(run_dir), *ids)
    for part in ("got 'tiny', expected owner/name", "me/a--b", "ends in /bits_per_parameter", "has no capacity.json"):
        assert part in message
    assert "int8 has no *.safetensors" in message
    assert server.log == []


@pytest.mark.parametrize(
    ("words", "part"),
    [
        ([], "nothing to publish: give --hub_model_id"),
        (["--hub_model_id=me/tiny"], "give the run folder too"),
        (["no_such_folder", "--hub_model_id=me/tiny"], "no_such_folder is not a folder"),
        (["{run}/knowledge", "--hub_model_id=me/tiny"], "has no recipe.yaml"),
        (["{run}/model", "--hub_dataset_id=me/people"], "has no README.md, knowledge.json"),
    ],
)
def test_requests_that_make_no_sense(server, run_dir, capsys, words, part):
    assert part in fails(capsys, *[word.format(run=run_dir) for word in words])
    assert server.log == []


def test_a_hub_that_cannot_be_reached_is_one_message(run_dir, monkeypatch):
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", False)
    with HubServer() as gone:
        url = gone.url
    waits = []
    uploader = Uploader(HfApi(endpoint=url, token=TOKEN), wait=waits.append)
    with pytest.raises(HubError, match=rf"{url} failed 6 times .*run the same command again"):
        uploader.prepare([Artefact("me/x", "model", {})])
    assert waits == [1, 2, 4, 8, 16]
    huggingface_hub.utils.close_session()


def test_offline_mode_is_reported(run_dir, capsys, monkeypatch):
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    assert "HF_HUB_OFFLINE" in fails(capsys, str(run_dir), "--hub_model_id=me/tiny")


def test_an_answer_that_repeats_the_token_is_not_shown(server, run_dir):
    server.fail(400, on="repos/create", X_Error_Message=f"bad token {TOKEN} and hf_SomeOtherTokenOfSomebody12")
    with pytest.raises(HubError, match="bad token hf_… and hf_…") as caught:
        push(server, run_dir, hub_dataset_id="me/people")
    assert caught.value.__cause__ is None
    assert caught.value.__suppress_context__
