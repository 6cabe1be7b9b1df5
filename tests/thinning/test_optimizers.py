"""Optimizer state follows the shrink, and training goes on as the masked model's would."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import pytest
import torch
from nets.small import Biasless, Plain, image, kill_, lively
from snapshot import Snapshot
from torch import Tensor, nn

import torchthin
from torchthin import InputError

DEAD = {"conv1.weight": [0, 3, 5], "conv2.weight": [2]}
OPTIMIZERS: dict[str, Callable[[Any], torch.optim.Optimizer]] = {
    "sgd": lambda p: torch.optim.SGD(p, 0.02),
    "momentum": lambda p: torch.optim.SGD(p, 0.02, momentum=0.9, nesterov=True, weight_decay=0.01),
    "adam": lambda p: torch.optim.Adam(p, 0.01),
    "amsgrad": lambda p: torch.optim.Adam(p, 0.01, amsgrad=True, foreach=True),
    "adamw": lambda p: torch.optim.AdamW(p, 0.01, weight_decay=0.1),
    "rmsprop": lambda p: torch.optim.RMSprop(p, 0.01, momentum=0.9, centered=True),
    "adagrad": lambda p: torch.optim.Adagrad(p, 0.01, initial_accumulator_value=0.1),
    "adadelta": lambda p: torch.optim.Adadelta(p, 1.0),
    "nadam": lambda p: torch.optim.NAdam(p, 0.01),
    "rprop": lambda p: torch.optim.Rprop(p, 0.001),
    "asgd": lambda p: torch.optim.ASGD(p, 0.01),
}


def step(model: nn.Module, optimizer: torch.optim.Optimizer, masks: dict[str, Tensor], number: int) -> float:
    """Train one step on the batch of that number, with the masked weights held at zero; return the loss."""
    target = torch.randn(2, 4, generator=torch.Generator().manual_seed(100 + number), dtype=torch.float64)
    optimizer.zero_grad()
    loss = (model(image(number, torch.float64)) - target).square().mean()
    loss.backward()
    optimizer.step()
    with torch.no_grad():
        for name, mask in masks.items():
            model.get_parameter(name).mul_(mask)
    return float(loss.detach())


def trained(name: str) -> tuple[nn.Module, torch.optim.Optimizer, dict[str, Tensor]]:
    """A model that was trained dense for a while, then masked."""
    model = lively(Biasless()).double()
    optimizer = OPTIMIZERS[name](model.parameters())
    for number in range(3):
        step(model, optimizer, {}, number)
    masks = {}
    for weight, dead in DEAD.items():
        masks[weight] = torch.ones_like(model.get_parameter(weight), dtype=torch.bool)
        masks[weight][dead] = False
    kill_(model, DEAD)
    return model, optimizer, masks


def twin(
    name: str, model: nn.Module, optimizer: torch.optim.Optimizer
) -> tuple[nn.Module, torch.optim.Optimizer]:
    other = copy.deepcopy(model)
    follower = OPTIMIZERS[name](other.parameters())
    follower.load_state_dict(copy.deepcopy(optimizer.state_dict()))
    return other, follower


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_the_thinned_model_trains_as_the_masked_one(name: str) -> None:
    model, optimizer, masks = trained(name)
    masked, masked_optimizer = twin(name, model, optimizer)
    torchthin.thin_(model, image(), masks=masks, add_biases=True, optimizer=optimizer)
    assert model.conv1.out_channels == 5
    expected = [step(masked, masked_optimizer, masks, number) for number in range(3, 9)]
    losses = [step(model, optimizer, {}, number) for number in range(3, 9)]
    assert losses == pytest.approx(expected, rel=1e-9)
    assert len(set(losses)) == len(losses)
    for parameter, state in optimizer.state.items():
        for value in state.values():
            assert not isinstance(value, Tensor) or value.numel() == 1 or value.shape == parameter.shape


def test_state_is_cut_where_the_weight_is() -> None:
    model, optimizer, masks = trained("adam")
    before = {name: optimizer.state[p]["exp_avg_sq"].clone() for name, p in model.named_parameters()}
    steps = {name: optimizer.state[p]["step"].clone() for name, p in model.named_parameters()}
    torchthin.thin_(model, image(), masks=masks, add_biases=True, optimizer=optimizer)
    now = {name: optimizer.state[p] for name, p in model.named_parameters()}
    stay = [1, 2, 4, 6, 7]
    assert torch.equal(now["conv1.weight"]["exp_avg_sq"], before["conv1.weight"][stay])
    expected = before["conv2.weight"][[0, 1, 3, 4, 5]][:, stay]
    assert torch.equal(now["conv2.weight"]["exp_avg_sq"], expected)
    assert all(torch.equal(state["step"], steps[name]) for name, state in now.items())


def test_without_an_optimizer_none_is_touched() -> None:
    model, optimizer, masks = trained("adam")
    torchthin.thin_(model, image(), masks=masks)
    assert optimizer.state[model.conv1.weight]["exp_avg"].shape == (8, 3, 3, 3)


def needs_a_bias() -> nn.Module:
    model = nn.Sequential(
        nn.Conv2d(3, 8, 1), nn.Sigmoid(), nn.Conv2d(8, 4, 3, bias=False), nn.Flatten(), nn.Linear(144, 4)
    )
    return lively(model)


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_a_new_bias_joins_the_group_of_its_layer(name: str) -> None:
    model = needs_a_bias()
    groups = [
        {"params": model[0].parameters(), "lr": 0.001},
        {"params": [*model[2].parameters()], "lr": 0.01},
    ]
    groups.append({"params": model[4].parameters()})
    optimizer = OPTIMIZERS[name](groups)
    model(image()).square().sum().backward()
    optimizer.step()
    kill_(model, {"0.weight": [1, 2]})
    torchthin.thin_(model, image(), add_biases=True, optimizer=optimizer)
    bias = model[2].bias
    assert [any(p is bias for p in group["params"]) for group in optimizer.param_groups] == [
        False,
        True,
        False,
    ]
    before = bias.detach().clone()
    for _ in range(2):
        optimizer.zero_grad()
        model(image()).square().sum().backward()
        optimizer.step()
    assert not torch.equal(bias, before)
    copy.deepcopy(optimizer).load_state_dict(optimizer.state_dict())


def test_a_new_bias_of_a_layer_that_is_not_trained_is_not_trained() -> None:
    model = needs_a_bias()
    model[2].weight.requires_grad_(False)
    optimizer = torch.optim.SGD(model[4].parameters(), 0.1)
    kill_(model, {"0.weight": [1, 2]})
    torchthin.thin_(model, image(), add_biases=True, optimizer=optimizer)
    assert not model[2].bias.requires_grad
    assert [len(group["params"]) for group in optimizer.param_groups] == [2]


def test_a_schedule_goes_on() -> None:
    model, optimizer, masks = trained("momentum")
    schedule = torch.optim.lr_scheduler.StepLR(optimizer, 1, gamma=0.5)
    torchthin.thin_(model, image(), masks=masks, add_biases=True, optimizer=optimizer)
    step(model, optimizer, {}, 3)
    schedule.step()
    assert optimizer.param_groups[0]["lr"] == 0.01


class Factored(torch.optim.SGD):
    """Remembers row means, as factored second moments do."""

    def step(self, closure: Any = None) -> None:
        super().step(closure)
        for group in self.param_groups:
            for parameter in group["params"]:
                self.state[parameter]["rows"] = (
                    parameter.detach().flatten(1).mean(1) if parameter.dim() > 1 else 0
                )


class Listing(torch.optim.SGD):
    """Remembers a list."""

    def step(self, closure: Any = None) -> None:
        super().step(closure)
        for group in self.param_groups:
            for parameter in group["params"]:
                self.state[parameter]["history"] = [parameter.detach().clone()]


def lbfgs(parameters: Any) -> torch.optim.Optimizer:
    optimizer = torch.optim.LBFGS(parameters)
    inner = optimizer.step
    optimizer.step = lambda: inner(lambda: torch.zeros(()))  # type: ignore[method-assign]
    return optimizer


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda p: Factored(p, 0.01), r"state 'rows' of conv1.weight has shape \(8,\)"),
        (lambda p: Listing(p, 0.01), "state 'history' of conv1.weight has type list"),
        (lbfgs, "LBFGS"),
        (lambda p: torch.optim.SGD(Plain().parameters(), 0.1), "trains no parameter of the model"),
    ],
    ids=["factored", "list", "lbfgs", "foreign"],
)
def test_state_that_cannot_be_cut_is_refused(
    make: Callable[[Any], torch.optim.Optimizer], message: str
) -> None:
    model = lively(Biasless())
    optimizer = make(model.parameters())
    model(image()).sum().backward()
    optimizer.step()
    kill_(model, DEAD)
    before = Snapshot(model, optimizer)
    with pytest.raises(InputError, match=message):
        torchthin.thin_(model, image(), add_biases=True, optimizer=optimizer)
    assert before.changes() == []
