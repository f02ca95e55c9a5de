"""`knowcap plan`."""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

from knowcap.cli.parsers import add_command, quantity


_EXAMPLES = (
    "knowcap plan size --bits 1e9 --exposures 1000 --precision int8",
    "knowcap plan size --facts facts.csv --architecture moe --junk marked --exposures 300",
    "knowcap plan holds --num_parameters 7B",
    "knowcap plan train --num_parameters 100M --num_people 2M --gpu a100 --num_gpus 8 --utilisation 0.4",
    "knowcap plan compute --flops 1e21 --price 2.50 --law parametric.json --json",
    "knowcap plan memory --num_layers 24 --hidden_size 2048 --block_size 2048 --per_device_train_batch_size 8",
    "knowcap plan next runs.csv --flops 1e20",
    "knowcap plan passes --num_parameters 100M --unique_tokens 10M --passes 16",
    "knowcap plan --web",
)
_QUESTIONS = {
    "size": "how many parameters store given bits, people or facts",
    "holds": "how many bits, and how many biographies, a model stores",
    "train": "how long a model must be trained to store given bits, and the cost of doubling them",
    "compute": "parameters and tokens with the lowest loss for a budget of FLOPs, by every approach",
    "memory": "bytes in training and in use of a model of a given shape: weights, activations, logits, cache",
    "passes": "what one more pass over the same data is worth, in loss and in bits",
}


def add(commands: Any, name: str) -> None:
    """Adds the command's parser, with one for each question."""
    parser = add_command(commands, name, _plan, _EXAMPLES)
    parser.add_argument(
        "--web",
        action="store_true",
        help="open a page with the same questions in the browser; needs pip install 'knowcap[space]'",
    )
    parser.add_argument("--port", type=int, default=7860, help="port of the page [7860]")
    parser.add_argument(
        "--save_space", metavar="DIR", type=Path, help="write the page to a folder, to be uploaded as a Space"
    )
    parser.set_defaults(question=None, usage=parser.error)
    questions = parser.add_subparsers(title="questions", metavar="QUESTION")
    for asked, what in _QUESTIONS.items():
        examples = [example for example in _EXAMPLES if example.startswith(f"knowcap plan {asked} ")]
        question = add_command(questions, asked, _answer, examples, what)
        question.set_defaults(question=asked)
        _OPTIONS[asked](question)
        fit = "JSON of `knowcap fit`, instead of the paper's law; may be repeated"
        if asked != "memory":  # nothing of it is fitted
            question.add_argument("--law", metavar="FIT", action="append", default=[], type=Path, help=fit)
        question.negative_numbers()
        question.add_argument("--json", action="store_true", help="print JSON instead of text")
    _next(questions)


def _next(questions: Any) -> None:
    what = "which runs would narrow a prediction most, for a budget of FLOPs"
    examples = (
        *(example for example in _EXAMPLES if example.startswith("knowcap plan next ")),
        "knowcap plan next runs.csv --flops 1e20 --target 1e23 --aim size --candidates possible.csv",
    )
    parser = add_command(questions, "next", _next_runs, examples, what)
    parser.set_defaults(question="next")
    parser.negative_numbers()
    text = "a CSV or Parquet file with num_parameters, num_tokens and loss of the runs so far"
    parser.add_argument("runs", metavar="RUNS", type=Path, help=text)
    _number(parser, "flops", "C", "what the next runs may cost together", required=True)
    _number(parser, "target", "C", "FLOPs of the run to be predicted [100 times the largest of the table]")
    text = "what is predicted: its loss, or its best size [loss]"
    parser.add_argument("--aim", choices=("loss", "size"), default="loss", help=text)
    text = "a table of possible runs, num_parameters and num_tokens [any size near the best for its cost]"
    parser.add_argument("--candidates", metavar="FILE", type=Path, help=text)
    parser.add_argument("--max_runs", metavar="N", type=int, default=8, help="at most so many runs [8]")
    text = "the law: chinchilla-parametric or kaplan-nd [chinchilla-parametric]"
    parser.add_argument("--form", metavar="LAW", default="chinchilla-parametric", help=text)
    text = "names of the table's columns, such as loss=eval_loss"
    parser.add_argument("--columns", metavar="OURS=THEIRS", nargs="+", action="extend", default=[], help=text)
    parser.add_argument("--json", action="store_true", help="print JSON instead of text")


