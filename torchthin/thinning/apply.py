"""Applies a recipe to the caller's own model: everything is made first, then exchanged; on failure all is put back."""

from __future__ import annotations

import contextlib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from torchthin.graph.parametrized import recompute_
from torchthin.thinning.build import set_attributes_, tensors_of
from torchthin.thinning.optimizer import cut_state, follow_, remembered
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
    tensors, modules = tensors_of(model), dict(model.named_modules())
    check_fits(recipe, tensors, modules)
    values = values or {}
    parameters = {name: t for name, t in tensors.items() if isinstance(t, nn.Parameter)}
    cuts = cut_state(optimizer, parameters, recipe) if optimizer is not None else {}
    exchanges = [
        _exchange(tensor, recipe.keep.get(name, {}), values.get(name))
        for name, tensor in tensors.items()
        if name in recipe.keep or name in values
    ]
    added = {name: _new_bias(model, name, shape, values.get(name)) for name, shape in recipe.added.items()}
    neighbours = {bias: _neighbour(model, name) for name, bias in added.items()}
    attributes = {path: {k: getattr(modules[path], k) for k in v} for path, v in recipe.attributes.items()}
    before = [_Exchange(e.tensor, e.tensor.data, e.tensor.grad) for e in exchanges]
    with contextlib.ExitStack() as undo:  # each way back is known before its change is made
        undo.callback(
            _put_back_plain_, [(module.__dict__, dict(module.__dict__)) for module in modules.values()]
        )
        undo.callback(_swap_, before)
        _swap_(exchanges)
        undo.callback(set_attributes_, model, attributes)
        set_attributes_(model, recipe.attributes)
        undo.callback(_set_parameters_, model, dict.fromkeys(added))
        _set_parameters_(model, added)
        if optimizer is not None:
            undo.callback(remembered(optimizer))
            follow_(optimizer, cuts, neighbours)
        recompute_(model)
        _drop_caches_(model)
        undo.pop_all()


def _put_back_plain_(contents: list[tuple[dict[str, Any], dict[str, Any]]]) -> None:
    """Put module attributes back; what torch keeps in dicts of its own (parameters, modules) has other ways back."""
    for now, before in contents:
        now.clear()
        now.update(before)


def _drop_caches_(model: nn.Module) -> None:
    """Let a model in evaluation mode drop what it cached there, as models do that go to training mode."""
    modes = {module: module.training for module in model.modules()}
    if model.training or all(type(module).train is nn.Module.train for module in modes):
        return
    model.train()
    model.eval()
    for module, mode in modes.items():
        module.training = mode


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
        tensor = exchange.tensor
        tensor.grad = None
        if tensor.requires_grad and tensor.shape != exchange.data.shape:
            # A loss of an earlier step that is still alive holds a gradient accumulator of the old shape. Torch makes a
            # new one only when the dtype changes, so it changes for a moment.
            other = torch.float16 if tensor.dtype != torch.float16 else torch.float32
            tensor.data = torch.empty(0, dtype=other, device=tensor.device)
        tensor.data = exchange.data
        tensor.grad = exchange.grad


def _new_bias(model: nn.Module, name: str, shape: tuple[int, ...], value: Tensor | None) -> nn.Parameter:
    like = _neighbour(model, name)
    data = (
        like.detach().new_zeros(shape)
        if value is None
        else value.detach().to(like.device, like.dtype).clone()
    )
    return nn.Parameter(data, requires_grad=like.requires_grad)


def _neighbour(model: nn.Module, name: str) -> nn.Parameter:
    """A parameter of the same module (of a parametrized one, that its weight is computed from)."""
    return next(model.get_submodule(name.rpartition(".")[0]).parameters())


def _set_parameters_(model: nn.Module, parameters: Mapping[str, nn.Parameter | None]) -> None:
    for name, parameter in parameters.items():
        path, _, local = name.rpartition(".")
        setattr(model.get_submodule(path), local, parameter)
