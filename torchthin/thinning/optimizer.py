"""Optimizer state follows the shrink: what an optimizer remembers per weight is cut as the weight is."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from torchthin.errors import InputError
from torchthin.thinning.recipe import Recipe, cut

StateCuts = dict[nn.Parameter, dict[str, Any]]


def cut_state(
    optimizer: torch.optim.Optimizer, parameters: Mapping[str, nn.Parameter], recipe: Recipe
) -> StateCuts:
    """Return the optimizer's state after thinning, for every parameter that changes; nothing is changed yet.

    Entries of the parameter's shape (momentum, squared gradients) are cut, numbers and one-element tensors stay.

    Raises:
        InputError: for an entry of another shape (factored second moments), which cannot be cut.
    """
    cuts: StateCuts = {}
    for name, axes in recipe.keep.items():
        parameter = parameters.get(name)
        state = optimizer.state.get(parameter) if parameter is not None else None
        if parameter is None or not state:
            continue
        cuts[parameter] = {key: _entry(name, key, value, parameter, axes) for key, value in state.items()}
    return cuts


def _entry(
    name: str, key: str, value: Any, parameter: nn.Parameter, axes: Mapping[int, tuple[int, ...]]
) -> Any:
    if not isinstance(value, Tensor) or value.numel() == 1:
        return value
    if value.shape != parameter.shape:
        raise InputError(
            f"The optimizer's state {key!r} of {name} has shape {tuple(value.shape)}, the parameter {tuple(parameter.shape)}; "
            "only state of the parameter's shape can be cut. Thin first, then make the optimizer."
        )
    return cut(value, axes)


def adopt_(optimizer: torch.optim.Optimizer, neighbour: nn.Parameter, new: nn.Parameter) -> None:
    """Put a new parameter into the group that holds `neighbour` (no group: the optimizer does not train that layer)."""
    for group in optimizer.param_groups:
        if any(parameter is neighbour for parameter in group["params"]):
            group["params"].append(new)
            return
