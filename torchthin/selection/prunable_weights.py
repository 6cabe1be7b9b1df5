"""Prunable weights: which weights are pruned, found for any model or named by the caller.

Default targets are
- the weights of `nn.Conv1d/2d/3d` and `nn.ConvTranspose1d/2d/3d` and their subclasses, wherever they stand
  (in ai8x layers the convolution is the child ``op``);
- for hand-made modules (classes that torch does not define): parameters of 3 to 5 axes, more than one of them
  longer than 1, whose name is or ends in ``weight``, ``kernel`` or ``filters``. Their filter axis is 0;
- for unstructured methods also the weights of `nn.Linear`; for structured ones too where convolutions hold less than half of
  the parameters (a transformer) and a channel graph is known, which keeps output layers whole.

A weight shared by several modules is one target, under its first name. Channels of a weight that is computed from
other parameters (weight_norm, parametrizations, torch.nn.utils.prune) are masked in the parameter whose zeros are its
zeros (`torchthin/graph/parametrized.py`); its single weights are not, and where there is no such parameter it is not pruned, with
a note.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace

import numpy as np
from torch import Tensor, nn
from torch.nn.modules.conv import _ConvNd, _ConvTransposeNd
from torch.nn.parameter import is_lazy

from torchthin.dependency.groups import Group, Member, uncoupled
from torchthin.errors import InputError
from torchthin.graph.clone import modules_of
from torchthin.graph.parametrized import DerivedWeight, derived_weights
from torchthin.selection.weight_entries import (
    EMBEDDINGS,
    Entry,
    entries_of,
    is_convolution,
    is_layer_weight,
    why_not,
)
from torchthin.selection.weight_names import (
    excluded_by,
    is_several,
    named_entries,
    of_own_classes,
    usable_layers,
)


@dataclass(frozen=True)
class PrunableWeight:
    """A weight to prune."""

    name: str
    """Name as in ``named_parameters()``; of a computed weight, the parameter that has its shape."""
    axis: int
    """Filter axis: 0, or 1 for transposed convolutions and embeddings."""
    per_filter: int = 1
    """Indices of `axis` that make one filter; more than 1 only for transposed convolutions with one output
    channel per conv group, whose filter is all input rows of its conv group."""

    def group(self, weight: Tensor) -> Group:
        """Return this target's filters as a group of its own: the decision when no channel graph is known."""
        size = weight.shape[self.axis]
        if self.per_filter == 1:
            return uncoupled(self.name, self.axis, size)
        indices = np.arange(size, dtype=np.int64).reshape(-1, self.per_filter)
        return Group(self.name, indices.shape[0], (Member(self.name, self.axis, indices),))


@dataclass(frozen=True)
class PrunableWeights:
    """What is pruned, what is excluded on request, and what could not be a target, in words."""

    targets: tuple[PrunableWeight, ...]
    excluded: tuple[str, ...] = ()
    kept: frozenset[str] = frozenset()
    """Every parameter that a request excludes, weight or not: no channel that it makes is removed."""
    notes: tuple[str, ...] = ()
    linear: frozenset[str] = frozenset()
    """Linear weights that are default targets of a structured method, since convolutions hold little of the model."""
    linear_note: str = ""
    """The line that says so."""
    patterns: tuple[str, ...] = ()
    """Patterns and modules among the names asked for: what they match and produces channels is a target too."""
    named: bool = False
    """Whether the caller named them."""
    derived: Mapping[str, DerivedWeight] = field(default_factory=dict)
    """Name of a target (or of another parameter) -> the weight that is computed from it."""

    def notes_on(self, masked: Iterable[str]) -> tuple[str, ...]:
        """Return the notes for a run that masks these weights: whether linear ones are among them is one of them."""
        return (self.linear_note, *self.notes) if self.linear & set(masked) else self.notes


def _defaults(
    model: nn.Module, entries: list[Entry], structured: bool, coupled: bool
) -> tuple[list[Entry], str]:
    """Return the default targets, and a note where linear weights are among those of a structured method."""
    convolutions = [entry for entry in entries if is_convolution(entry)]
    both = [entry for entry in entries if is_convolution(entry) or is_layer_weight(entry, nn.Linear)]
    if not structured:
        return both, ""
    held = _held_by_convolutions(model, entries)
    if not coupled or len(both) == len(convolutions) or 2 * held >= 1:
        return convolutions, ""
    share = f"convolutions hold {100 * held:.0f} % of the parameters" if held else "there are no convolutions"
    return both, f"Linear layers are pruned too, since {share}; name weights to choose others."


def _held_by_convolutions(model: nn.Module, entries: list[Entry]) -> float:
    """Return the share of the parameters that are weights of convolutions."""
    held = {id(e.parameter): e.parameter.numel() for e in entries if is_convolution(e)}
    return sum(held.values()) / max(sum(p.numel() for p in model.parameters()), 1)


