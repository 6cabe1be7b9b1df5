"""Widths that are searched for by how the outputs move, not by importance."""

from typing import Any

import pytest
import torch
from synthesis_networks import conv
from torch import Tensor, nn

from torchthin import Chip, prune, recover
from torchthin.cli.targets import prune_config
from torchthin.errors import ConfigError
from torchthin.evaluation.distance import output_distance
from torchthin.max7800x import chip_cost

DATA = torch.randn(48, 3, 12, 12, generator=torch.Generator().manual_seed(1)) / 3


class Uneven(nn.Module):
    """Two branches of one shape, of which one adds almost nothing."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.loud, self.quiet = conv(3, 32), conv(3, 32)
        self.from_loud, self.from_quiet = conv(32, 8, 1), conv(32, 8, 1)
        self.last = conv(8, 4, 1)
        with torch.no_grad():
            self.from_quiet.weight.mul_(0.01)

    def forward(self, x: Tensor) -> Any:
        return self.last(self.from_loud(self.loud(x).relu()) + self.from_quiet(self.quiet(x).relu()))


def test_what_moves_the_outputs_least_is_removed() -> None:
    model = Uneven().eval()
    kept, found = {}, {}
    for allocation in (None, "outputs"):
        target = Chip("MAX78000", cycles="0.7x", allocation=allocation)
        result = prune(model, DATA[:1], target, criterion="l1", data=DATA)
        cycles = chip_cost(result.model, DATA[:1]).cost.cycles
        assert cycles <= 0.7 * chip_cost(model, DATA[:1]).cost.cycles
        kept[allocation] = result.model.loud.out_channels, result.model.quiet.out_channels
        thin = recover(model, result, DATA[:1], DATA).model
        with torch.no_grad():
            found[allocation] = float(output_distance(model(DATA), thin(DATA)))
    loud, quiet = kept["outputs"]
    assert quiet < 16 < loud
    assert found["outputs"] < 0.5 * found[None]


def test_it_needs_data_and_is_the_only_other_allocation() -> None:
    with pytest.raises(ConfigError, match="allocation 'outputs' needs data"):
        prune(Uneven(), DATA[:1], Chip("MAX78000", cycles="0.7x", allocation="outputs"))
    with pytest.raises(ConfigError, match="'outputs' or None"):
        Chip("MAX78000", cycles="0.7x", allocation="auto")


def test_the_flag_is_the_field() -> None:
    config = prune_config(
        {"chip": "MAX78000", "target_cycles": "0.7x", "allocation": "outputs", "thin": True}
    )
    assert config.target == Chip("MAX78000", cycles="0.7x", allocation="outputs")
