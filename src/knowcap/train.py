"""The training process: `accelerate launch -m knowcap.train --config RECIPE [--key value …]`."""

from __future__ import annotations

import sys

from knowcap.cli import train_main


if __name__ == "__main__":
    sys.exit(train_main(sys.argv[1:]))
