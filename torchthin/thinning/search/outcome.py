"""What comes of a trial."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from torchthin.thinning.constants import Absorption
from torchthin.thinning.proof.reference import Departures
from torchthin.thinning.proof.verdict import Proof
from torchthin.thinning.recipe import Recipe
from torchthin.thinning.scale import Scaling
from torchthin.thinning.survivors import Place


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
    axes: tuple[Place, ...] = ()
    """Axes that must be kept, where the cause is known."""
    fixed: tuple[Place, ...] = ()
    """Axes that should have lost something, and to which the code gave the full model's numbers."""
    scalings: tuple[Scaling, ...] = ()
    """The layers that were scaled."""
    alive: Mapping[Place, tuple[int, ...]] = field(default_factory=dict)
    """Axes whose removed channels must be zero, and are not -> these indices."""
    living: frozenset[Place] = frozenset()
    """Those of these axes whose channels may depend on the input."""
    unread: tuple[Place, ...] = ()
    """Axes whose constant was absorbed into a new bias that the code may not read."""


@dataclass(frozen=True)
class Success:
    """A recipe that holds."""

    recipe: Recipe
    """With the biases that are added to absorb constants."""
    absorptions: tuple[Absorption, ...] = ()
    proof: Proof | None = None
    """None where nothing was compared."""
    inexact: tuple[str, ...] = ()
    """Layers where the thinned model is another function than the masked one, each with the cause; known without comparing."""
    departures: Departures = field(default_factory=Departures)
    """Where the thinned model is another function than the masked one."""
    scalings: tuple[Scaling, ...] = ()
    note: str = ""
    """What could not be compared, in words."""
    macs: int | None = None
    """Multiply-accumulates of the thinned model on the inputs of the record; None where no trial counted them."""
