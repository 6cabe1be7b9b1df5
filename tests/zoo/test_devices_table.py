"""`benchmarks/devices.py`: rows of what works on a device, and of what does not."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import nn


def test_the_quickest_part_runs(device: str, tmp_path: Path) -> None:
    import devices

    page = tmp_path / "devices.md"
    rows = devices.main(["--device", device, "--parts", "training", "--markdown", str(page)])
    assert [row[0] for row in rows] == ["recover, small CNN", "Pruner under autocast, small CNN"]
    for row in rows:
        cells = dict(zip(devices.COLUMNS, row, strict=True))
        assert (cells["result"], cells["verdict"]) == ("ok", "exact")
        assert float(cells["seconds"]) > 0 and float(cells["peak GiB"]) > 0
        assert int(cells["left"].replace(",", "")) < int(cells["parameters"].replace(",", ""))
    assert ("No GPU was at hand" in page.read_text()) != torch.cuda.is_available()


def test_what_fails_is_a_row_that_names_its_stage(device: str) -> None:
    import devices

    def refuses(model: nn.Module, inputs: object) -> devices.Thinned:
        raise RuntimeError("no kernel | here")

    job = devices.Job("small", devices.convolutions, work=refuses)
    assert devices.row(job, torch.device(device), 60)[2] == "prune: RuntimeError: no kernel / here"


def test_after_the_limit_the_rest_are_rows_too(device: str) -> None:
    import devices

    rows = devices.main(["--device", device, "--limit", "0", "--parts", "training", "zoo"])
    assert len(rows) == 2 + len(devices.ZOO)
    assert all("OutOfTime" in row[2] for row in rows)


def test_a_part_that_is_not_there_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    import devices

    with pytest.raises(SystemExit):
        devices.main(["--parts", "nothing"])
    assert "invalid choice" in capsys.readouterr().err
