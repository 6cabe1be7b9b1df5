"""Targets and options of pruning, each checked where it is made.

A target says how much is removed and by which rule: `Ratio`, `Budget`, `Unstructured`, `NM`, `Distiller`, and `Chip` in
`torchthin.max7800x`. `PruneConfig` is everything that one run is asked, as one value. Each field names its flag of the command
line and its help text here, and nowhere else. Importing this module does not import torch, so that ``--help`` stays fast.
"""

from __future__ import annotations

import math
import os
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import Field, dataclass, field, fields, replace
from numbers import Integral, Real
from typing import Any, ClassVar, NoReturn

from torchthin.errors import ConfigError, near_matches

SCOPES = ("group", "global")
CHANNEL_CRITERIA = (
    "l1", "l2", "max", "fpgm", "bn-scale", "lamp", "group-l2", "flow", "random", "taylor", "activation", "reconstruction",
)  # fmt: skip
"""Criteria of the package that rank channels, for help texts; `torchthin.list_criteria` also has a user's own."""
WEIGHT_CRITERIA = ("magnitude", "lamp", "random")
"""Criteria that rank single weights."""
LEAST_KEPT = 0.1
"""Share of every group that is kept with scope="global", unless the target keeps less than twice that on average."""
CURVES = ("agp", "linear", "one-shot")
MAX_SAMPLES = 256
"""Inputs that are taken from calibration data, where the caller says nothing else."""


def option(default: Any, flag: str, help: str, metavar: str | None = None) -> Any:
    """Return a dataclass field that is also an option of the command line.

    Args:
        default: of the field; the command line has the same.
        flag: such as ``--round-to``; its name without dashes is the key in configuration files.
        help: one line; shown by ``--help`` and in the JSON Schema.
        metavar: what ``--help`` shows for the value.
    """
    return field(default=default, metadata={"flag": flag, "help": help, "metavar": metavar})


def key_of(item: Field[Any]) -> str:
    """Return the key in configuration files of a field made by `option`."""
    flag: str = item.metadata["flag"]
    return flag.lstrip("-").replace("-", "_")


def _options(kind: Any) -> Iterator[Field[Any]]:
    return (item for item in fields(kind) if "flag" in item.metadata)


def refuse(owner: object, name: str, allowed: str, value: object, hint: str = "") -> NoReturn:
    """Raise the `ConfigError` that says what a field of an option object must be.

    >>> refuse(Ratio(), "ratio", "in [0, 1)", 1.2)
    Traceback (most recent call last):
    torchthin.errors.ConfigError: The ratio of Ratio (--target-sparsity) must be in [0, 1). Got 1.2.
    """
    flags = {item.name: item.metadata["flag"] for item in _options(owner)}
    flag = f" ({flags[name]})" if name in flags else ""
    raise ConfigError(f"The {name} of {type(owner).__name__}{flag} must be {allowed}. Got {value!r}.{hint}")


def _whole(owner: object, name: str, least: int) -> None:
    """Make a field a plain int of at least `least`, or refuse it."""
    value = getattr(owner, name)
    if isinstance(value, bool) or not isinstance(value, Integral) or int(value) < least:
        refuse(owner, name, f"a whole number of at least {least}", value)
    object.__setattr__(owner, name, int(value))


def check_share(owner: object, name: str, *, one: bool = False) -> None:
    """Make a field a plain float in [0, 1), or [0, 1] with `one`, or refuse it."""
    value = getattr(owner, name)
    allowed = "in [0, 1]" if one else "in [0, 1)"
    if isinstance(value, bool) or not isinstance(value, Real):
        refuse(owner, name, allowed, value)
    share = float(value)
    if math.isnan(share) or not 0 <= share <= 1 or (share == 1 and not one):
        refuse(owner, name, allowed, share, " At 1.0 no weight would be left." if share == 1 else "")
    object.__setattr__(owner, name, share)


