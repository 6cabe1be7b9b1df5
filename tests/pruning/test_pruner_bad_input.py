"""What cannot be used is refused in one line, and nothing is changed."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn
from training import IMAGES, Net

from torchthin import Budget, Chip, Distiller, InputError, PruneConfig, Pruner, Schedule, Unstructured


def sgd(model: nn.Module) -> torch.optim.Optimizer:
    return torch.optim.SGD(model.parameters(), 0.1)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"steps": 0}, "steps of Pruner must be a whole number of at least 1. Got 0"),
        ({"steps": -3}, "Got -3"),
        ({"steps": 2.5}, "Got 2.5"),
        ({"steps": True}, "Got True"),
        ({"interval": 0}, "interval of Pruner must be a whole number of at least 1"),
        ({"start": -1}, "start of Pruner must be a whole number of at least 0"),
        ({"schedule": "apg"}, "Did you mean 'agp'"),
        ({"schedule": lambda step: 1.0}, r"in \[0, 1\). Got 1.0 at step 1"),
        ({"schedule": lambda step: -0.1}, "Got -0.1 at step 1"),
        ({"schedule": lambda step: float("nan")}, "Got nan"),
        ({"schedule": lambda step: None}, "Got None"),
        (
            {"schedule": lambda step: 0.5 / step},
            "must not fall: masks only grow. Got 0.25 at step 2 after 0.5",
        ),
        ({"config": {"target_sparsity": 0.5}}, "must be a PruneConfig. Got dict"),
        ({"config": PruneConfig(Distiller("agp-structured"))}, "compat of Pruner must be None"),
        ({"config": PruneConfig(Chip("MAX78000", fit=True))}, "chip of Pruner must be None"),
        (
            {"config": PruneConfig(Budget(params="0.5x"))},
            "target_params and target_macs of Pruner must be None",
        ),
        (
            {"config": PruneConfig(0.5, criterion="taylor")},
            "criterion 'taylor' of Pruner needs data",
        ),
        ({"config": PruneConfig(0.5, include=["stme.weight"])}, "no weight 'stme.weight'"),
        ({"optimizer": "sgd"}, "must be a torch.optim.Optimizer. Got str"),
        ({"optimizer": sgd(nn.Linear(2, 2))}, r"\(SGD\) trains no parameter of the model"),
        ({"example_inputs": None}, "example_inputs of Pruner are needed"),
        ({"example_inputs": torch.randn(1, 4, 8, 8)}, "does not run on the example_inputs"),
    ],
)
def test_what_cannot_be_used_is_refused(arguments: dict[str, Any], message: str) -> None:
    net = Net()
    before = {name: value.clone() for name, value in net.state_dict().items()}
    with pytest.raises(InputError, match=message) as error:
        Pruner(net, **{"example_inputs": IMAGES[:2], **arguments})
    assert "\n" not in str(error.value)
    assert all(torch.equal(value, before[name]) for name, value in net.state_dict().items())


def test_thinning_unstructured_masks_needs_inputs() -> None:
    net = Net()
    pruner = Pruner(net, None, Unstructured(), schedule=Schedule(steps=1))
    pruner.step()
    with pytest.raises(InputError, match="needs example_inputs"):
        pruner.thin_()


@pytest.mark.parametrize("method", ["agp-structured", "agp-unstructured"])
def test_a_diverged_training_is_told_and_the_masks_stay(method: str) -> None:
    net = Net()
    pruner = Pruner(net, IMAGES[:2], schedule=Schedule(steps=3))
    pruner.step()
    masks = pruner.masks
    with torch.no_grad():
        net.branch.weight[1] = float("inf")
    with pytest.raises(InputError, match=r"branch\.weight"):
        pruner.step()
    assert pruner.steps_done == 1
    assert all(torch.equal(mask, masks[name]) for name, mask in pruner.masks.items())
