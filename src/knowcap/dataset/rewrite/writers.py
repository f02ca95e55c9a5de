"""Writers of texts: their interface, and a writer that samples from a model on this machine."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

from knowcap.dataset.folder import DatasetError


CUT_OFF = "cut_off"  # ended by the token limit
RUBBISH = "rubbish"  # a response that does not follow the protocol


class Request(NamedTuple):
    """One text to write.

    `key` is (person, rendering, attempt); `seed` is for the model's sampling.
    """

    key: tuple[int, int, int]
    prompt: str
    seed: int


class Reply(NamedTuple):
    """A text, or the reason why there is no usable one: `cut_off` or `rubbish`."""

    text: str
    failed: str | None = None


class Writer(Protocol):
    """Writes texts.

    Attributes:
        model_name: of the language model, for the card, without a path.
        temperature: the sampling temperature; 0 for the likeliest tokens.
        max_new_tokens: the maximum number of tokens of a text.
    """

    model_name: str
    temperature: float
    max_new_tokens: int

    def write(self, requests: Sequence[Request]) -> Iterator[tuple[Request, Reply]]:
        """Each request with its reply, in the order of arrival.

        Raises:
            DatasetError: it cannot continue; earlier replies have been yielded.
        """
        ...


if TYPE_CHECKING:
    import torch


class LocalWriter:
    """Samples from a model that transformers can load, in batches, on a GPU if there is one.

    Prompts are formatted by the tokenizer's chat template if it has one. Each batch is sampled with its own seed.

    Args:
        model: a Hub id or a folder.
        batch_size: texts per batch.
        temperature: of sampling; 0 for the likeliest tokens.
        max_new_tokens: the maximum number of tokens of a text.

    Raises:
        DatasetError: there is no such model, or it cannot be loaded.
    """

    def __init__(
        self, model: str, *, batch_size: int = 16, temperature: float = 0.9, max_new_tokens: int = 256
    ) -> None:
        import torch
        from transformers import AutoModelForCausalLM, AutoTokenizer

        self.model_name = Path(model).name if Path(model).is_dir() else model
        self.temperature, self.max_new_tokens, self._batch_size = temperature, max_new_tokens, batch_size
        try:
            safe = {"trust_remote_code": False}  # else code of the repo would be asked for on standard input
            self._tokenizer = AutoTokenizer.from_pretrained(model, padding_side="left", **safe)
            loaded: Any = AutoModelForCausalLM.from_pretrained(model, dtype="auto", use_safetensors=True, **safe)
        except (OSError, ValueError) as error:
            first = str(error).strip().split("\n")[0]
            raise DatasetError(f"model_name={model!r} cannot be loaded: {first}") from error
        if self._tokenizer.eos_token_id is None:
            raise DatasetError(
                f"model_name={model!r}: its tokenizer has no eos_token, so no text would end; choose another model"
            )
        if self._tokenizer.pad_token_id is None:
            self._tokenizer.pad_token = self._tokenizer.eos_token
        self._model = loaded.eval().to("cuda" if torch.cuda.is_available() else "cpu")

    def write(self, requests: Sequence[Request]) -> Iterator[tuple[Request, Reply]]:
        """Each request with its reply, batch by batch.

        Raises:
            DatasetError: the prompts and `max_new_tokens` are longer than the model's context.
        """
        for start in range(0, len(requests), self._batch_size):
            batch = requests[start : start + self._batch_size]
            yield from zip(batch, self._generate(batch), strict=True)

    def _generate(self, requests: Sequence[Request]) -> list[Reply]:
        import torch

        inputs = self._encode([request.prompt for request in requests]).to(self._model.device)
        read = inputs["input_ids"].shape[1]
        room = getattr(self._model.config.get_text_config(), "max_position_embeddings", None)
        if room is not None and read + self.max_new_tokens > room:
            raise DatasetError(
                f"{self.model_name} has a context of {room} tokens, less than a prompt of {read} and "
                f"{self.max_new_tokens} new ones; lower --max_new_tokens, or choose another model"
            )
        sampling = {"do_sample": True, "temperature": self.temperature} if self.temperature else {"do_sample": False}
        torch.manual_seed(requests[0].seed)
        with torch.inference_mode():
            generated = self._model.generate(
                **inputs,
                **sampling,
                max_new_tokens=self.max_new_tokens,
                pad_token_id=self._tokenizer.pad_token_id,
            )
        return [self._reply(ids) for ids in generated[:, read:]]

    def _encode(self, prompts: list[str]) -> Any:
        """Prompts as a padded batch."""
        if self._tokenizer.chat_template is None:
            texts, special = [f"{prompt}\n\n" for prompt in prompts], True
        else:
            chats = [[{"role": "user", "content": prompt}] for prompt in prompts]
            texts = self._tokenizer.apply_chat_template(chats, tokenize=False, add_generation_prompt=True)
            special = False  # the chat template adds them
        return self._tokenizer(
            texts, return_tensors="pt", padding=True, add_special_tokens=special, return_token_type_ids=False
        )

    def _reply(self, ids: torch.Tensor) -> Reply:
        """The text of generated ids; cut off unless they have an end token."""
        ends = self._model.generation_config.eos_token_id
        ends = set(ends if isinstance(ends, list) else [ends]) | {self._tokenizer.eos_token_id}
        ended = len(ids) < self.max_new_tokens or not ends.isdisjoint(ids.tolist())
        text = self._tokenizer.decode(ids, skip_special_tokens=True)
        return Reply(text, None if ended else CUT_OFF)
