"""An exact result held against the full model under its masks, with nothing of this package: see README.md."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_flatten, tree_map
from zoo.case import Inputs, run, tensors

BOUND = 1e-9
"""Largest difference of an exact result in float64, as a share of the largest output."""


def held_apart(
    full: nn.Module, thinned: nn.Module, masks: Mapping[str, Tensor], example: Inputs
) -> dict[str, Any]:
    """Return how far a thinned model is from the full one under masks: on the example, and the most on other inputs.

    Both run in float64, or in the type of their weights where the full model does not take float64. Inputs that the full
    model does not take are left out.
    """
    masked = copy.deepcopy(full)
    lay_(masked, masks)
    wide, small, given = masked.double(), copy.deepcopy(thinned).double(), as_double(example)
    kind = "float64"
    if outputs(wide, given) is None:
        masked = copy.deepcopy(full)
        lay_(masked, masks)
        wide, small, given, kind = masked, copy.deepcopy(thinned), example, "as it is"
    apart = {name: distance(wide, small, item) for name, item in (("example", given), *others(given))}
    return {
        "checked in": kind,
        "apart on example": apart.pop("example"),
        "apart": max((d for d in apart.values() if d is not None), default=None),
        "other inputs": [name for name, d in apart.items() if d is not None],
        "rounding": rounding(wide, given),
        "random": is_random(wide, given),
        "narrow": Narrow.found_in(wide, given),
    }


def lay_(model: nn.Module, masks: Mapping[str, Tensor]) -> None:
    """Multiply the tensors of a model by their masks."""
    with torch.no_grad():
        for name, mask in masks.items():
            owner, _, own = name.rpartition(".")
            getattr(model.get_submodule(owner), own).mul_(mask)


def as_double(inputs: Inputs) -> Inputs:
    """Return inputs with their floating point numbers in float64."""
    return tree_map(lambda t: t.double() if isinstance(t, Tensor) and t.is_floating_point() else t, inputs)


def others(example: Inputs) -> Iterator[tuple[str, Inputs]]:
    """Yield other inputs: fresh numbers, other batches, other pictures' sizes."""
    yield "fresh numbers", tree_map(_fresh, example)
    sizes = {leaf.shape[0] for leaf in tree_flatten(example)[0] if isinstance(leaf, Tensor) and leaf.dim()}
    if sizes:
        batch = max(sizes)
        rows = torch.tensor([0, *range(batch)])

        def more(leaf: Any) -> Any:
            fits = isinstance(leaf, Tensor) and leaf.dim() and leaf.shape[0] == batch
            return leaf[rows] * (1 + 0.1 * leaf[rows].is_floating_point()) if fits else leaf

        yield "one sample more", tree_map(more, tree_map(_fresh, example))
        yield (
            "one sample",
            tree_map(lambda leaf: leaf[:1] if isinstance(leaf, Tensor) and leaf.dim() else leaf, example),
        )
    if isinstance(example, Tensor) and example.dim() == 4:
        yield "larger pictures", torch.nn.functional.pad(_fresh(example), (32, 0, 32, 0), mode="circular")


def _fresh(leaf: Any) -> Any:
    if not isinstance(leaf, Tensor) or leaf.dtype == torch.bool or not leaf.numel():
        return leaf
    generator = torch.Generator().manual_seed(7)
    if leaf.is_floating_point():
        noise = torch.randn(leaf.shape, generator=generator, dtype=torch.float64).to(leaf.dtype)
        return noise * (leaf.std() if leaf.numel() > 1 else 1.0) + leaf.mean()
    low, high = int(leaf.min()), int(leaf.max())
    return torch.randint(low, high + 1, leaf.shape, generator=generator, dtype=leaf.dtype)


def outputs(model: nn.Module, given: Inputs, seed: int = 0) -> list[Tensor] | None:
    """Return the floating point outputs of a model, the same on every call; None where it does not take the input."""
    torch.manual_seed(seed)
    try:
        with torch.no_grad():
            return [t for t in tensors(run(model, given)) if t.is_floating_point()]
    except Exception:  # whatever a model raises on an input that it is not made for
        return None


class Narrow(TorchDispatchMode):
    """Sees whether a model in float64 computes in a narrower type of its own accord, as many norms do."""

    narrow = False

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Run an op, and look at what it makes."""
        made = func(*args, **(kwargs or {}))
        several = isinstance(made, Tensor) and made.numel() > 1
        self.narrow |= several and made.is_floating_point() and made.dtype != torch.float64
        return made

    @classmethod
    def found_in(cls, model: nn.Module, given: Inputs) -> bool:
        """Return whether a model does."""
        with cls() as mode:
            outputs(model, given)
        return mode.narrow


def is_random(model: nn.Module, given: Inputs) -> bool:
    """Whether a model draws random numbers: thinned, it may draw fewer."""
    pair = outputs(model, given), outputs(model, given, seed=1)
    return any(not torch.equal(a, b) for a, b in zip(pair[0] or (), pair[1] or (), strict=True))


def distance(full: nn.Module, thinned: nn.Module, given: Inputs) -> float | None:
    """Return how far apart two models are on an input, as a share of each output's largest value; None where it is none."""
    expected = outputs(full, given)
    if expected is None:
        return None
    found = outputs(thinned, given)
    if found is None or [t.shape for t in found] != [t.shape for t in expected]:
        return float("inf")
    worst = 0.0
    for a, b in zip(expected, found, strict=True):
        if not a.numel():
            continue
        scale = float(a.abs().nan_to_num().max()) or 1.0
        error = torch.where((a == b) | (a.isnan() & b.isnan()), torch.zeros_like(a), (a - b).abs() / scale)
        worst = max(worst, float(error.nan_to_num(nan=float("inf")).max()))
    return worst


def rounding(masked: nn.Module, given: Inputs) -> float:
    """Return what a change of the last digits of all weights does: models that rank amplify it without limit."""
    other = copy.deepcopy(masked)
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in other.parameters():
            if parameter.is_floating_point():
                noise = torch.randn(parameter.shape, generator=generator, dtype=torch.float32).to(
                    parameter.dtype
                )
                parameter.mul_(1 + 4 * torch.finfo(parameter.dtype).eps * noise)
    return distance(masked, other, given) or 0.0


def wrong(found: Mapping[str, Any], exact: bool, claimed: float) -> str:
    """Return what of a claim does not hold, in words; nothing where all of it does.

    Args:
        found: what `held_apart` returned.
        claimed: how far the report says that the outputs are from the masked model's.
    """
    bound = 1e-4 if found["checked in"] != "float64" else 1e-5 if found["narrow"] else BOUND
    bound = max(bound, 10 * found["rounding"])
    here, there = found["apart on example"], found["apart"]
    if here is None:
        return ""
    if exact and max(here, there or 0.0) > bound:
        return f"claimed exact, apart by {max(here, there or 0.0):.2g}"
    if not exact and not found["random"] and here > 1.01 * claimed + max(bound, 1e-5):
        return f"apart by {here:.2g}, not by {claimed:.2g}"
    return ""
