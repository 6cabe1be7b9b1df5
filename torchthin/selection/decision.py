"""What a selection decided."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt
from torch import Tensor

from torchthin.dependency.components import Grouping
from torchthin.dependency.propagate import Labels

BoolArray = npt.NDArray[np.bool_]


@dataclass(frozen=True)
class Decision:
    """What a selection decided about the groups it was shown."""

    keeps: Mapping[str, BoolArray]
    masks: Mapping[str, Tensor]
    """Weight name -> mask, True = keep: what the masked model zeroes."""
    silence: bool = False
    """Biases of channels that go may be zeroed too, where what they emit has no place to go."""
    silenced: Mapping[str, Tensor] = field(default_factory=dict)
    """Bias name -> mask of those that are."""


Decide = Callable[[Grouping, Labels], Decision]
