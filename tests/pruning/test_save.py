"""save: a model that was thinned, once or often, as a whole or in parts, loads into a full-size instance of its class."""

import copy
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from nets.small import image, lively
from torch import nn

import torchthin
from torchthin.errors import InputError
from torchthin.thinning.history import recipe_of


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(3, 16, 3, bias=False), nn.BatchNorm2d(16), nn.ReLU())
        self.body = nn.Sequential(
            nn.Conv2d(16, 32, 1), nn.ReLU(), nn.Conv2d(32, 16, 1, bias=False), nn.ReLU()
        )
        self.head = nn.Conv2d(16, 4, 1, bias=False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        out: torch.Tensor = self.head(self.body(self.stem(x)))
        return out


def net() -> Any:
    return lively(Net()).eval()


def cut(model: nn.Module, share: float, *include: str) -> Any:
    return torchthin.prune(model, image(), share, include=include).model


def twice() -> Any:
    """Another ratio for each layer."""
    return cut(cut(net(), 0.25, "stem.0.weight"), 0.75, "body.0.weight")


def same_layer_twice() -> Any:
    return cut(cut(net(), 0.25, "body.0.weight", "body.2.weight"), 0.5, "body.*")


def in_place() -> Any:
    """thin_, training in between, thin_ again."""
    model = net()
    for _ in range(2):
        masks = torchthin.prune(model, image(), 0.3, thin=False).masks
        torchthin.thin_(model, image(), masks=masks)
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.add_(0.01)
    return model


def part_first() -> Any:
    model = net()
    model.body = torchthin.prune(model.body, torch.randn(1, 16, 6, 6), 0.5).model
    return cut(model, 0.25, "stem.0.weight", "body.0.weight")


def part_last() -> Any:
    model = cut(net(), 0.25, "stem.0.weight")
    model.body = torchthin.prune(model.body, torch.randn(1, 12, 6, 6), 0.5).model
    return model


def copied() -> Any:
    model = copy.deepcopy(cut(net(), 0.25, "stem.0.weight"))
    return cut(pickle.loads(pickle.dumps(model)), 0.5, "body.*")


def trained_gradually() -> Any:
    model = cut(net(), 0.25, "stem.0.weight")
    pruner = torchthin.Pruner(model, image(), 0.5, schedule=torchthin.Schedule(steps=1))
    pruner.step()
    pruner.thin_()
    return model


def recovered() -> Any:
    dense = cut(net(), 0.25, "stem.0.weight")
    result = torchthin.prune(dense, image(), 0.5)
    return torchthin.recover(dense, result, image(), torch.randn(8, 3, 8, 8)).model


WAYS: list[Callable[[], Any]] = [
    net, twice, same_layer_twice, in_place, part_first, part_last, copied, trained_gradually, recovered,
]  # fmt: skip


@pytest.mark.parametrize("ending", ["pth", "safetensors"])
@pytest.mark.parametrize("make", WAYS)
def test_it_loads_into_the_class(tmp_path: Path, make: Callable[[], Any], ending: str) -> None:
    model = make()
    torchthin.save(model, tmp_path / f"p.{ending}")
    loaded = torchthin.load(net(), tmp_path / f"p.{ending}")
    assert torch.equal(loaded(image()), model(image()))
    assert [p.shape for p in loaded.parameters()] == [p.shape for p in model.parameters()]
    assert make is net or sum(p.numel() for p in loaded.parameters()) < sum(
        p.numel() for p in net().parameters()
    )
    again = cut(loaded, 0.2, "body.2.weight")
    torchthin.save(again, tmp_path / f"q.{ending}")
    assert torch.equal(torchthin.load(net(), tmp_path / f"q.{ending}")(image()), again(image()))


@pytest.mark.parametrize("thin", [True, False])
def test_results_of_later_cuts_load_into_the_class(tmp_path: Path, thin: bool) -> None:
    first = cut(net(), 0.25, "stem.0.weight")
    second = torchthin.prune(first, image(), 0.5, include=["body.0.weight"], thin=thin)
    second.save(tmp_path / "p.pth")
    loaded = torchthin.load(net(), tmp_path / "p.pth")
    assert torch.equal(loaded(image()), second.model(image()))
    assert loaded.stem[0].out_channels == 12


def test_a_file_loads_into_the_first_cut_too_when_that_is_the_class(tmp_path: Path) -> None:
    model = cut(net(), 0.5, "stem.0.weight")
    torchthin.save(model, tmp_path / "p.pth")
    thin_class = cut(net(), 0.5, "stem.0.weight")
    assert torch.equal(torchthin.load(thin_class, tmp_path / "p.pth")(image()), model(image()))


def test_what_failed_is_not_remembered() -> None:
    model = net()
    masks = torchthin.prune(model, image(), 0.3, thin=False).masks
    stranger = torch.optim.SGD(nn.Linear(2, 2).parameters(), 0.1)
    stranger.state[model.head.weight] = {"momentum_buffer": torch.zeros(3)}
    before = vars(model).keys()
    with pytest.raises(InputError):
        torchthin.thin_(model, image(), masks=masks, optimizer=stranger)
    assert recipe_of(model) is None and vars(model).keys() == before


def test_the_model_needs_nothing_of_the_package() -> None:
    """What is remembered is text, so a pickled model opens where only torch is installed."""
    added = {name: value for name, value in vars(twice()).items() if name not in vars(net())}
    assert [type(value) for value in added.values()] == [str]
