"""Criteria: one small pure function and one registration line each.

l1 and l2 (after Li et al. 2017, arXiv 1608.08710) are divided by the number of weights, as Distiller does. That changes no order
inside one tensor, but it makes members of one group comparable when they are summed. `torch.linalg.vector_norm` over flattened
rows is bit for bit what Distiller computes; ``abs().sum()`` differs in the last bits, which can split ties.
"""

from __future__ import annotations

import zlib

import torch
from torch import Tensor

from torchthin.importance.channels import Channels
from torchthin.importance.registry import register_channel_criterion, register_criterion


@register_criterion("l1")
def l1(rows: Tensor) -> Tensor:
    """Return the mean of ``|w|`` per row. rows: (channels, weights per channel)."""
    norms: Tensor = torch.linalg.vector_norm(rows, ord=1, dim=1)
    return norms / rows.shape[1]


@register_criterion("l2")
def l2(rows: Tensor) -> Tensor:
    """Return the L2 norm divided by the number of weights, per row. rows: (channels, weights per channel)."""
    norms: Tensor = torch.linalg.vector_norm(rows, ord=2, dim=1)
    return norms / rows.shape[1]


@register_criterion("max")
def largest(rows: Tensor) -> Tensor:
    """Return the largest ``|w|`` per row. rows: (channels, weights per channel)."""
    return rows.abs().amax(dim=1)


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


def _squares(rows: Tensor) -> Tensor:
    return rows.double().square().sum(dim=1)


@register_channel_criterion("group-l2")
def group_l2(channels: Channels) -> Tensor:
    """Return the sum of all squared weights that go with a channel: what makes it, its BatchNorm scales, the columns behind.

    Fang et al. 2023, "DepGraph: Towards Any Structural Pruning" (arXiv 2301.12900), section 3.3: with w over the
    parameters of the group, ``I_k = sum_w |w[k]|_2^2``. Biases are left out.
    """
    tensors = {member.parameter: channels.values[member.parameter] for member in channels.group.members}
    weights = [m for m in channels.group.members if _is_weight(tensors[m.parameter])]
    return channels.summed(_squares, (*weights, *channels.scales))


def _is_weight(tensor: Tensor) -> bool:
    return tensor.dim() > 1 and tensor.is_floating_point()


@register_channel_criterion("flow", absolute=True)
def flow(channels: Channels) -> Tensor:
    """Return the share of a channel's flow in that of all channels of the group that have no less of it.

    Flow is the variance of the channel times the squared weights that take it in: ``sum_b gamma_b^2 * sum_r |W_r[:, k]|^2``,
    b over the group's BatchNorms, r over the layers behind that sum over the channel (not depthwise ones). A BatchNorm
    gives its channel the variance ``gamma^2`` on the data that it was trained on, so this is what the channel adds to the
    variance of the layers behind, up to correlations and what activations do. Without a BatchNorm the squared weights that
    make the channel stand for its variance; the product is then the squared norm of all paths through it (Neyshabur et
    al. 2015, "Path-SGD", arXiv 1506.02617). ReLU nets compute the same with a channel scaled by a > 0 and what reads it by
    1 / a: flow then stays as it is, sums of norms do not. Without a layer behind the variance alone counts. Shares as in
    `lamp` (arXiv 2010.07611), so that a global ranking empties no group.
    """
    flows = channels.summed(_squares)
    if channels.covers(channels.scales):
        variance = channels.summed(_squares, channels.scales)
        flows = torch.where(flows > 0, variance, 0.0)  # a masked filter varies not, whatever its gamma is
    if channels.covers(channels.readers):
        flows = flows * channels.summed(_squares, channels.readers)
    return lamp_scores(flows)


@register_channel_criterion("taylor", needs_data=True, absolute=True)
def taylor(channels: Channels) -> Tensor:
    """Return the mean of ``(sum of w * g)**2`` over draws of the gradient g, the sum over all weights of the channel.

    Molchanov et al. 2019, "Importance Estimation for Neural Network Pruning" (arXiv 1906.10771), equation 8. With
    the user's loss, g is its gradient on a batch. Without one the dense model is its own teacher: the distance of its
    outputs to themselves has gradient 0, so the first term that counts is the second one. With g the gradient of the
    outputs times random signs, the mean is that term, ``|J w|**2``: the squared change of the outputs (as a share of
    their squared size) that removing the channel brings to first order.
    """
    return torch.from_numpy((channels.effects() ** 2).mean(axis=0))


@register_channel_criterion("activation", needs_data=True)
def activation(channels: Channels) -> Tensor:
    """Return the mean of ``|a|`` over the channel's values where they are consumed.

    Molchanov et al. 2017, "Pruning Convolutional Neural Networks for Resource Efficient Inference" (arXiv
    1611.06440), section 2.2.
    """
    assert channels.measured is not None
    return torch.from_numpy(channels.measured.magnitudes(channels.group))


@register_channel_criterion("reconstruction", needs_data=True, absolute=True)
def reconstruction(channels: Channels) -> Tensor | None:
    """Return the error of the layers behind when a channel and all less important ones are gone and these are refitted.

    See `torchthin.importance.removal`. For `recover`, which refits them. None where no layer behind can be refitted.
    """
    assert channels.measured is not None
    return channels.measured.removal_errors(channels.group)
