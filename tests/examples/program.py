"""Runs a script as its own main program, with torchvision's operators in Python where its library does not load.

python program.py SCRIPT [ARGUMENTS]: lightning and transformers import torchvision where it is installed.
"""

import runpy
import sys
import warnings
from pathlib import Path

ROOT = Path(__file__).parents[2]

if __name__ == "__main__":
    sys.argv.pop(0)
    sys.path[:0] = [str(ROOT / "examples"), str(ROOT / "benchmarks")]
    warnings.filterwarnings("ignore")
    from zoo import vision_ops

    vision_ops.define()
    runpy.run_path(sys.argv[0], run_name="__main__")
