"""The grid: methods x criteria x targets -> candidates."""

from __future__ import annotations

import json
from collections.abc import Iterable
from typing import Any

from torchthin.config import PruneConfig
from torchthin.errors import ConfigError


def grid(
    methods: Iterable[str] = ("l1-structured",),
    criteria: Iterable[str | None] = (None,),
    *,
    sparsities: Iterable[float] = (),
    macs: Iterable[str] = (),
    params: Iterable[str] = (),
    **common: Any,
) -> tuple[PruneConfig, ...]:
    """Return one configuration for every method, criterion and target, each once.

    Args:
        methods: of `METHODS`.
        criteria: what ranks channels; None: the method's own.
        sparsities: target shares of channels (structured methods) or weights.
        macs: budgets of multiply-accumulates, such as "0.5x".
        params: budgets of parameters, in the same form.
        common: other fields of `PruneConfig`, the same for all.

    Raises:
        ConfigError: the grid is empty, or one of its points is no configuration.

    >>> [config.target_macs for config in grid(macs=["0.5x", "0.25x", "0.5x"])]
    ['0.5x', '0.25x']
    """
    targets: list[dict[str, Any]] = [
        *({"target_sparsity": value} for value in sparsities),
        *({"target_macs": value} for value in macs),
        *({"target_params": value} for value in params),
    ]
    ways = list(criteria)
    made = [
        PruneConfig(method=method, criterion=criterion, **{**common, "thin": True}, **target)
        for method in methods
        for criterion in ways
        for target in targets
    ]
    if not made:
        raise ConfigError(
            "The grid of compare is empty. Give at least one method, one criterion and one target (on the command line "
            "--target-sparsity, --target-macs or --target-params)."
        )
    return tuple(dict.fromkeys(made))


def key_of(config: PruneConfig) -> str:
    """Return what tells a candidate from all others."""
    return json.dumps(config.to_dict(), sort_keys=True)


def target_of(config: PruneConfig) -> str:
    """Return the target in words, such as ``sparsity 0.5`` or ``MACs 0.5x``."""
    if config.target_macs is not None or config.target_params is not None:
        asked = (("MACs", config.target_macs), ("parameters", config.target_params))
        return ", ".join(f"{name} {text}" for name, text in asked if text is not None)
    return f"sparsity {config.target_sparsity:g}"
