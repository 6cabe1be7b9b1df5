"""Criteria that need data: what `Measured` tells of the channels."""

from __future__ import annotations

import torch
from torch import Tensor

from torchthin.importance.channels import Channels
from torchthin.importance.registry import register_channel_criterion
from torchthin.importance.removal import removal_errors


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

    See `removal_errors`. For `recover`, which refits them. None where no layer behind can be refitted.
    """
    assert channels.measured is not None
    consumers = channels.measured.consumers(channels.group)
    return removal_errors(consumers, channels.group.size) if consumers else None
