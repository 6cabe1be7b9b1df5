"""Other numbers for a configuration, from the sizes that it gives and those that it should give."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from itertools import combinations, islice
from typing import Any

from torchthin.io.pretrained.fields import Field, Values, numbers_of
from torchthin.io.pretrained.sizes import Misfit, Numbers

_MOST_PAIRS = 300
"""So many pairs of changes are tried: each of them builds the model without its weights."""

_LEAST_SCALED = 8
"""Smaller numbers are none of widths."""

_MOST_VALUES = 4
"""A number that modules keep in more sizes than this is none of a whole configuration."""
_OF_TORCH = frozenset({
    "in_features", "out_features", "in_channels", "out_channels", "num_features", "groups", "num_embeddings", "embedding_dim",
    "padding_idx", "num_groups", "num_channels", "normalized_dim", "nf", "nx",
})  # fmt: skip
"""Sizes that layers keep of themselves."""

Pairs = list[tuple["int | float", "int | float"]]


def changes(found: Iterable[Misfit]) -> Pairs:
    """Return the distinct pairs of a size and the one that is wanted instead, the most frequent first."""
    counted: dict[tuple[int | float, int | float], int] = {}
    for item in found:
        if item.now is not None and item.wanted is not None and item.now:
            counted[item.now, item.wanted] = counted.get((item.now, item.wanted), 0) + 1
    return sorted(counted, key=lambda pair: -counted[pair])


def equal(config: Mapping[str, Any], pairs: Pairs) -> Iterator[Values]:
    """Yield changes of fields that hold a size."""
    for field, value in numbers_of(config):
        for now, wanted in pairs:
            if value == now and type(value) is type(wanted):
                yield {field: wanted}


def in_proportion(config: Mapping[str, Any], pairs: Pairs) -> Iterator[Values]:
    """Yield changes of fields that hold a factor or a multiple of a size: a number of heads, a width of a head."""
    seen: set[tuple[Field, int]] = set()
    for field, value in numbers_of(config):
        for now, wanted in pairs:
            if type(value) is not int or type(now) is not int or type(wanted) is not int:
                continue
            if value < 2 or value == now or (now % value and value % now) or value * wanted % now:
                continue
            new = value * wanted // now
            if new > 0 and (field, new) not in seen:
                seen.add((field, new))
                yield {field: new}


def unset(config: Mapping[str, Any], pairs: Pairs) -> Iterator[Values]:
    """Yield values for fields that hold None, which the class then derives from others: a size, or its share of heads."""
    numbers = list(numbers_of(config))
    sizes = {wanted for _, wanted in pairs if type(wanted) is int}
    factors = {value for _, value in numbers if type(value) is int and 1 < value <= 1024}
    shares = {size // value for size in sizes for value in factors if size % value == 0 and size > value}
    for field, value in numbers:
        if value is None and not str(field[-1]).endswith("_id"):
            for new in (*sorted(sizes), *sorted(shares - sizes)):
                yield {field: new}


def scaled(config: Mapping[str, Any], pairs: Pairs) -> Iterator[Values]:
    """Yield fields times the factor of a size, rounded: a class may round what it makes of a field, or take a share of it."""
    seen: set[tuple[Field, int]] = set()
    for field, value in numbers_of(config):
        for now, wanted in pairs:
            if type(value) is int and type(now) is int and type(wanted) is int and value >= _LEAST_SCALED:
                new = round(value * wanted / now)
                if 0 < new != value and (field, new) not in seen:
                    seen.add((field, new))
                    yield {field: new}


def two_at_once(singles: Iterable[Values]) -> Iterator[Values]:
    """Yield pairs of changes of different fields: some classes refuse either one without the other."""
    joined = ({**one, **other} for one, other in combinations(singles, 2) if one.keys() != other.keys())
    yield from islice(joined, _MOST_PAIRS)


def derived(config: Mapping[str, Any], kept: Numbers) -> Iterator[tuple[Values, Values]]:
    """Yield numbers that modules keep under a name which the configuration lacks, or has as None; and each time other ones.

    A class may read such a field where it is there: ``getattr(config, "head_dim", hidden_size // heads)``.
    """
    named: dict[str, set[int]] = {}
    for (_, name), value in kept.items():
        if isinstance(name, str) and type(value) is int and value > 1 and name not in _OF_TORCH:
            named.setdefault(name, set()).add(value)
    for path, part in parts(config):
        for name, values in named.items():
            if part.get(name) is None and len(values) <= _MOST_VALUES:
                for value in sorted(values):
                    yield {(*path, name): value}, {(*path, name): 2 * value}


def parts(config: Mapping[str, Any], path: Field = ()) -> Iterator[tuple[Field, Mapping[str, Any]]]:
    """Yield a configuration and those inside it."""
    yield path, config
    for key, value in config.items():
        if isinstance(value, dict) and "model_type" in value:
            yield from parts(value, (*path, key))


Stage = Callable[[Mapping[str, Any], Pairs], Iterator[Values]]
STAGES: tuple[Stage, ...] = (equal, in_proportion, unset, scaled)
"""From what is likely and quick to what is neither."""
