"""Criteria that compare the channels of a group with each other, or know its BatchNorm."""

from __future__ import annotations

import zlib

import torch
from torch import Tensor

from torchthin.importance.channels import Channels
from torchthin.importance.registry import register_channel_criterion, register_criterion


@register_criterion("fpgm")
def median_distance(rows: Tensor) -> Tensor:
    """Return the mean distance of each filter to the others: those near the geometric median can be replaced by them.

    He et al. 2019, "Filter Pruning via Geometric Median" (arXiv 1811.00250), equation 6:
    ``sum_j |F_i - F_j|_2``, here divided by the numbers of filters and of weights.
    rows: (channels, weights per channel).
    """
    # As one matrix product in double precision: a hundred times as fast as differences of all pairs.
    centred = rows.double() - rows.double().mean(dim=0)
    squares = centred.square().sum(dim=1)
    between = squares[:, None] + squares[None, :] - 2 * centred @ centred.t()
    distances: Tensor = between.clamp_min(0).sqrt().fill_diagonal_(0)
    return distances.mean(dim=1) / rows.shape[1]


@register_channel_criterion("bn-scale")
def batchnorm_scale(channels: Channels) -> Tensor | None:
    """Return the sum of ``|gamma|`` over the BatchNorms of the group; None when it has none.

    Liu et al. 2017, "Learning Efficient Convolutional Networks through Network Slimming" (arXiv 1708.06519).
    """
    scales = channels.scales
    return (
        channels.summed(lambda rows: rows.double().abs().sum(dim=1), scales)
        if channels.covers(scales)
        else None
    )


@register_channel_criterion("lamp", absolute=True)
def lamp(channels: Channels) -> Tensor:
    """Return the share of a channel's squared weights in those of all channels that are not smaller.

    Lee et al. 2021, "Layer-adaptive Sparsity for the Magnitude-based Pruning" (arXiv 2010.07611), equation 2, with
    channels in place of single weights: ``s_i / sum(s_j for s_j >= s_i)``, s the sum of squared weights. The largest
    channel of every group has 1, so that a global ranking empties no group.
    """
    return lamp_scores(channels.summed(lambda rows: rows.double().square().sum(dim=1)))


def lamp_scores(squares: Tensor) -> Tensor:
    """Return each number's share in the sum of those that come at or after it in ascending order, ties by index.

    squares: (n,), not negative.

    >>> lamp_scores(torch.tensor([4.0, 1.0, 3.0])).tolist()
    [1.0, 0.125, 0.4285714328289032]
    """
    order = torch.argsort(squares, stable=True)
    ascending = squares[order]
    rest = ascending.flip(0).cumsum(0).flip(0)
    scores = torch.empty_like(squares)
    scores[order] = torch.where(rest > 0, ascending / rest, torch.zeros_like(rest))
    return scores


@register_channel_criterion("random", absolute=True)
def random(channels: Channels) -> Tensor:
    """Return random numbers, the same ones for the same seed and group: what every criterion has to beat.

    Mittal et al. 2018, "Recovering from Random Pruning" (arXiv 1801.10447).
    """
    seed = zlib.crc32(f"{channels.seed} {channels.group.name}".encode())
    return torch.rand(channels.group.size, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
