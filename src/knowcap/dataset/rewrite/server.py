"""A writer behind an OpenAI-compatible server or an inference provider, asked by many threads at once."""

from __future__ import annotations

import itertools
import json
import os
import queue
import re
import threading
from collections.abc import Callable, Iterator, Sequence
from pathlib import PurePath
from typing import Any
from urllib.parse import urlsplit

import httpx2
from huggingface_hub import InferenceClient, get_token
from huggingface_hub.errors import InferenceTimeoutError, OfflineModeIsEnabled

from knowcap.dataset.folder import DatasetError
from knowcap.dataset.rewrite.writers import CUT_OFF, RUBBISH, Reply, Request


TRIES = 10
LONGEST_PAUSE = 60.0  # seconds between two tries, unless the server asks for more
LONGEST_ASKED_PAUSE = 600.0  # a server that asks for more has refused
_FOR_A_WHILE = (408, 409, 425, 429, 500, 502, 503, 504, 529)
_UNREADABLE = (json.JSONDecodeError, UnicodeDecodeError, TypeError, AttributeError, LookupError)
_HUGGING_FACE = ("huggingface.co", "huggingface.cloud", "hf.space")


class ServerWriter:
    """Asks a server for chat completions: vLLM, TGI, `transformers serve`, or an inference provider.

    The token is that of HF_TOKEN, or the one that `hf auth login` stored, which goes to Hugging Face's own hosts only.

    Args:
        model_name: as the server knows it.
        base_url: of the server, such as `http://localhost:8000/v1`.
        provider: an inference provider of Hugging Face's, or `auto`; in place of base_url.
        concurrency: requests under way at a time.
        temperature: of sampling.
        max_new_tokens: the most tokens of a text.
        timeout: seconds without a sign from the server after which a request is tried again.
        wait: called with seconds to pause before another try; by default it pauses, and ends early when all does.

    Raises:
        DatasetError: arguments that cannot be used together, or a provider without a token.
    """

    def __init__(
        self,
        model_name: str,
        *,
        base_url: str | None = None,
        provider: str | None = None,
        concurrency: int = 16,
        temperature: float = 0.9,
        max_new_tokens: int = 256,
        timeout: float = 120.0,
        wait: Callable[[float], object] | None = None,
    ) -> None:
        if (base_url is None) == (provider is None):
            raise DatasetError("expected either a base_url or a provider, not both; give one of them")
        # A server may know its model by a path of its machine, which is nobody else's business.
        self.model_name = PurePath(model_name).name if model_name.startswith(("/", ".", "~")) else model_name
        self._asked_model, self.temperature, self.max_new_tokens = model_name, temperature, max_new_tokens
        self._concurrency, self._wait = concurrency, wait
        self._where = base_url or f"the provider {provider!r}"
        self._token = get_token() if base_url is None else _token_for(base_url)
        if provider is not None and self._token is None:
            raise DatasetError(f"{self._where} needs a token; `hf auth login`, or set HF_TOKEN")
        # Without a token of its own the client would send the stored one to any server.
        headers: dict[str, Any] = {} if self._token else {"authorization": None}
        self._client = InferenceClient(
            base_url=base_url, provider=provider, token=self._token, timeout=timeout, headers=headers
        )
        self._answered = False

    def write(self, requests: Sequence[Request]) -> Iterator[tuple[Request, Reply]]:
        """Each request with its reply, as they come; a request that fails for a while is tried again.

        Raises:
            DatasetError: the server refuses, cannot be reached at the start, or failed at every try of a request.
        """
        todo: queue.SimpleQueue[Request] = queue.SimpleQueue()
        done: queue.SimpleQueue[tuple[Request, Reply] | Exception] = queue.SimpleQueue()
        for request in requests:
            todo.put(request)
        stop = threading.Event()
        for _ in range(min(self._concurrency, len(requests))):
            # Daemons, so that nobody waits for a slow answer when the program is to end.
            threading.Thread(target=self._work, args=(todo, done, stop), daemon=True).start()
        try:
            for _ in requests:
                item = done.get()
                if isinstance(item, Exception):
                    raise item
                yield item
        finally:
            stop.set()

    def _work(self, todo: queue.SimpleQueue, done: queue.SimpleQueue, stop: threading.Event) -> None:
        """One thread's work: request after request until there is none left, or all is to end."""
        while not stop.is_set():
            try:
                request = todo.get_nowait()
            except queue.Empty:
                return
            try:
                reply = self._ask(request, stop)
            except Exception as error:  # told by the thread that reads
                done.put(error)
                return
            if reply is not None:
                done.put((request, reply))

    def _ask(self, request: Request, stop: threading.Event) -> Reply | None:
        """The reply to one request, tried again where the trouble may pass; None where all ends before."""
        for number in itertools.count(1):
            try:
                return self._try(request)
            except _NoAnswer as trouble:
                pause = min(LONGEST_PAUSE, 2.0 ** (number - 1)) if trouble.pause is None else trouble.pause
                if number == TRIES or pause > LONGEST_ASKED_PAUSE:
                    raise DatasetError(
                        f"{self._where} failed {number} times in a row for one text: {trouble}; what was written is "
                        "kept: give the same command again later"
                    ) from None
                (self._wait or stop.wait)(pause)
                if stop.is_set():
                    return None

    def _try(self, request: Request) -> Reply:
        """One try. Raises _NoAnswer for what may pass, DatasetError for what does not."""
        try:
            answer = self._client.chat_completion(
                [{"role": "user", "content": request.prompt}],
                model=self._asked_model,
                max_tokens=self.max_new_tokens,
                temperature=self.temperature,
                seed=request.seed,
            )
            reply = _read(answer)
        except OfflineModeIsEnabled:
            raise DatasetError(
                f"{self._where}: HF_HUB_OFFLINE keeps every server from being asked; unset it"
            ) from None
        except Exception as error:
            if (told := self._told(error)) is not None:
                raise told from None
            reply = Reply("", RUBBISH)
        self._answered = True
        return reply

    def _told(self, error: Exception) -> Exception | None:
        """What to raise for what a request met; None where an answer came and makes no sense."""
        response = _response_of(error)
        if response is not None:
            self._answered = True
            says = self._hidden(_says(response))
            if response.status_code in _FOR_A_WHILE:
                return _NoAnswer(f"it answers {response.status_code}{says}", _asked_pause(response))
            return DatasetError(f"{self._where} answers {response.status_code}{says}; {_mend(response.status_code)}")
        if isinstance(error, (InferenceTimeoutError, httpx2.TimeoutException)):
            return _NoAnswer("it does not answer in time")
        if isinstance(error, httpx2.TransportError):
            why = self._hidden(f"{error}" or type(error).__name__)
            if isinstance(error, httpx2.ConnectError) and not self._answered:
                return DatasetError(f"{self._where} cannot be reached ({why}); start the server, or mend --base_url")
            return _NoAnswer(f"the connection fails ({why})")
        makes_no_sense = isinstance(error, (*_UNREADABLE, httpx2.DecodingError))
        # The client says by a ValueError, too, that it has no such provider, or the provider no such model.
        if makes_no_sense or (isinstance(error, ValueError) and (self._answered or self._client.provider is None)):
            return None
        return DatasetError(f"{self._where}: {self._hidden(str(error))}")

    def _hidden(self, text: str) -> str:
        """The text without the token, should an answer have repeated it."""
        return text.replace(self._token, "…") if self._token else text


