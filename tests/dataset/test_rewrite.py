"""bioR from a server in a process of its own: complete whatever it does, resumable at any moment, counted exactly."""

from __future__ import annotations

import importlib.util
import json
import os
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import datasets
import huggingface_hub
import numpy as np
import pyarrow.parquet as pq
import pytest
from writer_server import RuleWriter

from knowcap.dataset.folder import DatasetError, has_config, num_rows, read_knowledge, read_rows
from knowcap.dataset.rewrite import Locator, MissingTexts, Reply, Request, Task, rewrite, stage, task
from knowcap.dataset.rewrite.server import ATTEMPTS, ServerWriter
from knowcap.dataset.rewrite.shards import Journal, ShardFiles, shards_of
from knowcap.facts import Knowledge, check_row
from knowcap.knowledge.people import People, full_name
from knowcap.knowledge.pools import load_pools


HERE = Path(__file__).parents[1]
SCRIPT = HERE.parent / "dataset_scripts" / "bior.py"
TOKEN = "hf_NobodyMaySeeThisToken0123456789"
SMALL = Task(num_people=12, texts_per_person=3, control_people=0, seed=5)
FAULTS = {"slow": 0.1, "busy": 0.1, "broken": 0.1, "dropped": 0.1, "refused": 0.1, "rubbish": 0.2, "omitted": 0.1,
          "wrong_name": 0.05, "cut": 0.05}  # fmt: skip


class Server:
    """A server under way: its URL, and what it was asked."""

    def __init__(self, process: subprocess.Popen, log: Path) -> None:
        self.process, self._log = process, log
        self.url = process.stdout.readline().strip()

    def log(self) -> list[dict[str, Any]]:
        whole_lines = self._log.read_text().rpartition("\n")[0]
        return [json.loads(line) for line in whole_lines.splitlines()]


@pytest.fixture(scope="module")
def start(tmp_path_factory) -> Iterator[Callable[..., Server]]:
    """Starts servers, and ends them all at the end."""
    processes = []

    def start(*options: str, **faults: Any) -> Server:
        log = tmp_path_factory.mktemp("server") / "log.jsonl"
        log.touch()
        command = [sys.executable, str(HERE / "writer_server.py"), "--log", str(log), "--faults", json.dumps(faults)]
        processes.append(subprocess.Popen([*command, *options], stdout=subprocess.PIPE, text=True))
        return Server(processes[-1], log)

    yield start
    for process in processes:
        process.kill()
        process.wait()
        process.stdout.close()


@pytest.fixture(scope="module")
def good(start) -> Server:
    return start()


@pytest.fixture(autouse=True)
def online(monkeypatch) -> None:
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", False)
    monkeypatch.delenv("HF_TOKEN", raising=False)
    monkeypatch.setattr(task, "TEXTS_A_SHARD", 12)


def ask(server: Server, **options: Any) -> ServerWriter:
    return ServerWriter("stand-in", base_url=server.url, wait=lambda seconds: None, **options)


def content(folder: Path) -> dict[str, bytes]:
    return {str(f.relative_to(folder)): f.read_bytes() for f in sorted(folder.rglob("*")) if f.is_file()}


