"""Applies a recipe to the caller's own model: everything is made first, then exchanged; on failure all is put back."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from torchthin.thinning.build import set_attributes_, tensors_of
from torchthin.thinning.optimizer import StateCuts, adopt_, cut_state
from torchthin.thinning.recipe import Recipe, check_fits, cut


@dataclass(frozen=True)
class _Exchange:
    """New contents of one tensor of the model."""

    tensor: Tensor
    data: Tensor
    grad: Tensor | None


def apply_(
    model: nn.Module,
    recipe: Recipe,
    optimizer: torch.optim.Optimizer | None = None,
    values: Mapping[str, Tensor] | None = None,
) -> None:
    """Thin `model` in place by `recipe`. Parameters, buffers and modules keep their identity; gradients are cut alike.

    Args:
        model: full-size model.
        recipe: what goes.
        optimizer: its state is cut alike, and biases that the recipe adds join the group of their layer's weight.
        values: contents after thinning by name, where they differ from the cut ones (a constant was folded in).

    Raises:
        InputError: when the recipe or the optimizer's state does not fit; nothing is changed then.
    """
    tensors = tensors_of(model)
    check_fits(recipe, tensors)
    values = values or {}
    parameters = {name: t for name, t in tensors.items() if isinstance(t, nn.Parameter)}
    cuts = cut_state(optimizer, parameters, recipe) if optimizer is not None else {}
    exchanges = [
        _exchange(tensor, recipe.keep.get(name, {}), values.get(name))
        for name, tensor in tensors.items()
        if name in recipe.keep or name in values
    ]
    added = {name: _new_bias(model, name, shape, values.get(name)) for name, shape in recipe.added.items()}
    before = [_Exchange(e.tensor, e.tensor.data, e.tensor.grad) for e in exchanges]
    modules = dict(model.named_modules())
    attributes = {path: {k: getattr(modules[path], k) for k in v} for path, v in recipe.attributes.items()}
    try:
        _swap_(exchanges)
        set_attributes_(model, recipe.attributes)
        for name, bias in added.items():
            _add_(model, name, bias, optimizer)
    except BaseException:
        _swap_(before)
        set_attributes_(model, attributes)
        for name in added:
            path, _, local = name.rpartition(".")
            setattr(modules[path], local, None)
        raise
    _store_(optimizer, cuts)


def _exchange(tensor: Tensor, axes: Mapping[int, tuple[int, ...]], value: Tensor | None) -> _Exchange:
    data = cut(tensor.detach(), axes)
    if value is not None:
        data = value.detach().to(data)
    data = data.contiguous(memory_format=_memory_format(tensor))
    grad = None if tensor.grad is None else cut(tensor.grad, axes)
    return _Exchange(tensor, data, grad)


def _memory_format(tensor: Tensor) -> torch.memory_format:
    if (
        tensor.dim() == 4
        and tensor.is_contiguous(memory_format=torch.channels_last)
        and not tensor.is_contiguous()
    ):
        return torch.channels_last
    return torch.contiguous_format


def _swap_(exchanges: list[_Exchange]) -> None:
    for exchange in exchanges:
        exchange.tensor.grad = None
        exchange.tensor.data = exchange.data
        exchange.tensor.grad = exchange.grad


def _new_bias(model: nn.Module, name: str, shape: tuple[int, ...], value: Tensor | None) -> nn.Parameter:
    like = _neighbour(model, name)
    data = (
        like.detach().new_zeros(shape)
        if value is None
        else value.detach().to(like.device, like.dtype).clone()
    )
    return nn.Parameter(data, requires_grad=like.requires_grad)


def _neighbour(model: nn.Module, name: str) -> nn.Parameter:
    return next(model.get_submodule(name.rpartition(".")[0]).parameters(recurse=False))


def _add_(model: nn.Module, name: str, bias: nn.Parameter, optimizer: torch.optim.Optimizer | None) -> None:
    neighbour = _neighbour(model, name)
    path, _, local = name.rpartition(".")
    setattr(model.get_submodule(path), local, bias)
    if optimizer is not None:
        adopt_(optimizer, neighbour, bias)


def _store_(optimizer: torch.optim.Optimizer | None, cuts: StateCuts) -> None:
    if optimizer is None:
        return
    state: dict[Any, Any] = optimizer.state
    for parameter, entries in cuts.items():
        state[parameter].update(entries)
