"""A model run so that nothing of it changes and every op shows."""

from __future__ import annotations

import contextlib
import operator
import random
from collections import OrderedDict
from collections.abc import Iterable, Iterator
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.modules.batchnorm import _NormBase
from torch.nn.modules.dropout import _DropoutNd
from torch.nn.utils.spectral_norm import SpectralNorm
from torch.overrides import TorchFunctionMode

from torchthin.graph.clone import modules_of
from torchthin.graph.output_shift import as_one_operator
from torchthin.graph.process_settings import PLAIN_KERNELS, PLAIN_RECURRENCE

_ONLY_CHOOSES_KERNELS = frozenset({"transformers.modeling_utils"})
"""Where `PreTrainedModel` has methods for its mode since transformers 5: they leave weights as they are."""


@contextlib.contextmanager
def evaluation_mode(
    model: nn.Module, *, training_branch: bool = False, disposable: bool = False
) -> Iterator[None]:
    """Run the block without autograd and without fused kernels that hide ops, with `model` in evaluation mode.

    Afterwards everything is as before, except for numbers in buffers.

    Args:
        model: its training flag is set for a moment first, since some models drop what they cache in evaluation mode there.
        training_branch: set training mode, in which some models run auxiliary heads. Normalisation and dropout stay in
            evaluation mode, so that two runs compute the same.
        disposable: `model` is a copy that nobody uses afterwards; attributes that the run adds to it stay there.
    """
    modules = [module for _, module in modules_of(model)]
    training = [module.training for module in modules]
    recurrent = any(isinstance(module, nn.RNNBase) for module in modules)
    with PLAIN_KERNELS.held(), PLAIN_RECURRENCE.held() if recurrent else contextlib.nullcontext():
        generators = _generators()
        gradients = [(p, p.grad) for module in modules for p in module._parameters.values() if p is not None]
        _set_gradients(gradients, clear=True)
        contents = [] if disposable else _contents(modules)
        if any(map(has_own_modes, {type(module) for module in modules})):
            model.train()
            model.eval()
        else:
            _set_training(modules, [False] * len(modules))
        branch = _training_branch(model, modules) if training_branch else contextlib.nullcontext()
        try:
            with (
                torch.no_grad(),
                as_one_operator(modules),
                branch,
                _OpenRanges() if _HIDES_RANGES else contextlib.nullcontext(),
            ):
                yield
        finally:
            _set_generators(generators)
            _set_gradients(gradients)
            for now, before in contents:
                _put_back_(now, before)
            _set_training(modules, training)


@contextlib.contextmanager
def _training_branch(model: nn.Module, modules: Iterable[nn.Module]) -> Iterator[None]:
    model.train()
    for module in modules:
        if isinstance(module, (_NormBase, _DropoutNd, nn.RNNBase)) or _normalises_weights(module):
            module.training = False
    with _NoDropout():
        yield


def has_own_modes(kind: type[nn.Module]) -> bool:
    """Whether a class does something of its own when its mode changes: to its weights, say, or to what it caches."""
    plain = {nn.Module.train, nn.Module.eval}
    own = (method for method in (kind.train, kind.eval) if method not in plain)
    return any(getattr(method, "__module__", None) not in _ONLY_CHOOSES_KERNELS for method in own)


def _set_training(modules: Iterable[nn.Module], flags: Iterable[bool]) -> None:
    for module, flag in zip(modules, flags, strict=True):
        if module.training != flag:
            module.training = flag


def _set_gradients(gradients: Iterable[tuple[nn.Parameter, Tensor | None]], *, clear: bool = False) -> None:
    """Give parameters the gradients that they had, or none: code may call ``backward`` in its forward pass."""
    for parameter, gradient in gradients:
        wanted = None if clear else gradient
        if parameter.grad is not wanted:
            parameter.grad = wanted


Contents = dict[Any, Any] | list[Any]
_PLAIN = frozenset({dict, OrderedDict, list})


