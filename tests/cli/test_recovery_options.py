"""``prune --thin --data``: the thinned model is recovered; what cannot be is refused before anything runs."""

import json
from collections.abc import Callable

import numpy as np
import pytest
import torch
from processes import as_program, ranks
from workplace import SCRIPT, Workplace

from torchthin import load
from torchthin.io.factory import build_model

MODEL = ("--model-factory", "net.py:net", "--input-shape", "1,3,12,12")
THIN = (*MODEL, "--thin", "--save-to", "small.pth")


@pytest.fixture
def data(place: Workplace) -> Workplace:
    np.save(place.path / "x.npy", np.random.default_rng(0).normal(size=(64, 3, 12, 12)).astype(np.float32))
    return place


def test_a_thinned_model_is_recovered_and_reloads(data: Workplace) -> None:
    outcome = data.run(*THIN, "--data", "x.npy", "--recover-epochs", "2", "--json")
    assert outcome.code == 0, outcome.err
    recovery = json.loads(outcome.out)["recovery"]
    assert recovery["after"] < recovery["before"]
    assert [stage["name"] for stage in recovery["stages"]][-1] == "distillation"
    content = torch.load(data.path / "small.pth", weights_only=True)
    assert content["torchthin"]["report"]["recovery"] == recovery
    again = load(build_model("net.py:net"), data.path / "small.pth")
    assert all(torch.equal(value, content["state_dict"][name]) for name, value in again.state_dict().items())
    assert not (data.path / "small.pth.recovery").exists()


def test_several_processes_share_the_training_and_one_speaks(data: Workplace) -> None:
    flags = (*THIN, "--data", "x.npy", "--recover-epochs", "20", "--json")
    first, second = ranks(2, as_program, SCRIPT, *flags, folder=data.path)
    assert (first.code, second.code, second.out) == (0, 0, ""), (first, second)
    recovery = json.loads(first.out)["recovery"]
    assert [stage["taken"] for stage in recovery["stages"] if stage["name"] == "distillation"] == [True]
    assert sorted(path.name for path in data.path.glob("*.pth*")) == ["best.pth", "small.pth"]
    content = torch.load(data.path / "small.pth", weights_only=True)
    assert content["torchthin"]["report"]["recovery"] == recovery
    load(build_model("net.py:net"), data.path / "small.pth")


def test_without_recovery_the_weights_are_what_thinning_left(data: Workplace) -> None:
    states = []
    for flags in ((), ("--data", "x.npy", "--no-recover")):
        assert data.run(*THIN, "--criterion", "l1", *flags).code == 0
        states.append(torch.load(data.path / "small.pth", weights_only=True)["state_dict"])
    assert all(torch.equal(value, states[1][name]) for name, value in states[0].items())


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (("--data", "nowhere.npy"), "do not exist"),
        (("--data", "x.npy", "--data-limit", "0"), "at least 1"),
        (("--data", "x.npy", "--data-std", "0"), "std above 0. Got mean (0.0,) and std (0.0,)"),
        (("--recover-epochs", "3"), "needs --thin and --data"),
        (("--data", "x.npy", "--no-recover", "--recover-epochs", "3"), "needs --thin and --data"),
        (("--data", "x.npy", "--recover-epochs", "-3"), "at least 0"),
        (("--data", "x.npy", "--recover-outputs", "boxes"), "'values' or 'logits'"),
        (("--data", "nan.npy"), "NaN"),
        (("--data", "small.npy"), "shape"),
    ],
)
def test_what_cannot_be_is_refused_before_anything_is_written(
    data: Workplace, flags: tuple[str, ...], words: str
) -> None:
    np.save(data.path / "nan.npy", np.full((4, 3, 12, 12), np.nan, np.float32))
    np.save(data.path / "small.npy", np.zeros((4, 3, 8, 8), np.float32))
    outcome = data.run(*THIN, *flags)
    assert outcome.code == 2
    assert words in outcome.err
    assert len(outcome.err.strip().splitlines()) == 1
    assert not (data.path / "small.pth").exists()


def test_a_picture_folder_is_data_too(data: Workplace, picture: Callable[[str], None]) -> None:
    for number in range(3):
        picture(f"photos/{number}.png")
    outcome = data.run(*THIN, "--data", "photos", "--data-mean", "0.5", "--data-std", "0.2", "0.2", "0.3")
    assert outcome.code == 0, outcome.err
    assert "Recovered from 3 inputs without labels" in outcome.out


@pytest.fixture
def picture(place: Workplace) -> Callable[[str], None]:
    def draw(name: str) -> None:
        from PIL import Image

        path = place.path / name
        path.parent.mkdir(exist_ok=True)
        pixels = np.random.default_rng(len(name)).integers(0, 255, (20, 16, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(path)

    return draw
