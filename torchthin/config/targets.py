"""Targets: how much is removed, and by which rule."""

from __future__ import annotations

import math
import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from numbers import Real
from typing import Any, ClassVar

from torchthin.config.options import (
    Limit,
    check_share,
    check_whole,
    key_of,
    limits,
    option,
    options_of,
    parse_latency,
    refuse,
    shown,
)
from torchthin.errors import ConfigError

SCOPES = ("group", "global")
AUTO, OUTPUTS = "auto", "outputs"
"""How a budget can be spread without a file: by losses that are measured first, by the outputs of all cuts together."""
LAYERS = "layers"
"""The kind that is no channels: whole layers, of which a number can be given as well as a share."""
LEAST_KEPT = 0.1
"""Share that is kept of every group where they lose different ones, unless the target keeps less than twice that on average."""


@dataclass(frozen=True)
class Target:
    """What every target has: which share is removed, over what, and what ranks the candidates. Use one of its subclasses."""

    structured: ClassVar[bool] = True
    """Whether whole channels are removed, not single weights."""
    default_criterion: ClassVar[str] = "l1"
    needs_inputs: ClassVar[str] = ""
    """Why the target needs example inputs even without thinning; empty where it does not."""
    exact: ClassVar[bool] = True
    """Whether the share itself is asked for, group by group; not where a budget or a chip decides."""
    share_name: ClassVar[str] = "ratio"
    """The field that holds the share."""
    grows: ClassVar[bool] = False
    """Whether the share can grow while a model is trained."""

    @property
    def share(self) -> float:
        """Share of channels or weights that is asked for."""
        return float(getattr(self, self.share_name))

    @property
    def scope(self) -> str:
        """``"group"`` (the share is taken of every group) or ``"global"`` (of all groups together)."""
        return "group"

    @property
    def asks_by_kind(self) -> bool:
        """Whether it says what is cut by what channels are."""
        return bool(getattr(self, "ratios", ()) or getattr(self, "kinds", ()))

    @property
    def is_uneven(self) -> bool:
        """Whether groups may lose different shares."""
        return self.scope == "global"

    @property
    def floor(self) -> float:
        """Share of every group (every tensor) that is kept, whatever scores or losses say."""
        at_least: float | None = getattr(self, "at_least", None)
        if at_least is not None or not self.is_uneven:
            return at_least or 0.0
        return min(LEAST_KEPT, (1 - self.share) / 2)

    def check_common(self) -> None:
        """Check share, scope, at_least and round_to, as far as the target has them."""
        check_share(self, self.share_name)
        if self.scope not in SCOPES:
            refuse(self, "scope", "'group' or 'global'", self.scope)
        if hasattr(self, "round_to"):
            self._check_round_to()
        if getattr(self, "at_least", None) is None:
            return
        check_share(self, "at_least")
        if not self.is_uneven:
            each = "None without scope='global' or an allocation: every group loses the same share then"
            refuse(self, "at_least", each, self.floor)
        if self.floor > 1 - self.share:
            refuse(self, "at_least", f"at most {1 - self.share:g}, the share that is kept", self.floor)

    def _check_round_to(self) -> None:
        if self.round_to is not None:  # type: ignore[attr-defined]
            check_whole(self, "round_to", 1)

    @property
    def multiple(self) -> int:
        """What the number of channels that a cut layer keeps is a multiple of."""
        return getattr(self, "round_to", None) or 1

    def thinning(self, run: Any) -> Any:
        """Return a plan that reaches the target; targets of this module have theirs in `torchthin.pruning.target_plans`."""
        raise ConfigError(f"The target {type(self).__name__} removes no channels.")

    def at(self, share: float) -> Target:
        """Return the same target with another share, for a step of a schedule.

        Raises:
            ConfigError: the target's share cannot grow.
        """
        if not self.grows:
            raise ConfigError(
                "The target of Pruner must be a Ratio or Unstructured, whose masks can grow. "
                f"Got {type(self).__name__}; torchthin.prune takes it."
            )
        return replace(self, **{self.share_name: share})

    def units(self, size: int, share: float | None = None) -> int:
        """Return how many of `size` channels or weights the target asks for. share: another one than that of the target."""
        return math.floor((self.share if share is None else share) * size)

    def units_of_all(self, sizes: Iterable[int]) -> int:
        """Return how many channels or weights the target asks for in groups of these sizes together."""
        sizes = list(sizes)
        if self.scope == "global":
            return math.floor(self.share * sum(sizes))
        return sum(self.units(size) for size in sizes)

    def to_dict(self) -> dict[str, Any]:
        """Return the fields that differ from their defaults, by their keys in configuration files."""
        values = {key_of(f): (getattr(self, f.name), f.default) for f in options_of(self)}
        changed = {key: value for key, (value, default) in values.items() if value != default}
        return {k: str(v) if isinstance(v, os.PathLike) else v for k, v in changed.items()}


