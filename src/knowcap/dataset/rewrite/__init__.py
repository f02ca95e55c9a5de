"""bioR: biographies written by a language model, each kept only if every fact is found in it (Part 3.3, 2.2)."""

from knowcap.dataset.rewrite.locate import Locator
from knowcap.dataset.rewrite.stage import rewrite
from knowcap.dataset.rewrite.task import MissingTexts, Task
from knowcap.dataset.rewrite.writers import Reply, Request, Writer


__all__ = ["Locator", "MissingTexts", "Reply", "Request", "Task", "Writer", "rewrite"]
