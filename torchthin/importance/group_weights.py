"""Criteria of weights that look at the whole group: what makes a channel, its BatchNorm, and what takes it in."""

from __future__ import annotations

import torch
from torch import Tensor

from torchthin.importance.channels import Channels
from torchthin.importance.filters import lamp_scores
from torchthin.importance.registry import register_channel_criterion


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
