"""What targets and recovery add to the report of a pruning run, each as facts and as text."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, Protocol

SECTIONS: Mapping[str, Any] = {
    "budgets": [],
    "chip": None,
    "chip_accuracy": None,
    "removed_layers": None,
}
"""Keys of sections that are in the JSON of every run -> what they hold where there is no such section."""


class Section(Protocol):
    """What a kind of target adds to the report, which shows it without knowing it; as text by ``str``."""

    @property
    def key(self) -> str:
        """Its key in the JSON of the report."""

    @property
    def choice(self) -> str:
        """How the channels were chosen, after "channels ": ``chosen for MAX78000``; empty where it says nothing of them."""

    def to_dict(self) -> Any:
        """Return all facts as JSON types."""


@dataclass(frozen=True)
class BudgetFacts:
    """One budget."""

    name: str
    """``parameters`` or ``macs``."""
    limit: int
    before: int
    after: int
    unit: str
    """What is counted, in words: ``MACs per sample``."""

    def __str__(self) -> str:
        left = 100 * (self.after / self.before if self.before else 1.0)
        return f"Budget: at most {self.limit:,} of {self.before:,} {self.unit}, reached {self.after:,} ({left:.2f} %)."


@dataclass(frozen=True)
class LatencyFacts:
    """A budget of time: one forward pass on the example, the full and the thinned model in turns; all times in seconds."""

    limit: float
    before: float
    after: float
    foretold: float
    """What the measured layers add up to."""
    noise: float
    """Half the width of the interval, as a share, in which the ratio of both times lies with 95 % confidence."""
    runs: int
    device: str
    """Where, in words."""
    cut: bool = True
    """Whether anything was removed."""
    name: str = "latency"
    unit: str = "seconds"

    @property
    def of_limit(self) -> float:
        """The time taken, as a share of the limit."""
        return self.after / self.limit

    @property
    def reached(self) -> bool:
        """Whether the time is within the limit, as far as can be measured.

        Noise excuses at most a quarter of the saving that was asked for, and a cut that saves nothing reaches no limit
        that asks for a saving.
        """
        asked = self.before / self.limit - 1
        if asked <= 0:
            return self.of_limit <= 1 + self.noise
        return self.of_limit <= 1 + min(self.noise, asked / 4) and not self.saves_nothing

    @property
    def saves_nothing(self) -> bool:
        """Whether something was removed and the time is the same, as far as can be measured."""
        return self.cut and self.after >= self.before * (1 - self.noise)

    @property
    def _reached(self) -> str:
        return (
            f"{_ms(self.after)} ({100 * self.after / self.before:.1f} %; medians of {self.runs} runs in turns, noise "
            f"{100 * self.noise:.1f} %; foretold {_ms(self.foretold)}) on {self.device}"
        )

    @property
    def missed(self) -> str:
        """What is said where the limit is not kept."""
        asked = f"{_ms(self.limit)} of {_ms(self.before)}"
        return f"The latency was missed: asked at most {asked}, the thinned model takes {self._reached}."

    def __str__(self) -> str:
        if not self.cut and self.of_limit <= 1:
            return (
                f"Within the budget already: at most {_ms(self.limit)} for the example, the model takes {_ms(self.before)} on "
                f"{self.device}."
            )
        return (
            f"Budget: at most {_ms(self.limit)} of {_ms(self.before)} for the example, reached {self._reached}."
            f"{' The cut saves no time there.' if self.saves_nothing else ''}"
        )


def _ms(seconds: float) -> str:
    return f"{1000 * seconds:.4g} ms" if seconds < 10 else f"{seconds:.4g} s"


@dataclass(frozen=True)
class Budgets:
    """What budgets allowed, and what the thinned model costs: a section of the report."""

    facts: tuple[BudgetFacts | LatencyFacts, ...]
    spread: str
    """How the cut is spread over the groups, in words."""
    unmeasured: tuple[str, ...] = ()
    """Groups that stay whole, since the allocation did not measure them."""

    @property
    def key(self) -> str:
        """Its key in the JSON of the report."""
        return "budgets"

    @property
    def choice(self) -> str:
        """How the channels were chosen."""
        return f"chosen to stay within the budget ({self.spread})"

    def to_dict(self) -> list[dict[str, Any]]:
        """Return all facts as JSON types."""
        return [asdict(budget) for budget in self.facts]

    def __str__(self) -> str:
        names = f"{', '.join(self.unmeasured[:4])}{', ...' if len(self.unmeasured) > 4 else ''}"
        whole = [f"Kept whole, since the allocation did not measure them: {names}."] if names else []
        return "\n".join([*map(str, self.facts), *whole])


@dataclass(frozen=True)
class RemovedLayers:
    """Which whole layers were left out: a section of the report."""

    removed: tuple[tuple[str, float], ...]
    """Path in the dense model, and block influence: 1 - cos(what the layer was given, what it returned)."""
    layers: int
    """How many the model had."""
    samples: int | None
    """Calibration inputs on which the influence was measured; None: the example inputs."""
    kept: tuple[tuple[str, str], ...] = ()
    """Layers that were tried and stay, with the reason."""
    whole: tuple[str, ...] = ()
    """Stacks of which none may go, such as two layers, which are the first and the last."""

    @property
    def key(self) -> str:
        """Its key in the JSON of the report."""
        return "removed_layers"

    @property
    def choice(self) -> str:
        """Nothing: it says nothing of channels."""
        return ""

    def to_dict(self) -> dict[str, Any]:
        """Return all facts as JSON types."""
        return {
            **asdict(self),
            "removed": dict(self.removed),
            "kept": dict(self.kept),
            "whole": list(self.whole),
        }

    def __str__(self) -> str:
        names = ", ".join(f"{path} ({influence:.2g})" for path, influence in self.removed)
        where = "the example inputs alone; data (--data) choose better"
        if self.samples is not None:
            where = f"{self.samples} calibration inputs"
        tried = [f"{path} stays: {why}." for path, why in self.kept]
        tried += [
            f"All layers of {name} stay: first and last ones go only where include names them."
            for name in self.whole
        ]
        return "\n".join(
            [
                f"Layers: {len(self.removed)} of {self.layers} left out, those that change the stream least on {where}: {names}.",
                *tried,
            ]
        )


@dataclass(frozen=True)
class Stage:
    """One step of a recovery and where it led."""

    name: str
    distance: float
    """Of the outputs from the dense ones, on inputs that nothing was fitted to: 0 equal, 1 no better than their mean."""
    taken: bool
    """Whether the next step began from here; a step that does not help is discarded."""


@dataclass(frozen=True)
class RecoveryFacts:
    """How a thinned model was brought back towards the dense one."""

    samples: int
    """Calibration inputs that were used."""
    held_out: int
    """Of those, inputs on which only distances were measured; 0: there were too few, and the distances are of the fitted ones."""
    before: float
    after: float
    stages: tuple[Stage, ...]
    refitted: int
    """Layers with new weights."""
    left: tuple[str, ...]
    """What could not be refitted, with the reason."""
    notes: tuple[str, ...] = ()

    def to_dict(self) -> dict[str, Any]:
        """Return all facts as JSON types."""
        lists = {"left": list(self.left), "notes": list(self.notes)}
        return {**asdict(self), "stages": [asdict(stage) for stage in self.stages], **lists}

    def __str__(self) -> str:
        tested = f"{self.held_out} held-out inputs" if self.held_out else "the same inputs"
        steps = ", ".join(
            f"{stage.name} {stage.distance:.3g}{'' if stage.taken else ' (not taken)'}"
            for stage in self.stages
        )
        return (
            f"Recovered from {self.samples} inputs without labels: distance from the dense outputs on {tested} "
            f"{self.before:.3g} -> {self.after:.3g} ({steps}); {self.refitted} layers refitted."
        )