class _NoAnswer(Exception):
    """A try that failed in a way that may pass; `pause` is in seconds, None where the server asks for none."""

    def __init__(self, message: str, pause: float | None = None) -> None:
        super().__init__(message)
        self.pause = pause


def _read(answer: Any) -> Reply:
    """The text of a completion."""
    choice = answer.choices[0]
    text, ended = choice.message.content, choice.finish_reason
    if not isinstance(text, str):
        return Reply("", None if text is None else RUBBISH)
    return Reply(text, CUT_OFF if ended == "length" else None)


def _token_for(base_url: str) -> str | None:
    """The token to send to a server: whatever HF_TOKEN says, and the stored one to Hugging Face's own hosts."""
    parts = urlsplit(base_url)
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise DatasetError("base_url: expected a form such as http://localhost:8000/v1")
    if parts.username or parts.password or parts.query:
        raise DatasetError("base_url: expected no password or key in it, since it is shown and logged; set HF_TOKEN")
    ours = any(parts.hostname == host or parts.hostname.endswith(f".{host}") for host in _HUGGING_FACE)
    return get_token() if ours or os.environ.get("HF_TOKEN") else None


def _response_of(error: BaseException | None) -> httpx2.Response | None:
    """The answer that an error is about: it may stand behind one that reading a strange answer raised."""
    while error is not None:
        if isinstance(response := getattr(error, "response", None), httpx2.Response):
            return response
        error = error.__cause__ or error.__context__
    return None


def _asked_pause(response: httpx2.Response) -> float | None:
    """Seconds of a Retry-After header; None where there is none, or a date."""
    after = response.headers.get("Retry-After", "")
    return float(after) if re.fullmatch(r"\d+(\.\d+)?", after) else None


def _says(response: httpx2.Response) -> str:
    """What a refusal says, on one line."""
    try:
        text = " ".join(response.text.split())[:300]
    except (httpx2.StreamError, UnicodeDecodeError):
        return ""
    return f" ({text})" if text else ""


def _mend(status: int) -> str:
    hints = {401: "set HF_TOKEN to a token that it takes", 403: "the token may not use it: check its permissions"}
    return hints.get(status, "check --model_name and --base_url")