def _target(entry: Entry) -> PrunableWeight:
    if isinstance(entry.owner, EMBEDDINGS):
        return PrunableWeight(entry.name, 1)
    if not is_layer_weight(entry, _ConvTransposeNd):
        return PrunableWeight(entry.name, 0)
    conv = entry.owner
    assert isinstance(conv, _ConvTransposeNd)
    if conv.groups > 1 and conv.out_channels == conv.groups:
        return PrunableWeight(entry.name, 0, conv.in_channels // conv.groups)
    return PrunableWeight(entry.name, 1)


def _targets(chosen: Iterable[Entry], structured: bool) -> dict[int, PrunableWeight]:
    """Return what can be pruned of the entries, once for each parameter: its id -> the weight to prune."""
    found: dict[int, PrunableWeight] = {}
    for entry in chosen:
        if why_not(entry, structured) is None:
            found.setdefault(id(entry.parameter), _target(entry))
    return found


def _unusable(
    model: nn.Module, derived: Mapping[str, DerivedWeight], structured: bool, plain: bool
) -> dict[str, str]:
    """Return the computed weights that cannot be masked: name -> note."""
    notes = {}
    usable = {item.weight for item in derived.values() if item.masked is not None}
    for prefix, module in modules_of(model):
        name = f"{prefix}.weight" if prefix else "weight"
        if (
            isinstance(module, _ConvNd | nn.Linear)
            and "weight" not in module._parameters
            and name not in usable
        ):
            why = (
                "none of them makes it zero"
                if structured and not plain
                else "whole channels of it can be masked, by a structured method without compat"
            )
            notes[name] = (
                f"{name} is computed from other parameters ({why}) and is not pruned. To prune it, make it plain: "
                "torch.nn.utils.parametrize.remove_parametrizations, torch.nn.utils.remove_weight_norm or "
                "torch.nn.utils.prune.remove."
            )
    return notes


def _rescaled(item: DerivedWeight) -> str:
    return (
        f"{item.weight} is normalised over all its filters: masking some rescales those that stay, "
        f"as masking the first half would by {item.rescaled:.0%}."
    )


def _check_initialised(model: nn.Module) -> None:
    for entry in entries_of(model, {}):
        if is_lazy(entry.parameter):
            raise InputError(
                f"The weight {entry.name} of {type(entry.owner).__name__} has no shape yet. "
                "Run the model once on an example input first."
            )


def find_prunable_weights(
    model: nn.Module,
    *,
    structured: bool,
    include: Iterable[str] | None = None,
    exclude: Iterable[str] = (),
    derived: Mapping[str, DerivedWeight] | None = None,
    plain: bool = False,
    coupled: bool = False,
    by_kind: bool = False,
    attention: bool = False,
) -> PrunableWeights:
    """Return the weights to prune, in model order.

    Args:
        model: any model; only looked at.
        structured: whole channels are removed.
        include: names that replace the default targets; a pattern such as ``*`` or ``*.conv1`` and the name of a module
            stand for the convolution and linear weights that they match or hold.
        exclude: fnmatch patterns of weight or module names to leave unpruned; a module's name covers all it holds.
        derived: weights that layers compute from other parameters, where they are known already.
        plain: leave weights unpruned that are computed from other parameters, as unstructured methods do.
        coupled: a channel graph will be known, so that hidden states of recurrent layers and
            columns of embeddings may be named as well.
        by_kind: the target says what is cut by the kind of channels: where nothing is included, everything that makes some is
            a target, in layers of any class.
        attention: the model has attention; the same holds where convolutions hold less than half of its parameters.
            And of every model without a convolution or a linear layer of torch, whose layers are written by hand.

    Raises:
        WeightNameError: a name does not exist (with near matches) or cannot be pruned, or a pattern matches nothing.
        InputError: nothing is left to prune.
    """
    _check_initialised(model)
    plain = plain or not structured
    derived = {} if plain else derived_weights(model) if derived is None else derived
    entries = list(entries_of(model, derived, coupled))
    unusable = _unusable(model, derived, structured, plain)
    attention = attention and _held_by_convolutions(model, entries) < 0.5
    own = bool(of_own_classes(entries, "*", structured)) and not usable_layers(entries, structured)
    every, note = include is None and coupled and (by_kind or attention or own), ""
    if include is not None:
        chosen = named_entries(entries, include, unusable, structured)
    elif every:
        chosen = usable_layers(entries, structured)
    else:
        chosen, note = _defaults(model, entries, structured, coupled)
    found = _targets(chosen, structured)
    excluded, reported = excluded_by(entries, exclude, found)
    shared_once = [(name, id(p)) for name, p in model.named_parameters() if id(p) in found]
    rescaled = [derived[e.name] for e in chosen if e.alias and derived[e.name].rescaled]
    targets = PrunableWeights(
        targets=tuple(replace(found[key], name=name) for name, key in shared_once if key not in excluded),
        excluded=tuple(name for name, _ in model.named_parameters() if name in reported),
        kept=frozenset(name for entry in entries if id(entry.parameter) in excluded for name in entry.names),
        notes=(*_notes(chosen, structured, {} if include else unusable), *map(_rescaled, rescaled)),
        patterns=("*",) if every else tuple(name for name in include or () if is_several(name, entries)),
        named=include is not None,
        linear=frozenset(e.name for e in chosen if note and is_layer_weight(e, nn.Linear)),
        linear_note=note,
        derived=derived,
    )
    if not targets.targets and (targets.excluded or not targets.patterns):
        raise _nothing_left(targets, structured)
    return targets


def _notes(chosen: list[Entry], structured: bool, unmaskable: dict[str, str]) -> tuple[str, ...]:
    odd = [(entry.name, why_not(entry, structured)) for entry in chosen]
    return tuple(f"{name} is not pruned: {reason}." for name, reason in odd if reason) + tuple(
        unmaskable.values()
    )


def _nothing_left(targets: PrunableWeights, structured: bool) -> InputError:
    if targets.excluded:
        why = f"exclude (--keep) holds all {len(targets.excluded)} weights that could be"
    else:
        kinds = "convolution" if structured else "convolution or linear"
        why = f"it has no {kinds} weights"
        why += "" if targets.notes else "; give example inputs, or name others with include (--weights)"
    notes = f" {targets.notes[0]}" if targets.notes else ""
    return InputError(f"The model has nothing to prune: {why}.{notes}")
