"""torchthin prune --training-to: a checkpoint for ADI's train.py, only when asked for."""

import sys
from collections import namedtuple
from pathlib import Path
from types import ModuleType

import pytest
import torch
from workplace import Workplace

import torchthin
from torchthin.io.checkpoints import read_checkpoint
from torchthin.io.factory import build_model

Recipe = namedtuple("Recipe", ["modules", "parameters"])
MODEL = ("--model-factory", "net.py:net", "--checkpoint", "good.pth", "--input-shape", "1,3,8,8")


@pytest.fixture(autouse=True)
def good(place: Workplace) -> None:
    """``good.pth``: ``best.pth`` with variances that are none below 0."""
    content = torch.load("best.pth", weights_only=True)
    content["state_dict"]["bn.running_var"].abs_().add_(0.1)
    torch.save(content, "good.pth")


def test_it_writes_the_thin_model_and_says_what_the_file_holds(place: Workplace) -> None:
    outcome = place.run(*MODEL, "--thin", "--training-to", "small.pth.tar", "--save-to", "small.pth")
    assert (outcome.code, outcome.err) == (0, "")
    assert "It holds Distiller's class ThinningRecipe" in outcome.out
    read = read_checkpoint("small.pth.tar")
    assert (read.epoch, read.arch) == (7, "tiny")
    thin = torchthin.load(build_model("net.py:net"), "small.pth")
    assert all(torch.equal(read.state_dict[name], value) for name, value in thin.state_dict().items())


def test_a_thinned_source_is_thinned_again_from_the_full_size(
    place: Workplace, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert place.run(*MODEL, "--thin", "--target-sparsity", "0.25", "--save-to", "first.pth").code == 0
    again = (*MODEL[:3], "first.pth", *MODEL[4:], "--thin", "--training-to", "second.pth.tar")
    assert place.run(*again, "--target-sparsity", "0.5").code == 0
    thinning = ModuleType("distiller.thinning")
    monkeypatch.setattr(thinning, "ThinningRecipe", Recipe, raising=False)
    monkeypatch.setitem(sys.modules, "distiller", ModuleType("distiller"))
    monkeypatch.setitem(sys.modules, "distiller.thinning", thinning)
    held = torch.load("second.pth.tar", weights_only=False)
    ((modules, parameters),) = held["thinning_recipes"]
    (_, kept) = parameters["conv1.weight"][0]
    assert modules["conv1"]["out_channels"] == len(kept) == 3  # of 8: 2 went, then half of 6
    first = read_checkpoint("first.pth").torchthin or {}
    assert set(kept.tolist()) < set(first["recipe"]["keep"]["conv1.weight"]["0"])


def test_without_thin_only_masks(place: Workplace) -> None:
    outcome = place.run(*MODEL, "--training-to", "masked.pth.tar")
    assert outcome.code == 0 and "masks, and no foreign class" in outcome.out
    assert "thinning_recipes" not in torch.load("masked.pth.tar", weights_only=True)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--training-to", "good.pth"), "must not be the checkpoint itself"),
        (("--training-to", "x.pth", "--save-to", "x.pth"), "must differ"),
        (("--training-to", "x.safetensors"), "must be a torch checkpoint"),
    ],
)
def test_bad_places(place: Workplace, arguments: tuple[str, ...], message: str) -> None:
    place.assert_refused(message, *MODEL, "--thin", *arguments)


def test_without_an_arch_nothing_is_written(place: Workplace) -> None:
    place.assert_refused(
        "--arch NAME", *MODEL[:2], *MODEL[4:], "--thin", "--training-to", "x.pth", "--save-to", "y.pth"
    )


def test_what_distiller_cannot_say_is_refused_before_anything_is_written(place: Workplace) -> None:
    Path("bare.py").write_text(
        "from torch import nn\n"
        "def bare(): return nn.Sequential(nn.Conv2d(3, 8, 1), nn.ReLU(), nn.Conv2d(8, 4, 1, bias=False))\n"
    )
    place.assert_refused(
        "cannot add a parameter, and 2.bias",
        *("--model-factory", "bare.py:bare", "--input-shape", "1,3,8,8", "--thin", "--arch", "bare"),
        *("--training-to", "x.pth", "--save-to", "y.pth", "--add-biases"),
    )


def test_what_was_written_for_train_py_is_thinned_again(place: Workplace) -> None:
    assert place.run(*MODEL, "--thin", "--target-sparsity", "0.25", "--training-to", "t.pth.tar").code == 0
    again = (*MODEL[:3], "t.pth.tar", *MODEL[4:], "--thin", "--save-to", "small.pth")
    outcome = place.run(*again)
    assert (outcome.code, outcome.err) == (0, "")
    thin = torchthin.load(build_model("net.py:net"), "small.pth")  # the recipe counts from the full size
    assert thin.get_parameter("conv1.weight").shape[0] == 3
