"""Which groups are cut, by the kind of their channels, and the share that each loses."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from torchthin.config import LAYERS, Budget, Ratio, Target
from torchthin.dependency.groups import Group
from torchthin.dependency.kinds import KINDS, OUTPUT, Kinds
from torchthin.errors import ConfigError, KindError, near_matches
from torchthin.importance.scores import is_filter_member
from torchthin.selection.channels import lowest
from torchthin.selection.selection import BoolArray, Keeps
from torchthin.selection.weight_names import matches_any

Scores = Mapping[str, np.ndarray[tuple[int, ...], np.dtype[np.float64]]]


@dataclass(frozen=True)
class KindChoice:
    """What a run asks for by kind; nothing: every group that its weights make."""

    ratios: Mapping[str, float] = field(default_factory=dict)
    """Kind, or pattern of weights and modules -> share that is removed."""
    kinds: tuple[str, ...] = ()
    """Kinds that are cut; none named: all."""
    default: tuple[str, ...] = ()
    """Kinds that are cut where none is named, and that patterns reach; none: all."""
    even: bool = False
    """Groups of one kind are cut alike."""
    left_out: frozenset[str] = frozenset()
    """Names of groups that stay whatever their kind."""

    @property
    def decides(self) -> bool:
        """Whether the result depends on the kinds of groups; else nobody needs to find them."""
        return bool(self.asked or self.default or self.even)

    @property
    def asked(self) -> frozenset[str]:
        """The kinds and patterns that are named."""
        return frozenset((*self.ratios, *self.kinds))

    @classmethod
    def of(cls, target: Target, default: tuple[str, ...] = ()) -> KindChoice:
        """Return what a target asks for.

        Raises:
            ConfigError: it asks for heads and for their width, which divide the same weights in two ways; or for
                layers, which are no channels.
        """
        ratios = target.by_kind if isinstance(target, Ratio) else {}
        kinds = target.kinds if isinstance(target, Budget) else ()
        if LAYERS in {*ratios, *kinds}:
            raise ConfigError(
                "Whole layers go at once, by a share or a number, not by a budget or step by step. Leave them out with "
                'torchthin.prune(model, x, {"layers": 0.25}) (--ratio layers=0.25) first, then prune the result.'
            )
        if {"heads", "head_dim"} <= {*ratios, *kinds}:
            raise ConfigError(
                "The kinds heads and head_dim cannot be cut in one run: they divide the same weights in two ways. "
                "Prune twice, the second time with the other kind."
            )
        return cls(ratios, kinds, default, bool(getattr(target, "even", False)))

    def among(self, groups: Sequence[Group], kinds: Kinds, axes: Mapping[str, int]) -> Chosen:
        """Return which of `groups` are cut.

        Args:
            groups: what could be cut.
            kinds: what they and their weights are.
            axes: filter axis of every weight that makes channels.

        Raises:
            KindError: a kind was asked for that the model has not, or a pattern that matches nothing.
        """
        known = {group.name: kinds.of_groups[group.name] for group in groups if group.name in kinds.of_groups}
        keys = {group.name: self._key(group, known.get(group.name, ""), axes) for group in groups}
        for key in (*self.ratios, *self.kinds):
            if key not in keys.values() and key not in known.values():
                raise _refusal(key, kinds, known, "ratio (--ratio)" if self.ratios else "kinds (--kinds)")
        shares = {name: self.ratios[key] for name, key in keys.items() if key is not None}
        if self.ratios:
            cut, allowed = set(shares), {*self.ratios, *(known.get(name, "channels") for name in shares)}
        else:
            allowed = set(self.kinds or self.default or KINDS)
            cut = {name for name in keys if known.get(name, "channels") in allowed}
        # Where kinds decide, weights that make the output are no targets; else a report says that they stay.
        known_kinds = allowed if allowed < KINDS.keys() else {*allowed, OUTPUT}
        left = frozenset(name for name, kind in kinds.of_weights.items() if kind not in known_kinds)
        if groups and not cut:
            raise KindError(
                f"The model has nothing to prune unless its kind is asked for: {_listed(known)}. Ask by kind, such as "
                f"Ratio({{{next(iter(known.values()))!r}: 0.25}}) (--ratio {next(iter(known.values()))}=0.25)."
            )
        spared = sorted({kind for name, kind in known.items() if name not in cut})
        out = [g for g in groups if g.name in self.left_out]
        left |= {m.parameter for group in out for m in group.members if is_filter_member(m, axes)}
        return Chosen(
            frozenset(cut - self.left_out),
            left,
            known,
            shares,
            tuple(spared) if self.default and not self.asked else (),
        )

    def _key(self, group: Group, kind: str, axes: Mapping[str, int]) -> str | None:
        """Return the key of the ratios that a group goes by: a pattern before a kind, the last one of several."""
        made_by = [m.parameter for m in group.members if is_filter_member(m, axes)]
        patterns = [key for key in self.ratios if key not in KINDS]
        if kind in (self.default or KINDS):
            for pattern in reversed(patterns):
                if any(matches_any(name, [pattern]) for name in made_by):
                    return pattern
        return kind if kind in self.ratios else None


@dataclass(frozen=True)
class Chosen:
    """Which groups are cut."""

    cut: frozenset[str]
    """Names of groups; the others stay."""
    left: frozenset[str]
    """Weights that make channels of kinds which stay."""
    kinds: Mapping[str, str]
    """Group name -> kind, of these and of what stays."""
    shares: Mapping[str, float]
    """Group name -> share that is asked for by kind."""
    spared: tuple[str, ...] = ()
    """Kinds that stay because nothing was chosen."""


def _refusal(key: str, kinds: Kinds, known: Mapping[str, str], option: str) -> KindError:
    if key not in KINDS and option.startswith("kinds"):
        return KindError(
            f"The {option} name nothing with {key!r}. They must be of {', '.join(KINDS)}.{near_matches(key, KINDS)}"
        )
    if key not in KINDS:
        return KindError(
            f"The {option} of {key!r} goes to nothing: it is no kind ({', '.join((*KINDS, LAYERS))}), and no weight that "
            f"can be pruned matches it.{near_matches(key, [*KINDS, LAYERS, *kinds.of_weights])}"
        )
    if key == "experts":
        return KindError(
            "No experts can be removed here. prune removes them, by a ratio of their own (Ratio({'experts': 0.25}), --ratio "
            "experts=0.25), where a router picks among stacked tensors or the modules of a list. The model has "
            f"{_listed(known)}."
        )
    frozen = [name for name, kind in kinds.of_weights.items() if kind == key]
    why = f" (those of {', '.join(frozen[:2])} cannot be removed: see torchthin inspect)" if frozen else ""
    return KindError(f"The model has no {key} that can be removed{why}. It has {_listed(known)}.")


def _listed(known: Mapping[str, str]) -> str:
    counts = Counter(known.values())
    groups = [f"{kind} ({n} {'group' if n == 1 else 'groups'})" for kind, n in counts.items()]
    return ", ".join(groups) or "nothing that can be removed"


def evened(
    groups: Iterable[Group], keeps: Keeps, scores: Scores, kinds: Mapping[str, str], round_to: int = 1
) -> dict[str, BoolArray]:
    """Return `keeps` so that groups of one kind and size keep equal numbers, each its own best channels.

    As many stay of each as on average. Where equal numbers must go from parts of a group and fewer went, all of them keep more.
    """
    alike: dict[tuple[str, int], list[Group]] = {}
    for group in groups:
        alike.setdefault((kinds.get(group.name, ""), group.size), []).append(group)
    found = dict(keeps)
    for (_, size), same in alike.items():
        removed = sum(int((~keeps[group.name]).sum()) for group in same) // len(same)
        while True:
            each = {group.name: lowest(group, scores[group.name], removed, round_to) for group in same}
            kept = {int(keep.sum()) for keep in each.values()}
            if len(kept) == 1:
                break
            removed = min(removed - 1, size - max(kept))
        found.update(each)
    return found
