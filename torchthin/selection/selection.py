"""What a selector decides: which channels of which groups are kept, with all that reports need, as one value."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt
from torch import Tensor

from torchthin.dependency.components import Grouping
from torchthin.dependency.groups import Group
from torchthin.dependency.propagate import Labels
from torchthin.importance.scores import Ranking

BoolArray = npt.NDArray[np.bool_]
Keeps = Mapping[str, BoolArray]
"""Group name -> (channels,), True = keep."""


@dataclass(frozen=True)
class Selection:
    """What was decided about the groups that a selector was shown."""

    keeps: Keeps
    masks: Mapping[str, Tensor] = field(default_factory=dict)
    """Weight name -> mask, True = keep: what the masked model sets to zero."""
    groups: tuple[Group, ...] = ()
    """The groups that were decided about."""
    axes: Mapping[str, int] = field(default_factory=dict)
    """Filter axis of every weight that produces channels."""
    masked_axes: Mapping[str, int] = field(default_factory=dict)
    """The same, and of the parameters that are masked in the place of derived weights."""
    targets: frozenset[str] = frozenset()
    """Weights whose filters are pruned; others are masked where they share a group with one."""
    ranking: Ranking | None = None
    """The scores that decided."""
    masks_makers: bool = False
    """Whether all that makes a removed channel may be masked too (biases, embeddings, norms), where it must be zero."""
    maker_masks: Mapping[str, Tensor] = field(default_factory=dict)
    """Name -> mask of what is masked for that."""
    maker_axes: frozenset[tuple[str, int]] = frozenset()
    """The axes along which they are."""

    @property
    def all_masks(self) -> dict[str, Tensor]:
        """Name -> mask of everything that is masked."""
        both = {
            name: mask & self.masks[name] for name, mask in self.maker_masks.items() if name in self.masks
        }
        return {**self.masks, **self.maker_masks, **both}

    kinds: Mapping[str, str] = field(default_factory=dict)
    """Group name -> what its channels are."""
    shares: Mapping[str, float] = field(default_factory=dict)
    """Group name -> share that was asked for."""
    spared: tuple[str, ...] = ()
    """Kinds of channels that stay because nothing was chosen."""
    facts: Any = None
    """What else the rule found out: the cost within a budget, the change on a chip."""

    @property
    def share_removed(self) -> float:
        """Share of the channels decided about that is removed."""
        total = sum(keep.size for keep in self.keeps.values())
        return sum(int((~keep).sum()) for keep in self.keeps.values()) / total if total else 0.0


Select = Callable[[Grouping, Labels], Selection]
"""Groups and labels as they are after the trials so far -> the selection among them."""
