"""Every example runs as it stands, and ends with a thinner model that still knows its task."""

from __future__ import annotations

import importlib.util
import os
import re
import runpy
import subprocess
import sys
from pathlib import Path

import pytest

HERE = Path(__file__).parent
ROOT = HERE.parents[1]
EXAMPLES = ROOT / "examples"
NEEDS = {
    "lightning_example": "lightning", "trainer_example": "accelerate", "accelerate_example": "accelerate",
}  # fmt: skip
TOGETHER = {"two_processes", "accelerate_example"}
"""Examples of several processes."""
HELPERS = {"bars"}


def run(*command: str) -> str:
    """Run Python as a user does; return what it prints."""
    env = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [sys.executable, *command],
        cwd=ROOT,
        env=env,
        capture_output=True,
        text=True,
        timeout=900,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def check(printed: str) -> None:
    assert re.search(r"Thinned: parameters [\d,]+ -> [\d,]+", printed), printed
    final = re.search(r"^thinned: accuracy ([\d.]+)%$", printed, re.MULTILINE)
    assert final is not None, printed
    assert float(final[1]) > 85  # chance is 25


@pytest.mark.parametrize("name", sorted(p.stem for p in EXAMPLES.glob("*.py") if p.stem not in HELPERS))
def test_it_runs_and_keeps_its_accuracy(
    name: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    if name in NEEDS and importlib.util.find_spec(NEEDS[name]) is None:
        pytest.skip(f"{NEEDS[name]} is not installed")
    script = str(EXAMPLES / f"{name}.py")
    if name in TOGETHER:
        printed = run("-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", script)
        assert "all ranks have the same weights: True" in printed
    elif name in NEEDS:
        printed = run(str(HERE / "program.py"), script)
    else:  # in this process, which has imported torch already
        monkeypatch.syspath_prepend(str(EXAMPLES))
        monkeypatch.setattr(sys, "argv", [script])
        runpy.run_path(script, run_name="__main__")
        printed = capsys.readouterr().out
    check(printed)
