"""The tokens around a text: what the model reads before its first token, and what ends a text in a window.

A model gives a text its probability only after what it was trained after. Llama, Mistral and Gemma were trained after
a BOS token; GPT2, Qwen and every model that knowcap trains, after the EOS token of the text before.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from knowcap.models.folders import training_of
from knowcap.models.names import ModelError
from knowcap.recipe import START_TOKENS


if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast

_PROBES = ("a", "0", " ", ".")  # texts of which one has a token in any tokenizer


@dataclass(frozen=True)
class Separators:
    """The token ids around each text.

    Attributes:
        before: ids before each text; empty for start_token none.
        after: ids after each text of a window, before the `before` of the next; empty where `before` separates them.
        end: the id that ends a text: the first of `after`, else EOS, else the first of `before`; None without any.
    """

    before: tuple[int, ...]
    after: tuple[int, ...] = ()
    end: int | None = None

    @classmethod
    def of(cls, tokenizer: PreTrainedTokenizerFast, start_token: str = "auto") -> Separators:
        """The separators of a tokenizer.

        `auto` is what the tokenizer itself puts first (`add_special_tokens=True`), else BOS, else EOS. Texts that
        follow EOS are separated by that one token. Texts that follow another token are followed by what the tokenizer
        puts last, such as EOS, if it puts anything there.

        Args:
            tokenizer: a fast tokenizer.
            start_token: auto, bos, eos or none.

        Raises:
            ModelError: the tokenizer is no fast one or lacks the token, or start_token is unknown.
        """
        if start_token not in START_TOKENS:
            raise ModelError(f"start_token={start_token!r}; expected {', '.join(START_TOKENS)}")
        if not tokenizer.is_fast:
            raise ModelError(
                f"the tokenizer is a {type(tokenizer).__name__}, which yields no offsets; expected a fast one "
                "(tokenizer.json)"
            )
        bos, eos = (cast("int | None", getattr(tokenizer, f"{name}_token_id")) for name in ("bos", "eos"))
        first, last = _own(tokenizer)
        before = {"auto": first or _ids(bos) or _ids(eos), "bos": _ids(bos), "eos": _ids(eos), "none": ()}[start_token]
        if not before and start_token == "auto":
            raise ModelError(
                "the tokenizer has neither eos_token nor bos_token, and puts nothing before a text; set the token "
                "that texts begin with, or use start_token none"
            )
        if not before and start_token != "none":
            raise ModelError(f"start_token={start_token}, but the tokenizer has no {start_token}_token; use auto")
        after = () if before == _ids(eos) else last
        return cls(before, after, next(iter((*after, *_ids(eos), *before, *_ids(bos))), None))

    @classmethod
    def of_model(
        cls, folder: Path | None, tokenizer: PreTrainedTokenizerFast, start_token: str = "auto"
    ) -> Separators:
        """The separators of a model's texts: with `auto` EOS if knowcap trained the model, else `of` its tokenizer.

        Raises:
            ModelError: see `of`.
        """
        ours = start_token == "auto" and folder is not None and training_of(folder) is not None
        return cls.of(tokenizer, "eos" if ours else start_token)

    @classmethod
    def longest(cls, folder: Path | None, tokenizer: PreTrainedTokenizerFast) -> Separators:
        """Those of start_token auto; none for a tokenizer that has no token to begin with."""
        try:
            return cls.of_model(folder, tokenizer)
        except ModelError:
            return cls.of_model(folder, tokenizer, "none")

    @property
    def size(self) -> int:
        """The number of tokens around a text."""
        return len(self.before) + len(self.after)


def start_text(tokenizer: PreTrainedTokenizerFast, separators: Separators) -> str:
    """The tokens before each text as text, such as `<s>`; empty without any."""
    return "".join(cast("list[str]", tokenizer.convert_ids_to_tokens(list(separators.before))))


def _ids(token: int | None) -> tuple[int, ...]:
    return () if token is None else (token,)


def _own(tokenizer: PreTrainedTokenizerFast) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """The special tokens that the tokenizer itself puts before and after a text."""
    for probe in _PROBES:
        encoded: Any = tokenizer(probe, add_special_tokens=True, verbose=False)
        belongs = [number is not None for number in encoded.sequence_ids(0)]
        if any(belongs):
            ids = encoded["input_ids"]
            return tuple(ids[: belongs.index(True)]), tuple(ids[len(ids) - belongs[::-1].index(True) :])
    return (), ()
