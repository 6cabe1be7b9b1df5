"""Law: with a criterion of gradients every growth chooses what `prune` would choose for the model as it is then."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from training import IMAGES, Net, batch, train_step

from torchthin import InputError, Pruner, Schedule, prune

DATA = torch.randn(24, 3, 8, 8, generator=torch.Generator().manual_seed(3))


def losses(model: nn.Module) -> Iterator[Tensor]:
    for number in range(4):
        images, labels = batch(number)
        yield nn.functional.cross_entropy(model(images), labels)


def made(net: nn.Module, **given: Any) -> tuple[Pruner, torch.optim.Optimizer]:
    optimizer = torch.optim.SGD(net.parameters(), 0.05, momentum=0.9)
    schedule = Schedule("linear", steps=3)
    made = Pruner(net, IMAGES[:2], 0.5, criterion="taylor", schedule=schedule, optimizer=optimizer, **given)
    return made, optimizer


@pytest.mark.parametrize("given", [{"data": DATA}, {"loss": losses}], ids=["data", "loss"])
def test_every_growth_looks_at_the_model_as_it_is(given: dict[str, Any]) -> None:
    net = Net()
    pruner, optimizer = made(net, **given)
    first: dict[str, Tensor] = {}
    for step in range(3):
        before = copy.deepcopy(net)
        asked = pruner.step()
        wanted = prune(before, IMAGES[:2], asked, criterion="taylor", **given).masks
        assert {name: mask.tolist() for name, mask in pruner.masks.items()} == {
            name: mask.tolist() for name, mask in wanted.items()
        }
        first = first or pruner.masks
        for number in range(3):
            train_step(net, optimizer, 10 * step + number)
    by_weights = prune(Net(), IMAGES[:2], 0.5, thin=False).masks
    assert any(not torch.equal(by_weights[name], mask) for name, mask in pruner.masks.items())
    assert all(bool((mask <= first[name]).all()) for name, mask in pruner.masks.items())


def test_the_training_is_left_as_it_was() -> None:
    net = Net()
    pruner, optimizer = made(net, data=DATA)
    train_step(net, optimizer, 0)
    gradients = [p.grad.clone() for p in net.parameters() if p.grad is not None]
    statistics = net.bn.running_mean.clone()
    state = torch.get_rng_state()
    pruner.step()
    assert net.training
    assert torch.equal(torch.get_rng_state(), state)
    assert torch.equal(net.bn.running_mean, statistics)
    assert all(
        torch.equal(a, p.grad)
        for a, p in zip(gradients, (p for p in net.parameters() if p.grad is not None), strict=True)
    )


def test_it_goes_on_after_thinning_and_from_a_saved_state() -> None:
    net = Net()
    pruner, optimizer = made(net, data=DATA)
    pruner.step()
    train_step(net, optimizer, 0)
    pruner.step()
    saved = pruner.state_dict(), {k: v.clone() for k, v in net.state_dict().items()}
    pruner.thin_()
    pruner.step()
    other = Net(1)
    again, _ = made(other, data=DATA)
    again.load_state_dict(saved[0])
    other.load_state_dict(saved[1])
    again.step()
    again.thin_()
    assert (again.sparsity, pruner.sparsity) == (0.5, 0.5)
    pruner.thin_()
    assert [p.shape for p in other.parameters()] == [p.shape for p in net.parameters()]
    masks = again.result().masks
    assert all(torch.equal(masks[name], mask) for name, mask in pruner.result().masks.items())


@pytest.mark.parametrize(
    ("criterion", "given", "message"),
    [
        ("taylor", {}, "criterion 'taylor' needs data"),
        ("taylor", {"data": torch.full((4, 3, 8, 8), torch.nan)}, "NaN"),
        ("taylor", {"data": torch.zeros(4, 5, 8, 8)}, "5"),
        (
            "activation",
            {"data": DATA},
            "criterion 'activation' of Pruner must be one of weights or gradients",
        ),
    ],
)
def test_what_cannot_be_used_is_refused_at_once(criterion: str, given: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message) as error:
        Pruner(Net(), IMAGES[:2], criterion=criterion, **given)
    assert "\n" not in str(error.value)
