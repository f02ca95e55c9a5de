"""A table of prompts, answers and candidates as a data set: the prompt names the entity, the answer is its value.

    prompt,answer,candidates
    The capital of France is,Paris,195

- `candidates`: the number of equally likely answers, a list of them (`a|b|c`, a JSON list, in Parquet a list), or
  `frequency`: how common each answer is in the table.
- `attribute` (optional): what is asked for, such as a relation.
- `entity` (optional): what it is asked about. Several prompts for one attribute of one entity are renderings of one
  fact, and their nll is averaged.

`reading` finds these columns in files and Hub data sets, `facts` checks the rows, `priors` determines what each
attribute's answers were drawn from, `subjects` whether prompts without an entity are about different ones, `write`
makes the folder.
"""

from knowcap.dataset.prompts.reading import PromptOptions, read_prompts
from knowcap.dataset.prompts.write import write_prompts


__all__ = ["PromptOptions", "read_prompts", "write_prompts"]
