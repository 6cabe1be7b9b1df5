"""Weights must hold numbers before they can be ranked."""

from __future__ import annotations

from collections.abc import Collection

from torch import Tensor, nn

from torchthin.errors import InputError


def _refuse_bad_values(name: str, parameter: Tensor, ranked: bool) -> None:
    """Raise when `parameter` holds NaN, or infinity where it is `ranked`."""
    # One pass at memory speed: a sum is finite unless it overflows or something in it is not.
    if bool(parameter.sum().isfinite()):
        return
    nans, infinite = int(parameter.isnan().sum()), int(parameter.isinf().sum())
    if nans or (infinite and ranked):
        raise InputError(
            f"The weight {name} holds {nans} NaN and {infinite} infinite of {parameter.numel()} values. "
            "Load weights of a training run that has not diverged."
        )


def check_values(model: nn.Module, ranked: Collection[str]) -> None:
    """Raise `InputError` for parameters without values (meta device), with NaN, or infinite in `ranked`."""
    floating = {
        name: p.detach() for name, p in model.named_parameters() if p.is_floating_point() and p.numel()
    }
    for name, parameter in floating.items():
        if parameter.is_meta:
            raise InputError(
                f"The weight {name} is on the meta device and has no values. Load the weights first."
            )
    for name, parameter in floating.items():
        # Types of fewer bits than float16 have no sum, and are never ranked.
        if parameter.element_size() > 1:
            _refuse_bad_values(name, parameter, name in ranked)