@dataclass(frozen=True)
class Limit:
    """At most so much: a number, or a share of what it was."""

    text: str
    number: float
    relative: bool

    def of(self, before: int) -> int:
        """Return the most that is allowed, given what it was."""
        return int(before * self.number) if self.relative else int(self.number)


def parse_limit(text: str) -> Limit | None:
    """Return the limit that `text` means: ``0.6x`` (of what it was) or ``450000``; None where it is neither.

    >>> parse_limit("0.6x").of(745665), parse_limit("450_000").of(745665)
    (447399, 450000)
    """
    found = re.fullmatch(r"(\d[\d_]*(?:\.\d+)?)(x?)", text.strip())
    number = float(found[1].replace("_", "")) if found else 0.0
    relative = bool(found and found[2])
    if not found or number <= 0 or (relative and number > 1) or (not relative and number != int(number)):
        return None
    return Limit(text.strip(), number, relative)


def limits(owner: object, names: Iterable[str]) -> dict[str, Limit]:
    """Return the fields of `owner` that are given as limits, each checked and made a text.

    Raises:
        ConfigError: one is neither a share such as 0.6x nor a whole number.
    """
    found = {}
    for name in names:
        value = getattr(owner, name)
        if value is None:
            continue
        limit = parse_limit(str(value))
        if limit is None:
            refuse(owner, name, "a share such as 0.6x, up to 1x, or a whole number", value)
        object.__setattr__(owner, name, limit.text)
        found[name] = limit
    return found


@dataclass(frozen=True)
class Target:
    """What every target has: which share goes, over what, and what ranks the candidates. Use one of its subclasses."""

    structured: ClassVar[bool] = True
    """Whether whole channels are removed, not single weights."""
    default_criterion: ClassVar[str] = "l1"
    needs_inputs: ClassVar[str] = ""
    """Why the target needs example inputs even without thinning; empty where it does not."""

    @property
    def share(self) -> float:
        """Share of channels or weights that is asked for."""
        raise NotImplementedError

    @property
    def scope(self) -> str:
        """``"group"`` (the share is taken of every group) or ``"global"`` (of all groups together)."""
        return "group"

    @property
    def floor(self) -> float:
        """Share of every group (every tensor) that is kept, whatever the scores say."""
        return 0.0

    @property
    def exact(self) -> bool:
        """Whether the share itself is asked for, group by group; not where a budget or a chip decides."""
        return True

    def thinning(self, run: Any) -> Any:
        """Return a plan that reaches the target; targets of this module have theirs in `torchthin.pruning.rules`."""
        raise ConfigError(f"The target {type(self).__name__} removes no channels.")

    def at(self, share: float) -> Target:
        """Return the same target with another share, for a step of a schedule.

        Raises:
            ConfigError: the target has no share that could grow.
        """
        raise ConfigError(
            f"The target of Pruner must be a Ratio or Unstructured, whose masks can grow. Got {type(self).__name__}; "
            "torchthin.prune takes it."
        )

    def units(self, size: int) -> int:
        """Return how many of `size` channels or weights the target asks for."""
        return math.floor(self.share * size)

    def units_of_all(self, sizes: Iterable[int]) -> int:
        """Return how many channels or weights the target asks for in groups of these sizes together."""
        sizes = list(sizes)
        if self.scope == "global":
            return math.floor(self.share * sum(sizes))
        return sum(self.units(size) for size in sizes)

    def to_dict(self) -> dict[str, Any]:
        """Return the fields that differ from their defaults, by their keys in configuration files."""
        changed = {
            key_of(f): getattr(self, f.name) for f in _options(self) if getattr(self, f.name) != f.default
        }
        return {
            key: str(value) if isinstance(value, os.PathLike) else value for key, value in changed.items()
        }


