"""Masks: shapes, which members are masked, and what applying them leaves alone."""

import numpy as np
import pytest
import torch
from torch import nn

from torchthin.dependency.groups import Group, Member
from torchthin.errors import InputError
from torchthin.selection.masks import apply_masks_, axis_mask, channel_masks, masked, spread_mask
from torchthin.thinning.recipe import cut, cut_mask


def test_a_mask_spreads_over_the_other_axes() -> None:
    mask = axis_mask(torch.tensor([True, False]), torch.zeros(3, 2, 4), 1)
    assert mask.shape == (3, 2, 4)
    assert mask[:, 0].all()
    assert not mask[:, 1].any()
    assert mask.is_contiguous()


def net() -> nn.Sequential:
    return nn.Sequential(nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4), nn.Conv2d(4, 4, 1), nn.Conv2d(4, 2, 1))


def test_only_filters_of_targets_are_masked() -> None:
    index = np.arange(4)[:, None]
    members = (Member("0.weight", 0, index), Member("1.weight", 0, index), Member("3.weight", 1, index))
    group = Group("g", 4, members)
    keeps = {"g": np.array([True, False, True, False])}
    masks = channel_masks([group, Group("other", 2, ())], keeps, net(), {"0.weight": 0, "3.weight": 0})
    assert list(masks) == ["0.weight", "3.weight"]
    assert masks["0.weight"].flatten(1).all(1).tolist() == [True, False, True, False]
    assert masks["3.weight"].all()


def test_two_groups_and_partly_covered_channels_share_one_weight() -> None:
    members = (
        Member("2.weight", 0, np.array([[0], [1]]), np.array([1, 2])),
        Member("2.weight", 0, np.array([[3]])),
    )
    groups = [Group("a", 3, members[:1]), Group("b", 1, members[1:])]
    keeps = {"a": np.array([False, False, True]), "b": np.array([False])}
    masks = channel_masks(groups, keeps, net(), {"2.weight": 0})
    assert masks["2.weight"].flatten(1).all(1).tolist() == [False, True, True, False]


def test_applying_zeroes_the_masked_weights_only() -> None:
    model = net().to(memory_format=torch.channels_last)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    mask = torch.rand(4, 3, 1, 1) > 0.5
    weight = model[0].weight
    apply_masks_(model, {"0.weight": mask})
    assert model[0].weight is weight
    assert torch.equal(weight, torch.where(mask, before.pop("0.weight"), torch.zeros(())))
    assert all(torch.equal(model.state_dict()[name], value) for name, value in before.items())


@pytest.mark.parametrize(
    ("masks", "sentence"),
    [
        ({"0.weight": torch.zeros(4, 3, 1, 1).bool(), "9.weight": torch.ones(1).bool()}, "fits no parameter"),
        ({"0.weight": torch.zeros(4).bool()}, r"must have its weight's shape \(4, 3, 1, 1\). Got \(4,\)"),
    ],
)
def test_masks_that_do_not_fit_change_nothing(masks: dict[str, torch.Tensor], sentence: str) -> None:
    model = net()
    before = model[0].weight.clone()
    with pytest.raises(InputError, match=sentence):
        apply_masks_(model, masks)
    assert torch.equal(model[0].weight, before)


@pytest.mark.parametrize("own", [True, False])
@pytest.mark.parametrize("axis", [0, 1])
def test_whole_channels_are_zeroed_as_single_weights_are(axis: int, own: bool) -> None:
    tensor = torch.randn(4, 6, 3)
    tensor[1, 2] = torch.nan
    keep = torch.arange(tensor.shape[axis]) % 3 != 1
    mask = spread_mask(keep, tensor, axis)
    wanted = torch.where(mask, tensor, 0.0)
    before = tensor.clone()
    made = masked(tensor, mask, own=own)
    torch.testing.assert_close(made, wanted, rtol=0, atol=0, equal_nan=True)
    torch.testing.assert_close(masked(before, mask.contiguous()), wanted, rtol=0, atol=0, equal_nan=True)
    assert own == (made.data_ptr() == tensor.data_ptr())
    if not own:
        torch.testing.assert_close(tensor, before, rtol=0, atol=0, equal_nan=True)


def test_a_mask_of_whole_channels_stays_a_view_when_it_is_cut() -> None:
    mask = spread_mask(torch.arange(6) % 3 != 1, torch.zeros(4, 6, 3), 1)
    for axes in ({1: (0, 1, 4)}, {0: (1, 2)}, {0: (0, 3), 1: (2, 4), 2: (1,)}, {}):
        made = cut_mask(mask, axes)
        assert torch.equal(made, cut(mask, axes))
        assert made.untyped_storage().nbytes() <= 6
    full = torch.rand(4, 6) > 0.5
    assert torch.equal(cut_mask(full, {0: (1, 2)}), full[1:3])
