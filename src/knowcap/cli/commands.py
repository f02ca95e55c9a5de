"""The names of the commands, the module of each and one line about it; a module is imported when it is used."""

from __future__ import annotations

from typing import NamedTuple


class Command(NamedTuple):
    """A command.

    Attributes:
        module: in `knowcap.cli`, its `add` makes the command's parser.
        text: for the help.
    """

    module: str
    text: str


COMMANDS = {
    "run": Command("run", "every stage, from a recipe to a measured, quantized and documented model"),
    "data": Command("run", "only the data set of a recipe"),
    "train": Command("run", "only the trained model of a recipe"),
    "measure": Command("measure", "measure the bits per parameter of a run's models, or of any model"),
    "entities": Command("entities", "list the best and least remembered entities of a measured model"),
    "quantize": Command("quantize", "make quantized copies of a run's model"),
    "extract": Command("extract", "tune a run's model on questions about some people, and ask it about others"),
    "report": Command("report", "write cards and plots of runs, and one table of them all"),
    "export": Command("export", "write a data set as a task of lm-evaluation-harness"),
    "push": Command("push", "publish a run's model, quantized copies and data set, or the metric, on the Hub"),
    "sweep": Command("sweep", "run all cells of a sweep file, with one table and one page of results"),
    "findings": Command("findings", "the paper's findings and ours in one table, each with a verdict"),
    "fit": Command("fit", "fit a scaling law to a table of runs"),
    "plan": Command("plan", "plan the size of a model, its data and its training, by fitted laws or the papers'"),
    "ls": Command("ls", "list the packaged recipes, models or sweeps"),
}
