"""Ties become components: labels that are removed together, and which components are frozen and why."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from itertools import pairwise

import numpy as np

from torchthin.dependency.groups import ChannelGroups, Frozen, Group, IntArray, Member
from torchthin.dependency.labels import FROZEN, LabelSpace, Vector, connected
from torchthin.dependency.propagate import Labels
from torchthin.graph.operators import GROUPED_BYTES, GROUPED_PRODUCTS


@dataclass(frozen=True)
class Components:
    """The outcome of all ties."""

    of_label: IntArray
    """Shape (labels,): component of each label."""
    reason: IntArray
    """Shape (components,): number of the freeze that holds the component, -1 for components that may be removed."""

    def free(self) -> np.ndarray[tuple[int, ...], np.dtype[np.bool_]]:
        """Shape (components,): whether the component may be removed."""
        return np.asarray(self.reason < 0)


@dataclass(frozen=True)
class Grouping:
    """Groups, and the component of every channel."""

    groups: ChannelGroups
    components: Components
    channels: dict[str, IntArray]
    """Group name -> component of every channel."""


def components(space: LabelSpace) -> Components:
    """Find the connected components of the ties and what freezes them."""
    a = np.concatenate([pair[0] for pair in space.ties]) if space.ties else np.zeros(0, np.int64)
    b = np.concatenate([pair[1] for pair in space.ties]) if space.ties else np.zeros(0, np.int64)
    count, of_label = connected(a, b, space.count)
    reason = np.full(count, -1, np.int64)
    if space.freezes:  # of several reasons the first counts, so it is written last
        labels = [frozen for frozen, _ in reversed(space.freezes)]
        numbers = np.repeat(np.arange(len(labels))[::-1], [frozen.size for frozen in labels])
        reason[of_label[np.concatenate(labels)]] = numbers
    reason[of_label[FROZEN]] = len(space.freezes)
    return Components(of_label, reason)


@dataclass(frozen=True)
class _Axes:
    """All labelled axes of parameters and buffers. Most are one of a few: what a filter makes, its BatchNorm and its readers
    share their components, so whatever is asked of an axis is worked out once for all that are equal.
    """

    names: list[tuple[str, int]]
    """Tensor and axis."""
    kind: IntArray
    """Shape (axes,): which of `distinct` each one is."""
    distinct: list[IntArray]
    """Components along the axis."""


def _axes(labels: Labels, found: Components) -> _Axes:
    names: list[tuple[str, int]] = []
    kind: list[int] = []
    distinct: list[IntArray] = []
    by_vector: dict[int, int] = {}
    by_content: dict[bytes, int] = {}
    for name, all_axes in labels.state.items():
        for axis, vector in enumerate(all_axes):
            if not isinstance(vector, np.ndarray):
                continue
            number = by_vector.get(id(vector))
            if number is None:
                comps = found.of_label[vector]
                number = by_vector[id(vector)] = by_content.setdefault(comps.tobytes(), len(distinct))
                if number == len(distinct):
                    distinct.append(comps)
            names.append((name, axis))
            kind.append(number)
    return _Axes(names, np.array(kind, np.int64), distinct)


def find_groups(labels: Labels) -> Grouping:
    """Turn a labelling into groups: components with the same members form a group, and so do components that balances couple."""
    found = components(labels.space)
    axes = _axes(labels, found)
    kinds = _kinds(axes, found)
    balances = _balances(labels.space.balances, found, kinds)
    owner = _merged_kinds(kinds, balances)
    groups, channels = _build(axes, kinds, owner, balances)
    groups = _with_multiples(groups, channels, found, labels)
    return Grouping(ChannelGroups(groups, _frozen(axes, found, labels)), found, channels)


def _kinds(axes: _Axes, found: Components) -> IntArray:
    """Number components by their set of members, shape (components,); -1 for frozen ones and those without a member."""
    random = np.random.default_rng(0).integers(1, 2**63, size=len(axes.names), dtype=np.uint64)
    together = np.zeros(len(axes.distinct), np.uint64)
    np.add.at(together, axes.kind, random)
    marks = np.zeros(found.reason.size, np.uint64)
    if axes.distinct:
        sizes = [comps.size for comps in axes.distinct]
        np.add.at(marks, np.concatenate(axes.distinct), np.repeat(together, sizes))
    marks[~found.free()] = 0
    marked = np.flatnonzero(marks)
    kinds = np.full(marks.size, -1, np.int64)
    kinds[marked] = np.unique(marks[marked], return_inverse=True)[1].reshape(-1)
    return kinds


def _balances(balances: list[Vector], found: Components, kinds: IntArray) -> list[IntArray]:
    """Balances over components, -1 where nothing can be removed, without those that always hold."""
    kept = []
    for balance in balances:
        comps = found.of_label[balance]
        comps = np.where(kinds[comps] < 0, -1, comps)
        ordered = np.sort(comps, axis=1)
        if (ordered != ordered[:1]).any():
            kept.append(comps)
    return kept


def _merged_kinds(kinds: IntArray, balances: list[IntArray]) -> IntArray:
    """Kind -> group number: kinds that share a balance share a group."""
    count = int(kinds.max(initial=-1)) + 1
    pairs = []
    for balance in balances:
        met = np.unique(kinds[balance[balance >= 0]])
        pairs.append(np.stack([met, np.broadcast_to(met[:1], met.shape)]))
    a, b = np.concatenate(pairs, axis=1) if pairs else np.zeros((2, 0), np.int64)
    return connected(a, b, count)[1] if count else np.zeros(0, np.int64)


def _build(
    axes: _Axes, kinds: IntArray, owner: IntArray, balances: list[IntArray]
) -> tuple[tuple[Group, ...], dict[str, IntArray]]:
    channel = np.full(kinds.size, -1, np.int64)
    kind_sizes = np.bincount(kinds[kinds >= 0])
    order: dict[int, list[IntArray]] = {}
    members: dict[int, list[Member]] = {}
    sizes: dict[int, int] = {}
    shared: dict[int, list[tuple[int, IntArray, IntArray]]] = {}
    for (name, axis), number in zip(axes.names, axes.kind.tolist(), strict=True):
        if number not in shared:
            comps = axes.distinct[number]
            _number_channels(comps, kinds, owner, channel, order, sizes)
            shared[number] = list(_rows(comps, kinds, channel, kind_sizes))
        for kind, indices, covered in shared[number]:
            members.setdefault(int(owner[kind]), []).append(Member(name, axis, indices, covered))
    coupled: dict[int, list[IntArray]] = {}
    for balance in balances:
        met = balance[balance >= 0]
        group = int(owner[kinds[met[0]]])
        coupled.setdefault(group, []).append(np.where(balance < 0, -1, channel[balance]))
    groups = []
    channels: dict[str, IntArray] = {}
    for group, met_members in members.items():
        name, size = _name(met_members, channels), sizes[group]
        listed = tuple(_whole(member, size) for member in met_members)
        groups.append(Group(name, size, listed, balances=tuple(coupled.get(group, ()))))
        channels[name] = np.concatenate(order[group])
    return tuple(groups), channels


def _with_multiples(
    groups: tuple[Group, ...], channels: dict[str, IntArray], found: Components, labels: Labels
) -> tuple[Group, ...]:
    """Note which groups lie on axes that grouped products sum over or make: their rows must be of whole `GROUPED_BYTES`."""
    vectors = [
        vector
        for op in labels.graph.ops
        if op.name in GROUPED_PRODUCTS
        for value in (op.reads[1], *op.results)
        for axis in labels.values[value]
        for vector in ((axis,) if isinstance(axis, np.ndarray) else () if axis is None else axis.parts)
    ]
    if not vectors:
        return groups
    met = found.of_label[np.unique(np.concatenate(vectors))]
    multiple = GROUPED_BYTES // (2 if labels.graph.narrow else 4)
    return tuple(
        replace(group, multiple=multiple) if np.isin(channels[group.name], met).any() else group
        for group in groups
    )


def _number_channels(
    comps: IntArray,
    kinds: IntArray,
    owner: IntArray,
    channel: IntArray,
    order: dict[int, list[IntArray]],
    sizes: dict[int, int],
) -> None:
    """Number the components that no axis before had: the first axis of its kind numbers the channels of a group."""
    fresh = comps[(channel[comps] < 0) & (kinds[comps] >= 0)]
    for kind, run in _runs(kinds[fresh]):
        group = int(owner[kind])
        met = fresh[run]
        new = met[np.sort(np.unique(met, return_index=True)[1])]
        start = sizes.get(group, 0)
        channel[new] = np.arange(start, start + new.size)
        sizes[group] = start + new.size
        order.setdefault(group, []).append(new)


def _rows(
    comps: IntArray, kinds: IntArray, channel: IntArray, kind_sizes: IntArray
) -> Iterator[tuple[int, IntArray, IntArray]]:
    """Yield every kind on an axis, its indices by channel and the numbers of these channels in their group."""
    numbers = channel[comps]
    for kind, positions in _runs(kinds[comps], numbers):
        indices = positions.reshape(kind_sizes[kind], -1)
        yield kind, indices, numbers[indices[:, 0]]


def _whole(member: Member, size: int) -> Member:
    """Leave out the list of channels where it lists all."""
    covered = member.channels
    return (
        Member(member.parameter, member.axis, member.indices)
        if covered is not None and covered.size == size
        else member
    )


def _runs(kinds: IntArray, numbers: IntArray | None = None) -> Iterator[tuple[int, IntArray]]:
    """Yield every kind on an axis with its positions, ascending, by `numbers` first; frozen positions are left out."""
    if kinds.size and (kinds == kinds[0]).all():  # nearly always
        if kinds[0] >= 0:
            ascending = numbers is None or bool((numbers[1:] >= numbers[:-1]).all())
            places = np.arange(kinds.size) if numbers is None or ascending else numbers.argsort(kind="stable")
            yield int(kinds[0]), places
        return
    sorting = np.argsort(kinds, kind="stable") if numbers is None else np.lexsort((numbers, kinds))
    ordered = kinds[sorting]
    starts = np.flatnonzero(np.diff(ordered, prepend=-2)).tolist()
    for start, stop in pairwise([*starts, ordered.size]):
        if ordered[start] >= 0:
            yield int(ordered[start]), sorting[start:stop]


def _name(members: list[Member], taken: dict[str, IntArray]) -> str:
    """Name a group by the weight that makes its channels (its first member along axis 0 that is a matrix), made unique."""
    base = next(
        (m.parameter for m in members if m.axis == 0 and m.parameter.endswith("weight")), members[0].parameter
    )
    name, number = base, 2
    while name in taken:
        name, number = f"{base} ({number})", number + 1
    return name


def _frozen(axes: _Axes, found: Components, labels: Labels) -> tuple[Frozen, ...]:
    freezes = labels.space.freezes
    held: list[list[tuple[int, str]]] = []
    for comps in axes.distinct:
        reasons = found.reason[comps]
        counts = np.bincount(reasons[reasons >= 0])
        held.append([
            (int(counts[number]), str(freezes[number][1]) if number < len(freezes) else "padding")
            for number in np.flatnonzero(counts).tolist()
        ])  # fmt: skip
    return tuple(
        Frozen(name, axis, count, text)
        for (name, axis), number in zip(axes.names, axes.kind.tolist(), strict=True)
        for count, text in held[number]
    )
