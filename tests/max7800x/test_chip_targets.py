"""Pruning for a chip: targets hold on the thinned model itself, and what cannot be is refused."""

import re
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from pose_demo.student import load_student
from torchthin import Chip, InputError, TargetMissedError, prune
from torchthin.cli.targets import prune_config
from torchthin.config import PruneConfig
from torchthin.errors import ConfigError
from torchthin.max7800x.ai8x.layers import Add, Conv2d, FusedConv2dBNReLU, FusedMaxPoolConv2dBNReLU
from torchthin.max7800x.report import chip_cost

IMAGES = torch.randn(1, 3, 32, 32, generator=torch.Generator().manual_seed(0))


def net() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(3, 24, 3, padding=1), nn.ReLU(), nn.Conv2d(24, 80, 3, padding=1), nn.ReLU(),
        nn.MaxPool2d(2), nn.Conv2d(80, 40, 3), nn.ReLU(), nn.AvgPool2d(14), nn.Flatten(), nn.Linear(40, 5),
    )  # fmt: skip


class Joined(nn.Module):
    """Two parts of equal width, concatenated."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Conv2d(3, 40, 3, padding=1), nn.Conv2d(3, 40, 3, padding=1)
        self.c = nn.Conv2d(80, 8, 3, padding=1)

    def forward(self, x: torch.Tensor) -> Any:
        return self.c(torch.cat([self.a(x), self.b(x)], 1))


@pytest.mark.parametrize("target", ["0.9x", "0.6x", "100000"])
def test_cycles_of_the_thinned_model(target: str) -> None:
    before = chip_cost(net(), IMAGES).cost
    result = prune(net(), IMAGES, Chip("MAX78000", cycles=target))
    after = chip_cost(result.model, IMAGES).cost
    limit = float(target[:-1]) * before.cycles if target.endswith("x") else int(target)
    assert after.cycles <= limit
    change = result.report.section("chip")
    assert change is not None
    assert (change.before, change.after) == (before, after)
    assert result.proof is not None
    assert result.proof.holds
    assert result.report.target_reached
    assert all(
        int(mask.flatten(1).any(1).sum()) % 4 == 0 for mask in result.masks.values() if mask.dim() == 4
    )


def test_words_of_the_deepest_processor() -> None:
    result = prune(net(), IMAGES, Chip("max78000", cycles="0.95x", kernel_words="0.5x"))
    change = result.report.section("chip")
    assert change is not None
    assert 2 * change.after.deepest_words <= change.before.deepest_words
    assert change.after.cycles <= 0.95 * change.before.cycles
    assert change.after.deepest_words == chip_cost(result.model, IMAGES).cost.deepest_words


def test_more_is_saved_than_by_a_uniform_cut_of_as_many_weights() -> None:
    student = load_student()
    images = torch.randn(1, 3, 128, 128)
    result = prune(
        student, images, Chip("MAX78000", cycles="0.685x"), exclude=["heat_out", "paf_out"], thin=False
    )
    change = result.report.section("chip")
    assert change is not None
    assert change.after.weight_bytes >= change.uniform.weight_bytes
    saved, plain = (change.before.cycles - cost.cycles for cost in (change.after, change.uniform))
    assert saved > 3 * plain
    assert "asked at most 0.685x cycles; the result fits" in str(result)


def test_fit() -> None:
    model = nn.Sequential(*[nn.Conv2d(64 if i else 3, 64 if i < 13 else 4, 3, padding=1) for i in range(14)])
    before = chip_cost(model, IMAGES[..., :16, :16])
    assert not before.fits
    result = prune(model, IMAGES[..., :16, :16], Chip("MAX78000", fit=True))
    after = chip_cost(result.model, IMAGES[..., :16, :16])
    assert after.fits
    assert result.report.total.pruned_channels < 0.1 * result.report.total.filters


def test_nothing_goes_where_the_targets_hold_already() -> None:
    result = prune(net(), IMAGES, Chip("MAX78000", fit=True), thin=False)
    assert result.report.total.pruned_channels == 0
    assert result.report.target_reached


def test_parts_of_a_concatenation_stay_equal() -> None:
    torch.manual_seed(0)
    result = prune(Joined(), IMAGES, Chip("MAX78000", cycles="0.7x"))
    assert result.model.a.weight.shape[0] == result.model.b.weight.shape[0] <= 32  # type: ignore[union-attr]
    assert chip_cost(result.model, IMAGES).fits


def test_a_target_that_cannot_be_reached() -> None:
    with pytest.raises(TargetMissedError, match="asked at most 5 cycles, the least found is") as raised:
        prune(net(), IMAGES, Chip("MAX78000", cycles=5), thin=False)
    assert "\n" not in str(raised.value)
    assert "Most cycles are left in 0 6,540, 2 6,540, 5 2,124. Ask for less" in str(raised.value)


def test_a_missed_target_names_the_layers_that_hold_it() -> None:
    with pytest.raises(TargetMissedError) as raised:
        prune(
            net(), IMAGES, Chip("MAX78000", cycles="0.5x", kernel_words=4), exclude=["2", "2.*"], thin=False
        )
    words = str(raised.value)
    assert re.search(r"Most cycles are left in 2 [\d,]+ \(its outputs all stay\), ", words)
    assert re.search(r"Most words are left in \S+ \d+", words)


def test_a_model_that_does_not_run_on_the_chip() -> None:
    model = nn.Sequential(nn.Conv2d(3, 8, 5), nn.SiLU(), nn.Conv2d(8, 4, 1))
    with pytest.raises(InputError, match=r"1: silu, the chip has no such operation\. And 1 more"):
        prune(model, IMAGES, Chip("MAX78000", cycles="0.5x"), thin=False)


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"name": "MAX78", "fit": True}, "The chip must be one of MAX78000, MAX78002"),
        ({"cycles": "half"}, "must be a share such as 0.6x"),
        ({"fit": "yes"}, r"The fit of Chip \(--fit\) must be true or false"),
        ({"fit": True, "ratio": 1.5}, r"must be in \[0, 1\)"),
    ],
)
def test_targets_that_make_no_sense(given: dict[str, Any], words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        Chip(**given)


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"target_cycles": "0.5x"}, "does not go with .* Give --chip as well"),
        ({"chip": "MAX78000", "fit": True, "method": "agp-unstructured"}, "Zeros in single weights make no model smaller"),
        ({"chip": "MAX78000", "fit": True, "scope": "global"}, "--scope does not go with a chip"),
        ({"chip": "MAX78000", "fit": True, "compat": "distiller"}, "does not go with --compat distiller"),
    ],
)  # fmt: skip
def test_options_that_do_not_go_together(given: dict[str, Any], words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        prune_config(given)


def test_a_chip_without_a_target() -> None:
    with pytest.raises(ConfigError, match="given with cycles, kernel_words or fit"):
        prune(net(), IMAGES, Chip("MAX78000"))


def test_a_chip_needs_inputs() -> None:
    with pytest.raises(ConfigError, match="cycles follow from the size of the input"):
        prune(net(), None, Chip("MAX78000", fit=True), thin=False)


def test_configuration_round_trip() -> None:
    config = prune_config({"chip": "max78000", "target_cycles": 450000, "fit": True})
    assert config.target == Chip("MAX78000", cycles="450000", fit=True)
    assert prune_config({k: v for k, v in config.to_dict().items() if v not in (None, [])}) == config


@pytest.mark.parametrize(("sparsity", "cycles"), [(0.5, "0.9x"), (0.2, "0.5x")])
def test_a_sparsity_and_cycles_both_hold(sparsity: float, cycles: str) -> None:
    result = prune(net(), IMAGES, Chip("MAX78000", cycles=cycles, ratio=sparsity), exclude=["9"])
    change = result.report.section("chip")
    assert change is not None
    widths = [layer.out_channels for layer in result.model if isinstance(layer, nn.Conv2d)]
    assert (change.channels, change.channels_removed) == (24 + 80 + 40, 144 - sum(widths))
    assert change.channels_removed >= sparsity * change.channels
    assert chip_cost(result.model, IMAGES).cost.cycles <= float(cycles[:-1]) * change.before.cycles
    assert f"asked at most {cycles} cycles, at least {100 * sparsity:g} % of the channels removed" in str(
        result
    )
    assert f"channels removed: {change.channels_removed} of 144" in str(result)
    assert result.report.request.target_sparsity == change.channels_removed / 144


def test_a_sparsity_asks_for_no_more_than_the_chip_takes_anyway() -> None:
    alone = prune(net(), IMAGES, Chip("MAX78000", cycles="0.5x"), thin=False)
    both = prune(net(), IMAGES, Chip("MAX78000", cycles="0.5x", ratio=0.05), thin=False)
    assert alone.masks.keys() == both.masks.keys()
    assert all(torch.equal(mask, both.masks[name]) for name, mask in alone.masks.items())


def test_a_sparsity_that_the_chips_widths_do_not_allow() -> None:
    with pytest.raises(
        TargetMissedError, match=r"at least 99\.9 % of the channels removed, .* with 91\.7 % of the"
    ):
        prune(net(), IMAGES, Chip("MAX78000", cycles="0.9x", ratio=0.999), thin=False)


def test_the_sparsity_is_half_where_none_is_given_and_no_chip_decides() -> None:
    assert PruneConfig().target.share == 0.5
    assert PruneConfig(Chip("MAX78000", fit=True)).target.share == 0


class PooledSum(nn.Module):
    """An addition whose sum is pooled before the next convolution: its cycles depend on where the kernels lie."""

    def __init__(self) -> None:
        super().__init__()
        self.first = FusedConv2dBNReLU(3, 16, 3, padding=1)
        self.branch = FusedConv2dBNReLU(16, 16, 3, padding=1)
        self.add = Add()
        self.after = FusedMaxPoolConv2dBNReLU(16, 32, 3, padding=1)
        self.more = FusedConv2dBNReLU(32, 48, 3, padding=1)
        self.last = Conv2d(48, 8, 1, wide=True)

    def forward(self, x: Tensor) -> Any:
        x = self.first(x)
        return self.last(self.more(self.after(self.add(x, self.branch(x)))))


@pytest.mark.parametrize("share", ["0.85x", "0.7x", "0.55x"])
def test_a_target_holds_for_the_thinned_network_with_its_kernels_in_place(share: str) -> None:
    torch.manual_seed(0)
    model, images = PooledSum().eval(), torch.randn(1, 3, 16, 16).clamp(-1, 1)
    before = chip_cost(model, images, chip="MAX78000").cost.cycles
    result = prune(model, images, Chip("MAX78000", cycles=share))
    after = chip_cost(result.model, images, chip="MAX78000").cost.cycles
    assert after <= float(share[:-1]) * before
    assert result.report.section("chip").after.cycles == after


def test_a_cut_that_costs_far_more_weights_than_cycles_says_so() -> None:
    class Lopsided(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first = FusedConv2dBNReLU(3, 4, 3, padding=1)
            self.again = FusedConv2dBNReLU(4, 4, 3, padding=1)
            self.second = FusedMaxPoolConv2dBNReLU(4, 64, 3, padding=1)
            self.third = FusedMaxPoolConv2dBNReLU(64, 64, 3, padding=1)
            self.last = Conv2d(64, 4, 1, wide=True)

        def forward(self, x: Tensor) -> Any:
            return self.last(self.third(self.second(self.again(self.first(x)))))

    torch.manual_seed(0)
    model, images = Lopsided().eval(), torch.randn(1, 3, 64, 64).clamp(-1, 1)
    much = str(prune(model, images, Chip("MAX78000", cycles="0.6x")).report.section("chip"))
    assert "% of the weights go for" in much and "first" in much.splitlines()[-1]
    little = str(prune(model, images, Chip("MAX78000", cycles="0.95x")).report.section("chip"))
    assert "% of the weights go for" not in little
