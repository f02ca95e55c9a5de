"""A writer that sends requests to an OpenAI-compatible server or an inference provider, from several threads."""

from __future__ import annotations

import ipaddress
import itertools
import json
import logging
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
_HUB = "huggingface.co"  # with its subdomains; Spaces and endpoints, of other domains, run anybody's code

logger = logging.getLogger(__name__)


class ServerWriter:
    """Requests chat completions from vLLM, TGI, `transformers serve`, or an inference provider.

    HF_TOKEN, or the token stored by `hf auth login`, is sent to the Hub's own hosts alone, and only by https. A server
    that needs a key gets the one in the environment variable that `api_key_env` names, and no other.

    Args:
        model_name: the server's name of the model.
        base_url: the server's address, such as `http://localhost:8000/v1`.
        provider: an inference provider on Hugging Face, or `auto`; instead of base_url.
        api_key_env: the environment variable with the key of `base_url`.
        concurrency: the number of simultaneous requests.
        temperature: of sampling.
        max_new_tokens: the maximum number of tokens of a text.
        timeout: seconds without an answer after which a request is repeated.
        wait: called with the seconds to wait before the next attempt; the default ends early when writing stops.

    Raises:
        DatasetError: arguments that exclude each other, a provider without a token, or no key in `api_key_env`.
    """

    def __init__(
        self,
        model_name: str,
        *,
        base_url: str | None = None,
        provider: str | None = None,
        api_key_env: str | None = None,
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
        if base_url is None and api_key_env is not None:
            raise DatasetError("api_key_env is for a base_url; a provider gets the Hub's token: leave it out")
        self._token = get_token() if base_url is None else _token_for(base_url, api_key_env)
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
            fix = _fix(response.status_code, self._client.provider is not None)
            return DatasetError(f"{self._where} answers {response.status_code}{message}; {fix}")
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


def _token_for(base_url: str, api_key_env: str | None) -> str | None:
    """The key to send to a server: that of `api_key_env`, or for the Hub's own hosts the Hub's token."""
    try:
        parts = urlsplit(base_url)
        is_address = parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
    except ValueError:  # brackets, or a port that is no number
        is_address = False
    if not is_address:
        raise DatasetError("base_url: expected an address such as http://localhost:8000/v1")
    if parts.username or parts.password or parts.query or parts.fragment:
        raise DatasetError(
            "base_url: expected an address without password or key, since it is logged; set an environment variable "
            "to the key and give its name as --api_key_env"
        )
    host = parts.hostname or ""
    key = None if api_key_env is None else os.environ.get(api_key_env)
    if api_key_env is not None and not key:
        raise DatasetError(
            f"api_key_env={api_key_env!r}: there is no such environment variable, or it is empty; set it"
        )
    if parts.scheme == "http" and not _is_here(host):
        what = "prompts and texts" if key is None else f"prompts, texts and the key of {api_key_env}"
        logger.warning("%s is not encrypted: %s can be read on the way; use https", base_url, what)
    if key is None and parts.scheme == "https" and (host == _HUB or host.endswith(f".{_HUB}")):
        return get_token()
    return key


def _is_here(host: str) -> bool:
    """Whether a host is this machine."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost" or host.endswith(".localhost")


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


def _fix(status: int, by_provider: bool) -> str:
    key = "set HF_TOKEN to a token that it accepts" if by_provider else "give its key by --api_key_env"
    hints = {401: key, 403: "check the permissions of the key"}
    return hints.get(status, "check --model_name and --base_url")