def _next_runs(args: argparse.Namespace, _: list[str]) -> None:
    from knowcap.cli.fit import _pairs
    from knowcap.laws import fit_law, read_runs
    from knowcap.laws.plan.design import next_runs
    from knowcap.laws.plan.questions import computed
    from knowcap.laws.runs import take
    from knowcap.laws.table import rename

    possible = None
    if args.candidates is not None:
        table = rename(read_runs(args.candidates), {})
        possible = take(table, "candidates", ("num_parameters", "num_tokens")).values
    fit = fit_law(args.form, args.runs, columns=_pairs("--columns", args.columns), num_bootstraps=100)
    options = {"aim": args.aim, "candidates": possible, "max_runs": args.max_runs}
    given = {"flops": args.flops, "target": args.target}
    answer = computed(given, lambda: next_runs(fit, args.flops, args.target, **options))
    print(json.dumps(answer.content()) if args.json else answer.text())


def _size(parser: argparse.ArgumentParser) -> None:
    _content(parser)
    _setting(parser, "[1000]")


def _holds(parser: argparse.ArgumentParser) -> None:
    _number(parser, "num_parameters", "P", "all of them, embeddings included", required=True)
    _setting(parser, "[1000]")


def _train(parser: argparse.ArgumentParser) -> None:
    _number(parser, "num_parameters", "P", "all of them, embeddings included", required=True)
    _content(parser)
    _setting(parser, "[the fewest that are enough]")
    _number(
        parser, "tokens_per_exposure", "T", "that contain all of the knowledge once [as in the paper's biographies]"
    )
    _hardware(parser)
    _shape(parser)


def _compute(parser: argparse.ArgumentParser) -> None:
    _number(parser, "flops", "C", "the budget, 6 x parameters x tokens", required=True)
    _number(parser, "num_parameters", "P", "a fixed size, for which the best tokens are computed")
    _number(parser, "unique_tokens", "T", "number of different tokens in the data")
    _hardware(parser)


def _memory(parser: argparse.ArgumentParser) -> None:
    _shape(parser)
    _number(parser, "num_parameters", "P", "all of them [by the shape, without biases and norms]")
    kinds = "gpt2, gpt2-quarter-mlp, gpt2-no-mlp, llama or mistral [gpt2]"
    parser.add_argument("--architecture", metavar="KIND", default="gpt2", help=kinds)
    weights = "precision of the weights in use: fp32, bf16, int8 or int4 [bf16]"
    parser.add_argument("--precision", metavar="P", default="bf16", help=weights)
    _gpus(parser)


def _passes(parser: argparse.ArgumentParser) -> None:
    _number(parser, "num_parameters", "P", "all of them, embeddings included", required=True)
    _number(parser, "unique_tokens", "T", "different tokens of the data, each fact once", required=True)
    _number(parser, "passes", "K", "passes so far [1]")
    _number(parser, "bits", "B", "bits of the data [more than the model stores]")


def _shape(parser: argparse.ArgumentParser) -> None:
    """Options for the shape of a model, and for what a GPU holds of a batch at once."""
    _number(parser, "num_layers", "L", "layers; with hidden_size: activations are counted too")
    _number(parser, "hidden_size", "H", "width of the layers")
    _number(parser, "num_heads", "A", "attention heads [hidden_size / 64]")
    _number(parser, "num_key_value_heads", "K", "heads of keys and values [num_heads; mistral: a quarter]")
    _number(parser, "intermediate_size", "F", "width of the MLP [gpt2: 4, llama: 8/3, mistral: 7/2 x hidden_size]")
    _number(parser, "vocab_size", "V", "tokens of the vocabulary [50257, GPT-2's]")
    _number(parser, "block_size", "S", "tokens of a sequence; in use, of a context [512]")
    text = "sequences that a GPU holds at once in training; in use, contexts [1]"
    _number(parser, "per_device_train_batch_size", "B", text)
    text = "sdpa, or any kernel that keeps no scores; or eager, which keeps those of all pairs of tokens [sdpa]"
    parser.add_argument("--attn_implementation", metavar="KIND", help=text)
    text = "none, or full: only the input of each layer is kept [none]"
    parser.add_argument("--gradient_checkpointing", metavar="KIND", help=text)
    text = "fp32, bf16-mixed (autocast, as bf16 in a recipe) or bf16-true (all activations in 16 bits) [bf16-mixed]"
    parser.add_argument("--training_precision", metavar="P", help=text)
    _number(parser, "dropout", "P", "probability of dropout; above 0 its masks are counted [0]")


