"""bioR: biographies written by a language model, each kept only if every fact is found in it (Part 3.3, 2.2)."""

from knowcap.rewrite.locate import Locator
from knowcap.rewrite.stage import rewrite
from knowcap.rewrite.task import MissingTexts, RewriteError, Task
from knowcap.rewrite.writers import Reply, Request, Writer, WriterError


__all__ = ["Locator", "MissingTexts", "Reply", "Request", "RewriteError", "Task", "Writer", "WriterError", "rewrite"]
