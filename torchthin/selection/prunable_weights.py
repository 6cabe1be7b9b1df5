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

from collections.abc import Container, Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from fnmatch import fnmatchcase

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.modules.conv import _ConvNd, _ConvTransposeNd
from torch.nn.parameter import is_lazy
from torch.nn.utils.parametrize import ParametrizationList

from torchthin.dependency.groups import Group, Member, uncoupled
from torchthin.errors import InputError, WeightNameError, near_matches
from torchthin.graph.clone import modules_of
from torchthin.graph.parametrized import DerivedWeight, derived_weights

DTYPES = (torch.float16, torch.bfloat16, torch.float32, torch.float64)
_WEIGHT_LIKE = ("weight", "kernel", "filters")


_EMBEDDINGS = (nn.Embedding, nn.EmbeddingBag)


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
    derived: Mapping[str, DerivedWeight] = field(default_factory=dict)
    """Name of a target (or of another parameter) -> the weight that is computed from it."""

    def notes_on(self, masked: Iterable[str]) -> tuple[str, ...]:
        """Return the notes for a run that masks these weights: whether linear ones are among them is one of them."""
        return (self.linear_note, *self.notes) if self.linear & set(masked) else self.notes


@dataclass(frozen=True)
class _Entry:
    """One name of one parameter, with the module that owns it. A computed weight stands for the parameter of its shape."""

    name: str
    owner: nn.Module
    local: str
    parameter: nn.Parameter
    alias: str = ""
    """Name of the computed weight."""
    inner: bool = False
    """Filters are parts of hidden states, or columns of an embedding, which only a channel graph shows."""

    @property
    def names(self) -> tuple[str, ...]:
        """All that a caller may call it."""
        return (self.alias, self.name) if self.alias else (self.name,)


def _entries(
    model: nn.Module, derived: Mapping[str, DerivedWeight], coupled: bool = False
) -> Iterator[_Entry]:
    """Yield every name of every parameter, also the second names of shared ones, in model order."""
    for prefix, module in _all_names(model):
        for local, parameter in module._parameters.items():
            if parameter is None:
                continue
            name = f"{prefix}.{local}" if prefix else local
            item = derived.get(name)
            if item is None or item.masked is None:
                inner = coupled and isinstance(module, (nn.RNNBase, nn.RNNCellBase, *_EMBEDDINGS))
                yield _Entry(name, module, local, parameter, inner=inner and parameter.dim() > 1)
            else:
                path, _, local = item.weight.rpartition(".")
                yield _Entry(name, model.get_submodule(path), local, parameter, item.weight)


def _all_names(model: nn.Module) -> Iterator[tuple[str, nn.Module]]:
    """Yield every module under every name that it has, as ``named_modules(remove_duplicate=False)`` does, in less time."""
    waiting = [("", model)]
    while waiting:
        path, module = waiting.pop()
        yield path, module
        if module._modules:
            prefix = f"{path}." if path else ""
            children = module._modules.items()
            waiting.extend((prefix + name, child) for name, child in reversed(children) if child is not None)


def _is_torch_layer(module: nn.Module) -> bool:
    """Whether the module is, or derives from, one of torch's layers: torch says what its weights mean."""
    plain = (nn.Module, nn.Sequential, nn.ModuleList, nn.ModuleDict, object)
    return any(base.__module__.split(".")[0] == "torch" for base in type(module).__mro__ if base not in plain)


def _is_layer_weight(entry: _Entry, layer: type[nn.Module]) -> bool:
    return entry.local == "weight" and isinstance(entry.owner, layer)


def _is_hand_made_convolution(entry: _Entry) -> bool:
    shape = entry.parameter.shape
    return (
        not _is_torch_layer(entry.owner)
        and entry.local.endswith(_WEIGHT_LIKE)
        and 3 <= len(shape) <= 5
        and sum(size > 1 for size in shape) > 1
    )


def _is_convolution(entry: _Entry) -> bool:
    return _is_layer_weight(entry, _ConvNd) or _is_hand_made_convolution(entry)


