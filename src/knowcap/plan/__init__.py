"""The planner: how large a model, how much data, how long a training, by laws that are fitted here or quoted.

`size`, `holds`, `train` and `compute` each answer one question with an `Answer`: numbers, how they come about, which
law says so, and where it does not reach. `knowcap plan` prints them; the page (`page.py`) shows the same ones. Nothing
here imports torch.
"""

from knowcap.plan.answer import Answer, PlanError, Step
from knowcap.plan.compute import compute
from knowcap.plan.fitted import read_laws
from knowcap.plan.size import holds, size
from knowcap.plan.train import train


__all__ = ["Answer", "PlanError", "Step", "compute", "holds", "read_laws", "size", "train"]
