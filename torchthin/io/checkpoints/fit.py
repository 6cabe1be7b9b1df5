"""Whether a checkpoint fits a model: names, shapes, numbers; then its weights are loaded."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import Any

import torch
from torch import nn

from torchthin.errors import CheckpointError, near_matches
from torchthin.io.checkpoints.content import WRAPPER_PREFIXES, Checkpoint

_SHOWN = 3


def load_into(model: nn.Module, checkpoint: Checkpoint) -> None:
    """Load the checkpoint into `model`, strictly: every name and shape must fit.

    Values are copied into the model's own dtypes and devices, as ``load_state_dict`` does. A model on the meta device takes
    the checkpoint's tensors themselves. What is tied in the model may be in the checkpoint under one name. When the
    checkpoint does not fit, the model is left as it was.

    Raises:
        CheckpointError: names are missing or unexpected, shapes differ, or a weight is NaN or infinite.
    """
    own = model.state_dict()
    tied = tied_names(model)
    state = _with_ties(checkpoint, _unmixed(_rewrapped(checkpoint.state_dict, own), own), tied)
    if state.keys() != own.keys() and _loads(copy.deepcopy(model), state):
        own = dict(state)  # the model's own hooks translate older names
    _refuse_other_names(checkpoint, state, own)
    _refuse_other_shapes(checkpoint, state, own)
    _refuse_other_kinds(checkpoint, state, own)
    _refuse_complex(checkpoint, state, own)
    _refuse_bad_numbers(checkpoint, state, set(dict(model.named_parameters())))
    empty = any(isinstance(value, torch.Tensor) and value.is_meta for value in own.values())
    model.load_state_dict(state, assign=empty)
    if empty:
        for first, *others in tied:
            for name in others:
                _put_(model, name, model.get_parameter(first))
    follow_settings_(model)


def follow_settings_(model: nn.Module) -> None:
    """Let layers of ADI's ai8x choose their functions by their settings, which are in the state dict."""
    for module in model.modules():
        if all(hasattr(module, name) for name in ("set_functions", "weight_bits", "quantize_activation")):
            module.set_functions()  # type: ignore[operator]


def tied_names(model: nn.Module) -> list[list[str]]:
    """Return the names of each parameter that has several."""
    names: dict[int, list[str]] = {}
    for name, parameter in model.named_parameters(remove_duplicate=False):
        names.setdefault(id(parameter), []).append(name)
    return [found for found in names.values() if len(found) > 1]


def _put_(model: nn.Module, name: str, parameter: nn.Parameter) -> None:
    path, _, local = name.rpartition(".")
    setattr(model.get_submodule(path), local, parameter)


def _with_ties(checkpoint: Checkpoint, state: dict[str, Any], tied: list[list[str]]) -> dict[str, Any]:
    """Return the state with every name of a parameter that is there under one; refuse other values under another name."""
    for names in tied:
        held = [name for name in names if name in state]
        for name in held[1:]:
            first, other = state[held[0]], state[name]
            if first.data_ptr() != other.data_ptr() and not torch.equal(first, other):
                raise CheckpointError(
                    f"The checkpoint {checkpoint.path} must have the same values for {held[0]} and {name}, which are one "
                    "parameter of the model. Check the model factory and its arguments."
                )
        state |= {name: state[held[0]] for name in names if held}
    return state


def _rewrapped(state: Mapping[str, Any], own: Mapping[str, Any]) -> dict[str, Any]:
    """Add a wrapper's prefix when the model itself is wrapped."""
    for prefix in WRAPPER_PREFIXES:
        if own and all(name.startswith(prefix) for name in own):
            inner = {name.removeprefix(prefix): value for name, value in own.items()}
            return {prefix + name: value for name, value in _rewrapped(state, inner).items()}
    return dict(state)


def _unmixed(state: Mapping[str, Any], own: Mapping[str, Any]) -> dict[str, Any]:
    """Return the state with plain names where some alone have a wrapper's prefix, as in files of ai8x-training."""
    made = dict(state)
    for name in state:
        prefix = next((prefix for prefix in WRAPPER_PREFIXES if name.startswith(prefix)), None)
        if prefix is None or name in own or (plain := name.removeprefix(prefix)) not in own:
            continue
        if plain not in made or _same_values(made[plain], made[name]):
            made[plain] = made.pop(name)
    return made


