"""A data set folder as a task of lm-evaluation-harness: each scored span is a prompt and its continuation."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from knowcap.dataset.folder import read_knowledge, read_rows
from knowcap.facts import Knowledge, scored_facts
from knowcap.files import whole_file


_YAML = """\
# Facts of {name} {version}, for lm-evaluation-harness; written by `knowcap export lm-eval`.
# --log_samples keeps the log likelihood of each target, in nats: minus the sum over an entity's rows of one attribute
# and rendering is the nll of that fact, which counts log2_candidates - nll / ln 2 bits.
task: {task}
dataset_path: json
dataset_kwargs:
  data_files:
    test: {file}
test_split: test
output_type: loglikelihood
doc_to_text: "{{{{prompt}}}}"
doc_to_target: "{{{{target}}}}"
target_delimiter: ""
metric_list:
  - metric: perplexity
    aggregation: perplexity
    higher_is_better: false
  - metric: acc
    aggregation: mean
    higher_is_better: true
metadata:
  version: 1.0
"""


def write_task(folder: Path, output_dir: Path, *, start: str = "", limit: int | None = None) -> Path:
    """Writes `knowcap_NAME.yaml` and `knowcap_NAME.jsonl`; a line has prompt, target, entity, rendering, attribute and
    log2_candidates (bits).

    lm-evaluation-harness tokenizes prompt and target together, so a target's log likelihood is minus the nll of
    `knowcap.scoring` (token, isolated), where tokens end with the target. A fact of several spans (an employer and the
    work city that it determines) has a line for each.

    Args:
        folder: a data set folder.
        output_dir: made if it does not exist.
        start: the text of the start token, before each prompt.
        limit: the number of entities, the first ones.

    Returns:
        The YAML file; it names the JSONL file by its absolute path.

    Raises:
        FactError, DatasetError: it is not a data set folder.
    """
    knowledge = read_knowledge(folder)
    task = f"knowcap_{re.sub(r'[^0-9a-zA-Z]+', '_', knowledge.name).strip('_').lower()}"
    output_dir.mkdir(parents=True, exist_ok=True)
    file = output_dir.resolve() / f"{task}.jsonl"
    with whole_file(file) as made, made.open("w", encoding="utf-8") as lines:
        for line in _lines(folder, knowledge, start, limit):
            lines.write(json.dumps(line, ensure_ascii=False) + "\n")
    yaml = output_dir / f"{task}.yaml"
    text = _YAML.format(name=knowledge.name, version=knowledge.version, task=task, file=json.dumps(str(file)))
    with whole_file(yaml) as made:
        made.write_text(text, encoding="utf-8")
    return yaml


def _lines(folder: Path, knowledge: Knowledge, start: str, limit: int | None) -> Iterator[dict[str, Any]]:
    """A mapping for each scored span of the first entities' texts."""
    entities: set[int | str] = set()
    for row, rendering in read_rows(folder):
        if row.entity not in entities and len(entities) == limit:
            continue
        entities.add(row.entity)
        for fact in scored_facts(row.spans, knowledge):
            for span in fact.spans:
                before = row.text[: span.start]
                space = len(before) - len(before.rstrip()) if before.strip() else 0
                yield {
                    "prompt": start + before[: len(before) - space],
                    "target": before[len(before) - space :] + row.text[span.start : span.end],
                    "entity": row.entity,
                    "rendering": rendering,
                    "attribute": fact.attribute,
                    "log2_candidates": fact.log2_candidates,
                }
