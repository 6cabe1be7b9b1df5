"""What a scan found: for every group, what losing so many of its channels costs."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from torchthin.config.files import parse_json, read_text
from torchthin.errors import ConfigError, one_line
from torchthin.report.tables import table

VERSION = 1


@dataclass(frozen=True)
class GroupCurve:
    """Losses of one group."""

    name: str
    size: int
    """Channels."""
    gone: tuple[int, ...]
    """Channels masked, ascending, from 1."""
    losses: tuple[float, ...]
    """What the model lost with as many masked."""

    @property
    def most(self) -> int:
        """The most channels whose loss was measured."""
        return max(self.gone, default=0)

    def hull(self) -> tuple[tuple[int, float], ...]:
        """Return the lower convex hull of the losses, never falling, from (0, 0): each step costs more than the last.

        >>> GroupCurve("g", 8, (2, 4, 6), (3.0, 4.0, 9.0)).hull()
        ((0, 0.0), (4, 4.0), (6, 9.0))
        """
        rising = np.maximum.accumulate(np.maximum(self.losses, 0.0)).tolist()
        hull: list[tuple[int, float]] = [(0, 0.0)]
        for x, y in zip(self.gone, rising, strict=True):
            while len(hull) > 1 and _slope(hull[-2], hull[-1]) >= _slope(hull[-2], (x, y)):
                hull.pop()
            hull.append((x, y))
        return tuple(hull)


def _slope(a: tuple[int, float], b: tuple[int, float]) -> float:
    return (b[1] - a[1]) / (b[0] - a[0])


@dataclass(frozen=True)
class Sensitivity:
    """The outcome of a scan; printing it gives a table."""

    groups: tuple[GroupCurve, ...]
    ratios: tuple[float, ...]
    metric: str
    """``distance``, or the metric's name."""
    dense: float
    """Value of the metric before anything is cut; 0 for the distance."""
    criterion: str
    """What says which channels of a group go first."""
    notes: tuple[str, ...] = ()
    """What stood in for data, or was left out of them."""

    def curve(self, group: str) -> GroupCurve | None:
        """Return the curve of a group, None if it was not scanned."""
        return next((curve for curve in self.groups if curve.name == group), None)

    def curve_of(self, group: str, size: int) -> GroupCurve:
        """Return the curve of a group of `size` channels; without measurements where it was not scanned.

        Raises:
            ConfigError: it had another size.
        """
        found = self.curve(group) or GroupCurve(group, size, (), ())
        if found.size != size:
            raise ConfigError(
                f"The allocation has {found.size} channels of {group}, the model {size}: it was made for another model. "
                "Run torchthin sensitivity again."
            )
        return found

    def check_is_of(self, groups: Sequence[str]) -> None:
        """Refuse a table that knows none of the groups.

        Raises:
            ConfigError: it does not.
        """
        if groups and all(self.curve(group) is None for group in groups):
            known = ", ".join(curve.name for curve in self.groups[:4])
            raise ConfigError(
                f"The allocation knows no group of the model, such as {groups[0]} (it has {known}, ...): it was made for another "
                "model or other weights to prune. Run torchthin sensitivity again."
            )

    def to_dict(self) -> dict[str, Any]:
        """Return JSON types."""
        facts = json.loads(json.dumps(asdict(self)))
        return {"version": VERSION, **facts}

    @classmethod
    def from_dict(cls, facts: Mapping[str, Any], what: str = "table") -> Sensitivity:
        """Return the table that `to_dict` wrote; `what` names it in an error.

        Raises:
            ConfigError: it is something else.
        """
        try:
            if facts["version"] != VERSION:
                raise ValueError(f"version {facts['version']}")
            groups = tuple(
                GroupCurve(
                    str(curve["name"]),
                    int(curve["size"]),
                    tuple(int(n) for n in curve["gone"]),
                    tuple(float(loss) for loss in curve["losses"]),
                )
                for curve in facts["groups"]
            )
            ratios = tuple(float(ratio) for ratio in facts["ratios"])
            made = cls(
                groups,
                ratios,
                str(facts["metric"]),
                float(facts["dense"]),
                str(facts["criterion"]),
                tuple(map(str, facts.get("notes", ()))),
            )
        except (KeyError, TypeError, ValueError, OverflowError) as error:
            raise ConfigError(
                f"The {what} must be what torchthin sensitivity writes ({one_line(error)}). Run it again with --save-to."
            ) from error
        made._check()
        return made

    def _check(self) -> None:
        for curve in self.groups:
            rising = all(a < b for a, b in zip((0, *curve.gone), (*curve.gone, curve.size), strict=True))
            if (
                not rising
                or len(curve.gone) != len(curve.losses)
                or not all(map(math.isfinite, curve.losses))
            ):
                raise ConfigError(
                    f"The curve of {curve.name} must have finite losses at rising counts below {curve.size}. "
                    "Run torchthin sensitivity again."
                )

    def __str__(self) -> str:
        rows = []
        for curve in self.groups:
            known = dict(zip(curve.gone, curve.losses, strict=True))
            cells = [known.get(math.floor(ratio * curve.size)) for ratio in self.ratios]
            texts = ["" if loss is None else f"{loss:.4g}" for loss in cells]
            rows.append((curve.name, str(curve.size), *texts))
        what = (
            "distance to the dense outputs, in units of their variance"
            if self.metric == "distance"
            else f"{self.metric} lost, of {self.dense:g}"
        )
        lines = table(("group", "channels", *(f"{100 * ratio:g} %" for ratio in self.ratios)), rows)
        notes = [f"Note: {note}" for note in self.notes]
        return "\n".join(
            [*lines, "", f"Loss: {what}; which channels go first says {self.criterion}.", *notes]
        )


def read_table(path: str | Path) -> Sensitivity:
    """Read a table from a JSON file.

    Raises:
        ConfigError: the file cannot be read, or holds something else.
    """
    try:
        facts = parse_json(read_text(path))
    except OSError as error:
        raise ConfigError(
            f"The allocation {path} cannot be read: {error.strerror}. Give a file of torchthin sensitivity, or auto."
        ) from error
    except ValueError as error:
        raise ConfigError(
            f"The allocation {path} must be JSON: {error}. Make it with torchthin sensitivity --save-to."
        ) from error
    if not isinstance(facts, Mapping):
        raise ConfigError(f"The allocation {path} must be what torchthin sensitivity writes. Got a list.")
    return Sensitivity.from_dict(facts, f"allocation {path}")
