"""`prune`: decide on the caller's model, change only a copy of it."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from torch import nn

from torchthin.config import PruneConfig
from torchthin.errors import ConfigError
from torchthin.graph.inputs import as_inputs, on_device_of, own_example
from torchthin.graph.model import check_model
from torchthin.importance.statistics import Loss
from torchthin.importance.values import check_values
from torchthin.pruning.by_group import prune_groups
from torchthin.pruning.evidence import batches_of, check_evidence
from torchthin.pruning.per_weight import prune_alone
from torchthin.pruning.result import PruneResult
from torchthin.selection.targets import find_targets


def prune_with(
    model: nn.Module,
    config: PruneConfig,
    example_inputs: Any = None,
    *,
    data: Any = None,
    loss: Loss | None = None,
) -> PruneResult:
    """Prune a copy of `model` as `config` says; see `prune`."""
    check_model(model, "prune")
    if config.rule.structured:
        check_evidence(config, example_inputs, data, loss)
    if config.thin and example_inputs is None:
        example_inputs = own_example(model)
    if config.thin and example_inputs is None:
        raise ConfigError(
            "The thin of prune needs example_inputs: channels are followed through one run of the model. "
            "Give a tensor, a tuple or a dict (on the command line --input-shape 1,3,224,224 or --dataset)."
        )
    if config.chip is not None and example_inputs is None:
        raise ConfigError(
            "The chip of prune needs example_inputs: cycles depend on the input's size. "
            "Give a tensor (on the command line --input-shape 1,3,128,128)."
        )
    if config.budgets and example_inputs is None:
        raise ConfigError(
            "The target_params and target_macs of prune need example_inputs: what a channel costs follows from one run of "
            "the model. Give a tensor, a tuple or a dict (on the command line --input-shape 1,3,224,224)."
        )
    plan = find_targets(
        model,
        structured=config.rule.structured,
        weights=config.weights,
        keep=config.keep,
        plain=config.compat is not None,
        coupled=example_inputs is not None and config.rule.structured and config.compat is None,
    )
    check_values(model, {target.name for target in plan.targets})
    inputs = None if example_inputs is None else on_device_of(model, as_inputs(example_inputs))
    if inputs is not None and config.rule.structured and config.compat is None:
        return prune_groups(model, plan, config, inputs, batches_of(model, inputs, data), loss)
    return prune_alone(model, plan, config, inputs)


def prune(
    model: nn.Module,
    example_inputs: Any = None,
    *,
    method: str = "agp-structured",
    target_sparsity: float | None = None,
    agp_steps: int = 10,
    weights: Iterable[str] | None = None,
    keep: Iterable[str] | None = None,
    compat: str | None = None,
    backend: str | None = None,
    thin: bool = False,
    scope: str = "group",
    chip: str | None = None,
    target_cycles: str | int | None = None,
    target_kernel_words: str | int | None = None,
    fit: bool = False,
    criterion: str | None = None,
    seed: int = 0,
    keep_at_least: float | None = None,
    target_params: str | int | None = None,
    target_macs: str | int | None = None,
    round_to: int = 1,
    allocation: str | None = None,
    pattern: str | None = None,
    data: Any = None,
    loss: Loss | None = None,
) -> PruneResult:
    """Return a pruned copy of `model`; the model itself is left as it is.

    Structured methods mask ``floor(target_sparsity * n)`` whole filters of every layer (all layers together
    with ``scope="global"``), ``agp-unstructured`` that share of the single weights; ties go by index. Only
    weights are set to zero: biases and BatchNorm keep their values. (The biases of recurrent hidden states that go are
    masked too, since they would keep them moving, and those of channels whose constant no layer could take over when
    they are removed; a note of the report names them.) AGP (Zhu & Gupta 2017) grows the sparsity over `agp_steps`
    virtual steps; the steps change the outcome only where training runs between them.

    example_inputs: a tensor, a tuple of positional or a dict of keyword arguments of the model. With them,
    structured methods decide per group of coupled layers, keep output layers, and what they mask can be
    thinned; without them every weight is ranked alone. method: a key of `METHODS`. target_sparsity: in [0, 1), by
    default 0.5.
    weights: names that replace the default targets (convolutions; for unstructured also linear layers).
    keep: fnmatch patterns of weight or module names to keep whole, such as output layers.
    compat: "distiller" for Distiller's masks bit for bit, overshoot and ties included. backend: "distiller" to have
    these made by the Distiller that is installed.
    thin: remove what is masked, and prove the result (needs example_inputs). scope: "group" or "global".
    chip: MAX78000 or MAX78002; channels then go where they save most there for their importance, until the
    chip's targets hold, and at least a given target_sparsity of all channels: target_cycles and target_kernel_words (of the
    deepest processor) as a share ("0.6x") or a number, fit=True for the network to fit.
    criterion: what ranks channels or weights, such as l2, fpgm, bn-scale, lamp, random; with data also taylor and
    activation (all in docs/methods.md). target_params, target_macs: the most that the thinned model may have, as a share
    ("0.4x") or a number, either or both: the least sparsity that reaches them is found, and channels are given back as
    long as they hold (and a given target_sparsity, of every group or over all).
    round_to: channels that stay are a multiple of it in every layer that is cut: less goes than asked where that needs it.
    allocation: a file of `torchthin sensitivity`, or "auto": the budget is spread over the groups so that the losses measured
    there add up to the least, instead of the same share of every group.
    pattern: n:m for nm-unstructured: n of every m weights side by side along the input dimension stay ("2:4" by default).
    seed: of random numbers that criteria draw. keep_at_least: share of every group
    that stays with scope="global". data: inputs without labels: a tensor, a loader, a file or
    a folder, as `torchthin.io.calibration.calibration` takes them. loss: for taylor, a function of the model that yields a
    loss per batch of the user's own data; None: the model's own outputs on `data` decide.

    Raises `InputError` (also a ValueError): `ConfigError` for bad arguments, `WeightNameError` for weight
    names, and for models with nothing to prune, with NaN, without values, or that cannot be copied.

    >>> result = prune(nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Conv2d(8, 4, 3)), keep=["2"])
    >>> {name: int(mask.flatten(1).all(1).sum()) for name, mask in result.masks.items()}
    {'0.weight': 4}
    """
    config = PruneConfig(
        method=method,
        target_sparsity=target_sparsity,  # type: ignore[arg-type]
        agp_steps=agp_steps,
        weights=None if weights is None else weights,  # type: ignore[arg-type]
        keep=() if keep is None else keep,  # type: ignore[arg-type]
        compat=compat,
        backend=backend,
        thin=thin,
        scope=scope,
        chip=chip,
        target_cycles=None if target_cycles is None else str(target_cycles),
        target_kernel_words=None if target_kernel_words is None else str(target_kernel_words),
        fit=fit,
        criterion=criterion,
        seed=seed,
        keep_at_least=keep_at_least,
        target_params=None if target_params is None else str(target_params),
        target_macs=None if target_macs is None else str(target_macs),
        round_to=round_to,
        allocation=allocation,
        pattern=pattern,
    )
    return prune_with(model, config, example_inputs, data=data, loss=loss)
