"""Every example runs as it stands, and ends with a thinner model that still knows its task."""

from __future__ import annotations

import importlib.util
import re
import runpy
import sys
from pathlib import Path

import pytest
from processes import Running, as_foreign_program, ranks

ROOT = Path(__file__).parents[2]
EXAMPLES = ROOT / "examples"
NEEDS = {
    "lightning_example": "lightning", "trainer_example": "accelerate", "accelerate_example": "accelerate",
}  # fmt: skip
TOGETHER = {"two_processes", "accelerate_example"}
"""Examples of several processes, which find in their environment what torchrun puts there."""
HELPERS = {"bars"}


def forked(script: Path, count: int, folder: Path) -> str:
    """Run as many processes that share the imports of torch; return what the first prints."""
    outcomes = (
        ranks(count, as_foreign_program, script, folder=folder)
        if count > 1
        else [Running(as_foreign_program, script, folder=folder).outcome()]
    )
    assert [outcome.code for outcome in outcomes] == [0] * count, outcomes
    return outcomes[0].out


def check(printed: str) -> None:
    assert re.search(r"Thinned: parameters [\d,]+ -> [\d,]+", printed), printed
    final = re.search(r"^thinned: accuracy ([\d.]+)%$", printed, re.MULTILINE)
    assert final is not None, printed
    assert float(final[1]) > 85  # chance is 25


@pytest.mark.parametrize("name", sorted(p.stem for p in EXAMPLES.glob("*.py") if p.stem not in HELPERS))
def test_it_runs_and_keeps_its_accuracy(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    if name in NEEDS and importlib.util.find_spec(NEEDS[name]) is None:
        pytest.skip(f"{NEEDS[name]} is not installed")
    script = EXAMPLES / f"{name}.py"
    if name in TOGETHER:
        printed = forked(script, 2, tmp_path)
        assert "all ranks have the same weights: True" in printed
    elif name in NEEDS:
        printed = forked(script, 1, tmp_path)
        assert "loaded: True" in printed
    else:  # in this process, which has imported torch already
        monkeypatch.syspath_prepend(str(EXAMPLES))
        monkeypatch.setattr(sys, "argv", [str(script)])
        runpy.run_path(str(script), run_name="__main__")
        printed = capsys.readouterr().out
    check(printed)
