"""Bits of weights, chosen layer by layer: the limit holds, and outputs lose less than with fewer bits everywhere."""

from typing import Any

import pytest
import torch
from synthesis_networks import conv
from torch import Tensor, nn

from torchthin.errors import ConfigError, TargetMissedError
from torchthin.evaluation.distance import output_distance
from torchthin.max7800x import chip_cost, choose_weight_bits, integer_model, ready_for_synthesis
from torchthin.max7800x.ai8x.base import initiate_qat
from torchthin.max7800x.ai8x.layers import Conv2d


def images(count: int) -> Tensor:
    values = torch.randn(count, 3, 8, 8, generator=torch.Generator().manual_seed(1)) / 3
    return (values * 128).floor().clamp(-128, 127) / 128


@pytest.fixture(scope="module")
def model() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(
        conv(3, 32), nn.ReLU(), conv(32, 32), nn.ReLU(), conv(32, 32), nn.ReLU(), conv(32, 4, 1)
    ).eval()


def test_the_limit_holds_at_less_loss_than_fewer_bits_everywhere(model: nn.Sequential) -> None:
    data = images(16)
    found = choose_weight_bits(model, data[:1], data, kernel_words="0.7x")
    before, after = found.kernel_words
    assert before == chip_cost(model, data[:1]).cost.deepest_words
    assert after == chip_cost(model, data[:1], weight_bits=found.bits).cost.deepest_words <= 0.7 * before
    assert set(found.bits) == {"0", "2", "4", "6"}
    whole = integer_model(model, data[:1])(data)
    parts = (integer_model(model, data[:1], weight_bits=bits)(data) for bits in (found.bits, 4))
    chosen, everywhere = (float(output_distance(whole, part)) for part in parts)
    assert chosen == pytest.approx(found.distance, rel=1e-3)
    assert found.distance < everywhere
    assert min(found.bits.values()) < 8
    assert "deepest processor" in str(found)


def test_nothing_is_taken_where_8_bits_fit(model: nn.Sequential) -> None:
    found = choose_weight_bits(model, images(1), images(4), kernel_words="1x")
    assert (set(found.bits.values()), found.distance) == ({8}, 0)
    assert str(found).startswith("Bits of weights: 8 everywhere")


def test_chosen_bits_are_written(model: nn.Sequential) -> None:
    ready = ready_for_synthesis(model, images(1), "out", arch="net", weight_bits={"2": 4})
    state = ready.contents["state_dict"]
    assert [int(state[f"{name}.weight_bits"]) for name in ("0", "2", "4", "6")] == [0, 4, 0, 0]
    assert [entry.get("quantization") for entry in ready.network.entries] == [None, 4, None, None]


def test_what_cannot_be_chosen_is_refused(model: nn.Sequential) -> None:
    with pytest.raises(
        TargetMissedError, match=r"to 1 words; the least found is \d+\. Most are left in \d \d+"
    ):
        choose_weight_bits(model, images(1), images(2), kernel_words=1)
    with pytest.raises(ConfigError, match=r"The kernel_words must be a share such as 0\.6x"):
        choose_weight_bits(model, images(1), images(2), kernel_words="half")
    with pytest.raises(ConfigError, match="must be 1, 2, 4 or 8"):
        chip_cost(model, images(1), weight_bits={"2": 3})
    quantised: Any = nn.Sequential(Conv2d(3, 4, 1)).eval()
    initiate_qat(quantised)
    with pytest.raises(ConfigError, match="in quantisation-aware mode"):
        choose_weight_bits(quantised, images(1), images(2), kernel_words="0.5x")
