"""Calibration data: what a user has of the model's data, with or without labels, as batches of inputs without labels."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_flatten, tree_unflatten

from torchthin.config import MAX_SAMPLES, Pixels
from torchthin.errors import InputError
from torchthin.graph.inputs import Inputs, sample_count
from torchthin.io.data_sources import BATCH, NOISE, items
from torchthin.io.matched_noise import Progress, matched_noise


@dataclass(frozen=True)
class Calibration:
    """Inputs of the model, checked, in batches."""

    batches: tuple[Inputs, ...]
    samples: int
    """Inputs in all batches together."""
    notes: tuple[str, ...] = ()
    """What of the source was left out."""
    is_noise: bool = False
    """Whether noise stands in for data, and nothing of it was made to fit the model."""

    def joined(self) -> Inputs:
        """Return all inputs in one batch; tensors whose first axis does not count inputs are taken from the first one."""
        lists = [list(batch.tensors()) for batch in self.batches]
        sizes = [sample_count(batch) for batch in self.batches]
        columns = iter(list(zip(*lists, strict=True)))

        def join(_: Tensor) -> Tensor:
            column = next(columns)
            counted = all(t.dim() and t.shape[0] == size for t, size in zip(column, sizes, strict=True))
            return torch.cat(column) if counted else column[0]

        return self.batches[0].map(join)


def picked(inputs: Inputs, index: Tensor) -> Inputs:
    """Return the inputs of these numbers out of one batch."""
    size = sample_count(inputs)
    return inputs.map(lambda t: t[index.to(t.device)] if t.dim() and t.shape[0] == size else t)


def calibration(
    source: Any,
    *,
    like: Inputs,
    max_samples: int = MAX_SAMPLES,
    pixels: Pixels | None = None,
    model: nn.Module | None = None,
    progress: Progress | None = None,
) -> Calibration:
    """Return the first `max_samples` inputs of `source`.

    Args:
        source: a tensor (n, ...); an iterable of batches or of single inputs, each a tensor, a tuple of positional or a dict
            of keyword arguments (a DataLoader, a list); ``"package.module:function"``, whose function returns such a
            thing; a ``.npy`` or ``.pt`` file that holds one; a folder of pictures (extra ``images``), of which
            `max_samples`, evenly spread over the sorted names, are resized to the model's input; or ``"noise"``, random
            inputs (`torchthin.io.noise.noise_like`), made to fit `model` (`torchthin.io.matched_noise`).
        like: example inputs of the model: what they have in number, shape (but for the first axis) and kind of dtype, the
            source must have. Parts that the model does not take, such as labels, are left out with a note.
        max_samples: most inputs to take.
        pixels: how pictures become numbers.
        model: what the inputs are for; None: noise stays as it is.
        progress: called with the steps that are done and all, while noise is made to fit the model.

    Raises:
        InputError: the source cannot be read, yields nothing, does not fit the model or holds numbers that are not finite.
    """
    if isinstance(max_samples, bool) or not isinstance(max_samples, int) or max_samples < 1:
        raise InputError(
            f"The limit of the calibration data must be a whole number of at least 1. Got {max_samples!r}."
        )
    if isinstance(source, Calibration):
        return source
    form = _InputForm(like.args, dict(like.kwargs or {}), sample_count(like))
    batches: list[Inputs] = []
    samples, notes = 0, dict[str, None]()
    for number, item in enumerate(items(source, like, max_samples, pixels or Pixels())):
        inputs, note = form.fitted(item, number)
        if sample_count(inputs) > max_samples - samples:
            inputs = picked(inputs, torch.arange(max_samples - samples))
        batches.append(inputs)
        samples += sample_count(inputs)
        if note:
            notes[note] = None
        if samples >= max_samples:
            break
    if not samples:
        told = str(source) if isinstance(source, str | Path) else type(source).__name__
        raise InputError(f"The calibration data ({told}) hold no input. Give at least one.")
    found = Calibration(tuple(batches), samples, tuple(notes))
    return _noise(found, model, progress) if isinstance(source, str) and source == NOISE else found


def _noise(found: Calibration, model: nn.Module | None, progress: Progress | None) -> Calibration:
    """Return noise that fits a model, where it can be made to; with a note on what it is."""
    matched = None if model is None else matched_noise(model, found.joined(), found.samples, progress)
    if matched is None:
        note = "No data were given: the calibration inputs are noise, of mean 0 and deviation 1."
        return replace(found, notes=(*found.notes, note), is_noise=True)
    count = sample_count(matched)
    batches = tuple(picked(matched, index) for index in torch.arange(count).split(BATCH))
    note = f"No data were given: the {count} calibration inputs are noise, fitted to what the model's BatchNorms remember."
    return Calibration(batches, count, (*found.notes, note))


@dataclass(frozen=True)
class _InputForm:
    """The arguments that the model takes."""

    args: tuple[Any, ...]
    kwargs: Mapping[str, Any]
    size: int
    """Inputs in the example."""

    def fitted(self, item: Any, number: int) -> tuple[Inputs, str]:
        """Return one item of the source as arguments of the model, and a note on what was left out of it."""
        if isinstance(item, Inputs):
            item = dict(item.kwargs) if item.kwargs and not item.args else item.args
        if isinstance(item, Mapping):
            return self._keywords(item, number)
        parts = tuple(item) if isinstance(item, list | tuple) else (item,)
        if self.kwargs or len(parts) < len(self.args):
            wanted = f"a dict with {', '.join(self.kwargs)}" if self.kwargs else f"{len(self.args)} tensors"
            raise _wrong(number, f"{len(parts)} tensors", wanted)
        args = tuple(self._checked(part, arg, number) for part, arg in zip(parts, self.args, strict=False))
        note = "Left out of the calibration data: what follows the model's inputs, such as labels."
        return Inputs(args), note if len(parts) > len(args) else ""

    def _keywords(self, item: Mapping[Any, Any], number: int) -> tuple[Inputs, str]:
        missing = [name for name, arg in self.kwargs.items() if isinstance(arg, Tensor) and name not in item]
        if self.args or missing:
            wanted = ", ".join(missing) or f"{len(self.args)} positional arguments"
            raise _wrong(
                number, f"a dict with {', '.join(map(str, item))}", f"what the model takes: {wanted}"
            )
        left_out = ", ".join(str(name) for name in item if name not in self.kwargs)
        kwargs = {name: self._checked(item.get(name, arg), arg, number) for name, arg in self.kwargs.items()}
        return Inputs(
            (), kwargs or None
        ), f"Left out of the calibration data: {left_out}." if left_out else ""

    def _checked(self, value: Any, example: Any, number: int) -> Any:
        """Return an argument as a tensor that fits the example's; an argument that is no tensor is the example's."""
        if not isinstance(example, Tensor):
            return self._nested(value, example, number)
        if isinstance(value, np.ndarray | np.generic | int | float):
            value = torch.as_tensor(value)
        if not isinstance(value, Tensor):
            raise _wrong(number, f"a {type(value).__name__}", "a tensor")
        batched = example.dim() > 0 and example.shape[0] == self.size
        if batched and value.dim() == example.dim() - 1:
            value = value[None]
        free = 1 if batched else 0
        if value.dim() != example.dim() or value.shape[free:] != example.shape[free:]:
            shape = ", ".join(("n", *map(str, example.shape[1:])) if batched else map(str, example.shape))
            raise _wrong(number, f"shape {tuple(value.shape)}", f"shape ({shape}), as the example inputs")
        if value.is_floating_point() != example.is_floating_point():
            raise _wrong(number, f"dtype {value.dtype}", f"a dtype such as {example.dtype}")
        if value.is_floating_point() and not bool(value.isfinite().all()):
            raise InputError(
                f"The calibration data hold NaN or infinite numbers (item {number}). Take those inputs out."
            )
        return value.detach().to(example.dtype)

    def _nested(self, value: Any, example: Any, number: int) -> Any:
        """Return an argument that holds tensors, with every one of them checked; another kind of argument is the example's."""
        leaves, form = tree_flatten(example)
        if not any(isinstance(leaf, Tensor) for leaf in leaves):
            return example
        given, got = tree_flatten(value)
        if got != form:
            raise _wrong(number, f"a {type(value).__name__}", "of the form that the example's argument has")
        checked = [self._checked(one, leaf, number) for one, leaf in zip(given, leaves, strict=True)]
        return tree_unflatten(checked, form)


def _wrong(number: int, got: str, wanted: str) -> InputError:
    return InputError(f"Item {number} of the calibration data must be {wanted}. Got {got}.")
