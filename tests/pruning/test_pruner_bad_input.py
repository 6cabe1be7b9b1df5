"""What cannot be used is refused in one line, and nothing is changed."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn
from training import IMAGES, Net

from torchthin import NM, Budget, Distiller, InputError, Pruner, Ratio, Schedule, Unstructured
from torchthin.max7800x import Chip


def sgd(model: nn.Module) -> torch.optim.Optimizer:
    return torch.optim.SGD(model.parameters(), 0.1)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"steps": 0}, "steps of Schedule .* must be a whole number of at least 1. Got 0"),
        ({"steps": -3}, "Got -3"),
        ({"steps": 2.5}, "Got 2.5"),
        ({"steps": True}, "Got True"),
        ({"interval": 0}, "interval of Schedule must be a whole number of at least 1"),
        ({"start": -1}, "start of Schedule must be a whole number of at least 0"),
        ({"curve": "apg"}, "Did you mean 'agp'"),
        ({"curve": lambda step: 1.0}, r"in \[0, 1\). Got 1.0 at step 1"),
        ({"curve": lambda step: -0.1}, "Got -0.1 at step 1"),
        ({"curve": lambda step: float("nan")}, "Got nan"),
        ({"curve": lambda step: None}, "Got None"),
        (
            {"curve": lambda step: 0.5 / step},
            "must not fall: masks only grow. Got 0.25 at step 2 after 0.5",
        ),
        ({"schedule": "agp"}, "schedule of .* must be a Schedule. Got 'agp'"),
        ({"target": {"target_sparsity": 0.5}}, "goes to nothing: it is no kind"),
        ({"target": 1.0}, r"ratio of Ratio .* must be in \[0, 1\). Got 1.0"),
        ({"target": Distiller("agp-structured")}, "must be a Ratio or Unstructured.* Got Distiller"),
        ({"target": NM(2, 4)}, "must be a Ratio or Unstructured.* Got NM"),
        ({"target": Chip("MAX78000", fit=True)}, "must be a Ratio or Unstructured.* Got Chip"),
        ({"target": Budget(params="0.5x")}, "must be a Ratio or Unstructured.* Got Budget"),
        ({"criterion": "taylor"}, "criterion 'taylor' needs data"),
        ({"include": ["stme.weight"]}, "no weight 'stme.weight'"),
        ({"optimizer": "sgd"}, "must be a torch.optim.Optimizer. Got str"),
        ({"optimizer": sgd(nn.Linear(2, 2))}, r"\(SGD\) trains no parameter of the model"),
        ({"example_inputs": None}, "example_inputs of Pruner are needed"),
        ({"example_inputs": torch.randn(1, 4, 8, 8)}, "does not run on the example_inputs"),
    ],
)
def test_what_cannot_be_used_is_refused(arguments: dict[str, Any], message: str) -> None:
    net = Net()
    before = {name: value.clone() for name, value in net.state_dict().items()}
    times = {name: arguments[name] for name in ("curve", "steps", "start", "interval") if name in arguments}
    others = {name: value for name, value in arguments.items() if name not in times}
    with pytest.raises(InputError, match=message) as error:
        Pruner(net, **{"example_inputs": IMAGES[:2], "schedule": Schedule(**times), **others})
    assert "\n" not in str(error.value)
    assert all(torch.equal(value, before[name]) for name, value in net.state_dict().items())


def test_thinning_unstructured_masks_needs_inputs() -> None:
    net = Net()
    pruner = Pruner(net, None, Unstructured(), schedule=Schedule(steps=1))
    pruner.step()
    with pytest.raises(InputError, match="needs example_inputs"):
        pruner.thin_()


@pytest.mark.parametrize("target", [Ratio(), Unstructured()])
def test_a_diverged_training_is_told_and_the_masks_stay(target: Ratio | Unstructured) -> None:
    net = Net()
    pruner = Pruner(net, IMAGES[:2], target, schedule=Schedule(steps=3))
    pruner.step()
    masks = pruner.masks
    with torch.no_grad():
        net.branch.weight[1] = float("inf")
    with pytest.raises(InputError, match=r"branch\.weight"):
        pruner.step()
    assert pruner.steps_done == 1
    assert all(torch.equal(mask, masks[name]) for name, mask in pruner.masks.items())
