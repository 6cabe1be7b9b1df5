"""Weights that a layer computes from other parameters, and the parameter whose zeros are zeros of such a weight.

``weight_norm`` divides by the length of every filter, so zeros in its direction v are 0 / 0, zeros in its length g are
zeros of the weight. Which parameter does it is not looked up but tried, on a copy of the layer: this covers any
parametrization, spectral norm and the masks of ``torch.nn.utils.prune``.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.conv import _ConvNd, _ConvTransposeNd
from torch.nn.utils import parametrize
from torch.nn.utils.prune import BasePruningMethod
from torch.nn.utils.spectral_norm import SpectralNorm
from torch.nn.utils.weight_norm import WeightNorm

from torchthin.graph.clone import clone, duplicate, modules_of
from torchthin.graph.evaluation_mode import evaluation_mode


def recompute_(model: nn.Module) -> None:
    """Compute again the plain attributes that torch's hooks would compute before the next forward pass."""
    for module in model.modules():
        for hook in module._forward_pre_hooks.values():
            if isinstance(hook, SpectralNorm):  # its call would also take a step of the power iteration
                setattr(module, hook.name, hook.compute_weight(module, do_power_iteration=False))
            elif isinstance(hook, (BasePruningMethod, WeightNorm)):
                hook(module, ())


@dataclass(frozen=True)
class DerivedWeight:
    """A weight that is computed from other parameters."""

    weight: str
    """As the layer calls it: ``conv.weight``."""
    original: str
    """The parameter of the weight's shape (``conv.weight_v``): its channels are the weight's channels."""
    axis: int
    """Filter axis."""
    masked: str | None
    """The parameter to mask instead of the weight (``conv.weight_g``); None when no zeros make the weight zero."""
    rescaled: float
    """By what share masked filters change the size of the others (spectral norm); 0: they do not."""
    values: Tensor
    """The weight as it is now."""


def derived_weights(model: nn.Module) -> dict[str, DerivedWeight]:
    """Find the derived weights of convolutions and linear layers: name of the original -> what is known."""
    layers = [
        (f"{path}.weight" if path else "weight", module)
        for path, module in modules_of(model)
        if isinstance(module, (_ConvNd, nn.Linear)) and "weight" not in module._parameters
    ]
    first_names = {id(parameter): name for name, parameter in model.named_parameters()} if layers else {}
    found = {}
    for name, module in layers:
        item = _tried(name, module, first_names)
        if item is not None:
            found[item.original] = item
    return found


def layer_of(name: str) -> str:
    """Return the layer that a parameter, or a module of a parametrization, belongs to."""
    head, found, _ = f".{name}".partition(".parametrizations.")
    return head[1:] if found else name.rpartition(".")[0]


def _tried(name: str, layer: _ConvNd | nn.Linear, first_names: dict[int, str]) -> DerivedWeight | None:
    axis = 1 if isinstance(layer, _ConvTransposeNd) and layer.groups == 1 else 0
    copy = clone(layer, duplicate)
    with evaluation_mode(copy):
        weight = weight_of(copy).clone()
        sources = [
            (first_names[id(own)], tensor)
            for own, tensor in zip(_sources(layer), _sources(copy), strict=True)
            if tensor.dim() == weight.dim() and tensor.shape[axis] == weight.shape[axis]
        ]
        if weight.is_meta:
            return None
        original = next((source for source, tensor in sources if tensor.shape == weight.shape), None)
        if original is None:
            return None
        for source, tensor in sorted(sources, key=lambda pair: pair[1].numel()):
            rescaled = _change(copy, tensor, weight, axis)
            if rescaled is not None:
                return DerivedWeight(name, original, axis, source, rescaled, weight)
    return DerivedWeight(name, original, axis, None, 0.0, weight)


def _sources(layer: nn.Module) -> Iterator[nn.Parameter]:
    if parametrize.is_parametrized(layer, "weight"):
        yield from layer.parametrizations["weight"].parameters()  # type: ignore[index, union-attr]
    else:
        yield from (p for name, p in layer.named_parameters(recurse=False) if name.startswith("weight_"))


def _change(layer: nn.Module, source: Tensor, weight: Tensor, axis: int) -> float | None:
    """Zero half of the filters in `source`; None unless the weight is zero there, else the change of the others."""
    before, half = source.clone(), (weight.shape[axis] + 1) // 2
    source.narrow(axis, 0, half).zero_()
    now = weight_of(layer)
    dead, rest = now.narrow(axis, 0, half), weight.shape[axis] - half
    others, was = now.narrow(axis, half, rest), weight.narrow(axis, half, rest)
    fits = bool(torch.isfinite(now).all()) and not bool(dead.any())
    change = float((others - was).abs().max() / was.abs().max().clamp_min(1e-30)) if rest else 0.0
    source.copy_(before)
    recompute_(layer)
    return change if fits else None


def weight_of(layer: nn.Module) -> Tensor:
    """Return the weight as the layer would compute it now."""
    recompute_(layer)
    weight: Tensor = layer.weight  # type: ignore[assignment]
    return weight


def mirrored_tensors(module: nn.Module) -> dict[str, Tensor]:
    """Return the parameters and buffers that a module's sizes mirror, by local name.

    A tensor that another is computed from is listed under the name of that one, too: the ``weight_orig`` of
    ``torch.nn.utils.prune``, the ``weight_v`` of ``weight_norm`` and the largest original of a parametrization as ``weight``.
    """
    own = {name: t for name, t in {**module._parameters, **module._buffers}.items() if t is not None}
    for suffix in ("_orig", "_v"):
        for name in [name for name in own if name.endswith(suffix)]:
            if hasattr(module, name.removesuffix(suffix)):  # the bias_v of attention computes nothing
                own.setdefault(name.removesuffix(suffix), own[name])
    if parametrize.is_parametrized(module):
        parametrizations: Any = module.parametrizations
        for name, holder in parametrizations.items():
            own[name] = max(holder.parameters(recurse=False), key=Tensor.numel)
    return own
