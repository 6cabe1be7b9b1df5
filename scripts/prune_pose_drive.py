"""Prune the pose student, from Google Drive when it is mounted, and score it before and after."""

import sys

from torchthin.cli.pose_drive import main

if __name__ == "__main__":
    sys.exit(main())
