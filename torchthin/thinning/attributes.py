"""Integer attributes of modules that mirror the sizes of their parameters: a table by module type."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from torch import nn
from torch.nn.modules.batchnorm import _NormBase
from torch.nn.modules.conv import _ConvNd, _ConvTransposeNd

Shapes = Mapping[str, tuple[int, ...]]
"""Local parameter name -> shape."""
Mirror = Callable[[Any, Shapes, Shapes], dict[str, Any]]
"""(module, shapes before, shapes after) -> attribute values after."""

_MIRRORS: list[tuple[type[nn.Module], Mirror]] = []


def mirrors(kind: type[nn.Module]) -> Callable[[Mirror], Mirror]:
    """Register which attributes of a module type mirror its sizes; subclasses inherit."""

    def register(function: Mirror) -> Mirror:
        if any(known is kind for known, _ in _MIRRORS):
            raise RuntimeError(f"The attributes of {kind.__name__} are registered already.")
        _MIRRORS.append((kind, function))
        return function

    return register


def attributes_after(module: nn.Module, before: Shapes, after: Shapes) -> dict[str, Any]:
    """Return the attributes of `module` that change with its shapes, with their new values."""
    for kind, function in reversed(_MIRRORS):
        if isinstance(module, kind):
            return {k: v for k, v in function(module, before, after).items() if getattr(module, k, None) != v}
    return {}


def registered(module: nn.Module) -> bool:
    """Whether the sizes of this module type are all known from the table (attention's number of heads is not)."""
    return any(isinstance(module, kind) for kind, _ in _MIRRORS if kind is not nn.MultiheadAttention)


@mirrors(_ConvNd)
def _conv(module: _ConvNd, before: Shapes, after: Shapes) -> dict[str, Any]:
    old, new = before["weight"], after["weight"]
    groups = module.groups
    if groups > 1 and old[1] == 1:
        groups = groups * new[0] // old[0]
    return {"out_channels": new[0], "in_channels": new[1] * groups, "groups": groups}


@mirrors(_ConvTransposeNd)
def _conv_transposed(module: _ConvTransposeNd, before: Shapes, after: Shapes) -> dict[str, Any]:
    old, new = before["weight"], after["weight"]
    groups = module.groups
    if groups > 1 and old[0] == groups:
        groups = new[0]
    return {"in_channels": new[0], "out_channels": new[1] * groups, "groups": groups}


@mirrors(nn.Linear)
def _linear(module: nn.Linear, before: Shapes, after: Shapes) -> dict[str, Any]:
    return {"out_features": after["weight"][0], "in_features": after["weight"][1]}


@mirrors(nn.Bilinear)
def _bilinear(module: nn.Bilinear, before: Shapes, after: Shapes) -> dict[str, Any]:
    out, first, second = after["weight"]
    return {"out_features": out, "in1_features": first, "in2_features": second}


@mirrors(_NormBase)
def _batch_norm(module: _NormBase, before: Shapes, after: Shapes) -> dict[str, Any]:
    return {"num_features": next(shape[0] for shape in after.values() if shape)}


@mirrors(nn.GroupNorm)
def _group_norm(module: nn.GroupNorm, before: Shapes, after: Shapes) -> dict[str, Any]:
    return {"num_channels": after["weight"][0]}


@mirrors(nn.LayerNorm)
def _layer_norm(module: nn.LayerNorm, before: Shapes, after: Shapes) -> dict[str, Any]:
    return {"normalized_shape": tuple(after["weight"])}


@mirrors(nn.PReLU)
def _prelu(module: nn.PReLU, before: Shapes, after: Shapes) -> dict[str, Any]:
    return {"num_parameters": after["weight"][0]}


@mirrors(nn.Embedding)
def _embedding(module: nn.Embedding, before: Shapes, after: Shapes) -> dict[str, Any]:
    return {"num_embeddings": after["weight"][0], "embedding_dim": after["weight"][1]}


@mirrors(nn.RNNBase)
def _recurrent(module: nn.RNNBase, before: Shapes, after: Shapes) -> dict[str, Any]:
    gates = before["weight_hh_l0"][0] // module.hidden_size
    sizes = {"input_size": after["weight_ih_l0"][1], "hidden_size": after["weight_hh_l0"][0] // gates}
    return {**sizes, "proj_size": after["weight_hr_l0"][0]} if "weight_hr_l0" in after else sizes


@mirrors(nn.RNNCellBase)
def _recurrent_cell(module: nn.RNNCellBase, before: Shapes, after: Shapes) -> dict[str, Any]:
    return {"input_size": after["weight_ih"][1], "hidden_size": after["weight_hh"][1]}


@mirrors(nn.MultiheadAttention)
def _multihead(module: nn.MultiheadAttention, before: Shapes, after: Shapes) -> dict[str, Any]:
    if "in_proj_weight" in after:
        width = after["in_proj_weight"][1]
        return {"embed_dim": width, "kdim": width, "vdim": width}
    return {}


if hasattr(nn, "RMSNorm"):  # torch 2.4 and later

    @mirrors(nn.RMSNorm)
    def _rms_norm(module: nn.Module, before: Shapes, after: Shapes) -> dict[str, Any]:
        return {"normalized_shape": tuple(after["weight"])}