@pytest.fixture(scope="module")
def folder(good, tmp_path_factory) -> Path:
    """A data set with a control, from a server without faults."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", False)
        made = Task(num_people=15, texts_per_person=2, control_people=110, seed=3)
        return rewrite(made, ask(good), tmp_path_factory.mktemp("bioR") / "bioR", progress=False)


@pytest.mark.parametrize("streaming", [False, True])
def test_load_dataset_reads_every_config(folder, streaming):
    people = People(load_pools(), 15, 3)
    persons = list(people.texts(people.codes(np.arange(125))))
    knowledge, locator = read_knowledge(folder), Locator(people.pools)
    rows = {"people": 15, "biographies": 30, "qa": 90, "control": 110, "neutral": 60, "neutral_control": 440}
    for config, count in rows.items():
        loaded = [
            row for split in datasets.load_dataset(str(folder), config, streaming=streaming).values() for row in split
        ]
        assert len(loaded) == count
        if config == "people":
            assert [{k: row[k] for k in persons[0]} for row in loaded] == persons[:15]
    for config in ("biographies", "control", "neutral", "neutral_control"):
        for row, _ in read_rows(folder, config):
            check_row(row, knowledge)
            assert row.text.startswith(full_name(persons[row.entity])) and len(row.spans) == 8
            if not config.startswith("neutral"):
                assert locator.locate(row.text, persons[row.entity], row.entity) == row
    order = [(row.entity, exposure) for row, exposure in read_rows(folder)]
    assert order == [(person, exposure) for person in range(15) for exposure in range(2)]
    assert datasets.load_dataset(str(folder), split="train").column_names == ["person_id", "exposure", "text", "spans"]


def test_knowledge_and_card_say_that_it_is_no_bound(folder):
    knowledge, card = read_knowledge(folder), (folder / "README.md").read_text()
    assert (knowledge.name, knowledge.bound, knowledge.missing_texts) == ("bioR", False, 0)
    assert knowledge.attributes == People(load_pools(), 15, 3).knowledge("bioS").attributes
    assert "Written by stand-in" in card and "not a bound" in card and "license: other" in card
    assert "| biographies | 30 | 30 | 0 | 0 |" in card and "| control | 110 | 110 | 0 | 0 |" in card
    assert not list(folder.parent.glob(".*")), "what was written on the way is gone"


def test_a_server_with_every_fault_gives_a_complete_data_set(start, tmp_path):
    server = start(**FAULTS)
    made = rewrite(SMALL, ask(server, concurrency=8, timeout=20.0), tmp_path / "bioR", max_attempts=40, progress=False)
    assert num_rows(made) == 36 and read_knowledge(made).missing_texts == 0
    people = People(load_pools(), 12, 5)
    persons = list(people.texts(people.codes(np.arange(12))))
    locator = Locator(people.pools)
    for row, _ in read_rows(made):
        assert locator.locate(row.text, persons[row.entity], row.entity) == row
    asked = Counter(line["key"] for line in server.log())
    failed = asked.total() - len(asked)
    replies = int((made / "README.md").read_text().split("| biographies | 36 | ")[1].split(" |")[0])
    assert failed > 0 and replies == len(asked) > 36, "each text once, but for what failed on the way"


def test_killed_and_resumed_it_is_as_if_it_had_not_been_killed(start, tmp_path):
    """Under kill -9, twice; a reply in the journal is not asked for again, and every other text is."""
    faults = {"omitted": 0.3, "slow": 1.0, "delay": 0.15}
    whole_server, server = start(omitted=0.3), start(**faults)
    task = Task(num_people=10, texts_per_person=3, control_people=0)
    rewrite(task, ask(whole_server), tmp_path / "whole" / "bioR", max_attempts=20, progress=False)
    journaled, sent = [], []
    for kills, texts in enumerate((5, 20)):
        process = start_script(server, tmp_path / "killed" / "bioR")
        while len(server.log()) < texts + 4 * kills and process.poll() is None:
            time.sleep(0.02)
        assert process.poll() is None, "killed in the middle"
        os.kill(process.pid, signal.SIGKILL)
        process.communicate()
        journals = (tmp_path / "killed").rglob("biographies-*.jsonl")
        journaled.append(sum(path.read_bytes().count(b"\n") for path in journals))
        sent.append(len(server.log()))
    resumed = run_script(server, tmp_path / "killed" / "bioR")
    assert resumed.returncode == 0, resumed.stderr
    assert content(tmp_path / "killed" / "bioR") == content(tmp_path / "whole" / "bioR")
    once, again = (Counter(line["key"] for line in s.log()) for s in (whole_server, server))
    assert set(once) == set(again) and set(once.values()) == {1}
    assert 0 < journaled[0] < journaled[1]
    for kept, first in zip(journaled, sent, strict=True):
        assert len({line["key"] for line in server.log()[first:]}) == once.total() - kept


CONCURRENCY = 3


def start_script(server: Server, output_dir: Path, *options: str, **environment: str) -> subprocess.Popen:
    """The script in a process of its own, with a token in its environment."""
    command = [sys.executable, str(SCRIPT), "--num_people", "10", "--texts_per_person", "3", "--control_people", "0"]
    command += ["--lists", "short"]  # as a Task by default
    command += ["--model_name", "stand-in", "--base_url", server.url, "--concurrency", str(CONCURRENCY)]
    command += ["--max_attempts", "20", "--output_dir", str(output_dir), *options]
    env = os.environ | {"HF_HUB_OFFLINE": "0", "HF_TOKEN": TOKEN} | environment
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=env)


def run_script(server: Server, output_dir: Path, *options: str, **environment: str) -> subprocess.CompletedProcess:
    process = start_script(server, output_dir, *options, **environment)
    out, err = process.communicate()
    return subprocess.CompletedProcess(process.args, process.returncode, out, err)


def test_no_token_is_in_any_file_or_message(start, tmp_path):
    server = start(refused=0.2, token=TOKEN)
    done = run_script(server, tmp_path / "bioR", "--max_attempts", "8", "--api_key_env", "HF_TOKEN")
    assert done.returncode == 0, done.stderr
    assert {line["authorization"] for line in server.log()} == {f"Bearer {TOKEN}"}
    other = {"HF_TOKEN": "hf_Another0123456789Token"}
    refused = run_script(server, tmp_path / "other", "--api_key_env", "HF_TOKEN", **other)
    assert refused.returncode == 2 and "answers 401" in refused.stderr and "--api_key_env" in refused.stderr
    said = done.stdout + done.stderr + refused.stdout + refused.stderr
    files = [f.read_bytes() for f in tmp_path.rglob("*") if f.is_file()]
    assert "hf_" not in said and not any(b"hf_" in data for data in files) and len(files) > 5
    assert "Traceback" not in said


def test_a_stored_token_does_not_go_to_other_peoples_servers(good, tmp_path, monkeypatch):
    monkeypatch.setattr("knowcap.dataset.rewrite.server.get_token", lambda: TOKEN)
    monkeypatch.setattr("huggingface_hub.inference._providers.hf_inference.get_token", lambda: TOKEN)
    before = len(good.log())
    assert dict(ask(good).write([REQUEST]))[REQUEST].text
    assert good.log()[before]["authorization"] is None


@pytest.mark.parametrize(
    ("base_url", "is_sent"),
    [
        ("https://router.huggingface.co/v1", True),
        ("https://huggingface.co/api", True),
        ("http://router.huggingface.co/v1", False),  # not encrypted
        ("https://x.endpoints.huggingface.cloud/v1", False),  # containers of anybody
        ("https://somebody.hf.space/v1", False),
        ("https://nothuggingface.co/v1", False),
        ("https://huggingface.co.example.org/v1", False),
        ("https://example.org/huggingface.co", False),
        ("http://127.0.0.1:8000/v1", False),
    ],
)
def test_the_token_of_the_hub_goes_to_its_own_hosts_alone(base_url, is_sent, monkeypatch):
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    writer = ServerWriter("m", base_url=base_url)
    assert writer._token == (TOKEN if is_sent else None)
    assert is_sent or TOKEN not in repr(vars(writer._client))


def test_a_key_goes_to_the_server_that_it_is_given_for(good, monkeypatch, caplog):
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    before = len(good.log())
    assert dict(ask(good).write([REQUEST]))[REQUEST].text
    assert good.log()[before]["authorization"] is None
    monkeypatch.setenv("MY_KEY", "key-of-the-server")
    before = len(good.log())
    assert dict(ask(good, api_key_env="MY_KEY").write([REQUEST]))[REQUEST].text
    assert good.log()[before]["authorization"] == "Bearer key-of-the-server"
    assert "not encrypted" not in caplog.text  # this machine
    ServerWriter("m", base_url="http://example.org/v1", api_key_env="MY_KEY")
    assert "http://example.org/v1 is not encrypted" in caplog.text and "key-of-the-server" not in caplog.text


REQUEST = Request((0, 0, 0), "- full name: A B C\n- pronoun: he, him, his\n- employer: X", 1)


def test_the_request_is_that_of_the_protocol(good):
    list(ask(good, temperature=0.5, max_new_tokens=99).write([REQUEST]))
    line = good.log()[-1]
    assert line["path"] == "/v1/chat/completions"
    assert line["request"] == {
        "model": "stand-in", "messages": [{"role": "user", "content": REQUEST.prompt}], "max_tokens": 99,
        "temperature": 0.5, "seed": 1, "stream": False,
    }  # fmt: skip


@pytest.mark.parametrize(
    ("status", "fix"), [(401, "--api_key_env"), (403, "permissions"), (404, "--model_name"), (422, "--model")]
)
def test_a_refusal_is_one_error_at_once(start, status, fix):
    server = start(status=status)
    with pytest.raises(DatasetError, match=f"answers {status} .*so it is.*{fix}"):
        list(ask(server, concurrency=1).write([REQUEST] * 5))
    assert len(server.log()) == 1


@pytest.mark.parametrize("status", [429, 503])
def test_what_does_not_pass_ends_in_one_error(start, status):
    server, waits = start(status=status), []
    writer = ServerWriter("stand-in", base_url=server.url, concurrency=1, wait=waits.append)
    with pytest.raises(DatasetError, match=f"failed {ATTEMPTS} times in a row .* answers {status}.*kept"):
        list(writer.write([REQUEST]))
    assert len(server.log()) == ATTEMPTS and waits == [1, 2, 4, 8, 16, 32, 60, 60, 60]


def test_a_server_that_is_not_there_is_one_error_at_once():
    with pytest.raises(DatasetError, match="cannot be reached"):
        list(ServerWriter("m", base_url="http://127.0.0.1:9/v1", wait=pytest.fail).write([REQUEST] * 40))


def test_a_server_that_is_too_slow_is_asked_again(start):
    server, waits = start(slow=1.0, delay=1.0), []
    writer = ServerWriter("stand-in", base_url=server.url, timeout=0.05, wait=waits.append)
    with pytest.raises(DatasetError, match="does not answer in time"):
        list(writer.write([REQUEST]))
    assert len(waits) == ATTEMPTS - 1


def test_a_server_that_goes_away_keeps_what_it_wrote(start, tmp_path):
    server = start()
    writer = ask(server, concurrency=1)
    real, asked = writer.write, []

    def write(requests):
        for pair in real(requests):
            asked.append(pair[0].key)
            if len(asked) == 20:
                server.process.kill()
                server.process.wait()
            yield pair

    writer.write = write
    with pytest.raises(DatasetError, match=f"failed {ATTEMPTS} times"):
        rewrite(SMALL, writer, tmp_path / "bioR", progress=False)
    rules = RuleWriter()
    rules.model_name, rules.temperature = "stand-in", 0.9
    made = rewrite(SMALL, rules, tmp_path / "bioR", progress=False)
    assert num_rows(made) == 36 and not set(rules.asked) & set(asked[:20])


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({}, "either a base_url or a provider"),
        ({"base_url": "http://x", "provider": "auto"}, "either a base_url or a provider"),
        ({"base_url": "localhost:8000"}, "expected an address such as"),
        ({"base_url": "http://me:secret@host/v1"}, "without password or key"),
        ({"base_url": "http://host/v1?key=secret"}, "without password or key"),
        ({"provider": "auto"}, "needs a token"),
        ({"provider": "auto", "api_key_env": "X"}, "api_key_env is for a base_url"),
        ({"base_url": "https://example.org", "api_key_env": "NO_SUCH_KEY"}, "no such environment variable"),
        ({"base_url": "http://[::1/v1"}, "expected an address such as"),
        ({"base_url": "http://host:port/v1"}, "expected an address such as"),
        ({"base_url": "https://host/v1#secret"}, "without password or key"),
    ],
)
def test_a_server_that_cannot_be_used_is_reported_at_once(options, message, monkeypatch):
    monkeypatch.setattr("knowcap.dataset.rewrite.server.get_token", lambda: None)
    with pytest.raises(DatasetError, match=message) as error:
        ServerWriter("m", **options)
    assert "secret" not in str(error.value)


def test_a_path_that_a_server_knows_its_model_by_is_not_shown(good):
    writer = ServerWriter("/home/somebody/models/tiny", base_url=good.url)
    list(writer.write([REQUEST]))
    assert writer.model_name == "tiny" and good.log()[-1]["request"]["model"] == "/home/somebody/models/tiny"


def test_offline_mode_is_reported(good, monkeypatch):
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(DatasetError, match="HF_HUB_OFFLINE"):
        list(ask(good).write([REQUEST]))


def test_what_is_missing_is_counted_exactly_and_asked_for_again(tmp_path):
    """Person 4 never, text 2 of person 7 for want of its employer, text 0 of person 9 at the fourth attempt only."""

    def fail(request):
        person, rendering, attempt = request.key
        if person == 4:
            return "rubbish" if rendering == 0 else "cut_off"
        return "omit" if (person, rendering) == (7, 2) or ((person, rendering) == (9, 0) and attempt < 3) else None

    writer, target = RuleWriter(fail), tmp_path / "bioR"
    counts = r"missing: 5 \(cut_off 2, missing_employer 2, rubbish 1\), of 36; 1 of 12 people have no text"
    with pytest.raises(MissingTexts, match=counts):
        rewrite(SMALL, writer, target, max_attempts=2, progress=False)
    assert len(writer.asked) == 31 + 2 * 5 == len(set(writer.asked))
    assert not target.exists()
    with pytest.raises(
        MissingTexts, match=r"missing: 4 \(cut_off 2, missing_employer 1, rubbish 1\), of 36; 1 of 12 people"
    ):
        rewrite(SMALL, writer, target, max_attempts=2, progress=False)
    assert Counter(writer.asked).most_common(1)[0][1] == 1 and len(writer.asked) == 41 + 2 * 5
    with pytest.raises(MissingTexts, match="1 of 12 people have no text"):
        rewrite(SMALL, writer, target, allow_missing=True, progress=False)
    assert len(writer.asked) == 51, "no request where texts may be missing"
    writer.fail = lambda request: "omit" if request.key[:2] in ((7, 2), (4, 1)) else None
    with pytest.raises(MissingTexts, match=r"missing: 2 \(missing_employer 2\)"):
        rewrite(SMALL, writer, target, max_attempts=1, progress=False)
    made = rewrite(SMALL, writer, target, allow_missing=True, progress=False)
    assert len(writer.asked) == 55 == len(set(writer.asked))
    assert num_rows(made) == 34 and read_knowledge(made).missing_texts == 2
    rejected = "21 (missing_employer 9, cut_off 8, rubbish 4)"
    assert f"| biographies | 34 | 55 | {rejected} | 2 (missing_employer 2) |" in (made / "README.md").read_text()
    assert [e for row, e in read_rows(made) if row.entity == 4] == [0, 2]


def test_a_resumed_pass_gives_each_text_as_many_attempts_as_one_that_was_not_interrupted(tmp_path):
    def ended(after: int):
        writer = RuleWriter(lambda request: "omit" if request.key[0] % 5 == 0 else None)
        real, made = writer.write, []

        def write(requests):
            for pair in real(requests):
                if len(made) >= after:
                    raise KeyboardInterrupt
                made.append(pair)
                yield pair

        writer.write = write
        return writer

    writers, target = [], tmp_path / "bioR"
    for after in (7, 11, 13, 1000):
        writers.append(ended(after))
        with pytest.raises((KeyboardInterrupt, MissingTexts)) as error:
            rewrite(SMALL, writers[-1], target, max_attempts=3, progress=False)
    assert "missing: 9 (missing_employer 9)" in str(error.value)
    whole = ended(1000)
    with pytest.raises(MissingTexts):
        rewrite(SMALL, whole, tmp_path / "whole", max_attempts=3, progress=False)
    kept = [p for w in writers for p in w.asked]
    assert set(kept) == set(whole.asked)
    parts = (content(tmp_path / f".{name}.parts") for name in ("bioR", "whole"))
    there, whole_there = ({k: v for k, v in c.items() if k != ".lock"} for c in parts)
    assert there == whole_there


def test_a_line_that_was_cut_by_a_kill_is_dropped(tmp_path):
    files = ShardFiles(tmp_path)
    (shard,) = shards_of("biographies", 0, 2, 2, 2)
    with Journal(files.journal(shard)) as journal:
        journal.add((0, 0), 0, Reply("a\ud800b"))
    with files.journal(shard).open("ab") as file:
        file.write(b'[0, 1, 0, "half')
    with Journal(files.journal(shard)) as journal:
        journal.add((1, 0), 0, Reply("", "rubbish"))
    replies = {}
    state = files.load(shard, lambda text, reply: replies.setdefault(text, reply) and "empty")
    assert replies == {(0, 0): Reply("a\ud800b"), (1, 0): Reply("", "rubbish")} and state.replies == 2


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"seed": 6}, "seed is 5 there and 6 here"),
        ({"texts_per_person": 4}, "texts_per_person is 3 there and 4 here"),
        ({"num_people": 13}, "num_people is 12 there and 13 here"),
    ],
)
def test_other_settings_are_refused_and_nothing_is_lost(tmp_path, changes, message):
    writer = RuleWriter(lambda request: "omit" if request.key[0] == 3 else None)
    with pytest.raises(MissingTexts):
        rewrite(SMALL, writer, tmp_path / "bioR", max_attempts=1, progress=False)
    before, other = content(tmp_path), Task(**{**vars(SMALL), **changes})
    with pytest.raises(DatasetError, match=message):
        rewrite(other, writer, tmp_path / "bioR", progress=False)
    writer.temperature = 0.1
    with pytest.raises(DatasetError, match=r"temperature is 0.0 there and 0.1 here"):
        rewrite(SMALL, writer, tmp_path / "bioR", progress=False)
    assert {k: v for k, v in content(tmp_path).items() if not k.endswith(".lock")} == {
        k: v for k, v in before.items() if not k.endswith(".lock")
    }


def test_a_model_that_writes_nothing_of_use_is_not_asked_for_ever(tmp_path, monkeypatch):
    monkeypatch.setattr(stage, "MAX_UNUSABLE_REPLIES", 20)
    writer = RuleWriter(lambda request: "omit")
    with pytest.raises(MissingTexts, match=r"none of the first 20 replies of rules could be used"):
        rewrite(SMALL, writer, tmp_path / "bioR", progress=False)


def test_a_control_may_lack_some_texts_but_not_most(tmp_path):
    few = Task(num_people=2, texts_per_person=1, control_people=101, seed=1)
    for name, last in (("one", 1), ("two", 2)):
        outsiders = range(3, 3 + last)
        writer = RuleWriter(lambda request, out=outsiders: "omit" if request.key[0] in out else None)
        arguments = (few, writer, tmp_path / name)
        if last == 1:
            made = rewrite(*arguments, max_attempts=1, allow_missing=True, progress=False)
            assert num_rows(made, "control") == 100 and read_knowledge(made).missing_texts == 1
        else:
            with pytest.raises(MissingTexts, match="the null control has 99 texts, expected 100 or more"):
                rewrite(*arguments, max_attempts=1, allow_missing=True, progress=False)


def test_a_folder_that_is_there_is_not_touched(tmp_path):
    (tmp_path / "mine.txt").write_text("mine")
    with pytest.raises(DatasetError, match="already exists"):
        rewrite(SMALL, RuleWriter(), tmp_path, progress=False)
    assert [f.name for f in tmp_path.iterdir()] == ["mine.txt"]


def test_without_outsiders_there_is_no_control(tmp_path):
    made = rewrite(SMALL, RuleWriter(), tmp_path / "bioR", progress=False)
    assert not has_config(made, "control") and not has_config(made, "neutral_control") and has_config(made, "neutral")
    assert Knowledge.load(made / "knowledge.json").num_people == 12


def test_several_files_and_processes_give_the_same_rows(tmp_path, monkeypatch):
    one = rewrite(SMALL, RuleWriter(), tmp_path / "one", progress=False)
    monkeypatch.setattr("knowcap.dataset.folder.ENTITIES_PER_FILE", 5)
    two = rewrite(SMALL, RuleWriter(), tmp_path / "two", num_proc=2, progress=False)
    assert list(read_rows(one)) == list(read_rows(two)) and len(list((two / "biographies").iterdir())) == 3


def script_module():
    spec = importlib.util.spec_from_file_location("bior_builder", SCRIPT)
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


def test_the_builder_writes_once_for_all_its_tables(good, folder, tmp_path):
    module = script_module()
    keys = {"num_people": 15, "texts_per_person": 2, "control_people": 110, "seed": 3}
    keys |= {"model_name": "stand-in", "base_url": good.url, "lists": "short"}
    before = len(good.log())
    for table in module.TABLES:
        builder = module.BioR(cache_dir=str(tmp_path), table=table, **keys)
        builder.download_and_prepare()
        built, loaded = builder.as_dataset(), datasets.load_dataset(str(folder), table)
        assert list(built) == list(loaded)
        for split in loaded:
            assert built[split].features == loaded[split].features
            assert built[split].to_list() == loaded[split].to_list()
    assert len(good.log()) - before == 140
    assert {c.name: c.num_people for c in module.BioR.BUILDER_CONFIGS} == module.SIZES


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--num_people", "0"], "num_people=0: expected 1 or more"),
        (["--texts_per_person", "0"], "texts_per_person=0: expected 1 or more"),
        (["--concurrency", "0"], "concurrency=0: expected 1 or more"),
        (["--max_attempts", "0"], "max_attempts=0: expected 1 or more"),
        (["--temperature", "-1"], "temperature=-1.0: expected 0 or more"),
        (["--pools_dir", "nowhere"], "nowhere"),
        (["--provider", "auto"], "either a base_url or a provider"),
    ],
)
def test_a_wrong_argument_is_one_message_and_makes_nothing(tmp_path, capsys, arguments, message):
    given = ["--num_people", "5", "--model_name", "m", "--base_url", "http://127.0.0.1:9", "--output_dir"]
    with pytest.raises(SystemExit) as end:
        script_module().main([*given, str(tmp_path / "x"), *arguments])
    assert end.value.code == 2 and message in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


def test_parts_are_hidden_and_named_after_the_folder(tmp_path):
    writer = RuleWriter(lambda request: "omit" if request.key[0] else None)
    with pytest.raises(MissingTexts):
        rewrite(SMALL, writer, tmp_path / "bioR", max_attempts=1, progress=False)
    assert [f.name for f in tmp_path.iterdir()] == [".bioR.parts"]
    part = sorted((tmp_path / ".bioR.parts").glob("*.parquet"))[0]
    assert pq.read_table(part).num_rows == 3
