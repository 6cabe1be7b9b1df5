"""The one configuration object: Python arguments, command-line flags, YAML and JSON all make a `PruneConfig`.

Importing this module does not import torch, so that ``--help`` stays fast.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, fields, replace
from numbers import Integral, Real
from typing import Any, Literal

from torchthin.errors import ConfigError, near_matches
from torchthin.max7800x.cost.table import chip_named, chip_names

Criterion = str
Schedule = Literal["agp", "one-shot"]
Scope = Literal["group", "global"]
SCOPES: tuple[Scope, ...] = ("group", "global")
COMPATS = ("distiller",)
CHANNEL_CRITERIA = (
    "l1", "l2", "max", "fpgm", "bn-scale", "lamp", "group-l2", "flow", "random", "taylor", "activation", "reconstruction",
)  # fmt: skip
"""Criteria of the package that rank channels, for help texts; the registry in `importance` decides what there is."""
WEIGHT_CRITERIA = ("magnitude", "lamp", "random")
"""Criteria that rank single weights."""
FLOOR = 0.1
"""Share of every group that stays at least with scope="global", unless the target leaves less than twice that."""
DEFAULT_SPARSITY = 0.5
BACKENDS = ("distiller",)
BACKEND_METHODS = {
    "agp-structured": "L1RankedStructureParameterPruner_AGP",
    "l1-structured": "L1RankedStructureParameterPruner",
    "agp-unstructured": "AutomatedGradualPruner",
}
"""Methods that Distiller itself can carry out -> its class."""


@dataclass(frozen=True)
class Limit:
    """At most so much: a number, or a share of what it was."""

    text: str
    number: float
    relative: bool

    def of(self, before: int) -> int:
        """Return the most that is allowed, given what it was."""
        return int(before * self.number) if self.relative else int(self.number)


def parse_limit(name: str, text: str) -> Limit:
    """Return the limit that `text` stands for: ``0.6x`` (of what it was) or ``450000``.

    Raises:
        ConfigError: it is neither, or leaves nothing.

    >>> parse_limit("target_cycles", "0.6x").of(745665), parse_limit("target_cycles", "450_000").of(745665)
    (447399, 450000)
    """
    found = re.fullmatch(r"(\d[\d_]*(?:\.\d+)?)(x?)", text.strip())
    number = float(found[1].replace("_", "")) if found else 0.0
    relative = bool(found and found[2])
    if not found or number <= 0 or (relative and number > 1) or (not relative and number != int(number)):
        raise ConfigError(
            f"The {name} of prune must be a share such as 0.6x, up to 1x, or a whole number. Got {text!r}."
        )
    return Limit(text.strip(), number, relative)


@dataclass(frozen=True)
class Method:
    """How a method decides: what is ranked, by what, along which schedule."""

    description: str
    """One line for lists and help texts."""
    criterion: Criterion
    """What ranks channels (l1, l2) or single weights (magnitude)."""
    schedule: Schedule
    axis: int | None = 0
    """0: filters. 1: input channels (with compat="distiller" only). None: single weights."""
    pattern: str | None = None
    """n:m where n of every m neighbouring weights stay; what holds if none is given."""

    @property
    def structured(self) -> bool:
        """Whether whole channels go, not single weights."""
        return self.axis is not None


METHODS: dict[str, Method] = {
    "agp-structured": Method("whole channels of least mean |w|, sparsity grown by AGP", "l1", "agp"),
    "l1-structured": Method("whole channels of least mean |w|, at once", "l1", "one-shot"),
    "agp-unstructured": Method(
        "single weights of least |w|, sparsity grown by AGP", "magnitude", "agp", None
    ),
    "nm-unstructured": Method(
        "all but n of every m neighbouring weights, at once", "magnitude", "one-shot", None, "2:4"
    ),
}
"""The methods everyone can use."""

DISTILLER_METHODS: dict[str, Method] = {
    "l2-structured": Method("filters of least L2 norm, at once", "l2", "one-shot"),
    "agp-l2-structured": Method("filters of least L2 norm, AGP", "l2", "agp"),
    "l1-channels": Method("input channels of least mean |w|, at once", "l1", "one-shot", 1),
    "agp-l1-channels": Method("input channels of least mean |w|, AGP", "l1", "agp", 1),
    "level": Method("single weights of least |w|, at once", "magnitude", "one-shot", None),
}
"""Further methods of Distiller that take a sparsity; with ``compat="distiller"`` only."""


def _expected(field: str, allowed: str, value: object, hint: str = "") -> ConfigError:
    return ConfigError(f"The {field} of prune must be {allowed}. Got {value!r}.{hint}")


def _names(field: str, value: Any) -> tuple[str, ...]:
    """Normalise one name or an iterable of names to a tuple without repeats."""
    if isinstance(value, str):
        value = (value,)
    if not isinstance(value, Iterable) or isinstance(value, Mapping):
        raise _expected(field, "a list of names", value)
    names = tuple(dict.fromkeys(value))
    for name in names:
        if not isinstance(name, str) or not name:
            raise _expected(field, "a list of names", value)
    return names


@dataclass(frozen=True)
class PruneConfig:
    """All choices of a pruning run, checked when made.

    ``weights`` and ``keep`` take one name or any iterable of names. Raises `ConfigError` for values out of
    range, of the wrong type, or that do not go together.
    """

    method: str = "agp-structured"
    target_sparsity: float = None  # type: ignore[assignment]  # not given; __post_init__ puts a number there
    """Share of channels (structured) or weights (unstructured) to prune, in [0, 1); 1.0 only with compat. By default
    0.5, and 0 with a chip or a budget, which then decide alone; given with one: the least share of channels to go."""
    agp_steps: int = 10
    """Steps over which the AGP methods grow the sparsity."""
    weights: tuple[str, ...] | None = None
    """Names of the weights to prune; None: the default targets."""
    keep: tuple[str, ...] = ()
    """Patterns (fnmatch) of weight or module names to keep whole."""
    compat: str | None = None
    """``"distiller"``: Distiller's masks bit for bit, overshoot and ties included."""
    thin: bool = False
    """Whether to remove the pruned channels physically."""
    scope: str = "group"
    """``"group"``: the target holds in every group. ``"global"``: it holds over all groups together."""
    criterion: str | None = None
    """What ranks channels or weights; None: the method's own."""
    seed: int = 0
    """Of random numbers that criteria draw."""
    keep_at_least: float | None = None
    """Share of every group (of every tensor) that stays with scope="global"; None: 0.1, or half of what stays on average."""
    chip: str | None = None
    """Chip that channels are chosen for; the targets below then hold, and `target_sparsity` where it is given."""
    target_cycles: str | None = None
    """Most cycles of one run: a share of what it was (``"0.6x"``) or a number."""
    target_kernel_words: str | None = None
    """Most kernel words of the deepest processor, in the same forms."""
    fit: bool = False
    """Whether the network has to fit the chip."""
    backend: str | None = None
    """``"distiller"``: the installed Distiller makes the masks, those of ``compat="distiller"``, which it implies."""

    target_params: str | None = None
    """Most parameters of the thinned model: a share of what there was (``"0.4x"``) or a number."""
    target_macs: str | None = None
    """Most multiply-accumulates of one forward pass on the example inputs, in the same forms."""

    pattern: str | None = None
    """``"2:4"``, or any n:m: what nm-unstructured leaves; None: 2:4 there. It says what `target_sparsity` is."""
    round_to: int = 1
    """Channels that stay are a multiple of it in every layer that is cut; less goes than asked where that needs it."""
    allocation: str | None = None
    """How a budget is spread over the groups: a file of ``torchthin sensitivity``, or ``"auto"``: it is measured first."""

    def __post_init__(self) -> None:
        self._check_backend()
        if self.compat is not None and self.compat not in COMPATS:
            raise _expected("compat", "None or 'distiller'", self.compat)
        if self.scope not in SCOPES:
            raise _expected("scope", "'group' or 'global'", self.scope)
        if self.compat is not None and self.scope != "group":
            raise _expected(
                "scope", "'group' with compat='distiller', which ranks each tensor alone", self.scope
            )
        if not isinstance(self.thin, bool):
            raise _expected("thin", "true or false", self.thin)
        self._check_method()
        self._check_pattern()
        self._check_numbers()
        self._check_criterion()
        self._check_floor()
        self._check_rounding()
        self._check_chip()
        self._check_budgets()
        self._check_allocation()
        if self.weights is not None:
            object.__setattr__(self, "weights", _names("weights", self.weights))
            if not self.weights:
                raise _expected("weights", "None (the default targets) or at least one name", [])
        object.__setattr__(self, "keep", () if self.keep is None else _names("keep", self.keep))

    def _check_backend(self) -> None:
        if self.backend is None:
            return
        if self.backend not in BACKENDS:
            raise _expected("backend", "None or 'distiller'", self.backend)
        if self.method not in BACKEND_METHODS:
            allowed = f"one of {', '.join(BACKEND_METHODS)} with backend='distiller'"
            raise _expected("method", allowed, self.method, " compat='distiller' has more.")
        if self.compat is None:
            object.__setattr__(self, "compat", "distiller")

    def _check_method(self) -> None:
        known = {**METHODS, **DISTILLER_METHODS} if self.compat == "distiller" else METHODS
        if isinstance(self.method, str) and self.method in known:
            return
        hint = near_matches(self.method, known) if isinstance(self.method, str) else ""
        if isinstance(self.method, str) and self.method in DISTILLER_METHODS:
            hint = " It is there with compat='distiller'."
        raise _expected("method", f"one of {', '.join(known)}", self.method, hint)

    def _check_pattern(self) -> None:
        own = self.rule.pattern
        if own is None:
            if self.pattern is not None:
                raise _expected(
                    "pattern", f"None with the method {self.method}; nm-unstructured takes one", self.pattern
                )
            return
        if self.compat is not None:
            raise _expected("method", "one of Distiller's with compat='distiller'", self.method)
        text: Any = own if self.pattern is None else self.pattern
        found = re.fullmatch(r"(\d+):(\d+)", text) if isinstance(text, str) else None
        if found is None or not 1 <= int(found[1]) < int(found[2]):
            raise _expected("pattern", "n:m, n of every m weights that stay, with 1 <= n < m", text)
        share = 1 - int(found[1]) / int(found[2])
        given: Any = self.target_sparsity
        if given is not None and given != share:
            raise _expected("target_sparsity", f"{share:g} with the pattern {text}", given)
        if self.scope != "group":
            raise _expected("scope", f"'group' with the method {self.method}", self.scope)
        object.__setattr__(self, "pattern", text)
        object.__setattr__(self, "target_sparsity", share)

    @property
    def blocks(self) -> tuple[int, int] | None:
        """n and m of the pattern, if there is one."""
        if self.pattern is None:
            return None
        n, _, m = self.pattern.partition(":")
        return int(n), int(m)

    def _check_numbers(self) -> None:
        # Any, since callers' files hold whatever they hold.
        steps: Any = self.agp_steps
        target: Any = self.target_sparsity
        if target is None:
            target = DEFAULT_SPARSITY if not self._targets_elsewhere() else 0.0
        if isinstance(steps, bool) or not isinstance(steps, Integral) or int(steps) < 1:
            raise _expected("agp_steps", "a whole number of at least 1", steps)
        object.__setattr__(self, "agp_steps", int(steps))
        whole = self.compat == "distiller"
        allowed = "in [0, 1]" if whole else "in [0, 1)"
        if isinstance(target, bool) or not isinstance(target, Real):
            raise _expected("target_sparsity", allowed, target)
        value = float(target)
        if math.isnan(value) or not 0 <= value <= 1 or (value == 1 and not whole):
            hint = " At 1.0 nothing would be left to compute with." if value == 1 else ""
            raise _expected("target_sparsity", allowed, value, hint)
        object.__setattr__(self, "target_sparsity", value)

    def _targets_elsewhere(self) -> bool:
        """Whether something else than a sparsity says how much goes."""
        return any(value is not None for value in (self.chip, self.target_params, self.target_macs))

    def _check_criterion(self) -> None:
        seed: Any = self.seed
        if isinstance(seed, bool) or not isinstance(seed, Integral) or int(seed) < 0:
            raise _expected("seed", "a whole number of at least 0", seed)
        object.__setattr__(self, "seed", int(seed))
        name = self.criterion
        if name is None:
            return
        known = CHANNEL_CRITERIA if self.rule.structured else WEIGHT_CRITERIA
        if not isinstance(name, str) or (not self.rule.structured and name not in known):
            hint = near_matches(name, known) if isinstance(name, str) else ""
            raise _expected(
                "criterion", f"one of {', '.join(known)} with the method {self.method}", name, hint
            )
        if self.compat is not None:
            raise _expected("criterion", "None with compat='distiller', whose methods have their own", name)

    def _check_floor(self) -> None:
        share: Any = self.keep_at_least
        if share is None:
            return
        if isinstance(share, bool) or not isinstance(share, Real) or not 0 <= float(share) < 1:
            raise _expected("keep_at_least", "in [0, 1)", share)
        object.__setattr__(self, "keep_at_least", float(share))
        if self.scope != "global":
            raise _expected(
                "keep_at_least", "None without scope='global': each group loses the same share then", share
            )
        if float(share) > 1 - self.target_sparsity:
            raise _expected("keep_at_least", f"at most 1 - {self.target_sparsity:g}, what stays", share)

    def _check_rounding(self) -> None:
        multiple: Any = self.round_to
        if isinstance(multiple, bool) or not isinstance(multiple, Integral) or int(multiple) < 1:
            raise _expected("round_to", "a whole number of at least 1", multiple)
        object.__setattr__(self, "round_to", int(multiple))
        if self.round_to > 1 and (
            not self.rule.structured or self.compat is not None or self.chip is not None
        ):
            hint = " A chip's own widths decide there." if self.chip is not None else ""
            raise _expected(
                "round_to", "1 without a structured method, with compat or with a chip", multiple, hint
            )

    @property
    def floor(self) -> float:
        """Share of every group that stays at least, whatever the scores say."""
        if self.keep_at_least is not None or self.scope != "global":
            return self.keep_at_least or 0.0
        return min(FLOOR, (1 - self.target_sparsity) / 2)

    def _check_chip(self) -> None:
        if not isinstance(self.fit, bool):
            raise _expected("fit", "true or false", self.fit)
        for name in ("target_cycles", "target_kernel_words"):
            value = getattr(self, name)
            if value is not None:
                object.__setattr__(self, name, str(value))
                parse_limit(name, str(value))
        asked = self.fit or self.target_cycles is not None or self.target_kernel_words is not None
        if self.chip is None:
            if asked:
                raise _expected("chip", f"one of {', '.join(chip_names())} for targets in its terms", None)
            return
        object.__setattr__(self, "chip", chip_named(str(self.chip)).name)
        if not asked:
            raise _expected("chip", "given with target_cycles, target_kernel_words or fit", self.chip)
        if not self.rule.structured or self.compat is not None or self.scope != "group":
            raise _expected(
                "chip",
                "given with a structured method, without compat and scope",
                self.chip,
                " Zeros save nothing there.",
            )

    def _check_budgets(self) -> None:
        for name in ("target_params", "target_macs"):
            value = getattr(self, name)
            if value is None:
                continue
            object.__setattr__(self, name, str(value))
            parse_limit(name, str(value))
            if not self.rule.structured or self.compat is not None or self.chip is not None:
                raise _expected(
                    name,
                    "given with a structured method, without compat and chip",
                    value,
                    " Zeros make no model smaller.",
                )

    def _check_allocation(self) -> None:
        name: Any = self.allocation
        if name is None:
            return
        if not isinstance(name, str) or not name:
            raise _expected("allocation", "'auto' or a file of torchthin sensitivity", name)
        if not self.budgets:
            raise _expected(
                "allocation", "given with target_params or target_macs, the budget to spread", name
            )
        if self.scope != "group":
            raise _expected(
                "allocation", "given without scope='global', which spreads the cut by score", name
            )

    @property
    def budgets(self) -> dict[str, Limit]:
        """What the thinned model may cost at most: ``parameters`` and ``macs`` -> limit, where one was given."""
        asked = {
            "parameters": ("target_params", self.target_params),
            "macs": ("target_macs", self.target_macs),
        }
        return {name: parse_limit(field, text) for name, (field, text) in asked.items() if text is not None}

    @property
    def goals(self) -> Any:
        """What is asked for in the chip's terms."""
        from torchthin.max7800x.cost.goals import Goals

        cycles, words = self.target_cycles, self.target_kernel_words
        return Goals(
            None if cycles is None else parse_limit("target_cycles", cycles),
            None if words is None else parse_limit("target_kernel_words", words),
            self.fit,
            self.target_sparsity,
        )

    @property
    def rule(self) -> Method:
        """What the chosen method ranks, by what (the criterion, if one was given), along which schedule."""
        method = METHODS.get(self.method) or DISTILLER_METHODS[self.method]
        return method if self.criterion is None else replace(method, criterion=self.criterion)

    @classmethod
    def from_mapping(cls, mapping: Mapping[str, Any]) -> PruneConfig:
        """Make a configuration from the keys of a YAML or JSON file; dashes and underscores are the same.

        Raises `ConfigError` for unknown keys, with near matches, and for keys given twice.
        """
        if not isinstance(mapping, Mapping):
            raise ConfigError(
                f"The configuration of prune must be a mapping of names to values. Got {mapping!r}."
            )
        known = [field.name for field in fields(cls)]
        values: dict[str, Any] = {}
        for key, value in mapping.items():
            name = str(key).replace("-", "_")
            if name not in known:
                raise ConfigError(
                    f"The configuration of prune has no key {key!r}. "
                    f"Allowed: {', '.join(known)}.{near_matches(name, known)}"
                )
            if name in values:
                raise ConfigError(f"The configuration of prune has the key {name!r} twice. Give it once.")
            values[name] = value
        return cls(**values)

    def to_dict(self) -> dict[str, Any]:
        """Return the fields as JSON types; `from_mapping` makes the same configuration of it again."""
        values = asdict(self)
        values["weights"] = None if self.weights is None else list(self.weights)
        values["keep"] = list(self.keep)
        return values
