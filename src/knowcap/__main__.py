"""`python -m knowcap`, the same as the command `knowcap`."""

import sys

from knowcap.cli import main


if __name__ == "__main__":
    sys.exit(main())
