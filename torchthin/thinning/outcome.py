"""What comes of a trial."""

from __future__ import annotations

from dataclasses import dataclass

from torchthin.graph.opgraph import Op
from torchthin.thinning.constants import Absorption
from torchthin.thinning.proof import Proof
from torchthin.thinning.recipe import Recipe
from torchthin.thinning.reference import Constant
from torchthin.thinning.scale import Scaling


class Diverged(Exception):
    """The model does not run again as it was recorded."""


@dataclass(frozen=True)
class Failure:
    """Where and how a trial failed."""

    op: int
    """Index of the first op that failed or differed."""
    text: str
    raised: bool = False
    """The model's code raised an exception; else it ran and computed something else."""
    axes: tuple[tuple[int, int, int], ...] = ()
    """(op, value, axis) of each axis that must be kept, where the cause is known."""
    fixed: tuple[tuple[int, int, int], ...] = ()
    """(op, value, axis) of each axis that should have lost something, and to which the code gave the full model's numbers."""
    scalings: tuple[Scaling, ...] = ()
    """The layers that were scaled."""
    unabsorbed: tuple[int, ...] = ()
    """Indices of ops into which removed channels emit a constant that no bias can absorb."""
    unread: tuple[int, ...] = ()
    """Indices of ops whose constant was absorbed into a new bias that the code may not read."""


@dataclass(frozen=True)
class Success:
    """A recipe that holds."""

    recipe: Recipe
    """With the biases that are added to absorb constants."""
    absorptions: tuple[Absorption, ...] = ()
    proof: Proof | None = None
    constants: tuple[Constant, ...] = ()
    left_out: tuple[Op, ...] = ()
    """Ops whose statistics lost channels."""
    scalings: tuple[Scaling, ...] = ()
    note: str = ""
    """What could not be compared, in words."""
