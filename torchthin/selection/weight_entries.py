"""The parameters of a model as candidates for pruning: which module owns each, and whether it can be pruned at all."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import torch
from torch import nn
from torch.nn.modules.conv import _ConvNd
from torch.nn.utils.parametrize import ParametrizationList

from torchthin.graph.parametrized import DerivedWeight

_DTYPES = (torch.float16, torch.bfloat16, torch.float32, torch.float64)
EMBEDDINGS = (nn.Embedding, nn.EmbeddingBag)
_WEIGHT_LIKE = ("weight", "kernel", "filters")


@dataclass(frozen=True)
class Entry:
    """One name of one parameter, with the module that owns it. A computed weight stands for the parameter of its shape."""

    name: str
    owner: nn.Module
    local: str
    parameter: nn.Parameter
    alias: str = ""
    """Name of the computed weight."""
    inner: bool = False
    """Filters are parts of hidden states, or columns of an embedding, which only a channel graph shows."""

    @property
    def names(self) -> tuple[str, ...]:
        """All that a caller may call it."""
        return (self.alias, self.name) if self.alias else (self.name,)


def entries_of(
    model: nn.Module, derived: Mapping[str, DerivedWeight], coupled: bool = False
) -> Iterator[Entry]:
    """Yield every name of every parameter, also the second names of shared ones, in model order."""
    for prefix, module in _all_names(model):
        for local, parameter in module._parameters.items():
            if parameter is None:
                continue
            name = f"{prefix}.{local}" if prefix else local
            item = derived.get(name)
            if item is None or item.masked is None:
                inner = coupled and isinstance(module, (nn.RNNBase, nn.RNNCellBase, *EMBEDDINGS))
                yield Entry(name, module, local, parameter, inner=inner and parameter.dim() > 1)
            else:
                path, _, local = item.weight.rpartition(".")
                yield Entry(name, model.get_submodule(path), local, parameter, item.weight)


def _all_names(model: nn.Module) -> Iterator[tuple[str, nn.Module]]:
    """Yield every module under every name that it has, as ``named_modules(remove_duplicate=False)`` does, in less time."""
    waiting = [("", model)]
    while waiting:
        path, module = waiting.pop()
        yield path, module
        if module._modules:
            prefix = f"{path}." if path else ""
            children = module._modules.items()
            waiting.extend((prefix + name, child) for name, child in reversed(children) if child is not None)


def is_torch_layer(module: nn.Module) -> bool:
    """Whether the module is, or derives from, one of torch's layers: torch says what its weights mean."""
    plain = (nn.Module, nn.Sequential, nn.ModuleList, nn.ModuleDict, object)
    return any(base.__module__.split(".")[0] == "torch" for base in type(module).__mro__ if base not in plain)


def is_layer_weight(entry: Entry, layer: type[nn.Module]) -> bool:
    """Whether a parameter is the weight of a layer of this class."""
    return entry.local == "weight" and isinstance(entry.owner, layer)


def _is_hand_made_convolution(entry: Entry) -> bool:
    shape = entry.parameter.shape
    return (
        not is_torch_layer(entry.owner)
        and entry.local.endswith(_WEIGHT_LIKE)
        and 3 <= len(shape) <= 5
        and sum(size > 1 for size in shape) > 1
    )


def is_convolution(entry: Entry) -> bool:
    """Whether a parameter is the weight of a convolution, torch's or one that looks like one."""
    return is_layer_weight(entry, _ConvNd) or _is_hand_made_convolution(entry)


def why_not(entry: Entry, structured: bool) -> str | None:
    """Return why the parameter cannot be pruned when named, or None when it can."""
    shape, owner = tuple(entry.parameter.shape), type(entry.owner).__name__
    layer = isinstance(entry.owner, _ConvNd | nn.Linear)
    if entry.parameter.dtype not in _DTYPES or entry.parameter.layout != torch.strided:
        return f"its type is {entry.parameter.dtype} ({entry.parameter.layout})"
    if not entry.parameter.numel():
        return f"its shape {shape} holds no values"
    if isinstance(entry.owner, ParametrizationList) or (layer and entry.local not in ("weight", "bias")):
        return "another weight is computed from it"
    if len(shape) < 2:
        return f"it is a {len(shape)}-d {entry.local} of {owner}"
    if structured and is_torch_layer(entry.owner) and not layer and not entry.inner:
        return f"the filters of {owner} cannot go one by one"
    return None
