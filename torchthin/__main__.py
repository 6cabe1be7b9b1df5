"""``python -m torchthin``: the command line, for interpreters and launchers that start modules."""

import sys

from torchthin.cli.main import main

if __name__ == "__main__":
    sys.exit(main())
