"""What one more pass over the same data is worth, in loss and in bits."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping

import numpy as np

from knowcap.laws.law import Law, LawError
from knowcap.laws.plan.answer import Answer, Step
from knowcap.laws.plan.chart import passes_chart
from knowcap.laws.plan.setting import positive
from knowcap.laws.published import EXPOSURES, MUENNIGHOFF
from knowcap.laws.quantity import figure
from knowcap.laws.repeated import PASSES, value_of_pass


_USED = ("data-constrained", "exposures")


def passes(
    num_parameters: float,
    unique_tokens: float,
    passes_so_far: float = 1.0,
    laws: Mapping[str, Law] | None = None,
    max_knowledge_bits: float = np.inf,
) -> Answer:
    """The gain of one more pass: in loss by Muennighoff et al., in bits by R against exposures (Part 3.3).

    A pass shows each fact once more, so passes are exposures where every fact stands in the data once.

    Args:
        num_parameters: of the model.
        unique_tokens: different tokens of the data.
        passes_so_far: over them, 1 or more.
        laws: fitted ones, `data-constrained` and `exposures`, in place of the papers'.
        max_knowledge_bits: all bits of the data.

    Raises:
        LawError: a number that is not above zero, less than one pass, laws of another kind.
    """
    laws = laws or {}
    _check(num_parameters, unique_tokens, passes_so_far, max_knowledge_bits, laws)
    loss, bits = laws.get("data-constrained", MUENNIGHOFF), laws.get("exposures", EXPOSURES)

    def value(k: float) -> dict[str, float]:
        return value_of_pass(loss.constants, num_parameters, unique_tokens, k, bits.constants, max_knowledge_bits)

    now = value(passes_so_far)
    fall, gain = now["loss_before"] - now["loss_after"], now["bits_after"] - now["bits_before"]
    return Answer(
        "passes",
        f"After {passes_so_far:g} passes one more is worth {100 * now['fresh_share']:.3g} % of fresh tokens: the loss "
        f"falls by {fall:.2g}, and {figure(gain)} bits are added",
        {"loss": now["loss_after"], "bits": now["bits_after"]},
        steps=[
            Step(
                "loss now",
                now["loss_before"],
                "nats",
                f"after {passes_so_far:g} passes over {figure(unique_tokens)} tokens",
            ),
            Step("loss after one more", now["loss_after"], "nats"),
            Step("bits now", now["bits_before"], "", "if the data have so many, each fact once"),
            Step("bits after one more", now["bits_after"], ""),
        ],
        table=_table(value),
        chart=passes_chart(value, passes_so_far),
        laws=[loss, bits],
        warnings=[
            "loss is of held-out text, bits are of facts in the data: the first gains nothing from passes that still "
            "store facts, and the two laws come from different data",
        ],
    )


def _check(
    num_parameters: float, unique_tokens: float, passes_so_far: float, max_knowledge_bits: float, laws: Iterable[str]
) -> None:
    """Raises LawError with all that is wrong with the numbers and the laws."""
    numbers = {"num_parameters": num_parameters, "unique_tokens": unique_tokens, "passes": passes_so_far}
    problems = []
    for name, value in (numbers | ({} if max_knowledge_bits == np.inf else {"bits": max_knowledge_bits})).items():
        try:
            positive(name, value)
        except LawError as error:
            problems += error.problems
    if other := sorted(set(laws) - set(_USED)):
        problems.append(f"plan passes: got the law {', '.join(other)}, expected {' or '.join(_USED)}")
    if problems:
        raise LawError(problems)


def _table(value: Callable[[float], dict[str, float]]) -> list[dict[str, float]]:
    """A row for each number of passes."""
    rows = []
    for k in (*PASSES, 128, 256, 512, 1000):
        found = value(float(k))
        rows.append(
            {
                "passes_so_far": float(k),
                "worth_percent": 100 * found["fresh_share"],
                "loss_falls_by": found["loss_before"] - found["loss_after"],
                "bits_rise_by": found["bits_after"] - found["bits_before"],
            }
        )
    return rows
