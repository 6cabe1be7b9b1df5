"""Prune a model; the same program as ``torchthin prune``."""

import sys

from torchthin.cli.prune import main

if __name__ == "__main__":
    sys.exit(main())
