"""``per_layer_config`` of transformers 5: numbers of a configuration that some layers have otherwise."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from torchthin.io.pretrained.fields import Field
from torchthin.io.pretrained.proposals import parts
from torchthin.io.pretrained.sizes import Misfit

ENTRIES = "per_layer_config"
"""Field: number of a layer -> its own values. Classes that do not read it refuse to be built with one, or stay as they are."""
_LAYER = re.compile(r"(?:^|\.)(\d+)(?:\.|$)")
_Wanted = dict[int, int]
"""Number of a layer -> the size that it should have."""


def by_layer(config: Mapping[str, Any], found: Iterable[Misfit]) -> Iterator[dict[Field, Any]]:
    """Yield entries for single layers: a field that holds a size, or a factor of it, with another value in those that need it."""
    for now, wanted in _sizes(found).items():
        for path, part in parts(config):
            for name, value in part.items():
                if type(value) is not int or value < 2 or now % value or "num_hidden_layers" not in part:
                    continue
                if all(size * value % now == 0 for size in wanted.values()):
                    entries = {int(key): entry for key, entry in (part.get(ENTRIES) or {}).items()}
                    for layer, size in wanted.items():
                        entries[layer] = {**entries.get(layer, {}), name: size * value // now}
                    yield {(*path, ENTRIES): {str(layer): entry for layer, entry in sorted(entries.items())}}


def _sizes(found: Iterable[Misfit]) -> dict[int, _Wanted]:
    """Return what layers want in place of each size; a size for which one layer wants two others is left out."""
    sizes: dict[int, _Wanted] = {}
    torn = set[int]()
    for item in found:
        layer = _LAYER.search(item.place[0])
        if layer is None or type(item.now) is not int or type(item.wanted) is not int or not item.now:
            continue
        known = sizes.setdefault(item.now, {}).setdefault(int(layer[1]), item.wanted)
        torn |= {item.now} if known != item.wanted else set()
    return {now: wanted for now, wanted in sizes.items() if now not in torn}
