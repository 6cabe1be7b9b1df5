"""Names of modules and tensors before and after layers are taken out of lists, whose other layers are numbered again."""

from __future__ import annotations

from collections.abc import Callable, Mapping

Layers = Mapping[str, tuple[int, ...]]
"""List of modules, by its name before -> positions that are kept."""


def name_after(name: str, layers: Layers) -> str | None:
    """Return the name in the shortened model; None where it is in a layer that is gone.

    >>> [name_after(name, {"net.h": (0, 2)}) for name in ("net.h.1.weight", "net.h.2.weight", "net.out.2.bias")]
    [None, 'net.h.1.weight', 'net.out.2.bias']
    """
    return _renamed(
        name, layers, lambda kept, number: kept.index(number) if number in kept else None, known=0
    )


def name_before(name: str, layers: Layers) -> str:
    """Return the name that something of the shortened model had.

    >>> name_before("net.h.1.weight", {"net.h": (0, 2)})
    'net.h.2.weight'
    """
    found = _renamed(name, layers, lambda kept, number: kept[number] if number < len(kept) else None, known=1)
    return name if found is None else found


def _renamed(
    name: str, layers: Layers, number_of: Callable[[tuple[int, ...], int], int | None], *, known: int
) -> str | None:
    """Return the name with other positions; `known`: which of the old and the new name `layers` goes by."""
    names: tuple[list[str], list[str]] = [], []
    for part in name.split("."):
        kept, new = layers.get(".".join(names[known])), part
        if kept is not None and part.isdecimal():
            number = number_of(kept, int(part))
            if number is None:
                return None
            new = str(number)
        names[0].append(part)
        names[1].append(new)
    return ".".join(names[1])
