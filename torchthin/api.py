"""Every public function. Each is thin: it turns the caller's words into a `PruneConfig` and calls one function below."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from torch import nn

from torchthin.config import PruneConfig, Recovery, Target, recovery_of
from torchthin.dependency.registry import register_op
from torchthin.evaluation.bench import bench
from torchthin.evaluation.results import Progress
from torchthin.importance.registry import criteria as list_criteria
from torchthin.importance.registry import register_channel_criterion, register_criterion
from torchthin.importance.statistics import Loss
from torchthin.io.export import export
from torchthin.max7800x.chips import list_chips as list_chips
from torchthin.pruning.comparison.compare import compare
from torchthin.pruning.in_place import thin_
from torchthin.pruning.inspection import inspect
from torchthin.pruning.one_shot import plan_pruning
from torchthin.pruning.plan import PruningPlan
from torchthin.pruning.recover import recover
from torchthin.pruning.result import PruneResult
from torchthin.pruning.save_and_load import load, load_mapped, save
from torchthin.pruning.sensitivity import sensitivity
from torchthin.thinning.proof.verdict import verify

__all__ = [
    "bench",
    "compare",
    "export",
    "inspect",
    "list_chips",
    "list_criteria",
    "load",
    "load_mapped",
    "plan",
    "prune",
    "recover",
    "register_channel_criterion",
    "register_criterion",
    "register_op",
    "save",
    "sensitivity",
    "thin_",
    "verify",
]


def prune(
    model: nn.Module,
    example_inputs: Any = None,
    target: Target | float = 0.5,
    *,
    criterion: str | None = None,
    include: Iterable[str] | None = None,
    exclude: Iterable[str] = (),
    data: Any = None,
    recovery: str | Recovery | None = None,
    loss: Loss | None = None,
    seed: int = 0,
    thin: bool = True,
    exact: bool = False,
    add_biases: bool = False,
    proof: str = "quick",
    progress: Progress | None = None,
) -> PruneResult:
    """Return a pruned copy of `model`; the model itself is left as it is.

    A dependency group is all that must be pruned together: coupled layers share one decision, and output layers are kept.
    What is masked is removed, after a trial on copies has shown that the smaller model computes what it should; whether
    that is exactly the masked model's function, `proof` says. Filters are set to zero; biases and BatchNorm keep their
    values. Where a removed channel would still hold what depends on the input (an embedding, a position, the weight of a
    layer norm) or a constant that no bias can take, all that makes it is masked too; `masks` and a note of the report name
    it. Where that does not help the channel stays. Ties go by index.

    Args:
        model: any model.
        example_inputs: a tensor, a tuple of positional or a dict of keyword arguments of the model. Without them (and with
            ``thin=False``) every weight is ranked alone, output layers included.
        target: a share of the channels, shares by kind (``{"mlp": 0.3, "heads": 0.25}``), or one of `Ratio`, `Budget`,
            `Unstructured`, `NM`, `Distiller`, `torchthin.max7800x.Chip`.
        criterion: what ranks channels or weights, such as l1 (the default), l2, fpgm, bn-scale, lamp, random; with data also
            taylor, activation, reconstruction; of single weights magnitude, lamp, random, with data wanda, sparsegpt; see
            `list_criteria`.
        include: weight names, module names or patterns that replace the default targets: convolutions, and linear layers
            where convolutions hold less than half of the parameters; for single weights both. Of a model with attention, MLP
            width and whole heads go by default; the residual stream and the width of heads only when they are asked for.
        exclude: weight names, module names or fnmatch patterns of either to leave unpruned; what is named keeps its size, also
            a bias, and with it the channels that it is part of. Biases need no excluding to keep their values.
        data: calibration data without labels: a tensor, a loader, a file or a folder, as
            `torchthin.io.calibration.calibration` takes them, or ``"noise"``, which is fitted to the model. Where no
            criterion is given, channels are then chosen by the criterion reconstruction (from noise that cannot be fitted
            by l1), and the model is refitted as `recover` does.
        recovery: how the thinned model is recovered from `data`, as by `recover`: "fast" (layers are refitted in closed form),
            "best" (and 100 epochs of learning from the dense model follow), or a `Recovery`. None: "fast" where no
            criterion is given, else not at all.
        loss: for taylor, a function of the model that yields a loss per batch of the user's own data; None: the model's own
            outputs on `data` decide.
        seed: of random numbers that criteria draw.
        thin: remove what is masked (needs example_inputs for channels); False only sets weights to zero.
        exact: remove only what leaves the function of the masked model as it is, so that ``proof.exact`` is True. What makes
            a constant that meets the border of a picture is masked; where that does not help, and under the statistics of a
            layer norm, channels are kept and named.
        add_biases: a layer without a bias may get one for the constant of removed channels (`load` adds it; a class of the
            smaller sizes must have it). False masks what makes the constant.
        proof: "quick" compares the thinned with the masked model on the example and on fresh inputs; "full" does so in float64,
            at other sizes and batch sizes too; "off" compares nothing: the thinned model is the same, and only known to run.
        progress: called with how many layer times are measured and how many there are, for a `Budget` with a latency.

    Raises:
        InputError: (also a ValueError) `ConfigError` for bad arguments, `WeightNameError` for weight names, and for models
            with nothing to prune, with NaN, without values, or that cannot be copied.
        TargetMissedError: the target cannot be reached on this model.
        ProofError: no way to thin the model held.

    >>> net = nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Conv2d(8, 4, 3))
    >>> result = prune(net, torch.randn(1, 3, 8, 8), 0.5)
    >>> {name: tuple(p.shape) for name, p in result.model.named_parameters() if p.dim() > 1}
    {'0.weight': (4, 3, 3, 3), '2.weight': (4, 4, 3, 3)}
    """
    config = PruneConfig(target, criterion, include, exclude, seed, thin, exact, add_biases, proof)  # type: ignore[arg-type]
    how = recovery_of(recovery)
    return plan_pruning(
        model, example_inputs, config, data=data, loss=loss, learns=True, recovery=how, progress=progress
    ).apply()


def plan(
    model: nn.Module,
    example_inputs: Any,
    target: Target | float = 0.5,
    *,
    criterion: str | None = None,
    include: Iterable[str] | None = None,
    exclude: Iterable[str] = (),
    data: Any = None,
    recovery: str | Recovery | None = None,
    loss: Loss | None = None,
    seed: int = 0,
    exact: bool = False,
    add_biases: bool = False,
    proof: str = "quick",
    progress: Progress | None = None,
) -> PruningPlan:
    """Decide as `prune` does and prove it on copies, but change nothing: look with `explain`, then `apply`.

    The arguments and errors are those of `prune`.

    >>> net = nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Conv2d(8, 4, 3))
    >>> found = plan(net, torch.randn(1, 3, 8, 8), 0.25)
    >>> found.explain().splitlines()[2]
    '| 0.weight | 2 of 8 channels | 8x3x3x3 | 6x3x3x3 |'
    >>> found.apply().model[0].out_channels
    6
    """
    config = PruneConfig(target, criterion, include, exclude, seed, True, exact, add_biases, proof)  # type: ignore[arg-type]
    how = recovery_of(recovery)
    return plan_pruning(
        model, example_inputs, config, data=data, loss=loss, learns=True, recovery=how, progress=progress
    )
