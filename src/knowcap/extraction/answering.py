"""A model's answers by greedy decoding and beam search, exact match, and the nll of the true answers."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, Any, cast

import numpy as np
import torch

from knowcap.corpus.tokenizer import EOS_ID
from knowcap.extraction.questions import IGNORED, Question, padded


if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerFast


def answers(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerFast,
    questions: Sequence[Question],
    *,
    num_beams: int = 1,
    batch_size: int = 64,
    progress: Callable[[int], object] = int,
) -> list[str]:
    """The text generated after each prompt, without sampling, up to the end of text or the longest answer's length.

    Prompts are batched by length, so that none is padded: the answers do not depend on the batches.

    Args:
        model: a causal language model, or an adapter on one.
        tokenizer: its tokenizer.
        questions: in any order.
        num_beams: 1 is greedy.
        batch_size: questions per batch, beams not counted.
        progress: called with the number of questions just answered.
    """
    texts = [""] * len(questions)
    longest = max((len(q.tokens) for q in questions), default=0)
    for numbers in batches(questions, batch_size):
        prompts = torch.tensor([questions[n].prompt for n in numbers], device=model.device)
        with torch.inference_mode():
            generated = cast(Any, model).generate(
                input_ids=prompts,
                attention_mask=torch.ones_like(prompts),
                max_new_tokens=longest,
                num_beams=num_beams,
                do_sample=False,
                use_cache=True,
                eos_token_id=tokenizer.eos_token_id,
                pad_token_id=tokenizer.eos_token_id,
            )
        for number, ids in zip(numbers, generated[:, prompts.shape[1] :].tolist(), strict=True):
            end = ids.index(tokenizer.eos_token_id) if tokenizer.eos_token_id in ids else len(ids)
            texts[number] = cast(str, tokenizer.decode(ids[:end])).strip()
        progress(len(numbers))
    return texts


def answer_nll(model: PreTrainedModel, questions: Sequence[Question], batch_size: int = 64) -> np.ndarray:
    """The nll of each true answer after its prompt: nats, summed over the value's own tokens, (n,) float64."""
    nll = np.zeros(len(questions))
    for numbers in batches(questions, batch_size):
        chosen = [questions[n] for n in numbers]
        ids = torch.tensor(padded([[*q.prompt, *q.tokens] for q in chosen], EOS_ID), device=model.device)
        labels = torch.tensor(padded([q.value_labels() for q in chosen], IGNORED), device=model.device)
        with torch.inference_mode():
            logits = model(input_ids=ids).logits[:, :-1].double()
        losses = torch.nn.functional.cross_entropy(
            logits.flatten(0, 1), labels[:, 1:].flatten(), ignore_index=IGNORED, reduction="none"
        )
        nll[numbers] = losses.reshape(len(chosen), -1).sum(dim=1).cpu().numpy()
    return nll


def batches(questions: Sequence[Question], batch_size: int) -> Iterator[list[int]]:
    """The indices of questions in batches of at most `batch_size` whose prompts have equal lengths."""
    by_length: dict[int, list[int]] = {}
    for number, question in enumerate(questions):
        by_length.setdefault(len(question.prompt), []).append(number)
    for length in sorted(by_length):
        group = by_length[length]
        yield from (group[first : first + batch_size] for first in range(0, len(group), batch_size))


def matches(generated: str, answer: str) -> bool:
    """Whether a generated text is the answer: an exact match, as in Part 3.1, but for white space and final periods.

    The period that ends the sentence cannot be distinguished from that of an abbreviation ("Acme Inc."), so periods at
    the end of both are removed. Everything else counts: upper and lower case, commas, an extra word.

    Args:
        generated: all text generated after the prompt, up to the end of text.
        answer: the true value in the data set.
    """
    return normalize(generated) == normalize(answer)


def normalize(text: str) -> str:
    """A text with single spaces, without white space and periods at its end."""
    return " ".join(text.split()).rstrip(". ")