def _same_values(a: Any, b: Any) -> bool:
    """Whether two entries of a state dict are the same tensor in value."""
    return isinstance(a, torch.Tensor) and isinstance(b, torch.Tensor) and torch.equal(a, b)


def _loads(model: nn.Module, state: Mapping[str, Any]) -> bool:
    try:
        model.load_state_dict(dict(state))
    except Exception:  # a model's own hooks may raise anything; the reason is found by comparing names
        return False
    return True


def _refuse_other_names(checkpoint: Checkpoint, state: Mapping[str, Any], own: Mapping[str, Any]) -> None:
    missing = [name for name in own if name not in state]
    unexpected = [name for name in state if name not in own]
    if not missing and not unexpected:
        return
    hint = near_matches(missing[0], unexpected) if missing else near_matches(unexpected[0], own)
    raise CheckpointError(
        f"The checkpoint {checkpoint.path} must have the names of the model. "
        f"Missing: {_some(missing)}. Unexpected: {_some(unexpected)}.{hint} "
        "Check the model factory and its arguments."
    )


def _refuse_other_shapes(checkpoint: Checkpoint, state: Mapping[str, Any], own: Mapping[str, Any]) -> None:
    wrong = [
        f"{name} is {_shape(state[name])}, the model has {_shape(value)}"
        for name, value in own.items()
        if isinstance(value, torch.Tensor) and _shape(value) != _shape(state[name])
    ]
    if wrong:
        raise CheckpointError(
            f"The checkpoint {checkpoint.path} must have the shapes of the model. {'; '.join(wrong[:_SHOWN])}"
            f"{_more(wrong)}. Check the model factory and its arguments."
        )


def _refuse_other_kinds(checkpoint: Checkpoint, state: Mapping[str, Any], own: Mapping[str, Any]) -> None:
    """Refuse tensors without values, and sparse or quantized ones where the model has none such."""
    for name, value in own.items():
        given = state[name]
        if not isinstance(value, torch.Tensor):
            continue
        if given.is_meta or (given.layout, given.is_quantized) != (value.layout, value.is_quantized):
            kind = "on the meta device" if given.is_meta else f"{given.layout}, {given.dtype}"
            raise CheckpointError(
                f"The checkpoint {checkpoint.path} must have values of the kind that the model has. {name} is {kind}; the model "
                f"has {value.layout}, {value.dtype}. Save model.state_dict() of the model itself."
            )


def _refuse_complex(checkpoint: Checkpoint, state: Mapping[str, Any], own: Mapping[str, Any]) -> None:
    """Values are converted to the model's dtypes, but a complex number would lose its imaginary part."""
    for name, value in own.items():
        given = state[name]
        if isinstance(given, torch.Tensor) and given.is_complex() and not value.is_complex():
            raise CheckpointError(
                f"The checkpoint {checkpoint.path} must have real numbers where the model has. {name} is {given.dtype}, "
                f"the model has {value.dtype}. Check the model factory and its arguments."
            )


def _refuse_bad_numbers(checkpoint: Checkpoint, state: Mapping[str, Any], parameters: set[str]) -> None:
    """Refuse NaN everywhere, and infinite values among the parameters: buffers such as attention masks may have those."""
    for name, value in state.items():
        if not isinstance(value, torch.Tensor) or not (value.is_floating_point() or value.is_complex()):
            continue
        wide = value.float() if value.element_size() == 1 else value  # float8 has no isnan
        if bool(wide.sum().isfinite()):
            continue  # at memory speed, and without memory: a sum is finite unless it overflows or something in it is not
        bad, word = torch.isnan(wide), "NaN"
        if name in parameters and not bad.any():
            bad, word = torch.isinf(wide), "infinite values"
        if count := int(bad.sum()):
            raise CheckpointError(
                f"The weights of {checkpoint.path} must be finite numbers. {name} has {word} in {count} of "
                f"{value.numel()} entries; use a checkpoint from before the training diverged."
            )


def _some(names: list[str]) -> str:
    return (", ".join(names[:_SHOWN]) + _more(names)) or "none"


def _more(items: list[str]) -> str:
    return f" and {len(items) - _SHOWN} more" if len(items) > _SHOWN else ""


def _shape(value: object) -> str:
    return (
        str(tuple(value.shape)) if isinstance(value, torch.Tensor) else f"no tensor ({type(value).__name__})"
    )
