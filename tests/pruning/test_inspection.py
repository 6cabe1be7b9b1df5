"""`inspect`: groups and what is in the way, on small models; the model stays as it is."""

import copy
import warnings

import pytest
import torch
from torch import Tensor, nn

from torchthin.pruning.inspection import inspect

IMAGES = torch.randn(2, 3, 8, 8, generator=torch.Generator().manual_seed(0))


def chain() -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(3, 16, 3, padding=1),
        nn.BatchNorm2d(16),
        nn.ReLU(),
        nn.Conv2d(16, 32, 3),
        nn.ReLU(),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(32, 10),
    )


@pytest.mark.parametrize("batch", [1, 2])
def test_a_chain_has_a_group_for_every_layer_but_the_last(batch: int) -> None:
    found = inspect(chain(), IMAGES[:batch])
    assert [(group.channels, group.producers) for group in found.groups] == [
        (16, ("0.weight",)),
        (32, ("3.weight",)),
    ]
    assert found.groups[1].coupled == ("3.bias[0]", "7.weight[1]")
    assert [(item.weight, item.channels) for item in found.frozen] == [("7.weight", 10)]
    assert "output" in found.frozen[0].reason
    assert found.proved


def test_the_model_is_left_as_it_is() -> None:
    model = chain().train()
    before = copy.deepcopy(model.state_dict())
    inspect(model, IMAGES)
    assert model.training
    assert all(torch.equal(before[name], value) for name, value in model.state_dict().items())


def test_coupled_layers_share_a_group() -> None:
    class Residual(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.second = nn.Conv2d(3, 8, 1), nn.Conv2d(8, 8, 3, padding=1)
            self.last = nn.Conv2d(8, 2, 1)

        def forward(self, x: Tensor) -> Tensor:
            x = self.first(x)
            return self.last(x + self.second(x).relu())

    (group,) = inspect(Residual(), IMAGES).groups
    assert set(group.producers) == {"first.weight", "second.weight"}


def test_weights_that_are_computed_are_found() -> None:
    model = nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Conv2d(8, 4, 1))
    nn.utils.parametrizations.weight_norm(model[0])
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        (group,) = inspect(model, IMAGES).groups
    assert group.channels == 8


def test_a_model_without_groups_says_why() -> None:
    found = inspect(nn.Sequential(nn.Conv2d(3, 8, 3)), IMAGES)
    assert found.groups == ()
    assert [(item.weight, item.channels) for item in found.frozen] == [("0.weight", 8)]


def test_on_the_meta_device_nothing_is_tried() -> None:
    found = inspect(chain().to("meta"), IMAGES)
    assert [group.channels for group in found.groups] == [16, 32]
    assert not (found.tried or found.proved)


def test_masks_of_torch_are_followed() -> None:
    model = chain()
    nn.utils.prune.ln_structured(model[0], "weight", 0.25, n=1, dim=0)
    assert [group.channels for group in inspect(model, IMAGES).groups] == [16, 32]


def test_what_no_output_depends_on_is_followed_and_named() -> None:
    class Forgotten(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.stem, self.head, self.forgotten = nn.Conv2d(3, 8, 1), nn.Conv2d(8, 4, 1), nn.Conv2d(8, 5, 1)

        def forward(self, x: Tensor) -> Tensor:
            x = self.stem(x)
            self.forgotten(x)
            return self.head(x)

    found = inspect(Forgotten(), IMAGES)
    assert [(group.name, group.channels) for group in found.groups] == [("stem.weight", 8)]
    assert "forgotten.weight[1]" in found.groups[0].coupled
    assert {item.weight: item.reason for item in found.frozen} == {
        "forgotten.weight": "computed, but part of no output",
        "head.weight": "part of the model's output",
    }
