"""Tables, fits and questions of others: a finite answer, or a sentence; never another error."""

from __future__ import annotations

import csv
import io
import json
import math
from pathlib import Path

import pytest
from fuzzing import check, examples, numbers, slower, texts, values
from hypothesis import strategies as st

from knowcap.cli import main
from knowcap.laws import fit_law
from knowcap.laws.law import LawError
from knowcap.laws.plan.fitted import CONSTANTS, read_laws
from knowcap.laws.plan.html import answer_html
from knowcap.laws.plan.page import TABS, answer
from knowcap.laws.plan.questions import ask
from knowcap.laws.quantity import parse_number, quantity
from knowcap.laws.table import read_runs


written = st.one_of(
    st.sampled_from(["1e9", "7B", "1e308", "5e-324", "nan", "inf", "-1", "0", "1e-300", "40%", "", "1e21", "2M"]),
    st.sampled_from(["100", "x", "9" * 400, "١٢", "1" + "e9" * 50]),
    numbers.map(str),
    texts,
)  # fmt: skip


def finite(found) -> None:
    """Whether an answer has plain numbers alone, in its page too."""
    assert all(math.isfinite(value) for value in found.results.values())
    json.dumps(found.content(), allow_nan=False)
    assert "<script" not in answer_html(found) and ">inf<" not in answer_html(found)


@examples
@pytest.mark.parametrize("question", TABS)
def test_questions(examples, question):
    def holds(given):
        try:
            finite(answer(question, given))
        except LawError as error:
            assert 0 < len(str(error)) < 5000

    names = [name for name in TABS[question][1] if name not in ("facts", "facts_templates")]
    field = st.dictionaries(st.sampled_from(names), written | values, max_size=4)
    starts = {"architecture": "gpt2", "precision": "bf16", "junk": "none"} | TABS[question][2]
    check(examples, holds, given=field | field.map(lambda changed: starts | changed))


@examples
def test_fits_of_others(examples, tmp_path):
    def holds(law, constants, rest, question):
        file = tmp_path / "law.json"
        content = {"law": law, "constants": dict.fromkeys(CONSTANTS.get(law, ()), 0.5) | constants} | rest
        file.write_bytes(json.dumps(content).encode("utf-8", errors="surrogatepass"))
        options = {"size": {"bits": 1e9}, "holds": {"num_parameters": 1e9}, "compute": {"flops": 1e21}}
        options["train"] = {"num_parameters": 1e8, "num_people": 1e6}
        try:
            finite(ask(question, [file], **options[question]))
        except LawError as error:
            assert str(error)

    known = sorted({name for names in CONSTANTS.values() for name in names})
    numbers_of = st.floats(1e-3, 10) | numbers | values
    pairs = st.lists(numbers, min_size=2, max_size=2)
    rest = st.fixed_dictionaries(
        {},
        optional={
            "intervals": st.dictionaries(st.sampled_from(known), pairs | values) | values,
            "samples": st.dictionaries(st.sampled_from(known), st.lists(numbers, max_size=3) | values) | values,
            "ranges": values, "warnings": values, "confidence_level": values, "num_points": values,
            "prediction": values, "doubtful_units": values, "approaches": values, "best": values,
        },
    )  # fmt: skip
    check(
        examples,
        holds,
        law=st.sampled_from(sorted(CONSTANTS)) | texts,
        constants=st.dictionaries(st.sampled_from(known) | texts, numbers_of, max_size=3),
        rest=rest,
        question=st.sampled_from(["size", "holds", "train", "compute"]),
    )


@pytest.mark.parametrize(
    "content",
    [
        b"[" * 100_000,
        b"\xff\xfe",
        b"",
        b"null",
        b"[]",
        b'{"law": 1}',
        b'{"law":"capacity","constants":{"bits_per_parameter":1' + b"0" * 400 + b"}}",
    ],
)
def test_a_file_that_is_no_fit_is_a_message(content, tmp_path, capsys):
    (tmp_path / "law.json").write_bytes(content)
    with pytest.raises(LawError):
        read_laws([tmp_path / "law.json"])
    assert main(["plan", "size", "--bits", "1e9", "--law", str(tmp_path / "law.json")]) == 2
    assert "knowcap: " in capsys.readouterr().err


