"""A writer that sends requests to an OpenAI-compatible server or an inference provider, from several threads."""

from __future__ import annotations

import itertools
import json
import os
import queue
import re
import threading
from collections.abc import Callable, Iterator, Sequence
from pathlib import PurePath
from typing import Any, cast
from urllib.parse import urlsplit

import httpx2
from huggingface_hub import InferenceClient, get_token
from huggingface_hub.errors import InferenceTimeoutError, OfflineModeIsEnabled

from knowcap.dataset.folder import DatasetError
from knowcap.dataset.rewrite.writers import CUT_OFF, RUBBISH, Reply, Request


ATTEMPTS = 10
LONGEST_PAUSE = 60.0  # seconds between two attempts, unless the server asks for more
LONGEST_ASKED_PAUSE = 600.0  # a longer wait counts as a refusal
_TEMPORARY = (408, 409, 425, 429, 500, 502, 503, 504, 529)
_UNREADABLE = (json.JSONDecodeError, UnicodeDecodeError, TypeError, AttributeError, LookupError)
_HUGGING_FACE = ("huggingface.co", "huggingface.cloud", "hf.space")


class ServerWriter:
    """Requests chat completions from vLLM, TGI, `transformers serve`, or an inference provider.

    The token is HF_TOKEN, or the one stored by `hf auth login`, which is sent only to Hugging Face's own hosts.

    Args:
        model_name: the server's name of the model.
        base_url: the server's address, such as `http://localhost:8000/v1`.
        provider: an inference provider on Hugging Face, or `auto`; instead of base_url.
        concurrency: the number of simultaneous requests.
        temperature: of sampling.
        max_new_tokens: the maximum number of tokens of a text.
        timeout: seconds without an answer after which a request is repeated.
        wait: called with the seconds to wait before the next attempt; the default ends early when writing stops.

    Raises:
        DatasetError: arguments that exclude each other, or a provider without a token.
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
        # A server may name its model by a local path, which is private.
        self.model_name = PurePath(model_name).name if model_name.startswith(("/", ".", "~")) else model_name
        self._request_model, self.temperature, self.max_new_tokens = model_name, temperature, max_new_tokens
        self._concurrency, self._wait = concurrency, wait
        self._where = base_url or f"the provider {provider!r}"
        self._token = get_token() if base_url is None else _token_for(base_url)
        if provider is not None and self._token is None:
            raise DatasetError(f"{self._where} needs a token; `hf auth login`, or set HF_TOKEN")
        # Without a token the client would send the stored one to any server.
        headers: dict[str, Any] = {} if self._token else {"authorization": None}
        self._client = InferenceClient(
            base_url=base_url,
            provider=cast(Any, provider),  # any name: the client checks it
            token=self._token,
            timeout=timeout,
            headers=headers,
        )
        self._answered = False

    def write(self, requests: Sequence[Request]) -> Iterator[tuple[Request, Reply]]:
        """Each request with its reply, in the order of arrival; temporary failures are repeated.

        Raises:
            DatasetError: the server refuses, cannot be reached at the start, or failed at every attempt.
        """
        todo: queue.SimpleQueue[Request] = queue.SimpleQueue()
        done: queue.SimpleQueue[tuple[Request, Reply] | Exception] = queue.SimpleQueue()
        for request in requests:
            todo.put(request)
        stop = threading.Event()
        for _ in range(min(self._concurrency, len(requests))):
            # Daemons, so that the program can end without waiting for a slow answer.
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
        """One thread: sends requests until there are none left or `stop` is set."""
        while not stop.is_set():
            try:
                request = todo.get_nowait()
            except queue.Empty:
                return
            try:
                reply = self._ask(request, stop)
            except Exception as error:  # raised by the reading thread
                done.put(error)
                return
            if reply is not None:
                done.put((request, reply))

    def _ask(self, request: Request, stop: threading.Event) -> Reply | None:
        """The reply to one request, after temporary failures repeated; None if writing stops before."""
        for number in itertools.count(1):
            try:
                return self._try(request)
            except _NoAnswer as failure:
                pause = min(LONGEST_PAUSE, 2.0 ** (number - 1)) if failure.pause is None else failure.pause
                if number == ATTEMPTS or pause > LONGEST_ASKED_PAUSE:
                    raise DatasetError(
                        f"{self._where} failed {number} times in a row for one text: {failure}; the finished texts "
                        "are kept: run the same command again later"
                    ) from None
                (self._wait or stop.wait)(pause)
                if stop.is_set():
                    return None

    def _try(self, request: Request) -> Reply:
        """One attempt. Raises _NoAnswer for temporary failures, DatasetError for others."""
        try:
            answer = self._client.chat_completion(
                [{"role": "user", "content": request.prompt}],
                model=self._request_model,
                max_tokens=self.max_new_tokens,
                temperature=self.temperature,
                seed=request.seed,
            )
            reply = _read(answer)
        except OfflineModeIsEnabled:
            raise DatasetError(f"{self._where}: HF_HUB_OFFLINE prevents all requests; unset it") from None
        except Exception as error:
            if (failure := self._failure(error)) is not None:
                raise failure from None
            reply = Reply("", RUBBISH)
        self._answered = True
        return reply

    def _failure(self, error: Exception) -> Exception | None:
        """The exception to raise for a failed request; None if there was an answer that cannot be read."""
        response = _response_of(error)
        if response is not None:
            self._answered = True
            message = self._hidden(_message(response))
            if response.status_code in _TEMPORARY:
                return _NoAnswer(f"it answers {response.status_code}{message}", _asked_pause(response))
            return DatasetError(f"{self._where} answers {response.status_code}{message}; {_fix(response.status_code)}")
        if isinstance(error, (InferenceTimeoutError, httpx2.TimeoutException)):
            return _NoAnswer("it does not answer in time")
        if isinstance(error, httpx2.TransportError):
            why = self._hidden(f"{error}" or type(error).__name__)
            if isinstance(error, httpx2.ConnectError) and not self._answered:
                return DatasetError(
                    f"{self._where} cannot be reached ({why}); start the server, or correct --base_url"
                )
            return _NoAnswer(f"the connection fails ({why})")
        unreadable = isinstance(error, (*_UNREADABLE, httpx2.DecodingError))
        # The client also raises ValueError for an unknown provider, or for a model that a provider does not have.
        if unreadable or (isinstance(error, ValueError) and (self._answered or self._client.provider is None)):
            return None
        return DatasetError(f"{self._where}: {self._hidden(str(error))}")

    def _hidden(self, text: str) -> str:
        """The text with the token masked, since an answer may repeat it."""
        return text.replace(self._token, "…") if self._token else text


class _NoAnswer(Exception):
    """A temporary failure; `pause` is the wait in seconds that the server asks for, if any."""

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
    """The token to send to a server: HF_TOKEN, or for Hugging Face's own hosts the stored one."""
    parts = urlsplit(base_url)
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise DatasetError("base_url: expected an address such as http://localhost:8000/v1")
    if parts.username or parts.password or parts.query:
        raise DatasetError("base_url: expected an address without password or key, since it is logged; set HF_TOKEN")
    ours = any(parts.hostname == host or parts.hostname.endswith(f".{host}") for host in _HUGGING_FACE)
    return get_token() if ours or os.environ.get("HF_TOKEN") else None


def _response_of(error: BaseException | None) -> httpx2.Response | None:
    """The response that caused an error, from the error or its causes."""
    while error is not None:
        if isinstance(response := getattr(error, "response", None), httpx2.Response):
            return response
        error = error.__cause__ or error.__context__
    return None


def _asked_pause(response: httpx2.Response) -> float | None:
    """The seconds of a Retry-After header; None if there is none, or a date."""
    after = response.headers.get("Retry-After", "")
    return float(after) if re.fullmatch(r"\d+(\.\d+)?", after) else None


def _message(response: httpx2.Response) -> str:
    """The message of a refusal, on one line."""
    try:
        text = " ".join(response.text.split())[:300]
    except (httpx2.StreamError, UnicodeDecodeError):
        return ""
    return f" ({text})" if text else ""


def _fix(status: int) -> str:
    hints = {401: "set HF_TOKEN to a token that the server accepts", 403: "check the permissions of the token"}
    return hints.get(status, "check --model_name and --base_url")
