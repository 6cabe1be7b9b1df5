"""`Chip`: the target that lets a chip choose. Importing this does not import torch."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from torchthin.config import Limit, Target, check_share, limits, option, refuse
from torchthin.config.targets import OUTPUTS
from torchthin.max7800x.chips import chip_named, list_chips

if TYPE_CHECKING:
    from torch import nn

    from torchthin.graph.inputs import Inputs
    from torchthin.pruning.target_plans import Run
    from torchthin.report.sections import Section
    from torchthin.thinning.search.trial_loop import ThinningPlan

_ALLOCATION = "outputs: search for what moves the outputs on --data least once layers are refitted (default: by importance)"
_LEAST = "With --target-sparsity as well, at least that share of the channels is removed."


@dataclass(frozen=True)
class Chip(Target):
    """Remove what saves most on a MAX78000 or MAX78002 for its importance, until the chip's targets hold.

    `cycles` and `kernel_words` (of the deepest processor) are a share of what they were ("0.6x") or a number; with
    ``fit=True`` the network has to fit. `ratio` is the least share of all channels to remove in any case. With
    ``allocation="outputs"`` those widths are searched for with which the outputs move least on the data once layers are refitted.
    """

    name: str = option("MAX78000", "--chip", f"one of {', '.join(list_chips())}", "NAME")
    cycles: str | int | None = option(
        None, "--target-cycles", "most cycles: 0.6x of what it was, or 450000", "LIMIT"
    )
    kernel_words: str | int | None = option(
        None, "--target-kernel-words", "most words in the deepest processor: 0.6x, or 700", "LIMIT"
    )
    fit: bool = option(False, "--fit", "the smallest cut found with which the network fits")
    ratio: float = option(0.0, "--target-sparsity", _LEAST, "SHARE")
    allocation: str | None = option(None, "--allocation", _ALLOCATION, "outputs")

    needs_inputs = "cycles follow from the size of the input"
    exact = False

    def __post_init__(self) -> None:
        object.__setattr__(self, "name", chip_named(str(self.name)).name)
        if not isinstance(self.fit, bool):
            refuse(self, "fit", "true or false", self.fit)
        if self.allocation not in (None, OUTPUTS):
            refuse(self, "allocation", "'outputs' or None", self.allocation)
        check_share(self, "ratio")
        limits(self, ("cycles", "kernel_words"))  # refuses what is none

    @property
    def limits(self) -> dict[str, Limit]:
        """``cycles`` and ``kernel_words`` -> limit, where one was given."""
        return limits(self, ("cycles", "kernel_words"))

    @property
    def asked(self) -> str:
        """The target in words."""
        units = {"cycles": "cycles", "kernel_words": "words in the deepest processor"}
        found = [f"at most {limit.text} {units[name]}" for name, limit in self.limits.items()]
        found += ["a cut that fits"] if self.fit else []
        found += [f"at least {100 * self.ratio:g} % of the channels removed"] if self.ratio else []
        return ", ".join(found)

    def cycles_of(self, model: nn.Module, inputs: Inputs) -> tuple[int | None, str]:
        """Return the cycles of one run (None where the model does not map), and what keeps it from fitting."""
        from torchthin.max7800x.report import chip_cost  # torch is not imported to make a target

        report = chip_cost(model, inputs, self.name)
        note = "" if report.fits else f"does not fit {report.cost.chip}: {report.obstacles[0]}"
        return None if report.unmapped else report.cost.cycles, note

    def thinning(self, run: Run) -> tuple[ThinningPlan, tuple[Section, ...]]:
        """Return a plan, tried and proved, that reaches the target, and the report's section on the chip."""
        from torchthin.max7800x.selector import thinning_for_chip

        if not self.limits and not self.fit:
            refuse(self, "name", "given with cycles, kernel_words or fit", self.name)
        return thinning_for_chip(self, run)

    def to_dict(self) -> dict[str, Any]:
        """Return the fields that differ from their defaults, and the chip, by their keys in configuration files."""
        return {"chip": self.name, **super().to_dict()}