def _hardware(parser: argparse.ArgumentParser) -> None:
    """Options for what trains, and its price."""
    _gpus(parser)
    reached = "share of the GPU's peak bf16 FLOP/s that the training reaches, such as 0.4 or 40%% [0.4]"
    parser.add_argument("--utilisation", metavar="SHARE", type=quantity, default=0.4, help=reached)
    _number(parser, "price", "P", "of one GPU for an hour, in any currency: adds the cost")


def _gpus(parser: argparse.ArgumentParser) -> None:
    gpus = "a10, a100, b200, h100-pcie, h100-sxm, h200, l4, l40s, mi250x, mi300x or rtx-4090 [h100-sxm]"
    parser.add_argument("--gpu", metavar="NAME", default="h100-sxm", help=gpus)
    parser.add_argument("--num_gpus", metavar="N", type=quantity, default=1.0, help="[1]")


_OPTIONS = {
    "size": _size, "holds": _holds, "train": _train, "compute": _compute, "memory": _memory, "passes": _passes,
}  # fmt: skip


def _content(parser: argparse.ArgumentParser) -> None:
    """Options for the content to be stored, of which one is given."""
    _number(parser, "bits", "B", "bits to store")
    _number(parser, "num_people", "N", "people of bioS to store")
    table = "a table to store: entity,attribute,value or attribute,entities,distinct_values; or a data set folder"
    parser.add_argument("--facts", metavar="FILE", type=Path, help=table)
    yaml = "the YAML of such a table (candidates, determined_by); without one, values count by frequency"
    parser.add_argument("--facts_templates", metavar="YAML", type=Path, help=yaml)
    _number(parser, "entity_space", "N0", "how many names there could have been [names count nothing]")


def _setting(parser: argparse.ArgumentParser, exposures: str) -> None:
    _number(parser, "exposures", "E", f"number of times each fact is trained on {exposures}")
    kinds = "gpt2, gpt2-quarter-mlp, gpt2-no-mlp, llama, mistral or moe (32 experts) [gpt2]"
    parser.add_argument("--architecture", metavar="KIND", default="gpt2", help=kinds)
    parser.add_argument(
        "--precision",
        metavar="P",
        default="bf16",
        help="precision of the weights in use: fp32, bf16, int8 or int4 [bf16]",
    )
    junk = (
        "7/8 of the tokens are of junk people: always new ones (unique), a few repeated ones (repeated), or new ones "
        "with a special token before useful texts (marked) [none]"
    )
    parser.add_argument("--junk", metavar="KIND", default="none", help=junk)


def _number(parser: argparse.ArgumentParser, name: str, metavar: str, text: str, required: bool = False) -> None:
    parser.add_argument(f"--{name}", metavar=metavar, type=quantity, required=required, help=text)


def _answer(args: argparse.Namespace, _: list[str]) -> None:
    from knowcap.laws.plan.questions import ask

    options = {k: v for k, v in vars(args).items() if k not in ("question", "law", "json", "command")}
    answer = ask(args.question, vars(args).get("law", ()), **options)
    print(json.dumps(answer.content()) if args.json else answer.text())


def _plan(args: argparse.Namespace, _: list[str]) -> None:
    """`knowcap plan` without a question."""
    if args.save_space is not None:
        from knowcap.laws.plan.space import save_space

        print(f"{save_space(args.save_space)}: a Space; `hf upload you/plan {args.save_space} --repo-type space`")
    elif args.web:
        from knowcap.laws.plan.page import build

        build().launch(server_port=args.port)
    else:
        args.usage(f"expected a question, {', '.join((*_QUESTIONS, 'next'))}, or --web")
