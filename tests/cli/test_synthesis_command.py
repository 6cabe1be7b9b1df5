"""torchthin synthesis: the files of ``prune --synthesis-to`` for a model as it is."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from workplace import Workplace

from torchthin.cli.main import main

MODEL = ("net.py:net", "--checkpoint", "best.pth", "--input-shape", "1,3,16,16")
NAMES = ["tiny.yaml", "tiny_sample.npy", "tiny_synthesis.pth.tar"]


@pytest.fixture
def trained(place: Workplace) -> Workplace:
    """A checkpoint whose BatchNorm can be folded."""
    content = torch.load("best.pth", weights_only=True)
    content["state_dict"]["bn.running_var"].abs_()
    torch.save(content, "best.pth")
    return place


def test_the_files_are_those_that_prune_writes(trained: Workplace) -> None:
    outcome = trained.run("synthesis", *MODEL, "--save-to", "chip", "--json", main=main)
    assert outcome.code == 0, outcome.err
    facts = json.loads(outcome.out)
    assert (facts["chip"], facts["arch"], facts["cost"]["fits"]) == ("MAX78000", "tiny", True)
    assert sorted(path.name for path in Path("chip").iterdir()) == NAMES
    same = ("prune", *MODEL, "--target-sparsity", "0", "--synthesis-to", "again")
    assert trained.run(*same, main=main).code == 0
    first, second = (torch.load(f"{d}/tiny_synthesis.pth.tar", weights_only=True) for d in ("chip", "again"))
    assert list(first["state_dict"]) == list(second["state_dict"])
    assert all(torch.equal(value, second["state_dict"][name]) for name, value in first["state_dict"].items())
    assert first["epoch"] == second["epoch"] == 7
    assert Path("chip/tiny.yaml").read_text() == Path("again/tiny.yaml").read_text()


def test_a_thinned_checkpoint_and_a_sample_of_the_data(trained: Workplace) -> None:
    cut = ("prune", *MODEL, "--target-sparsity", "0.5", "--thin", "--save-to", "thin.pth")
    assert trained.run(*cut, main=main).code == 0
    np.save("data.npy", np.full((3, 3, 16, 16), 0.25, np.float32))
    asked = ("--chip", "max78002", "--name", "small", "--data", "data.npy", "--save-to", "chip")
    thin = ("net.py:net", "--checkpoint", "thin.pth", "--input-shape", "1,3,16,16")
    outcome = trained.run("synthesis", *thin, *asked, main=main)
    assert outcome.code == 0, outcome.err
    assert "For ai8x-synthesis (MAX78002): chip/small_synthesis.pth.tar" in outcome.out
    assert set(np.load("chip/small_sample.npy").flatten()) == {32}
    written = torch.load("chip/small_synthesis.pth.tar", weights_only=True)["state_dict"]
    assert written["conv1.op.weight"].shape == (4, 3, 3, 3)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (MODEL, "A folder to write to is needed. Give --save-to FOLDER."),
        ((*MODEL[:3], "--save-to", "chip"), "The files for synthesis need the input's size"),
        ((*MODEL, "--save-to", "chip", "--chip", "MAX7800"), "The chip must be one of MAX78000, MAX78002"),
        ((*MODEL, "--save-to", "chip", "--synthesis-yaml", "none.yaml"), "none.yaml cannot be read"),
    ],
)
def test_bad_input_is_refused(trained: Workplace, arguments: Any, message: str) -> None:
    trained.assert_refused(
        message, *arguments, run=lambda *given: trained.run("synthesis", *given, main=main)
    )
