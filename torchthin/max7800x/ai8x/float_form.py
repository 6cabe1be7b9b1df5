"""A network in quantisation-aware mode, and the same without its rounding."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from torchthin.graph.clone import clone, duplicate
from torchthin.graph.output_shift import largest_value_shift
from torchthin.max7800x.ai8x.settings import SETTINGS, layers_with_settings

_SWITCHES = ("quantize_activation", "adjust_output_shift", "weight_bits", "bias_bits")


def is_quantised(model: nn.Module) -> bool:
    """Whether a layer of the model rounds its weights or outputs as the chip does."""
    return any(
        bool(torch.as_tensor(getattr(layer, name)).any())
        for layer in layers_with_settings(model)
        for name in _SWITCHES
    )


@torch.no_grad()
def float_form(model: nn.Module) -> nn.Module:
    """Return a copy of a model whose ai8x layers compute in floating point, without rounding; outputs keep their unit.

    In quantisation-aware mode a layer with outputs of 32 bits does not take its power of two back, so it goes into its weights.
    """
    copy = clone(model, duplicate)
    for layer in layers_with_settings(copy):
        op: Any = getattr(layer, "op", None)
        if (
            op is not None
            and getattr(layer, "wide", False)
            and bool(_setting(layer, "adjust_output_shift").any())
        ):
            _rescale_(op, float(_setting(layer, "shift_quantile")) if hasattr(layer, SETTINGS[-1]) else 1.0)
        for name in _SWITCHES:
            _setting(layer, name).zero_()
        _setting(layer, "output_shift").zero_()
        layer.set_functions()  # type: ignore[operator]
    return copy


def _setting(layer: nn.Module, name: str) -> Tensor:
    found = getattr(layer, name)
    assert isinstance(found, Tensor)
    return found.data


def _rescale_(op: Any, quantile: float) -> None:
    tensors = [op.weight] if op.bias is None else [op.weight, op.bias]
    shift = largest_value_shift(torch.cat([tensor.detach().flatten() for tensor in tensors]), quantile)
    for tensor in tensors:
        tensor.mul_(torch.exp2(-shift))