@pytest.mark.parametrize("number", ["1e308", "5e-324", "nan", "inf", "-1", "0"])
@pytest.mark.parametrize(
    "command",
    [
        ["size", "--bits"],
        ["size", "--num_people"],
        ["holds", "--num_parameters"],
        ["compute", "--flops"],
        ["train", "--num_people", "1000", "--num_parameters"],
        ["passes", "--unique_tokens", "1e6", "--num_parameters"],
        ["passes", "--num_parameters", "1e6", "--unique_tokens"],
        ["passes", "--num_parameters", "1e6", "--unique_tokens", "1e6", "--passes"],
        ["passes", "--num_parameters", "1e6", "--unique_tokens", "1e6", "--bits"],
    ],
    ids=" ".join,
)
def test_the_command_answers_in_finite_numbers_or_ends_with_a_message(command, number, capsys):
    try:
        status = main(["plan", *command, number, "--json"])
    except SystemExit as end:  # of argparse, for what is no number
        status = end.code
    printed = capsys.readouterr()
    if status == 0:
        assert "Infinity" not in printed.out and "NaN" not in printed.out
    else:
        assert status == 2 and "Traceback" not in printed.err and printed.err


@examples
def test_numbers_that_are_read_are_those_that_are_written(examples):
    def holds(number, text):
        assert quantity(repr(number)) == number
        found = parse_number(text)
        assert isinstance(found, float) and not math.isinf(found)

    check(examples, holds, number=st.floats(allow_nan=False, allow_infinity=False), text=texts | written)


header = st.sampled_from(["num_parameters", "num_tokens", "loss", "flops", "x", "Loss ", "", "=cmd"])
plain_cell = st.text(
    st.characters(codec="utf-8", exclude_categories=("Cc", "Cs", "Zl", "Zp")), max_size=8
) | st.floats().map(str)


@examples
def test_tables_of_runs(examples, tmp_path):
    def holds(names, rows, damage):
        made = io.StringIO(newline="")
        csv.writer(made, quoting=csv.QUOTE_ALL).writerows([names, *(row[: len(names)] for row in rows)])
        data = made.getvalue().encode("utf-8", errors="surrogatepass")
        data = data if damage is None else data[: damage[0]] + damage[1] + data[damage[0] :]
        file: Path = tmp_path / "runs.csv"
        file.write_bytes(data)
        try:
            found = read_runs(file)
        except LawError:
            return
        except csv.Error as error:
            raise AssertionError from error
        assert len({len(column) for column in found.values()}) <= 1

    check(
        examples,
        holds,
        names=st.lists(header, min_size=1, max_size=4),
        rows=st.lists(st.lists(plain_cell | texts, min_size=4, max_size=4), max_size=4),
        damage=st.none() | st.tuples(st.integers(0, 60), st.binary(max_size=3)),
    )


@slower
@pytest.mark.parametrize("law", ["kaplan-n", "kaplan-d", "chinchilla-isoflop", "exposures", "capacity"])
@pytest.mark.filterwarnings("ignore::RuntimeWarning")
def test_fits_of_any_numbers(examples, law):
    def holds(rows):
        names = ("num_parameters", "num_tokens", "loss", "flops", "exposures", "knowledge_bits", "max_knowledge_bits")
        table = {name: [row[i] for row in rows] for i, name in enumerate(names)}
        try:
            fit = fit_law(law, table, num_bootstraps=2)
        except LawError:
            return
        assert all(math.isfinite(value) for value in fit.constants.values())

    number = st.floats(1e-2, 1e12) | st.sampled_from([1e308, 5e-324, 0.0, -1.0, 1.0, math.nan, math.inf])
    check(max(examples // 2, 1), holds, rows=st.lists(st.tuples(*[number] * 7), min_size=1, max_size=6))


@pytest.mark.parametrize("exponent", [8.98846567431158e307, 1e300, 700.0])
def test_a_table_with_a_number_beyond_range_is_a_message(tmp_path, exponent):
    file = tmp_path / "law.json"
    constants = dict.fromkeys(CONSTANTS["chinchilla-envelope"], 0.5) | {"exponent_tokens": exponent}
    file.write_text(json.dumps({"law": "chinchilla-envelope", "constants": constants}))
    with pytest.raises(LawError, match="cannot be computed|too large or too small"):
        ask("train", [file], num_parameters=1e8, num_people=1e6)
