"""A BatchNorm put into the convolution or linear layer before it.

In evaluation a BatchNorm is y = (x - mean) / sqrt(var + eps) * weight + bias, which a convolution can do itself
(``torch.nn.utils.fusion``). Which layer feeds which norm is read from a recorded run, so the names and the order of modules do
not matter.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from typing import Any

from torch import nn
from torch.nn.utils.fusion import fuse_conv_bn_weights, fuse_linear_bn_weights

from torchthin.graph.clone import clone, duplicate
from torchthin.graph.inputs import as_inputs, on_device_of
from torchthin.graph.operators import BATCH_NORMS, CONTRACTIONS
from torchthin.graph.opgraph import Op, OpGraph
from torchthin.graph.provenance import origin
from torchthin.graph.trace import trace

_NORMS = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d)
_CONVOLUTIONS = (nn.Conv1d, nn.Conv2d, nn.Conv3d)
_TRANSPOSED = (nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d)


def fold_batchnorm(model: nn.Module, example_inputs: Any) -> tuple[nn.Module, tuple[str, ...]]:
    """Return a copy of `model`, in evaluation mode, with its BatchNorms folded, and the paths of those that were.

    Left as they are: norms whose input also goes elsewhere, is made by something else than one plain convolution or linear
    layer, or that share their layer; norms of other classes; weights computed from other parameters.

    Args:
        model: any model; it is not changed.
        example_inputs: a tensor, a tuple of positional or a dict of keyword arguments.

    Raises:
        InputError: the model cannot be copied, or does not run on the inputs.
    """
    folded = clone(model, duplicate).eval()
    graph = trace(folded, on_device_of(folded, as_inputs(example_inputs))).graph
    modules = dict(folded.named_modules())
    paths = []
    for layer, norm in _pairs(graph):
        if layer in modules and norm in modules and _fold_(modules[layer], modules[norm]):
            parent, _, name = norm.rpartition(".")
            setattr(folded.get_submodule(parent), name, nn.Identity())
            paths.append(norm)
    return folded, tuple(paths)


def _pairs(graph: OpGraph) -> Iterator[tuple[str, str]]:
    """Yield module paths of layers and norms where the one's output goes into the other and nowhere else."""
    norms = [op for op in graph.ops if not op.trained and op.name in BATCH_NORMS]
    calls = Counter(op.source.module for op in norms)
    for norm in norms:
        given = norm.value("input")
        if given is None or given in graph.ends or given not in graph.producer:
            continue
        layer, alone = graph.producer[given], len(graph.users[given]) == 1 and calls[norm.source.module] == 1
        if alone and _uses_own_weight(graph, layer):
            yield layer.source.module, norm.source.module


def _uses_own_weight(graph: OpGraph, layer: Op) -> bool:
    """Whether the op is the only one that uses the weight of its module, and uses it as it is, or transposed."""
    names = CONTRACTIONS.get(layer.name)
    value = None if names is None else layer.value(names.weight)
    found = None if value is None else origin(graph, value)
    if found is None or found.name != f"{layer.source.module}.weight":
        return False
    steps = [graph.state[found.name], *(value for _, value in found.path)]
    uses = [sum(not user.trained for user in graph.users[step]) for step in steps]
    return all(op.name == "aten.t" for op, _ in found.path) and set(uses) == {1}


def _fold_(layer: nn.Module, norm: nn.Module) -> bool:
    """Put `norm` into the weight and bias of `layer`, if both are plain; return whether it was done."""
    if type(norm) not in _NORMS or not isinstance(norm, _NORMS):  # a subclass may compute something else
        return False
    if norm.running_mean is None or norm.running_var is None:
        return False
    statistics = (norm.running_mean, norm.running_var, norm.eps, norm.weight, norm.bias)
    if isinstance(layer, _CONVOLUTIONS) or (isinstance(layer, _TRANSPOSED) and layer.groups == 1):
        made = fuse_conv_bn_weights(
            layer.weight, layer.bias, *statistics, transpose=isinstance(layer, _TRANSPOSED)
        )
    elif isinstance(layer, nn.Linear):
        made = fuse_linear_bn_weights(layer.weight, layer.bias, *statistics)
    else:
        return False
    layer.weight, layer.bias = made
    return True
