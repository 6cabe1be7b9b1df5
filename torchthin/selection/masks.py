"""Masks: bool tensors of a weight's shape, True = keep. From keeps to masks, and masks onto a model."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping

import numpy as np
import torch
from torch import Tensor, nn

from torchthin.dependency.groups import Group
from torchthin.errors import InputError
from torchthin.graph.clone import state_tensors
from torchthin.importance.scores import is_filter_member
from torchthin.selection.channels import BoolArray


def axis_mask(keep: Tensor, weight: Tensor, axis: int) -> Tensor:
    """Return `keep` (size of `axis`,) spread over the other axes of `weight`, on its device."""
    return spread_mask(keep, weight, axis).contiguous()


def spread_mask(keep: Tensor, weight: Tensor, axis: int) -> Tensor:
    """Return what `axis_mask` does, as a view that takes the memory of `keep` only."""
    shape = [1] * weight.dim()
    shape[axis] = -1
    return keep.to(weight.device).view(shape).expand(weight.shape)


def channel_masks(
    groups: Iterable[Group],
    keeps: Mapping[str, BoolArray],
    model: nn.Module,
    filter_axes: Mapping[str, int],
    *,
    views: bool = False,
) -> dict[str, Tensor]:
    """Return the mask of every target: False over all weights of every filter that goes.

    Only the filter axes of targets are masked. Other members of a group (biases, BatchNorm, the consumer's
    input axis) keep their values; thinning removes them. A target whose filters are in no group gets a mask
    of all True.

    groups: what was decided. keeps: group name -> bool (channels,). filter_axes: target name -> its filter
    axis. views: masks that take no memory of their own, for a look at them.
    Returns target name -> bool tensor of the weight's shape and device.
    """
    tensors = dict(state_tensors(model))
    kept = {name: np.ones(tensors[name].shape[axis], np.bool_) for name, axis in filter_axes.items()}
    for group in groups:
        if group.name not in keeps:
            continue
        for member in group.members:
            if is_filter_member(member, filter_axes):
                kept[member.parameter][member.removed(keeps[group.name])] = False
    return {
        name: (spread_mask if views else axis_mask)(torch.from_numpy(kept[name]), tensors[name], axis)
        for name, axis in filter_axes.items()
    }


def masked(tensor: Tensor, mask: Tensor, *, own: bool = False) -> Tensor:
    """Return a tensor with zeros where its mask says so, whatever stood there; half the price of a product with booleans.

    own: nothing else reads the tensor, so its memory is taken.
    """
    axis = only_axis(mask)
    if axis is not None:  # whole channels: the others need not be touched
        removed = (~without_copies(mask)).reshape(-1).nonzero().reshape(-1).to(tensor.device)
        return (tensor if own else tensor.clone()).index_fill_(axis, removed, 0)
    made = (
        tensor if own else torch.empty_like(tensor)
    )  # laid out as the tensor is, whatever the mask's layout
    return torch.where(mask.to(tensor.device), tensor, tensor.new_zeros(()), out=made)


def only_axis(mask: Tensor) -> int | None:
    """Return the axis along which a mask decides, where it is a view of one decision for each channel."""
    axes = [axis for axis, step in enumerate(mask.stride()) if step and mask.shape[axis] > 1]
    return axes[0] if len(axes) == 1 and mask.dim() > 1 else None


class Masked(Mapping[str, Tensor]):
    """Tensors by name, masked as they are asked for."""

    def __init__(self, tensors: Mapping[str, Tensor], masks: Mapping[str, Tensor]) -> None:
        self._tensors = tensors
        self._masks = masks

    def __getitem__(self, name: str) -> Tensor:
        tensor = self._tensors[name].detach()
        return masked(tensor, self._masks[name]) if name in self._masks else tensor

    def __contains__(self, name: object) -> bool:
        return name in self._tensors  # what a mapping does without this makes the mask's product

    def __iter__(self) -> Iterator[str]:
        return iter(self._tensors)

    def __len__(self) -> int:
        return len(self._tensors)


def without_copies(mask: Tensor, axis: int | None = None) -> Tensor:
    """Return a mask with one of each of the axes over which it is spread as a view, but for one `axis`."""
    for other, step in enumerate(mask.stride()):
        if step == 0 and mask.shape[other] and other != axis:
            mask = mask.narrow(other, 0, 1)
    return mask


def count_removed(mask: Tensor) -> int:
    """Return how many entries a mask removes."""
    once = without_copies(mask)
    each = mask.numel() // max(once.numel(), 1)
    return each * (once.numel() - int(once.count_nonzero()))


def apply_masks_(model: nn.Module, masks: Mapping[str, Tensor]) -> None:
    """Set every weight of `model` to zero where its mask is False; nothing else is touched.

    Raises `InputError`, before anything is changed, for a mask whose name or shape does not fit the model.
    """
    tensors = dict(state_tensors(model)) | dict(model.named_parameters(remove_duplicate=False))
    for name, mask in masks.items():
        if name not in tensors:
            raise InputError(
                f"The mask {name} fits no parameter or buffer of the model. Use names of named_parameters()."
            )
        if mask.shape != tensors[name].shape:
            raise InputError(
                f"The mask {name} must have its weight's shape {tuple(tensors[name].shape)}. "
                f"Got {tuple(mask.shape)}."
            )
    with torch.no_grad():
        for name, mask in masks.items():
            # A product, not masked_fill_: the same zeros in a fifth of the time.
            tensors[name].mul_(mask.to(tensors[name].device))
