"""Integer attributes of modules that mirror the sizes of their parameters: a table by module type."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from torch import nn
from torch.nn.modules.batchnorm import _NormBase
from torch.nn.modules.conv import _ConvNd, _ConvTransposeNd

from torchthin.graph.clone import modules_of, state_tensors
from torchthin.graph.parametrized import mirrored_tensors
from torchthin.thinning.recipe import Recipe

Shapes = Mapping[str, tuple[int, ...]]
"""Local parameter name -> shape."""
Mirror = Callable[[Any, Shapes, Shapes], dict[str, Any]]
"""(module, shapes before, shapes after) -> attribute values after."""


def _conv(module: _ConvNd, before: Shapes, after: Shapes) -> dict[str, Any]:
    old, new, groups = before["weight"], after["weight"], module.groups
    if groups > 1 and old[1] == 1:
        groups = groups * new[0] // old[0]
    return {"out_channels": new[0], "in_channels": new[1] * groups, "groups": groups}


def _conv_transposed(module: _ConvTransposeNd, before: Shapes, after: Shapes) -> dict[str, Any]:
    old, new, groups = before["weight"], after["weight"], module.groups
    if groups > 1 and old[0] == groups:
        groups = new[0]
    return {"in_channels": new[0], "out_channels": new[1] * groups, "groups": groups}


def _recurrent(module: nn.RNNBase, before: Shapes, after: Shapes) -> dict[str, Any]:
    gates = before["weight_hh_l0"][0] // module.hidden_size
    sizes = {"input_size": after["weight_ih_l0"][1], "hidden_size": after["weight_hh_l0"][0] // gates}
    return {**sizes, "proj_size": after["weight_hr_l0"][0]} if "weight_hr_l0" in after else sizes


def _multihead(module: nn.MultiheadAttention, before: Shapes, after: Shapes) -> dict[str, Any]:
    width = after["in_proj_weight"][1] if "in_proj_weight" in after else None
    return {} if width is None else dict.fromkeys(("embed_dim", "kdim", "vdim"), width)


def _group_norm(module: nn.GroupNorm, before: Shapes, after: Shapes) -> dict[str, Any]:
    alone = module.num_groups == before["weight"][0]
    return {"num_channels": after["weight"][0], **({"num_groups": after["weight"][0]} if alone else {})}


def _shape_of_weight(module: nn.Module, before: Shapes, after: Shapes) -> dict[str, Any]:
    return {"normalized_shape": tuple(after["weight"])}


def _axes_of_weight(*names: str) -> Mirror:
    """Return a mirror whose attributes are the sizes of the weight's first axes."""
    return lambda _, before, after: dict(zip(names, after["weight"], strict=False))


MIRRORS: tuple[tuple[type[nn.Module], Mirror], ...] = (
    (_ConvTransposeNd, _conv_transposed),
    (_ConvNd, _conv),
    (nn.Linear, _axes_of_weight("out_features", "in_features")),
    (nn.Bilinear, _axes_of_weight("out_features", "in1_features", "in2_features")),
    (_NormBase, lambda _, before, after: {"num_features": next(n[0] for n in after.values() if n)}),
    (nn.GroupNorm, _group_norm),
    (nn.LayerNorm, _shape_of_weight),
    (nn.PReLU, _axes_of_weight("num_parameters")),
    (nn.Embedding, _axes_of_weight("num_embeddings", "embedding_dim")),
    (nn.RNNBase, _recurrent),
    (
        nn.RNNCellBase,
        lambda _, before, after: {"input_size": after["weight_ih"][1], "hidden_size": after["weight_hh"][1]},
    ),
    (nn.MultiheadAttention, _multihead),
    *([(nn.RMSNorm, _shape_of_weight)] if hasattr(nn, "RMSNorm") else []),  # torch 2.4 and later
)
"""Module type -> the attributes that its sizes give; the first type that a module is an instance of counts."""


def sized_attributes(model: nn.Module, recipe: Recipe) -> dict[str, dict[str, Any]]:
    """Return the attributes that must change with the recipe's shapes, per module."""
    first_names = {id(tensor): name for name, tensor in state_tensors(model)}
    changes: dict[str, dict[str, Any]] = {}
    for path, module in modules_of(model):
        own = mirrored_tensors(module)
        names = {local: first_names[id(tensor)] for local, tensor in own.items()}
        if not any(name in recipe.keep for name in names.values()):
            continue
        before = {local: tuple(own[local].shape) for local in names}
        after = {
            local: recipe.shape_after(name) if name in recipe.keep else before[local]
            for local, name in names.items()
        }
        mirror = next((function for kind, function in MIRRORS if isinstance(module, kind)), None)
        found = mirror(module, before, after) if mirror is not None else {}
        changed = {name: value for name, value in found.items() if getattr(module, name, None) != value}
        if changed:
            changes[path] = changed
    return changes


def set_head_widths_(changes: Mapping[str, dict[str, Any]], modules: Mapping[str, nn.Module]) -> None:
    """Add the width of a head where attention loses heads or gets narrower."""
    for path, own in changes.items():
        module = modules[path]
        if isinstance(module, nn.MultiheadAttention):
            width, heads = own.get("embed_dim", module.embed_dim), own.get("num_heads", module.num_heads)
            own["head_dim"] = width // heads


def has_known_sizes(module: nn.Module) -> bool:
    """Whether the module's tensors and the table say all its sizes (of attention not the number of heads)."""
    known = any(isinstance(module, kind) for kind, _ in MIRRORS if kind is not nn.MultiheadAttention)
    return known and bool(mirrored_tensors(module))
