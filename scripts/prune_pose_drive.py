"""Prune the pose student, from Google Drive when it is mounted, and score it before and after."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # pose_demo stands beside the package

from pose_demo.cli import main

if __name__ == "__main__":
    sys.exit(main())