def _defaults(
    model: nn.Module, entries: list[_Entry], structured: bool, coupled: bool
) -> tuple[list[_Entry], str]:
    """Return the default targets, and a note where linear weights are among those of a structured method."""
    convolutions = [entry for entry in entries if _is_convolution(entry)]
    both = [entry for entry in entries if _is_convolution(entry) or _is_layer_weight(entry, nn.Linear)]
    if not structured:
        return both, ""
    if not coupled or len(both) == len(convolutions):
        return convolutions, ""
    held = sum(p.numel() for p in {id(e.parameter): e.parameter for e in convolutions}.values())
    total = sum(p.numel() for p in model.parameters())
    if 2 * held >= total:
        return convolutions, ""
    share = (
        f"convolutions hold {100 * held / total:.0f} % of the parameters"
        if held
        else "there are no convolutions"
    )
    return both, f"Linear layers are pruned too, since {share}; name weights to choose others."


def _target(entry: _Entry) -> PrunableWeight:
    if isinstance(entry.owner, _EMBEDDINGS):
        return PrunableWeight(entry.name, 1)
    if not _is_layer_weight(entry, _ConvTransposeNd):
        return PrunableWeight(entry.name, 0)
    conv = entry.owner
    assert isinstance(conv, _ConvTransposeNd)
    if conv.groups > 1 and conv.out_channels == conv.groups:
        return PrunableWeight(entry.name, 0, conv.in_channels // conv.groups)
    return PrunableWeight(entry.name, 1)


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


def _why_not(entry: _Entry, structured: bool) -> str | None:
    """Return why the parameter cannot be pruned when named, or None when it can."""
    shape, owner = tuple(entry.parameter.shape), type(entry.owner).__name__
    layer = isinstance(entry.owner, _ConvNd | nn.Linear)
    if entry.parameter.dtype not in DTYPES or entry.parameter.layout != torch.strided:
        return f"its type is {entry.parameter.dtype} ({entry.parameter.layout})"
    if not entry.parameter.numel():
        return f"its shape {shape} holds no values"
    if isinstance(entry.owner, ParametrizationList) or (layer and entry.local not in ("weight", "bias")):
        return "another weight is computed from it"
    if len(shape) < 2:
        return f"it is a {len(shape)}-d {entry.local} of {owner}"
    if structured and _is_torch_layer(entry.owner) and not layer and not entry.inner:
        return f"the filters of {owner} cannot go one by one"
    return None


def _refusal(entry: _Entry, structured: bool, reason: str) -> WeightNameError:
    allowed = (
        "weights of convolutions, linear layers and hand-made layers of 2 and more axes"
        if structured
        else "weights of 2 and more axes"
    )
    kind = "a structured" if structured else "an unstructured"
    return WeightNameError(
        f"The weight {entry.name} cannot be pruned by {kind} method: {reason}. "
        f"Allowed are floating-point {allowed}."
    )


def _unknown(name: str, entries: list[_Entry], structured: bool) -> WeightNameError:
    own = [entry.names[0] for entry in entries if entry.names[0].startswith(f"{name}.")]
    good = [entry.names[0] for entry in entries if _why_not(entry, structured) is None]
    if own:
        listed = f"{', '.join(own[:4])}{', ...' if len(own) > 4 else ''}"
        hint = f" It is a module that holds none to prune; its parameters are {listed}."
    else:
        hint = near_matches(name, good) or (f" The first ones are {', '.join(good[:4])}." if good else "")
    return WeightNameError(f"The model has no weight {name!r}.{hint}")


def _named(
    entries: list[_Entry], names: Iterable[str], unmaskable: dict[str, str], structured: bool
) -> list[_Entry]:
    """Return the entries the caller asked for, or raise."""
    known = {entry.names[0]: entry for entry in entries}
    chosen = []
    for name in names:
        if name not in known and _is_several(name, entries):
            chosen += _matching(entries, name, structured)
            continue
        if name in unmaskable:
            raise WeightNameError(f"The weight {name} cannot be pruned: {unmaskable[name]}")
        if name not in known:
            raise _unknown(name, entries, structured)
        reason = _why_not(known[name], structured)
        if reason is not None:
            raise _refusal(known[name], structured, reason)
        chosen.append(known[name])
    return chosen


def _is_several(name: str, entries: Iterable[_Entry]) -> bool:
    """Whether a name that a caller gives is a pattern or a module, which stand for all weights that they match or hold."""
    return any(sign in name for sign in "*?[") or any(
        entry.names[0].startswith(f"{name}.") for entry in entries
    )


def _matching(entries: list[_Entry], pattern: str, structured: bool) -> list[_Entry]:
    """Return the weights of convolutions and linear layers that a pattern or a module's name stands for, or raise."""
    usable = [
        e
        for e in entries
        if (_is_convolution(e) or _is_layer_weight(e, nn.Linear) or e.inner)
        and _why_not(e, structured) is None
    ]
    found = [entry for entry in usable if _matches(pattern, entry.names[0])]
    if not found and not any(sign in pattern for sign in "*?["):
        raise _unknown(pattern, entries, structured)
    if not found:
        raise WeightNameError(
            f"The pattern {pattern!r} matches none of the {len(usable)} weights that can be pruned."
            f"{near_matches(pattern, [entry.names[0] for entry in usable])}"
        )
    return found


def matches_any(name: str, patterns: Iterable[str]) -> bool:
    """Whether one of the patterns matches the weight or any module that holds it."""
    return any(_matches(pattern, name) for pattern in patterns)


def _matches(pattern: str, name: str) -> bool:
    """Whether `pattern` matches the weight or any module that holds it."""
    parts = name.split(".")
    return any(fnmatchcase(".".join(parts[:end]), pattern) for end in range(1, len(parts) + 1))


def _excluded(
    entries: list[_Entry], patterns: Iterable[str], targets: Container[int]
) -> tuple[set[int], set[str]]:
    """Return the ids of the parameters that the patterns exclude, and the names to report; one that matches nothing raises.

    A pattern that matches targets is reported by these, another one (a norm, an embedding) by all that it matches.
    """
    excluded: set[int] = set()
    reported: set[str] = set()
    for pattern in patterns:
        found = {
            id(entry.parameter) for entry in entries if any(_matches(pattern, name) for name in entry.names)
        }
        if not found:
            names = [entry.name for entry in entries]
            modules = [name.rsplit(".", 1)[0] for name in names if "." in name]
            raise WeightNameError(
                f"The exclude pattern (--keep) {pattern!r} matches no weight or module of the model."
                f"{near_matches(pattern, dict.fromkeys(modules + names))}"
            )
        excluded |= found
        named = {key for key in found if key in targets} or found
        reported |= {entry.name for entry in entries if id(entry.parameter) in named}
    return excluded, reported


def _rescaled(item: DerivedWeight) -> str:
    return (
        f"{item.weight} is normalised over all its filters: masking some rescales those that stay, "
        f"as masking the first half would by {item.rescaled:.0%}."
    )


def _check_initialised(model: nn.Module) -> None:
    for entry in _entries(model, {}):
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

    Raises:
        WeightNameError: a name does not exist (with near matches) or cannot be pruned, or a pattern matches nothing.
        InputError: nothing is left to prune.
    """
    _check_initialised(model)
    if not structured or plain:
        derived = {}
    elif derived is None:
        derived = derived_weights(model)
    entries = list(_entries(model, derived, coupled))
    unusable = _unusable(model, derived, structured, plain)
    note = ""
    if include is None:
        chosen, note = _defaults(model, entries, structured, coupled)
    else:
        chosen = _named(entries, include, unusable, structured)
    found: dict[int, PrunableWeight] = {}
    for entry in chosen:
        if _why_not(entry, structured) is None:
            found.setdefault(id(entry.parameter), _target(entry))
    excluded, reported = _excluded(entries, exclude, found)
    shared_once = [(name, id(p)) for name, p in model.named_parameters() if id(p) in found]
    rescaled = [derived[e.name] for e in chosen if e.alias and derived[e.name].rescaled]
    targets = PrunableWeights(
        targets=tuple(replace(found[key], name=name) for name, key in shared_once if key not in excluded),
        excluded=tuple(name for name, _ in model.named_parameters() if name in reported),
        kept=frozenset(name for entry in entries if id(entry.parameter) in excluded for name in entry.names),
        notes=(
            *_notes(chosen, structured, unusable if include is None else {}),
            *map(_rescaled, rescaled),
        ),
        patterns=tuple(name for name in include or () if _is_several(name, entries)),
        linear=frozenset(e.name for e in chosen if note and _is_layer_weight(e, nn.Linear)),
        linear_note=note,
        derived=derived,
    )
    if not targets.targets:
        raise _nothing_left(targets, structured)
    return targets


def _notes(chosen: list[_Entry], structured: bool, unmaskable: dict[str, str]) -> tuple[str, ...]:
    odd = [(entry.name, _why_not(entry, structured)) for entry in chosen]
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
