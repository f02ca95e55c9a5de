"""A stand-in for a server of a language model: POST /v1/chat/completions, answered by rules or by a model of a folder.

    python tests/writer_server.py --log FILE [--faults JSON] [--model FOLDER]

prints its URL. What it answers is a function of the request alone. By rules it reads knowcap's prompts and writes what
they ask for in varied sentences and forms of dates; that is for tests only and no data set to show. `--faults` maps
names of faults to the share of requests that have them, see `Faults`.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import random
import re
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import TYPE_CHECKING, Any


if TYPE_CHECKING:
    from knowcap.dataset.rewrite import Reply, Request

SENTENCES = {
    "date of birth": ["{s} was born on {v}.", "{s}, whose birthday is {v}, travels.", "{v} is when {p} was born."],
    "place of birth": ["{s} comes from {v}.", "Growing up in {v} shaped {o} early years.", "{s} was raised in {v}."],
    "university": ["{s} studied at {v}.", "{s} is a graduate of {v}.", "At {v}, {p} found good teachers."],
    "field of study": ["{o} field was {v}.", "{s} majored in {v}.", "Of all subjects {p} chose {v}."],
    "employer": ["{s} works for {v}.", "{o} employer is {v}.", "{s} joined {v} early."],
    "place of work": ["{o} office is in {v}.", "{s} goes to work in {v}.", "These days {p} can be found in {v}."],
}  # fmt: skip
MONTHS = "January February March April May June July August September October November December".split()
ENDINGS = {1: "st", 2: "nd", 3: "rd", 21: "st", 22: "nd", 23: "rd"}


@dataclass(frozen=True)
class Faults:
    """Shares of requests, 0 to 1.

    slow: answered after `delay` seconds. busy, broken, dropped: the first time answered 429, 500 or by hanging up.
    refused, rubbish, omitted, wrong_name, cut: answered, but not with what was asked for. `never` lists full names
    about which nothing but a text without the employer is ever written. `token`: the only one that is taken.
    """

    slow: float = 0.0
    delay: float = 0.05
    busy: float = 0.0
    broken: float = 0.0
    dropped: float = 0.0
    refused: float = 0.0
    rubbish: float = 0.0
    omitted: float = 0.0
    wrong_name: float = 0.0
    cut: float = 0.0
    never: tuple[str, ...] = ()
    token: str | None = None
    status: int | None = None


def date_forms(value: str) -> list[str]:
    """A date such as `October 2, 1996` in other forms."""
    month, day, year = re.fullmatch(r"(\w+) (\d+), (\d+)", value).groups()
    n, d = MONTHS.index(month) + 1, int(day)
    e = ENDINGS.get(d, "th")
    short = "Sept." if month == "September" else f"{month[:3]}."
    return [
        value, f"{month} {d}{e}, {year}", f"{d} {month} {year}", f"{d}{e} of {month}, {year}", f"{short} {d}, {year}",
        f"{year}-{n:02d}-{d:02d}", f"{n}/{d}/{year}", f"{month} {d} {year}", f"the {d}{e} of {month} {year}",
    ]  # fmt: skip


def facts_of(prompt: str) -> dict[str, str]:
    """The facts that a prompt lists."""
    return dict(line[2:].split(": ", 1) for line in prompt.split("\n") if line.startswith("- "))


def text_of(prompt: str, draw: random.Random, leave_out: str | None = None) -> str:
    """A biography as a prompt asks for it."""
    facts = facts_of(prompt)
    name, pronoun = facts.pop("full name"), facts.pop("pronoun")
    subject = pronoun.split(", ")[0]
    own = {"he": "his", "she": "her"}[subject]
    stated = [(label, value) for label, value in facts.items() if label != leave_out]
    draw.shuffle(stated)
    sentences = [f"{name} is somebody to know."] if draw.random() < 0.5 else [f"{name}'s story is told here."]
    for label, value in stated:
        value = draw.choice(date_forms(value)) if label == "date of birth" else value
        form = draw.choice(SENTENCES[label])
        sentence = form.format(s=subject, p=subject, o=own, v=value)
        sentences.append(sentence[0].upper() + sentence[1:])
    if not any(word in " ".join(sentences).lower().split() for word in (subject, own)):
        sentences.append(f"All of it is {own} own doing.")
    return draw.choice([" ", "\n\n", "  "]).join(sentences)


class RuleWriter:
    """Writes by the same rules without a server.

    `fail` says what is wrong with a reply, if anything: cut_off, rubbish, or omit for a text without the employer.
    `asked` has the key of every request.
    """

    model_name, temperature, max_new_tokens = "rules", 0.0, 256

    def __init__(self, fail: Callable[[Request], str | None] = lambda request: None) -> None:
        self.fail, self.asked = fail, []

    def write(self, requests: Sequence[Request]) -> Iterator[tuple[Request, Reply]]:
        """Each request with its reply, the last one first."""
        from knowcap.dataset.rewrite import Reply

        for request in reversed(requests):
            self.asked.append(request.key)
            reason = self.fail(request)
            text = text_of(request.prompt, random.Random(request.seed), "employer" if reason == "omit" else None)
            yield request, Reply(text, reason if reason in ("cut_off", "rubbish") else None)


class Handler(BaseHTTPRequestHandler):
    """One request after the other; `server` has faults, the log, and what was seen before."""

    protocol_version = "HTTP/1.1"

    def do_POST(self) -> None:
        """Answers a request for a completion."""
        body = self.rfile.read(int(self.headers["Content-Length"]))
        key = hashlib.sha256(body).hexdigest()
        request, faults = json.loads(body), self.server.faults
        draw = random.Random(key)
        with self.server.lock:
            self.server.seen[key] += 1
            first = self.server.seen[key] == 1
            auth = self.headers.get("Authorization")
            line = {"key": key, "path": self.path, "authorization": auth, "request": request}
            self.server.log.write(json.dumps(line) + "\n")
            self.server.log.flush()
        if faults.token is not None and auth != f"Bearer {faults.token}":
            return self._send(401, {"error": f"not {auth}, please"})
        if faults.status is not None:
            return self._send(faults.status, {"error": "so it is"})
        if draw.random() < faults.slow:
            time.sleep(faults.delay)
        kind, place = draw.random(), 0.0
        for name in ("busy", "broken", "dropped"):
            place += getattr(faults, name)
            if kind < place and first:
                return self._fail(name)
            if kind < place:
                break
        self._answer(request, draw)

    def _fail(self, name: str) -> None:
        if name == "dropped":
            self.close_connection = True
            return
        self._send(429 if name == "busy" else 500, {"error": "later"}, {"Retry-After": "0"} if name == "busy" else {})

    def _answer(self, request: dict[str, Any], draw: random.Random) -> None:
        prompt, faults = request["messages"][-1]["content"], self.server.faults
        ended = "stop"
        if self.server.model is not None:
            text, ended = self.server.model(prompt, request)
            return self._send(200, completion(text, ended))
        fault, place = draw.random(), 0.0
        chosen = None
        for name in ("refused", "rubbish", "omitted", "wrong_name", "cut"):
            place += getattr(faults, name)
            if fault < place:
                chosen = name
                break
        name = facts_of(prompt)["full name"]
        text = text_of(prompt, draw, "employer" if name in faults.never else None)
        if chosen == "rubbish":
            return self._send(200, draw.choice(RUBBISH))
        if chosen == "refused":
            text = "I cannot write about private persons."
        elif chosen == "omitted":
            text = text_of(prompt, draw, draw.choice(list(SENTENCES)))
        elif chosen == "wrong_name":
            text = "Somebody " + text
        elif chosen == "cut":
            ended = "length"
        self._send(200, completion(text, ended))

    def _send(self, status: int, content: Any, headers: dict[str, str] | None = None) -> None:
        data = content if isinstance(content, bytes) else json.dumps(content).encode()
        self.send_response(status)
        for key, value in {"Content-Type": "application/json", **(headers or {})}.items():
            self.send_header(key, value)
        self.send_header("Content-Length", str(len(data)))
        with suppress(BrokenPipeError, ConnectionResetError):  # who asked may be gone
            self.end_headers()
            self.wfile.write(data)

    def log_message(self, *_: object) -> None:
        """Says nothing."""


RUBBISH: list[Any] = [
    b"<html>busy</html>", b"", b"\xff\xfe", {}, [], {"choices": []}, {"choices": [{}]}, "a string", None,
    {"choices": [{"message": {"role": "assistant", "content": None}}]}, {"choices": [{"message": {"content": [1]}}]},
    {"choices": [{"message": {"content": "\ud800"}}]}, {"choices": "no"},
]  # fmt: skip


def completion(text: str, ended: str) -> dict[str, Any]:
    """An answer in the form of OpenAI's."""
    message = {"role": "assistant", "content": text}
    choice = {"index": 0, "message": message, "finish_reason": ended}
    return {"id": "1", "object": "chat.completion", "created": 1, "model": "stand-in", "choices": [choice]}


