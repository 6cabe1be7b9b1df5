"""How far the layers of a thinned model are from the dense model's, channel by channel among those that were kept.

Of a model with attention the hidden states after each of its repeated blocks are compared instead, all channels of one in the
same units: inside a block other heads and neurons do the work once some are gone.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from torchthin.dependency.kinds import attends
from torchthin.graph.evaluation_mode import evaluation_mode
from torchthin.graph.inputs import Inputs, call
from torchthin.graph.opgraph import OpGraph
from torchthin.graph.recorder import record
from torchthin.recovery.layers import find_layers
from torchthin.thinning.layer_names import name_before
from torchthin.thinning.recipe import Recipe

_Outputs = dict[tuple[bool, str], Tensor | None]
"""(of the dense model?, layer) -> its output; None where it was called twice."""
_Compared = dict[str, tuple[Tensor | None, int | None]]
"""Layer -> the kept channels (None: all) and their axis; a block has no axis."""


@contextlib.contextmanager
def layer_distance(
    dense: nn.Module, small: nn.Module, recipe: Recipe, example: Inputs
) -> Iterator[Callable[[], Tensor]]:
    """Give a function that returns the distance of all layers in the last calls of both models.

    recipe: which channels `small` has kept; example: an input that both take.
    """
    graph = record(small, example)
    blocks = _of_one_shape(dense, small, recipe, example, _blocks(small)) if attends(graph) else {}
    compared = blocks or _layers(graph, small, recipe)
    with _noted(dense, small, recipe, compared) as outputs:
        yield partial(_take, compared, outputs)


@contextlib.contextmanager
def _noted(dense: nn.Module, small: nn.Module, recipe: Recipe, names: Iterable[str]) -> Iterator[_Outputs]:
    """Give what modules of both models returned in the last calls."""
    outputs: _Outputs = {}
    hooks = [
        model.get_submodule(own).register_forward_hook(partial(_note, outputs, (model is dense, name)))
        for name in names
        for model, own in ((dense, name_before(name, recipe.layers)), (small, name))
    ]
    try:
        yield outputs
    finally:
        for hook in hooks:
            hook.remove()


def _of_one_shape(
    dense: nn.Module, small: nn.Module, recipe: Recipe, example: Inputs, blocks: _Compared
) -> _Compared:
    """Return the blocks whose hidden states have the same shape in both models: not where the residual stream was cut."""
    with _noted(dense, small, recipe, blocks) as outputs:
        for model in (dense, small):
            with evaluation_mode(model):
                call(model, example)
    shapes = {key: None if output is None else output.shape for key, output in outputs.items()}
    return {
        name: how
        for name, how in blocks.items()
        if shapes.get((True, name)) is not None and shapes.get((True, name)) == shapes.get((False, name))
    }


def _note(outputs: _Outputs, key: tuple[bool, str], module: nn.Module, args: Any, output: Any) -> None:
    first = output[0] if isinstance(output, tuple | list) and output else output
    outputs[key] = first if isinstance(first, Tensor) and key not in outputs else None


def _take(compared: _Compared, outputs: _Outputs) -> Tensor:
    """Return the mean over all layers, each channel in units of its variance, and forget the outputs."""
    parts = []
    for name, (kept, axis) in compared.items():
        dense, small = outputs.get((True, name)), outputs.get((False, name))
        if dense is None or small is None:
            continue
        dense = dense if kept is None or axis is None else dense.index_select(axis, kept.to(dense.device))
        if dense.shape != small.shape:
            continue
        rest = [d for d in range(dense.dim()) if axis is None or d != axis % dense.dim()]
        variance = dense.float().var(rest, correction=0, keepdim=True)
        error = (dense.float() - small.float()).square().mean(rest, keepdim=True)
        parts.append((error / (variance + 1e-3 * variance.mean() + 1e-12)).mean())
    outputs.clear()
    return torch.stack(parts).mean() if parts else torch.zeros(())


def _blocks(small: nn.Module) -> _Compared:
    """Return the blocks of which a model is a stack: modules of one class in a list, not those within others."""
    found: _Compared = {}
    for path, module in small.named_modules():
        if isinstance(module, nn.ModuleList | nn.Sequential) and not any(
            path.startswith(f"{b}.") for b in found
        ):
            children = dict(module.named_children())
            if len(children) > 1 and len({type(child) for child in children.values()}) == 1:
                found |= dict.fromkeys(
                    (f"{path}.{name}" if path else name for name in children), (None, None)
                )
    return found


def _layers(graph: OpGraph, small: nn.Module, recipe: Recipe) -> _Compared:
    """Return the layers to compare, or the BatchNorm after one."""
    layers, _ = find_layers(graph.live(), small)
    modules = dict(small.named_modules())
    dims = {name: p.dim() for name, p in small.named_parameters()}
    found: _Compared = {}
    for layer in layers:
        name = layer.mean.rpartition(".")[0] if layer.mean is not None else layer.module
        if name and name in modules:
            kept = recipe.keep.get(layer.weight, {}).get(layer.axis)
            axis = 1 if dims[layer.weight] > 2 else -1
            found[name] = (None if kept is None else torch.tensor(kept), axis)
    return found