SHARE = "share of channels or weights to prune, in [0, 1) (default: 0.5; with a budget or a chip the least share of channels, 0)"
SCOPE = "group: the target holds in every group; global: over all (default: group)"
AT_LEAST = (
    "share of every group that is kept with --scope global or --allocation (default: 0.1, or half of "
    "what is kept on average)"
)
_ROUND_TO = (
    "channels that are kept are a multiple of N in every layer that is cut; less is removed where need be (default: 1; on a "
    "GPU what its kernels want, at most 8, in half precision 16)"
)
_RATIOS = (
    "share of each kind to remove, such as mlp=0.3 heads=0.25 (see torchthin inspect for kinds; layers=3: three layers), or of "
    "the layers that a pattern matches, such as 'model.layers.[0-7].*=0.1'; what is not named stays"
)
_KINDS = (
    "kinds of channels that a budget may cut, such as mlp heads (default: all; of a model with attention all but the residual "
    "stream and the width of heads)"
)
_EVEN = "groups of one kind and size keep equal numbers of channels, so that one configuration describes all layers"
_LIMIT_PARAMS = (
    "most parameters of the thinned model: 0.4x of what it has, or 250000 "
    "(with --target-sparsity as well, at least that share of the channels is removed)"
)


_LATENCY = "longest forward pass on the example, measured where model and inputs are: 0.6x of what it takes, 12ms, or seconds"
_LATENCY_CACHE = "file of measured layer times for --target-latency (default: in the user's cache directory)"


