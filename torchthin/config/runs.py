"""What a run is asked: `PruneConfig` with its `Schedule`, and `Recovery`."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from numbers import Real
from typing import Any

from torchthin.config.distiller import Distiller
from torchthin.config.options import MOST_STEPS, check_whole, option, refuse
from torchthin.config.targets import Ratio, Target, as_target
from torchthin.config.weight_targets import NM
from torchthin.errors import ConfigError, near_matches

CHANNEL_CRITERIA = (
    "l1", "l2", "max", "fpgm", "bn-scale", "lamp", "group-l2", "flow", "random", "taylor", "activation", "reconstruction",
)  # fmt: skip
"""Criteria of the package that rank channels, for help texts; `torchthin.list_criteria` also has a user's own."""
WEIGHT_DATA_CRITERIA = ("wanda", "sparsegpt")
"""Criteria that rank single weights by the inputs of their layers; they need calibration data."""
WEIGHT_CRITERIA = ("magnitude", "lamp", "random", *WEIGHT_DATA_CRITERIA)
"""Criteria that rank single weights."""
PROOFS = ("off", "quick", "full")
"""How much is compared before a thinned model is called right."""
CURVES = ("agp", "linear", "one-shot")
MAX_SAMPLES = 256
"""Inputs that are taken from calibration data, where the caller says nothing else."""


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
        check_whole(self, "steps", 1, MOST_STEPS)
        check_whole(self, "start", 0)
        check_whole(self, "interval", 1)


ONE_SHOT = Schedule("one-shot", 1)


def _names(owner: object, name: str, value: Any) -> tuple[str, ...]:
    """Return one name or an iterable of names as a tuple without repeats."""
    if isinstance(value, str):
        value = (value,)
    if not isinstance(value, Iterable) or isinstance(value, Mapping):
        refuse(owner, name, "a list of names", value)
    names = tuple(value)
    if not all(isinstance(each, str) and each for each in names):
        refuse(owner, name, "a list of names", list(names))
    return tuple(dict.fromkeys(names))


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
        "weights or modules to prune (default: convolutions; linear layers too where convolutions hold less than half of the "
        "parameters, and by unstructured methods)",
        "NAME",
    )
    exclude: tuple[str, ...] = option(
        (), "--keep", "weights or modules to leave unpruned, such as 'head*'", "PATTERN"
    )
    seed: int = option(0, "--seed", "seed of random numbers that criteria draw (default: 0)", "N")
    thin: bool = option(
        True, "--thin", "remove what is masked, and check the smaller model against the masked one"
    )
    exact: bool = option(
        False,
        "--exact",
        "mask what makes a constant at a border too, and keep what then cannot be removed exactly (under a layer norm)",
    )
    add_biases: bool = option(
        False,
        "--add-biases",
        "give layers a bias where they have none for the constant of removed channels, instead of masking it",
    )
    proof: str = option(
        "quick",
        "--proof",
        "off: the thinned model runs, nothing is compared; quick: it is compared with the masked one; full: in float64, and at "
        "more sizes of input (default: quick)",
        "LEVEL",
    )
    schedule: Schedule = ONE_SHOT

    def __post_init__(self) -> None:
        object.__setattr__(self, "target", as_target(self.target))
        for name in ("thin", "exact", "add_biases"):
            if not isinstance(getattr(self, name), bool):
                refuse(self, name, "true or false", getattr(self, name))
        self._check_proof()
        if not isinstance(self.schedule, Schedule):
            refuse(self, "schedule", "a Schedule", self.schedule)
        check_whole(self, "seed", 0)
        self._check_criterion()
        if self.include is not None:
            object.__setattr__(self, "include", _names(self, "include", self.include))
            if not self.include:
                refuse(self, "include", "None (the default targets) or at least one name", [])
        object.__setattr__(self, "exclude", _names(self, "exclude", self.exclude or ()))

    def _check_proof(self) -> None:
        if self.proof not in PROOFS:
            hint = near_matches(str(self.proof), PROOFS)
            refuse(self, "proof", f"one of {', '.join(PROOFS)}", self.proof, hint)
        if self.exact and self.proof == "off":
            refuse(
                self,
                "proof",
                "quick or full with exact=True (--exact), which only a comparison shows",
                self.proof,
            )

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
        if name in WEIGHT_DATA_CRITERIA and self.target.scope == "global":
            allowed = (
                "magnitude or lamp with scope='global' (--scope global); others compare weights of one layer"
            )
            refuse(self, "criterion", allowed, name)

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
            "exact": self.exact,
            "add_biases": self.add_biases,
            "proof": self.proof,
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
    lr: float | None = None
    """Highest learning rate of AdamW; None: what the model bears, at most 5e-3, with attention 2e-4 (rounded weights: 1e-3)."""
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
        check_whole(self, "epochs", 0)
        check_whole(self, "seed", 0)
        check_whole(self, "max_samples", 1)
        for name, allowed, most in (("lr", "a positive number", math.inf), ("warmup", "in [0, 1)", 1.0)):
            value = getattr(self, name)
            if name == "lr" and value is None:
                continue
            if isinstance(value, bool) or not isinstance(value, Real) or not 0 <= float(value) < most:
                refuse(self, name, allowed, value)
        if self.lr == 0:
            refuse(self, "lr", "a positive number", self.lr)
        if self.loss not in ("values", "logits"):
            refuse(self, "loss", "'values' or 'logits'", self.loss)
        if not isinstance(self.mixup, bool):
            refuse(self, "mixup", "true or false", self.mixup)


RECOVERIES = {"fast": Recovery(), "best": Recovery(epochs=100)}
"""What the names of ``recovery`` stand for: layers refitted in closed form, and 100 epochs of learning after that."""


def recovery_of(given: str | Recovery | None) -> Recovery | None:
    """Return the recovery that a name stands for, what else is given as it is.

    Raises:
        ConfigError: it is no such name.
    """
    found = RECOVERIES.get(given) if isinstance(given, str) else given
    if given is not None and not isinstance(found, Recovery):
        raise ConfigError(
            f"The recovery must be {' or '.join(map(repr, RECOVERIES))}, or a Recovery. Got {given!r}."
        )
    return found
