"""Keeps the values of derived weights whose statistics lose channels.

``weight_norm`` divides every filter by its length, spectral norm the whole weight by its norm: when a layer loses input
channels, the rest of its weight would grow. One factor in a tensor that the layer has anyway (the length g, the vector u)
prevents that. Which tensor it is is tried, as in `torchthin/graph/parametrized.py`; where none helps, the weight changes.
"""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor, nn

from torchthin.dependency.propagate import Labels
from torchthin.graph.clone import state_tensors
from torchthin.graph.evaluation_mode import evaluation_mode
from torchthin.graph.parametrized import DerivedWeight, weight_of
from torchthin.thinning.recipe import Recipe, cut


def rescaled_tensors(
    masked: nn.Module, thinned: nn.Module, recipe: Recipe, derived: Iterable[DerivedWeight]
) -> dict[str, dict[str, Tensor]]:
    """Return the values of tensors of the thinned model with which a derived weight keeps its values: original -> name -> value.

    Args:
        masked: full-size masked model.
        thinned: the same, thinned by `recipe`; left as it is.
        recipe: what is removed.
        derived: the derived weights of the model.
    """
    names = {id(tensor): name for name, tensor in state_tensors(thinned)}
    found = {}
    for item in derived:
        axes = recipe.keep.get(item.original)
        if axes is not None:
            path = item.weight.rpartition(".")[0]
            wanted = cut(_weight(masked.get_submodule(path)), axes)
            changes = _correction(thinned.get_submodule(path), wanted)
            if changes is not None:
                found[item.original] = {names[id(tensor)]: value for tensor, value in changes}
    return found


def preserved_ops(labels: Labels, originals: Iterable[str]) -> frozenset[int]:
    """Return the ops that compute weights from the given parameters, up to where the model's input comes in."""
    state = labels.graph.state
    read = {state[name] for name in originals if name in state}
    found = set()
    for op in labels.graph.ops:
        if labels.from_input.isdisjoint(op.results) and not read.isdisjoint(op.reads):
            found.add(op.index)
            read.update(op.results)
    return frozenset(found)


def _correction(layer: nn.Module, wanted: Tensor) -> list[tuple[Tensor, Tensor]] | None:
    """Return what to change in a thinned layer so that its weight is `wanted`; None when nothing helps."""
    now = _weight(layer)
    if _same(now, wanted):
        return []
    for tensor in sorted((t for _, t in state_tensors(layer)), key=Tensor.numel):
        if not tensor.is_floating_point() or tensor.shape == wanted.shape:
            continue
        ratio = _ratio(now, wanted, tensor)
        before = tensor.detach().clone()
        for factor in (ratio, 1 / ratio):
            with torch.no_grad():
                tensor.copy_(before * factor)
                helps, value = _same(_weight(layer), wanted), tensor.detach().clone()
                tensor.copy_(before)
            if helps:
                return [(tensor, value)]
    return None


def _ratio(now: Tensor, wanted: Tensor, like: Tensor) -> Tensor:
    """Return by what the weight must grow, per index where `like` has the weight's axes."""
    each = like.dim() == now.dim() and all(n in (1, m) for n, m in zip(like.shape, now.shape, strict=True))
    axes = [d for d in range(now.dim()) if not each or like.shape[d] == 1]
    shared, own = ((weight * now).sum(axes, keepdim=each) for weight in (wanted, now))
    return torch.where(own > 0, shared / own, torch.ones_like(own))


def _same(a: Tensor, b: Tensor) -> bool:
    tolerance = 1e-9 if a.dtype == torch.float64 else 4 * torch.finfo(a.dtype).eps
    return bool(torch.isfinite(a).all()) and float((a - b).abs().max()) <= tolerance * float(b.abs().max())


def _weight(layer: nn.Module) -> Tensor:
    with evaluation_mode(layer):
        return weight_of(layer).clone()
