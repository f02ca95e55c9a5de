"""accelerate's launcher, which reports processes that failed in one line and ends with their exit status.

python -m knowcap.run.agent --config_file recipes/accelerate/cpu_2.yaml -m knowcap.train --config RECIPE
"""

from __future__ import annotations

import logging
import signal
import sys
from collections.abc import Mapping


FAILED = 1


def main() -> int:
    """Starts processes, and ends the others as soon as one of them ends with an error; returns the exit status."""
    from accelerate.commands.launch import main as launch
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError

    logging.getLogger("torch.distributed.elastic").setLevel(logging.CRITICAL)  # what it logs is said below
    try:
        launch()
    except ChildFailedError as error:
        status, line = described({rank: failure.exitcode for rank, failure in error.failures.items()})
        if line:
            sys.stderr.write(f"knowcap: {line}\n")
        return status
    return 0


def described(exit_codes: Mapping[int, int]) -> tuple[int, str]:
    """The exit status and the message of processes that failed.

    Args:
        exit_codes: by the number of the process; negative: the signal that ended it.

    Returns:
        the least status, as others may have failed because of the first; 1 if one was ended by a signal. The message
        is empty where the process has given its own.
    """
    for rank, code in sorted(exit_codes.items()):
        if code < 0 and -code != signal.SIGTERM:  # with which the others are ended
            name = signal.Signals(-code).name if -code in set(signal.Signals) else "unknown"
            why = "; most often memory has run out" if -code == signal.SIGKILL else ""
            return FAILED, f"process {rank} was ended by signal {-code} ({name}){why}"
    own = [code for code in exit_codes.values() if code > FAILED]
    return (min(own) if own else FAILED), ""


if __name__ == "__main__":
    sys.exit(main())