def _contents(modules: Iterable[nn.Module]) -> list[tuple[Contents, Contents]]:
    """Return the attributes of all modules, and the dicts and lists among them, each with a copy: a run may add to them.

    Most are empty; these share one empty copy.
    """
    own: list[Contents] = [module.__dict__ for module in modules]
    nested = [value for held in own for value in held.values() if isinstance(value, (dict, list))]  # type: ignore[union-attr]
    return [(now, _copied(now)) for now in own + nested]


_NOTHING: dict[Any, Any] = {}


def _copied(now: Contents) -> Contents:
    if type(now) in _PLAIN:
        return now.copy() if now else _NOTHING
    return list.copy(now) if isinstance(now, list) else dict(_kind(now).items(now))


def _put_back_(now: Contents, before: Contents) -> None:
    """Give a container that was changed its contents again, past what a subclass allows (some refuse any change)."""
    if before is _NOTHING and not now:
        return
    if isinstance(now, list):
        list.__setitem__(now, slice(None), before)
        return
    assert isinstance(before, dict)
    kind = _kind(now)
    same = map(operator.is_, kind.values(now), before.values())
    if len(before) == kind.__len__(now) and all(same) and all(map(operator.is_, kind.keys(now), before)):
        return
    kind.clear(now)
    for key, value in before.items():
        kind.__setitem__(now, key, value)


def _kind(contents: dict[Any, Any]) -> type[dict[Any, Any]]:
    """Return the class of Python's own whose methods keep a dict whole."""
    return OrderedDict if isinstance(contents, OrderedDict) else dict


def _generators() -> tuple[Any, ...]:
    """Return the state of every global random generator that a forward pass may draw from."""
    cuda = torch.cuda.get_rng_state_all() if torch.cuda.is_initialized() else None
    return torch.random.get_rng_state(), random.getstate(), np.random.get_state(), cuda  # noqa: NPY002


def _set_generators(states: tuple[Any, ...]) -> None:
    torch.random.set_rng_state(states[0])
    random.setstate(states[1])
    np.random.set_state(states[2])  # noqa: NPY002
    if states[3] is not None:
        torch.cuda.set_rng_state_all(states[3])


def _normalises_weights(module: nn.Module) -> bool:
    """Whether a module takes a step of spectral norm's power iteration when it runs in training mode."""
    hooked = any(isinstance(hook, SpectralNorm) for hook in module._forward_pre_hooks.values())
    return hooked or type(module).__module__.startswith("torch.nn.utils.")


class _OpenRanges(TorchFunctionMode):
    """Ranges over a whole axis have no end, so that they are an op of every run, whatever is left of the axis.

    An index with anything but ranges and integers stays as it is: `...` stands for several axes, None for none.
    """

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func is Tensor.__getitem__:
            args = args[0], _open_ended(*args)
        return func(*args, **(kwargs or {}))


def _open_ended(tensor: Tensor, index: Any) -> Any:
    items = index if isinstance(index, tuple) else (index,)
    if len(items) > tensor.dim() or any(type(item) not in {slice, int} for item in items):
        return index
    return tuple(
        slice(None) if isinstance(item, slice) and item.indices(size) == (0, size, 1) else item
        for item, size in zip(items, tensor.shape, strict=False)
    )


_HIDES_RANGES = type(torch.zeros(1, 1, requires_grad=True)[:, :1].grad_fn).__name__ == "SliceBackward0"
"""Whether this torch (2.3, for one) calls no op for a range that ends where its axis does, and one for ranges that end later."""


class _NoDropout(TorchFunctionMode):
    """Functions of dropout hand on what they are given."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = dict(kwargs or {})
        if func in _DROPOUTS:  # input, p, training, inplace
            return func(*args[:2], **{**kwargs, "training": False, "inplace": False})
        if func is functional.scaled_dot_product_attention:  # query, key, value, attn_mask, dropout_p, ...
            args = (*args[:4], 0.0, *args[5:]) if len(args) > 4 else args
            kwargs |= {"dropout_p": 0.0} if len(args) <= 4 else {}
        return func(*args, **kwargs)


_DROPOUTS = (
    functional.dropout, functional.dropout1d, functional.dropout2d, functional.dropout3d,
    functional.alpha_dropout, functional.feature_alpha_dropout,
)  # fmt: skip