def model_of(folder: str) -> Any:
    """A function that lets a model of transformers go on from a prompt."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    tokenizer, model = AutoTokenizer.from_pretrained(folder), AutoModelForCausalLM.from_pretrained(folder)
    lock = threading.Lock()

    def go_on(prompt: str, request: dict[str, Any]) -> tuple[str, str]:
        with lock, torch.inference_mode():
            ids = tokenizer(prompt, return_tensors="pt")
            torch.manual_seed(request["seed"])
            stated = model.generate(**ids, max_new_tokens=request["max_tokens"], do_sample=True, pad_token_id=0)
        new = stated[0, ids["input_ids"].shape[1] :]
        ended = "length" if len(new) == request["max_tokens"] else "stop"
        return tokenizer.decode(new, skip_special_tokens=True), ended

    return go_on


def main() -> None:
    """Serves until it is killed."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--log", type=Path, required=True)
    parser.add_argument("--faults", type=json.loads, default={})
    parser.add_argument("--model")
    given = parser.parse_args()
    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    server.lock, server.seen, server.faults = threading.Lock(), Counter(), Faults(**given.faults)
    server.model = None if given.model is None else model_of(given.model)
    with given.log.open("a") as server.log:
        print(f"http://127.0.0.1:{server.server_address[1]}/v1", flush=True)  # noqa: T201
        server.serve_forever(poll_interval=0.02)


if __name__ == "__main__":
    main()
