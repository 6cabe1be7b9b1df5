"""Layers that round what they compute with, and the parameters that a refit gives them.

A layer of ai8x-training in quantisation-aware mode scales weights and biases by the power of two that makes the largest just fit,
rounds them, and takes the power back from its outputs; from those of 32 bits it does not. A fit is solved in the scale that the
layer has: what it should give is what the dense layer gives before its own power is taken back, in the other one's units.
Weights are rounded input by input, so that later ones make up for the errors of earlier ones. What is stored decides about the
next power, so weights are taken from there before the run goes on.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from torchthin.graph.output_shift import largest_value_shift
from torchthin.importance.product_rows import Product
from torchthin.recovery.layers import Layer
from torchthin.recovery.ridge import HELD_OUT, fit

_DAMPING = 0.01
"""Added to the second moments, in units of their mean."""
_SETTINGS = ("weight_bits", "bias_bits", "adjust_output_shift", "shift_quantile", "wide")


@dataclass(frozen=True)
class Rounding:
    """How a layer makes what it computes with."""

    bits: int
    bias_bits: int
    quantile: float
    """Of the absolute weights and biases, that decides the power of two."""
    wide: bool
    """Whether outputs keep the scale of the weights."""

    def shift(self, weight: Tensor, bias: Tensor | None) -> float:
        """Return the power of two of these parameters."""
        every = weight.flatten() if bias is None else torch.cat((weight.flatten(), bias.flatten()))
        return float(largest_value_shift(every.detach().float(), self.quantile))

    def rounded(self, weight: Tensor, bias: Tensor | None, shift: float) -> tuple[Tensor, Tensor | None]:
        """Return what the layer computes with, given parameters and their power of two."""
        scale = 2.0**-shift
        return _in_bits(weight * scale, self.bits), None if bias is None else _in_bits(
            bias * scale, self.bias_bits
        )


def _in_bits(values: Tensor, bits: int) -> Tensor:
    levels = 2.0 ** (bits - 1)
    return values.mul(levels).add(0.5).floor().clamp(-levels, levels - 1).div(levels)


def roundings(model: nn.Module, weights: Iterable[str]) -> dict[str, Rounding]:
    """Return how the layers round that weights belong to; left out are those that do not, and those with a BatchNorm after it."""
    modules = dict(model.named_modules())
    found = {}
    for weight in weights:
        parts = weight.split(".")
        paths = (".".join(parts[:count]) for count in range(len(parts) - 1, 0, -1))
        layer = next((modules[path] for path in paths if _rounds(modules.get(path))), None)
        if layer is not None:
            bits, bias_bits, _, quantile, wide = (getattr(layer, name) for name in _SETTINGS)
            found[weight] = Rounding(int(bits), int(bias_bits), float(quantile), bool(wide))
    return found


def _rounds(module: nn.Module | None) -> bool:
    if module is None or not all(hasattr(module, name) for name in _SETTINGS):
        return False
    on = all(bool(torch.as_tensor(getattr(module, name)).any()) for name in _SETTINGS[:3])
    return on and getattr(module, "bn", None) is None


@dataclass(frozen=True)
class Refitted:
    """New parameters of a layer, and what a run that goes on computes with."""

    weight: Tensor
    """(groups, outputs, inputs), as stored."""
    bias: Tensor | None
    """(groups, outputs), as stored."""
    used_weight: Tensor
    used_bias: Tensor | None


@dataclass(frozen=True)
class RoundedLayer:
    """One layer of a thinned model that rounds, and its parameters in the dense one."""

    rounding: Rounding
    layer: Layer
    tensors: Mapping[str, Tensor]
    """Of the thinned model."""
    dense: Mapping[str, Tensor]
    """Of the dense model, by their names in the thinned one."""

    def _shift(self, tensors: Mapping[str, Tensor]) -> float:
        bias = self.layer.bias
        return self.rounding.shift(tensors[self.layer.weight], None if bias is None else tensors[bias])

    def refit(self, product: Product, inputs: Tensor, targets: Tensor) -> Refitted | None:
        """Return parameters whose rounded values give the targets better, on rows that were not fitted; None: there are none.

        Args:
            product: of the thinned model.
            inputs: (groups, rows, inputs) of it.
            targets: (groups, rows, outputs), what the dense product gives.
        """
        shift = self._shift(self.tensors)  # which the run has taken already
        if not self.rounding.wide:
            targets = targets * 2.0 ** (self._shift(self.dense) - shift)
        weight, bias = self._unrounded(product, 2.0**-shift)
        found = fit([(inputs, targets)], targets.shape[1], weight, bias, intercept=bias is not None)
        if found is None:
            return None
        new = self._rounded(found.weight, found.bias, inputs.double(), targets.double())
        if new is None:
            return None
        scale = 2.0**shift
        stored = new[0] * scale, None if new[1] is None else new[1] * scale
        own = self.rounding.shift(*stored)
        used = self.rounding.rounded(*stored, own)
        back = 2.0 ** (own - shift)
        made = Refitted(*stored, used[0] * back, None if used[1] is None else used[1] * back)
        groups = product.groups
        present = product.weight.double().reshape(groups, -1, inputs.shape[-1])
        before = _error(
            inputs,
            targets,
            present,
            None if product.bias is None else product.bias.double().reshape(groups, -1),
        )
        return made if _error(inputs, targets, made.used_weight, made.used_bias) < before else None

    def _unrounded(self, product: Product, scale: float) -> tuple[Tensor, Tensor | None]:
        """Return weights, (groups, outputs, inputs), and biases, (groups, outputs), before they are rounded."""
        weight = self.tensors[self.layer.weight].detach()
        laid = (weight.mT if self.layer.axis else weight).reshape(
            product.groups, -1, product.weight[0].numel()
        )
        if self.layer.bias is None:
            return laid * scale, None
        return laid * scale, self.tensors[self.layer.bias].detach().reshape(product.groups, -1) * scale

    def _rounded(
        self, weight: Tensor, bias: Tensor | None, inputs: Tensor, targets: Tensor
    ) -> tuple[Tensor, Tensor | None] | None:
        """Return weights and biases on the layer's grid that give the targets; None where the layer cannot have them.

        Outputs of 32 bits have the scale of the weights, whatever that of the parameters is: their largest must stay where it is.
        """
        own = 0.0 if self.rounding.wide else self.rounding.shift(weight, bias)
        scale = 2.0**-own
        mean = inputs.mean(1, keepdim=True) if bias is not None else inputs.new_zeros(())
        made = _rounded_by_columns(weight * scale, inputs - mean, self.rounding.bits)
        added = None
        if bias is not None:
            rest = (targets * scale).mean(1) - (made @ mean.mT)[..., 0]
            added = _in_bits(rest, self.rounding.bias_bits) / scale
        made = made / scale
        if self.rounding.wide and self.rounding.shift(made, added):
            return None
        return made, added


def _error(inputs: Tensor, targets: Tensor, weight: Tensor, bias: Tensor | None) -> float:
    """Return the mean squared error on the rows that were not fitted."""
    cut = inputs.shape[1] - max(1, int(HELD_OUT * inputs.shape[1]))
    made = inputs[:, cut:].double() @ weight.double().mT
    return float(
        (made + (0.0 if bias is None else bias.double()[:, None]) - targets[:, cut:]).square().mean()
    )


def _rounded_by_columns(weight: Tensor, inputs: Tensor, bits: int) -> Tensor:
    """Round weights (groups, outputs, inputs) one input after the other; those to come make up for each one's error.

    After Frantar et al. 2022 (OPTQ, arXiv 2210.17323): with the inverse of the inputs' second moments, in its Cholesky form.
    """
    moments = inputs.mT @ inputs / inputs.shape[1]
    mean = moments.diagonal(dim1=-2, dim2=-1).mean(-1).clamp_min(1e-30)
    size = moments.shape[-1]
    eye = torch.eye(size, dtype=moments.dtype, device=moments.device)
    factor = torch.linalg.cholesky(moments + _DAMPING * mean[:, None, None] * eye)
    upper = torch.linalg.cholesky(torch.cholesky_inverse(factor), upper=True)
    left, made = weight.double().clone(), torch.empty_like(weight, dtype=torch.float64)
    for column in range(size):
        made[..., column] = _in_bits(left[..., column], bits)
        error = (left[..., column] - made[..., column]) / upper[:, column, column, None]
        left[..., column + 1 :] -= error[..., None] * upper[:, None, column, column + 1 :]
    return made