@dataclass(frozen=True)
class Ratio(Target):
    """Remove a share of the channels.

    In a group of n channels ``floor(ratio * n)`` are removed; with ``scope="global"`` that share of all channels, with
    scores compared over groups and at least the share `at_least` of every group kept. With `round_to` the channels that are
    kept are a multiple of it in every layer that is cut, and less is removed where that needs it; None: 1, of a model on a GPU
    what its kernels want (`torchthin.selection.kernel_widths`).

    ``Ratio({"mlp": 0.3, "heads": 0.25})`` (or ``ratios=("mlp=0.3", ...)``) says it by kind, see
    `torchthin.dependency.kinds.KINDS`, or by pattern of weights and modules (``{"model.layers.[0-7].*": 0.1}``); what is not
    named stays, and `ratio` is the largest of them. Of a model with attention, a number alone removes MLP width and whole heads,
    never the residual stream or the width of a head. With `even` groups of one kind and size keep equal numbers, so that one
    configuration describes all layers.
    """

    ratio: float = option(0.5, "--target-sparsity", SHARE, "SHARE")
    scope: str = option("group", "--scope", SCOPE)
    at_least: float | None = option(None, "--keep-at-least", AT_LEAST, "SHARE")
    round_to: int | None = option(None, "--round-to", _ROUND_TO, "N")
    ratios: tuple[str, ...] = option((), "--ratio", _RATIOS, "KIND=SHARE")
    even: bool = option(False, "--even", _EVEN)

    grows = True

    def __post_init__(self) -> None:
        ratio: Any = self.ratio
        given = (ratio, *self.ratios) if isinstance(ratio, Mapping) else self.ratios
        by_kind = _by_kind(given, self)
        object.__setattr__(self, "ratios", tuple(f"{key}={share!r}" for key, share in by_kind.items()))
        if by_kind:
            channels = [share for key, share in by_kind.items() if key != LAYERS]
            object.__setattr__(
                self, "ratio", max(channels or [share for share in by_kind.values() if share < 1] or [0.0])
            )
        self.check_common()

    @property
    def by_kind(self) -> dict[str, float]:
        """Kind or pattern -> share, where shares are given so."""
        return _by_kind(self.ratios, self)

    @property
    def without_layers(self) -> Ratio | None:
        """The same for channels alone; None where nothing but layers is named."""
        rest: Any = {key: share for key, share in self.by_kind.items() if key != LAYERS}
        return replace(self, ratios=rest) if rest else None

    def at(self, share: float) -> Target:
        """Return the same target with another share; where shares are given by kind, all grow alike."""
        most = self.ratio or 1.0
        scaled: Any = {key: each * share / most for key, each in self.by_kind.items()}
        return replace(self, ratio=share, ratios=scaled)

    def units(self, size: int, share: float | None = None) -> int:
        """Return how many of `size` channels are removed: at most the share, so that a multiple of `round_to` is kept.

        >>> [Ratio(0.5, round_to=8).units(size) for size in (64, 30, 12, 8)]
        [32, 14, 4, 0]
        """
        share = self.ratio if share is None else share
        kept = -(-(size - math.floor(share * size)) // self.multiple) * self.multiple
        return max(size - kept, 0)

    def units_of_all(self, sizes: Iterable[int]) -> int:
        """Return how many channels the target asks for in groups of these sizes together."""
        sizes = list(sizes)
        if self.scope == "group":
            return super().units_of_all(sizes)
        spared = (self.multiple - 1) * len(sizes)  # at most, by rounding
        return max(math.floor(self.ratio * sum(sizes)) - spared, 0)


def _by_kind(given: Any, target: Ratio) -> dict[str, float]:
    """Return shares by kind and pattern, given as a mapping, as texts ``kind=share`` or as both."""
    allowed = "kinds or patterns with shares in [0, 1), such as mlp=0.3"
    parts: list[tuple[Any, Any]] = []
    for item in (given,) if isinstance(given, str | Mapping) else given:
        pairs = item.items() if isinstance(item, Mapping) else [str(item).rpartition("=")[::2]]
        parts += [(key, value) for key, value in pairs]
    found: dict[str, float] = {}
    for key, value in parts:
        try:
            share = math.nan if isinstance(value, bool) else float(value)
        except (TypeError, ValueError):
            share = math.nan
        counted = key == LAYERS and share >= 1 and share.is_integer()
        if not isinstance(key, str) or not key or not (0 <= share < 1 or counted):
            if key == LAYERS:
                allowed = "a share in [0, 1) or a number of layers, such as layers=3"
            if not key and not math.isnan(share):
                allowed += "; a share of all channels is --target-sparsity"
            refuse(target, "ratios", allowed, f"{key}={value}" if key else value)
        found[key] = share
    return found


@dataclass(frozen=True)
class Budget(Target):
    """Remove as little as a budget allows: the thinned model has at most so many parameters, multiply-accumulates per sample, and
    takes at most so long.

    `latency` is that of one forward pass on the example, on the device where model and inputs are: ``"0.6x"`` of what the full
    model takes, ``"12ms"``, or seconds (``0.012``). Layers are timed at a few widths, which the file `latency_cache` keeps
    (default: one in the user's cache directory), and the thinned model is measured against the full one at the end.

    The least ratio within the budget is found; then channels are given back, the most important first, as long as the
    budget holds. `ratio` is the least share of channels to remove in any case. With `allocation` the budget is spread over
    the groups so that the losses measured by `torchthin.sensitivity` add up to the least: its result, its file, or "auto" to
    measure them first. No group loses more than was measured; what was not measured stays whole. With "outputs" groups lose
    what moves the outputs on the data least, all together and with layers refitted, found by an evolutionary search. `kinds`
    says what may be cut, as keys of `torchthin.dependency.kinds.KINDS`, and `even` is as in `Ratio`.
    """

    macs: str | int | None = option(
        None, "--target-macs", "most multiply-accumulates per sample: 0.5x, or 40000000", "LIMIT"
    )
    params: str | int | None = option(None, "--target-params", _LIMIT_PARAMS, "LIMIT")
    ratio: float = option(0.0, "--target-sparsity", SHARE, "SHARE")
    latency: str | float | None = option(None, "--target-latency", _LATENCY, "LIMIT")
    scope: str = option("group", "--scope", SCOPE)
    at_least: float | None = option(None, "--keep-at-least", AT_LEAST, "SHARE")
    round_to: int | None = option(None, "--round-to", _ROUND_TO, "N")
    latency_cache: str | None = option(None, "--latency-cache", _LATENCY_CACHE, "FILE")
    allocation: Any = option(
        None,
        "--allocation",
        "spread a budget over the groups by a file of torchthin sensitivity; auto: measure it first; outputs: search for what "
        "moves the outputs on --data least once layers are refitted, also with --chip (default: the same share of every group)",
        "FILE",
    )
    kinds: tuple[str, ...] = option((), "--kinds", _KINDS, "KIND")
    even: bool = option(False, "--even", _EVEN)

    needs_inputs = "what a channel costs follows from one run of the model"
    exact = False

    def __post_init__(self) -> None:
        if not self.limits:
            raise ConfigError(
                "The Budget needs macs, params or latency (--target-macs, --target-params, --target-latency), such as '0.5x' or "
                "250000."
            )
        self.check_common()
        given = self.allocation
        if isinstance(given, str | os.PathLike) and not os.fspath(given):
            refuse(self, "allocation", "'auto', 'outputs' or what torchthin sensitivity found", given)
        if given is not None and self.scope != "group":
            refuse(self, "allocation", "None with scope='global', which spreads the cut by score", given)
        if given is not None and self.even:
            refuse(
                self,
                "allocation",
                "None with even=True (--even): measured losses differ from layer to layer",
                given,
            )
        self._check_latency_cache()
        kinds: Any = self.kinds
        object.__setattr__(self, "kinds", (kinds,) if isinstance(kinds, str) else tuple(kinds))

    def _check_latency_cache(self) -> None:
        given: Any = self.latency_cache
        if given is None:
            return
        if self.latency is None:
            refuse(self, "latency_cache", "None without a latency (--target-latency)", given)
        if not isinstance(given, str | os.PathLike) or not os.fspath(given):
            refuse(self, "latency_cache", "the name of a file", given)

    @property
    def is_uneven(self) -> bool:
        """Whether groups may lose different shares."""
        return super().is_uneven or self.allocation is not None

    @property
    def limits(self) -> dict[str, Limit]:
        """What the thinned model may cost at most: ``parameters``, ``macs``, ``latency`` (ns) -> limit, where one was given."""
        found = limits(self, ("params", "macs"))
        counted = {{"params": "parameters"}.get(name, name): limit for name, limit in found.items()}
        return counted if self.latency is None else {**counted, "latency": self._latency_limit}

    @property
    def _latency_limit(self) -> Limit:
        limit = None if isinstance(self.latency, bool) else parse_latency(str(self.latency))
        if limit is None:
            refuse(
                self,
                "latency",
                "a share such as 0.6x, up to 1x, or a time such as 12ms or 0.012",
                self.latency,
            )
        object.__setattr__(self, "latency", limit.text)
        return limit


def as_target(value: Any) -> Target:
    """Return a target as it is, a number as a `Ratio`.

    Raises:
        ConfigError: it is neither.
    """
    if isinstance(value, Target):
        return value
    number: Any = value
    if isinstance(value, Mapping) or (isinstance(value, Real) and type(number) is not bool):
        return Ratio(number)
    raise ConfigError(
        "The target must be a ratio such as 0.5, ratios by kind such as {'mlp': 0.3}, or Ratio, Budget, Unstructured, NM, "
        f"Distiller or Chip. Got {shown(value)}. Of prune it is the third argument, after the model and example_inputs."
    )
