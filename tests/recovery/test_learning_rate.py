"""The learning rate where none is given: as high as the model bears, so that even one epoch brings it nearer."""

import pytest
import torch
from torch import nn

from torchthin import Recovery, prune, recover
from torchthin.recovery.distillation import LR
from torchthin.recovery.learning_rate import SETTLING, borne_lr


@pytest.mark.parametrize(
    ("start", "steps", "wanted"),
    [
        (0.1, 1, 1 / 16),
        (0.1, SETTLING, 1 / 16),
        (0.1, 3 * SETTLING, 3 / 16),
        (0.1, 100 * SETTLING, 1.0),
        (5.0, 1, 1 / 2),
    ],
)
def test_half_of_the_rate_whose_first_step_does_not_raise_the_loss(
    start: float, steps: int, wanted: float
) -> None:
    """Of w² a step against the gradient raises nothing up to 2w: for w = 0.1 that is 1/8, of 1, 1/2, 1/4 and so on."""
    weight, unused = nn.Parameter(torch.tensor([start])), nn.Parameter(torch.ones(2))
    found = borne_lr([weight, unused], lambda: weight.square().sum(), 1.0, steps)
    assert found == pytest.approx(wanted)
    assert weight.item() == torch.tensor(start).item()
    assert weight.grad is None


@pytest.mark.parametrize(("width", "ratio"), [(12, 0.5), (8, 0.25)])
def test_one_epoch_is_not_wasted(width: int, ratio: float) -> None:
    """At the rate of long runs and shallow networks one epoch leaves this one farther from the dense one than before."""
    torch.manual_seed(0)
    layers: list[nn.Module] = [nn.Conv2d(3, width, 3, padding=1), nn.ReLU()]
    for _ in range(4):
        layers += [nn.Conv2d(width, width, 3, padding=1, bias=False), nn.BatchNorm2d(width), nn.ReLU()]
    net = nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(width, 5))
    noise = nn.functional.interpolate(torch.randn(128, 3, 2, 2), size=8, mode="bilinear")
    data = noise + 0.1 * torch.randn(128, 3, 8, 8)
    with torch.no_grad():
        for _ in range(20):
            net.train()(data)
    result = prune(net.eval(), data[:1], ratio)
    taken = {}
    for lr in (None, LR):
        facts = recover(net, result, data[:1], data, recovery=Recovery(epochs=1, lr=lr)).report.recovery
        assert facts is not None
        taken[lr] = facts.stages[-1].taken
    assert taken == {None: True, LR: False}
