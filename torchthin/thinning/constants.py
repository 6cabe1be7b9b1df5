"""Where the constant of dead channels goes: into the consumer's bias, or out of the running mean of the BatchNorm behind it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn.modules.conv import _ConvNd

from torchthin.labels.propagate import Labels
from torchthin.labels.rules.normalization import BATCH_NORMS
from torchthin.thinning.recipe import Recipe, cut
from torchthin.thinning.reference import Constant, Kept
from torchthin.trace.opgraph import BRANCH, Op, Ref


@dataclass(frozen=True)
class Fold:
    """Add `sign` times the constant to a tensor of the model."""

    name: str
    sign: int
    constant: Constant
    new: bool = False
    """The tensor is a bias that the module left out."""
    between: tuple[int, ...] = ()
    """Indices of ops between the one that made the constant and the one that adds it."""


def plan_folds(
    model: nn.Module, labels: Labels, constants: Sequence[Constant]
) -> tuple[list[Fold], list[Constant]]:
    """Find a place for every constant; return the folds and the constants that have none.

    A tensor that two calls read (a module called twice) takes a constant only when both calls ask for the same.
    """
    users = _users(labels)
    folds: dict[str, Fold] = {}
    homeless: list[Constant] = []
    reads = {number: name for name, number in labels.graph.state.items()}
    for constant in constants:
        fold = _place(model, labels, users, reads, constant)
        if fold is None:
            homeless.append(constant)
            continue
        known = folds.get(fold.name)
        calls = len(users.get(labels.graph.state.get(fold.name, -1), []))
        if (known is not None and not torch.allclose(known.constant.delta, constant.delta)) or (
            known is None
            and calls > 1
            and sum(1 for c in constants if c.contraction.weight == constant.contraction.weight) < calls
        ):
            homeless.append(constant)
        else:
            folds[fold.name] = fold
    return list(folds.values()), homeless


def _users(labels: Labels) -> dict[int, list[Op]]:
    users: dict[int, list[Op]] = {}
    for op in labels.graph.ops:
        if op.index >= BRANCH:
            break
        for ref in op.inputs():
            users.setdefault(ref.value, []).append(op)
    return users


def _place(
    model: nn.Module,
    labels: Labels,
    users: Mapping[int, list[Op]],
    reads: Mapping[int, str],
    constant: Constant,
) -> Fold | None:
    op, contraction = constant.op, constant.contraction
    bias = op.arguments.get(contraction.bias) if contraction.bias else None
    if isinstance(bias, Ref):
        name = _origin(labels, reads, bias.value)
        return Fold(name, 1, constant) if name is not None else None
    return _behind(labels, users, reads, constant) or _new_bias(model, constant)


def _origin(labels: Labels, reads: Mapping[int, str], value: int) -> str | None:
    """Return the parameter that a value is, or is computed from by ops with a single tensor argument each."""
    makers = {ref.value: op for op in labels.graph.ops for ref in op.outputs if ref is not None}
    while value not in reads:
        op = makers.get(value)
        sources = [ref.value for ref in op.inputs() if labels.graph.values[ref.value].shape] if op else []
        wide = [v for v in sources if labels.graph.values[v].shape == labels.graph.values[value].shape]
        if len(wide) != 1 or wide[0] == value:
            return None
        value = wide[0]
    return reads[value]


def _behind(
    labels: Labels, users: Mapping[int, list[Op]], reads: Mapping[int, str], constant: Constant
) -> Fold | None:
    """Look through views for a BatchNorm, or for a bias that is added, behind the op."""
    ref = constant.op.outputs[0]
    between = [constant.op.index]
    while ref is not None:
        following = users.get(ref.value, [])
        if len(following) != 1:
            return None
        op = following[0]
        if op.name in BATCH_NORMS:
            mean = op.arguments.get("running_mean")
            name = reads.get(mean.value) if isinstance(mean, Ref) else None
            return Fold(name, -1, constant, between=tuple(between)) if name is not None else None
        if op.name in {"aten.add", "aten.add_"}:
            for item in op.inputs():
                if item.value in reads and labels.graph.values[item.value].shape == tuple(
                    constant.delta.shape
                ):
                    return Fold(reads[item.value], 1, constant, between=tuple(between))
            return None
        if op.name not in {"aten.view", "aten._unsafe_view"}:
            return None
        between.append(op.index)
        ref = op.outputs[0]
    return None


def _new_bias(model: nn.Module, constant: Constant) -> Fold | None:
    """A convolution or linear layer without bias gets one, if the op is its own."""
    path = constant.op.source.module
    module = dict(model.named_modules()).get(path)
    if isinstance(module, (_ConvNd, nn.Linear)) and module.bias is None and constant.op.source.module == path:
        return Fold(f"{path}.bias" if path else "bias", 1, constant, new=True)
    return None


def folded_tensors(
    folds: Iterable[Fold], recipe: Recipe, tensors: Mapping[str, Tensor], kept: Kept
) -> dict[str, Tensor]:
    """Return every tensor that takes a constant, thinned and with the constant in it.

    Args:
        folds: what goes where.
        recipe: what thins the model.
        tensors: full-size tensors by name; biases that the recipe adds are not among them.
        kept: which output channels stay.
    """
    found: dict[str, Tensor] = {}
    for fold in folds:
        ref = fold.constant.op.outputs[0]
        stay = None if ref is None else kept.along(ref.value, fold.constant.contraction.out_axis)
        delta = (
            fold.constant.delta
            if stay is None
            else fold.constant.delta[torch.from_numpy(stay).to(fold.constant.delta.device)]
        )
        if fold.new:
            found[fold.name] = fold.sign * delta
            continue
        tensor = cut(tensors[fold.name].detach(), recipe.keep.get(fold.name, {}))
        found[fold.name] = (tensor.double() + fold.sign * delta.to(tensor.device).double()).to(tensor.dtype)
    return found
