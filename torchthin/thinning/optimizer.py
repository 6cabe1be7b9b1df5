"""The state of an optimizer (momentum, squared gradients) is cut as the weights are that it belongs to."""

from __future__ import annotations

from collections.abc import Callable, Mapping
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

    Entries of the parameter's shape (momentum, squared gradients) are cut, numbers and one-element tensors are kept.

    Raises:
        InputError: for an optimizer of another model, and for an entry of another shape (factored second moments, the
            flat history of LBFGS), which cannot be cut.
    """
    trained = {id(parameter) for group in optimizer.param_groups for parameter in group["params"]}
    if not any(id(parameter) in trained for parameter in parameters.values()):
        raise InputError(
            f"The optimizer ({type(optimizer).__name__}) trains no parameter of the model. "
            "Give the model's own optimizer."
        )
    if isinstance(optimizer, torch.optim.LBFGS) and optimizer.state:
        raise InputError(
            "The state of LBFGS is one vector over all parameters and cannot be cut. "
            "Thin first, then make the optimizer."
        )
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
    if isinstance(value, (list, tuple, dict)) or (
        isinstance(value, Tensor) and value.numel() > 1 and value.shape != parameter.shape
    ):
        kind = f"shape {tuple(value.shape)}" if isinstance(value, Tensor) else f"type {type(value).__name__}"
        raise InputError(
            f"The optimizer's state {key!r} of {name} has {kind}, the parameter shape {tuple(parameter.shape)}; "
            "only state of the parameter's shape can be cut. Thin first, then make the optimizer."
        )
    return cut(value, axes) if isinstance(value, Tensor) and value.shape == parameter.shape else value


def way_back(optimizer: torch.optim.Optimizer) -> Callable[[], None]:
    """Return a function that puts the optimizer's groups and state back as they are now."""
    groups = [(group["params"], list(group["params"])) for group in optimizer.param_groups]
    state = {parameter: (entries, dict(entries)) for parameter, entries in optimizer.state.items()}

    def put_back() -> None:
        for parameters, before in groups:
            parameters[:] = before
        for parameter in [p for p in optimizer.state if p not in state]:
            del optimizer.state[parameter]
        for entries, old in state.values():
            entries.clear()
            entries.update(old)

    return put_back


def follow_(
    optimizer: torch.optim.Optimizer, cuts: StateCuts, added: Mapping[nn.Parameter, nn.Parameter]
) -> None:
    """Set the cut state, and put new parameters into the groups of their neighbours.

    Args:
        optimizer: what is changed.
        cuts: from `cut_state`.
        added: new parameter -> a parameter of the same module. Where the optimizer does not train the neighbour,
            it does not train the new one.
    """
    state: dict[Any, Any] = optimizer.state
    for parameter, entries in cuts.items():
        state[parameter].update(entries)
    for new, neighbour in added.items():
        for group in optimizer.param_groups:
            if any(parameter is neighbour for parameter in group["params"]):
                group["params"].append(new)
                if isinstance(optimizer, torch.optim.Adagrad):  # the only one that makes its state beforehand
                    state[new] = {
                        "step": torch.tensor(0.0),
                        "sum": torch.full_like(new, group["initial_accumulator_value"]),
                    }
                break