def _scoped(owner: Any, share: float) -> None:
    """Check scope and at_least."""
    if owner.scope not in SCOPES:
        refuse(owner, "scope", "'group' or 'global'", owner.scope)
    if owner.at_least is None:
        return
    check_share(owner, "at_least")
    if owner.scope != "global":
        refuse(
            owner,
            "at_least",
            "None without scope='global': every group loses the same share then",
            owner.at_least,
        )
    if owner.at_least > 1 - share:
        refuse(owner, "at_least", f"at most {1 - share:g}, the share that is kept", owner.at_least)


def _floor(scope: str, at_least: float | None, share: float) -> float:
    if at_least is not None or scope != "global":
        return at_least or 0.0
    return min(LEAST_KEPT, (1 - share) / 2)


_SHARE = "share of channels or weights to prune, in [0, 1) (default: 0.5; with a budget or a chip the least share of channels, 0)"
_SCOPE = "group: the target holds in every group; global: over all (default: group)"
_AT_LEAST = (
    "share of every group that is kept with --scope global (default: 0.1, or half of what is kept on average)"
)
_ROUND_TO = "channels that are kept are a multiple of N in every layer that is cut; less is removed where need be (default: 1)"
_LIMIT_PARAMS = (
    "most parameters of the thinned model: 0.4x of what it has, or 250000 "
    "(with --target-sparsity as well, at least that share of the channels is removed)"
)


@dataclass(frozen=True)
class Ratio(Target):
    """Remove a share of the channels.

    In a group of n channels ``floor(ratio * n)`` are removed; with ``scope="global"`` that share of all channels, with
    scores compared over groups and at least the share `at_least` of every group kept. With `round_to` the channels that are
    kept are a multiple of it in every layer that is cut, and less is removed where that needs it.
    """

    ratio: float = option(0.5, "--target-sparsity", _SHARE, "SHARE")
    scope: str = option("group", "--scope", _SCOPE)
    at_least: float | None = option(None, "--keep-at-least", _AT_LEAST, "SHARE")
    round_to: int = option(1, "--round-to", _ROUND_TO, "N")

    def __post_init__(self) -> None:
        check_share(self, "ratio")
        _scoped(self, self.ratio)
        _whole(self, "round_to", 1)

    @property
    def share(self) -> float:
        """Share of the channels that is asked for."""
        return self.ratio

    @property
    def floor(self) -> float:
        """Share of every group that is kept, whatever the scores say."""
        return _floor(self.scope, self.at_least, self.ratio)

    def at(self, share: float) -> Ratio:
        """Return the same target with another ratio."""
        return replace(self, ratio=share)

    def units(self, size: int) -> int:
        """Return how many of `size` channels are removed: at most the share, so that a multiple of `round_to` is kept.

        >>> [Ratio(0.5, round_to=8).units(size) for size in (64, 30, 12, 8)]
        [32, 14, 4, 0]
        """
        kept = -(-(size - math.floor(self.ratio * size)) // self.round_to) * self.round_to
        return max(size - kept, 0)

    def units_of_all(self, sizes: Iterable[int]) -> int:
        """Return how many channels the target asks for in groups of these sizes together."""
        sizes = list(sizes)
        if self.scope == "group":
            return super().units_of_all(sizes)
        spared = (self.round_to - 1) * len(sizes)  # at most, by rounding
        return max(math.floor(self.ratio * sum(sizes)) - spared, 0)


@dataclass(frozen=True)
class Budget(Target):
    """Remove as little as a budget allows: the thinned model has at most so many multiply-accumulates and parameters.

    The least ratio within the budget is found; then channels are given back, the most important first, as long as the
    budget holds. `ratio` is the least share of channels to remove in any case. With `allocation` the budget is spread over
    the groups so that the losses measured by `torchthin.sensitivity` add up to the least: its result, its file, or "auto" to
    measure them first.
    """

    macs: str | int | None = option(
        None, "--target-macs", "most multiply-accumulates: 0.5x, or 40000000", "LIMIT"
    )
    params: str | int | None = option(None, "--target-params", _LIMIT_PARAMS, "LIMIT")
    ratio: float = option(0.0, "--target-sparsity", _SHARE, "SHARE")
    scope: str = option("group", "--scope", _SCOPE)
    at_least: float | None = option(None, "--keep-at-least", _AT_LEAST, "SHARE")
    round_to: int = option(1, "--round-to", _ROUND_TO, "N")
    allocation: Any = option(
        None,
        "--allocation",
        "spread a budget over the groups by a file of torchthin sensitivity, or auto: measure it first (default: the "
        "same share of every group)",
        "FILE",
    )

    needs_inputs = "what a channel costs follows from one run of the model"

    def __post_init__(self) -> None:
        if not self.limits:
            raise ConfigError(
                "The Budget needs macs or params (--target-macs, --target-params), such as '0.5x' or 250000."
            )
        check_share(self, "ratio")
        _scoped(self, self.ratio)
        _whole(self, "round_to", 1)
        if self.allocation is None:
            return
        if isinstance(self.allocation, str | os.PathLike) and not os.fspath(self.allocation):
            refuse(self, "allocation", "'auto' or what torchthin sensitivity found", self.allocation)
        if self.scope != "group":
            refuse(
                self,
                "allocation",
                "None with scope='global', which spreads the cut by score",
                self.allocation,
            )

    @property
    def limits(self) -> dict[str, Limit]:
        """What the thinned model may cost at most: ``parameters`` and ``macs`` -> limit, where one was given."""
        found = limits(self, ("params", "macs"))
        return {{"params": "parameters"}.get(name, name): limit for name, limit in found.items()}

    @property
    def share(self) -> float:
        """Least share of the channels that is removed."""
        return self.ratio

    @property
    def floor(self) -> float:
        """Share of every group that is kept, whatever the scores say."""
        return _floor(self.scope, self.at_least, self.ratio)

    @property
    def exact(self) -> bool:
        """Whether the share itself is asked for: no, the budget decides."""
        return False


@dataclass(frozen=True)
class Unstructured(Target):
    """Set a share of the single weights to zero: ``floor(sparsity * numel)`` of each tensor, or of all (``scope="global"``)."""

    sparsity: float = option(0.5, "--target-sparsity", _SHARE, "SHARE")
    scope: str = option("group", "--scope", _SCOPE)
    at_least: float | None = option(None, "--keep-at-least", _AT_LEAST, "SHARE")

    structured = False
    default_criterion = "magnitude"

    def __post_init__(self) -> None:
        check_share(self, "sparsity")
        _scoped(self, self.sparsity)

    @property
    def share(self) -> float:
        """Share of the weights that is asked for."""
        return self.sparsity

    @property
    def floor(self) -> float:
        """Share of every tensor that is kept, whatever the scores say."""
        return _floor(self.scope, self.at_least, self.sparsity)

    def at(self, share: float) -> Unstructured:
        """Return the same target with another sparsity."""
        return replace(self, sparsity=share)


@dataclass(frozen=True)
class NM(Target):
    """Keep n of every m neighbouring weights along the input dimension, as sparse tensor cores want them (2:4)."""

    n: int = 2
    m: int = 4

    structured = False
    default_criterion = "magnitude"

    def __post_init__(self) -> None:
        _whole(self, "n", 1)
        _whole(self, "m", 2)
        if self.n >= self.m:
            refuse(self, "n", f"below m, which is {self.m}", self.n)

    @property
    def share(self) -> float:
        """Share of the weights that is asked for."""
        return 1 - self.n / self.m

    def units(self, size: int) -> int:
        """Return how many of `size` weights are set to zero."""
        return size // self.m * (self.m - self.n)

    def to_dict(self) -> dict[str, Any]:
        """Return the pattern and what it stands for, by their keys in configuration files."""
        return {"target_sparsity": self.share, "pattern": f"{self.n}:{self.m}"}


@dataclass(frozen=True)
class DistillerMethod:
    """How a pruner of Distiller decides."""

    description: str
    """One line for lists and help texts."""
    norm: str | None
    """What ranks filters or input channels: l1 or l2. None: single weights by magnitude."""
    axis: int = 0
    """0: filters. 1: input channels."""
    agp: bool = False
    """Whether its sparsity grows by AGP."""
    backend: str | None = None
    """Distiller's own class, where `Distiller(backend="distiller")` can run it."""


DISTILLER_METHODS: dict[str, DistillerMethod] = {
    "agp-structured": DistillerMethod(
        "filters of least mean |w|, AGP", "l1", 0, True, "L1RankedStructureParameterPruner_AGP"
    ),
    "l1-structured": DistillerMethod(
        "filters of least mean |w|, at once", "l1", 0, False, "L1RankedStructureParameterPruner"
    ),
    "agp-unstructured": DistillerMethod(
        "single weights of least |w|, AGP", None, 0, True, "AutomatedGradualPruner"
    ),
    "l2-structured": DistillerMethod("filters of least L2 norm, at once", "l2"),
    "agp-l2-structured": DistillerMethod("filters of least L2 norm, AGP", "l2", 0, True),
    "l1-channels": DistillerMethod("input channels of least mean |w|, at once", "l1", 1),
    "agp-l1-channels": DistillerMethod("input channels of least mean |w|, AGP", "l1", 1, True),
    "level": DistillerMethod("single weights of least |w|, at once", None),
}
"""Methods of Distiller that take a sparsity."""


@dataclass(frozen=True)
class Distiller(Target):
    """Distiller's masks bit for bit, ties and overshoot included, every tensor ranked alone.

    `agp_steps` is the range of its AGP methods, which are called at their end; few steps overshoot the target. With
    ``backend="distiller"`` the installed Distiller makes the masks itself.
    """

    method: str = "agp-structured"
    sparsity: float = option(0.5, "--target-sparsity", _SHARE, "SHARE")
    agp_steps: int = option(10, "--agp-steps", "steps in which AGP reaches the target (default: 10)", "N")
    backend: str | None = option(
        None, "--backend", "distiller: the installed Distiller makes these masks itself", "TOOL"
    )

    def __post_init__(self) -> None:
        if not isinstance(self.method, str) or self.method not in DISTILLER_METHODS:
            hint = near_matches(self.method, DISTILLER_METHODS) if isinstance(self.method, str) else ""
            refuse(self, "method", f"one of {', '.join(DISTILLER_METHODS)}", self.method, hint)
        check_share(self, "sparsity", one=True)
        _whole(self, "agp_steps", 1)
        if self.backend not in (None, "distiller"):
            refuse(self, "backend", "None or 'distiller'", self.backend)
        own = [name for name, method in DISTILLER_METHODS.items() if method.backend]
        if self.backend and self.method not in own:
            refuse(self, "method", f"one of {', '.join(own)} with backend='distiller'", self.method)

    @property
    def structured(self) -> bool:  # type: ignore[override]
        """Whether whole filters or input channels go."""
        return self.rule.norm is not None

    @property
    def rule(self) -> DistillerMethod:
        """How the method decides."""
        return DISTILLER_METHODS[self.method]

    @property
    def share(self) -> float:
        """Share of filters or weights that is asked for."""
        return self.sparsity

    def to_dict(self) -> dict[str, Any]:
        """Return the fields that differ from their defaults, by their keys in configuration files."""
        return {**super().to_dict(), "compat": "distiller"}


@dataclass(frozen=True)
class Schedule:
    """When masks grow while a model is trained, and along which curve.

    Masks grow at the steps ``start + interval``, ``start + 2 * interval``, ..., `steps` times. `curve` is "agp" (Zhu & Gupta
    2017), "linear", "one-shot" (all at the first growth), or a function of the step (from 1) that gives the sparsity itself
    and replaces the target's.
    """

    curve: str | Callable[[int], float] = "agp"
    steps: int = option(10, "--agp-steps", "steps in which AGP reaches the target (default: 10)", "N")
    start: int = 0
    interval: int = 1

    def __post_init__(self) -> None:
        if not callable(self.curve) and self.curve not in CURVES:
            hint = near_matches(str(self.curve), CURVES)
            refuse(self, "curve", f"one of {', '.join(CURVES)}, or a function of the step", self.curve, hint)
        _whole(self, "steps", 1)
        _whole(self, "start", 0)
        _whole(self, "interval", 1)


ONE_SHOT = Schedule("one-shot", 1)


def as_target(value: Any) -> Target:
    """Return a target as it is, a number as a `Ratio`.

    Raises:
        ConfigError: it is neither.
    """
    if isinstance(value, Target):
        return value
    number: Any = value
    if isinstance(value, Real) and type(number) is not bool:
        return Ratio(number)
    raise ConfigError(
        f"The target must be a ratio such as 0.5, or Ratio, Budget, Unstructured, NM, Distiller or Chip. Got {value!r}."
    )


def _names(owner: object, name: str, value: Any) -> tuple[str, ...]:
    """Return one name or an iterable of names as a tuple without repeats."""
    if isinstance(value, str):
        value = (value,)
    if not isinstance(value, Iterable) or isinstance(value, Mapping):
        refuse(owner, name, "a list of names", value)
    names = tuple(dict.fromkeys(value))
    if not all(isinstance(each, str) and each for each in names):
        refuse(owner, name, "a list of names", value)
    return names


@dataclass(frozen=True)
class PruneConfig:
    """All choices of a pruning run as one value; the arguments of `prune` make one.

    ``target`` may be given as a number (a `Ratio`), ``include`` and ``exclude`` as one name or any iterable of names.
    """

    target: Target = Ratio()
    criterion: str | None = option(
        None,
        "--criterion",
        f"what ranks channels: {', '.join(CHANNEL_CRITERIA)}; or single weights: {', '.join(WEIGHT_CRITERIA)} "
        "(default: the method's own)",
        "NAME",
    )
    include: tuple[str, ...] | None = option(
        None,
        "--weights",
        "weights to prune (default: every convolution; unstructured: linear ones too)",
        "NAME",
    )
    exclude: tuple[str, ...] = option((), "--keep", "weights to leave unpruned, such as 'head*'", "PATTERN")
    seed: int = option(0, "--seed", "seed of random numbers that criteria draw (default: 0)", "N")
    thin: bool = option(
        True, "--thin", "remove what is masked, and check the smaller model against the masked one"
    )
    schedule: Schedule = ONE_SHOT

    def __post_init__(self) -> None:
        object.__setattr__(self, "target", as_target(self.target))
        if not isinstance(self.thin, bool):
            refuse(self, "thin", "true or false", self.thin)
        if not isinstance(self.schedule, Schedule):
            refuse(self, "schedule", "a Schedule", self.schedule)
        _whole(self, "seed", 0)
        self._check_criterion()
        if self.include is not None:
            object.__setattr__(self, "include", _names(self, "include", self.include))
            if not self.include:
                refuse(self, "include", "None (the default targets) or at least one name", [])
        object.__setattr__(self, "exclude", _names(self, "exclude", self.exclude or ()))

    def _check_criterion(self) -> None:
        name: Any = self.criterion
        if name is None:
            return
        if isinstance(self.target, Distiller):
            refuse(self, "criterion", "None for Distiller's masks, whose methods have their own", name)
        known = CHANNEL_CRITERIA if self.structured else WEIGHT_CRITERIA
        if not isinstance(name, str) or (not self.structured and name not in known):
            hint = near_matches(name, known) if isinstance(name, str) else ""
            refuse(self, "criterion", f"one of {', '.join(known)} with the method {self.method}", name, hint)

    @property
    def structured(self) -> bool:
        """Whether whole channels are removed, not single weights."""
        return self.target.structured

    @property
    def ranked_by(self) -> str:
        """The criterion: the one asked for, or the target's own."""
        return self.criterion or self.target.default_criterion

    @property
    def method(self) -> str:
        """The method's name on the command line and in files."""
        if isinstance(self.target, Distiller):
            return self.target.method
        if isinstance(self.target, NM):
            return "nm-unstructured"
        if not self.structured:
            return "agp-unstructured"
        return "l1-structured" if self.schedule.curve == "one-shot" else "agp-structured"

    @property
    def agp_steps(self) -> int:
        """Steps in which the sparsity grows."""
        return self.target.agp_steps if isinstance(self.target, Distiller) else self.schedule.steps

    def at(self, share: float) -> PruneConfig:
        """Return the same run with another share of channels or weights."""
        return replace(self, target=self.target.at(share))

    def to_dict(self) -> dict[str, Any]:
        """Return JSON types by their keys in configuration files: the command line makes the same run of them."""
        return {
            "method": self.method,
            "target_sparsity": self.target.share,
            "agp_steps": self.agp_steps,
            "weights": None if self.include is None else list(self.include),
            "keep": list(self.exclude),
            "criterion": self.criterion,
            "seed": self.seed,
            "thin": self.thin,
            **self.target.to_dict(),
        }


@dataclass(frozen=True)
class Pixels:
    """How pictures become numbers: values in 0..1, less `mean`, divided by `std`, each one for all channels or one a channel."""

    mean: tuple[float, ...] = option(
        (0.0,),
        "--data-mean",
        "mean, subtracted from pictures in 0..1: one number, or one for each channel (default: 0)",
        "NUMBER",
    )
    std: tuple[float, ...] = option(
        (1.0,),
        "--data-std",
        "std, by which to divide pictures in 0..1: one number, or one for each channel (default: 1)",
        "NUMBER",
    )

    def __post_init__(self) -> None:
        if not all(map(math.isfinite, (*self.mean, *self.std))) or min(self.std, default=1) <= 0:
            raise ConfigError(
                "The mean and std of pictures must be finite numbers, and std above 0. "
                f"Got mean {self.mean} and std {self.std}."
            )


@dataclass(frozen=True)
class Recovery:
    """How a thinned model is recovered from calibration data, without labels."""

    epochs: int = option(
        0,
        "--recover-epochs",
        "epochs of learning from the full model's outputs, without labels (default: 0)",
        "N",
    )
    loss: str = option(
        "values",
        "--recover-outputs",
        "values, or logits: outputs are scores of classes (default: values)",
        "KIND",
    )
    """What distillation minimises: "values", the squared distance of the outputs in units of their variance, or "logits", the
    Kullback-Leibler divergence over the last axis."""
    lr: float = 5e-3
    """Highest learning rate of AdamW."""
    warmup: float = 0.1
    """Share of the steps over which the learning rate rises, in [0, 1): at the full rate the first steps move a refitted
    model away before they bring it nearer."""
    mixup: bool = True
    """Whether inputs are mixed in pairs: good where they are few, not for tasks that locate things in a picture."""
    seed: int = 0
    """Of shuffling and mixing."""
    max_samples: int = option(
        MAX_SAMPLES,
        "--data-limit",
        "inputs of --data to take: the first, of a folder evenly spread over the names (default: 256)",
        "N",
    )
    pixels: Pixels = Pixels()

    def __post_init__(self) -> None:
        _whole(self, "epochs", 0)
        _whole(self, "seed", 0)
        _whole(self, "max_samples", 1)
        for name, allowed, most in (("lr", "a positive number", math.inf), ("warmup", "in [0, 1)", 1.0)):
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, Real) or not 0 <= float(value) < most:
                refuse(self, name, allowed, value)
        if not self.lr:
            refuse(self, "lr", "a positive number", self.lr)
        if self.loss not in ("values", "logits"):
            refuse(self, "loss", "'values' or 'logits'", self.loss)
        if not isinstance(self.mixup, bool):
            refuse(self, "mixup", "true or false", self.mixup)
