"""Distiller's YAML: its pruners and policies become configurations and epochs; everything else is named."""

from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from torch import nn

from torchthin import Pruner
from torchthin.config import ONE_SHOT, Distiller, PruneConfig, Ratio, Schedule, Target, Unstructured
from torchthin.errors import ConfigError
from torchthin.io.distiller.schedule import DistillerSchedule, read_schedule

AGP = {
    "class": "L1RankedStructureParameterPruner_AGP",
    "initial_sparsity": 0.05,
    "final_sparsity": 0.5,
    "group_type": "Filters",
    "weights": ["0.weight"],
}
TIMES = {"starting_epoch": 0, "ending_epoch": 10, "frequency": 2}


def read(tmp_path: Path, pruners: Any, policies: Any = None, **sections: Any) -> DistillerSchedule:
    path = tmp_path / "schedule.yaml"
    if policies is None:
        policies = [{"pruner": {"instance_name": name}, **TIMES} for name in pruners]
    path.write_text(yaml.safe_dump({"version": 1, "pruners": pruners, "policies": policies, **sections}))
    return read_schedule(path)


def distillers_target(
    epoch: int, initial: float, final: float, start: int, end: int, frequency: int
) -> float:
    """AgpPruningRate as it is measured: what the pruner is asked for at an epoch that its policy fires in."""
    span = ((end - start - 1) // frequency) * frequency
    return final + (initial - final) * (1.0 - (epoch - start) / span) ** 3


@pytest.mark.parametrize(
    ("start", "end", "frequency"), [(0, 10, 2), (0, 10, 1), (3, 20, 5), (2, 9, 3), (1, 3, 1)]
)
def test_every_event_asks_for_what_distiller_asks(
    tmp_path: Path, start: int, end: int, frequency: int
) -> None:
    times = {"starting_epoch": start, "ending_epoch": end, "frequency": frequency}
    (own,) = read(tmp_path, {"a": AGP}, [{"pruner": {"instance_name": "a"}, **times}]).pruners
    events = range(start, end, frequency)
    assert [own.sparsity(epoch) for epoch in events] == [
        distillers_target(epoch, 0.05, 0.5, start, end, frequency) for epoch in events
    ]
    assert own.sparsity(events[-1]) == own.sparsity(end + 50) == 0.5
    assert all(own.sparsity(epoch) == 0 for epoch in range(start))
    assert own.calls == events[-1] + 1


def test_pruner_follows_it_epoch_by_epoch(tmp_path: Path) -> None:
    (own,) = read(tmp_path, {"a": AGP}).pruners
    torch.manual_seed(0)
    net = nn.Sequential(nn.Conv2d(3, 48, 3), nn.ReLU(), nn.Conv2d(48, 4, 3))
    pruner = Pruner(net, torch.randn(1, 3, 8, 8), **own.options)
    removed = []
    for _ in range(10):
        pruner.step()
        removed.append(int((~pruner.masks["0.weight"].flatten(1).any(1)).sum()))
    assert removed == [2, 2, 14, 14, 21, 21, 23, 23, 24, 24]  # as Distiller's own run of this schedule


def config(target: Target, steps: int, weights: tuple[str, ...], criterion: str | None = None) -> PruneConfig:
    schedule = Schedule(steps=steps) if steps > 1 else ONE_SHOT
    return PruneConfig(target, criterion, weights, schedule=schedule, thin=False)


@pytest.mark.parametrize(
    ("pruner", "expected"),
    [
        (AGP, config(Ratio(0.5), 4, ("0.weight",))),
        (
            {**AGP, "class": "L2RankedStructureParameterPruner_AGP", "group_type": "3D"},
            config(Ratio(0.5), 4, ("0.weight",), criterion="l2"),
        ),
        (
            {"class": "AutomatedGradualPruner", "initial_sparsity": 0, "final_sparsity": 0.8, "weights": ["a", "b"]},
            config(Unstructured(0.8), 4, ("a", "b")),
        ),
        (
            {"class": "L1RankedStructureParameterPruner", "desired_sparsity": 0.3, "group_type": "Filters", "weights": "a"},
            config(Ratio(0.3), 1, ("a",)),
        ),
        (
            {**AGP, "group_type": "Channels"},
            config(Distiller("l1-channels", 0.5, 4), 4, ("0.weight",)),
        ),
        (
            {"class": "SparsityLevelParameterPruner", "levels": {"a": 0.4, "b": 0.4, "c": 0}},
            config(Unstructured(0.4), 1, ("a", "b")),
        ),
    ],
)  # fmt: skip
def test_classes(tmp_path: Path, pruner: dict[str, Any], expected: PruneConfig) -> None:
    assert read(tmp_path, {"a": pruner}).pruner().config == expected


def test_pruners_at_once_fire_at_their_first_epoch(tmp_path: Path) -> None:
    once = {"class": "L1RankedStructureParameterPruner", "desired_sparsity": 0.3, "weights": ["a"]}
    own = read(tmp_path, {"a": once}, [{"pruner": {"instance_name": "a"}, "epochs": [4, 6]}]).pruner()
    assert [own.sparsity(epoch) for epoch in range(3, 8)] == [0, 0.3, 0.3, 0.3, 0.3]


def test_everything_ignored_is_named(tmp_path: Path) -> None:
    found = read(
        tmp_path,
        {
            "a": {**AGP, "group_dependency": "Leader", "weights": ["module.0.weight"]},
            "odd": {"class": "BaiduRNNPruner", "q": 3},
            "rows": {**AGP, "group_type": "Rows"},
            "idle": AGP,
            "uneven": {"class": "SparsityLevelParameterPruner", "levels": {"a": 0.4, "b": 0.3}},
        },
        [
            {"pruner": {"instance_name": "a", "args": {"mini_batch_pruning_frequency": 3}}, **TIMES},
            {"pruner": {"instance_name": "odd"}, **TIMES},
            {"lr_scheduler": {"instance_name": "lr"}, **TIMES},
        ],
        lr_schedulers={"lr": {"class": "MultiStepLR"}},
        extensions={"thin": {"class": "FilterRemover"}},
    )
    assert [pruner.config.include for pruner in found.pruners] == [("0.weight",)]
    text = "\n".join(found.notes)
    for part in (
        "lr_schedulers: ignored; it holds lr.",
        "extensions: ignored; it holds thin.",
        "pruners: a: group_dependency Leader is ignored; coupled layers",
        "pruners: a: the module. before its weights is left out.",
        "pruners: odd: the class BaiduRNNPruner is not supported.",
        "pruners: rows: the group_type Rows is not supported.",
        "pruners: idle: no policy uses it.",
        "pruners: uneven: levels that differ",
        "policies[0]: its args are ignored: mini_batch_pruning_frequency.",
        "policies[2]: ignored; it is for lr_scheduler.",
    ):
        assert part in text
    assert len(found.notes) == 10


ONE = [{"pruner": {"instance_name": "a"}, **TIMES}]


@pytest.mark.parametrize(
    ("pruners", "policies", "message"),
    [
        ({"a": {**AGP, "final_sparsity": 1.5}}, ONE, r"The final_sparsity of pruners: a must be in \[0, 1\)"),
        ({"a": {**AGP, "final_sparsity": "half"}}, ONE, "Got 'half'"),
        ({"a": {**AGP, "initial_sparsity": 0.6}}, ONE, "must be below its final_sparsity"),
        ({"a": {**AGP, "weights": 3}}, ONE, "must be a list of names"),
        ({"a": AGP}, [{"pruner": {"instance_name": "b"}, **TIMES}], "must be one of its pruners: a. Got 'b'"),
        ({"a": AGP}, [{"pruner": None, **TIMES}], "Got None"),
        ({"a": AGP}, [{**ONE[0], "ending_epoch": 0}], "starting_epoch < ending_epoch"),
        ({"a": AGP}, [{**ONE[0], "frequency": 20}], "frequency <= ending_epoch"),
        ({"a": AGP}, [{**ONE[0], "frequency": 10}], "long enough for AGP to fire twice"),
        ({"a": AGP}, [{**ONE[0], "frequency": 1.5}], "whole numbers"),
        ({"a": AGP}, [{"pruner": {"instance_name": "a"}, "epochs": [1]}], "cannot follow a list of epochs"),
        ({"a": AGP}, {"pruner": 1}, "a list of mappings"),
        ({"a": ["x"]}, ONE, "pruners: a of the Distiller schedule"),
        (
            {},
            [{"lr_scheduler": {"instance_name": "lr"}, **TIMES}],
            "has no pruner that is supported. policies",
        ),
        (
            {"a": {"class": "Unknown"}},
            ONE,
            "the class Unknown is not supported. Supported classes: Automated",
        ),
    ],
)
def test_bad_schedules(tmp_path: Path, pruners: Any, policies: Any, message: str) -> None:
    with pytest.raises(ConfigError, match=message) as raised:
        read(tmp_path, pruners, policies)
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize(
    "text",
    [
        "pruners: [",
        "- 1",
        "method: l1-structured",
        "pruners: !!python/object/apply:os.system ['touch made_by_yaml']\npolicies: []",
    ],
)
def test_what_is_no_schedule(tmp_path: Path, text: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "s.yaml").write_text(text)
    with pytest.raises(ConfigError, match=r"The Distiller schedule s\.yaml must") as raised:
        read_schedule("s.yaml")
    assert "\n" not in str(raised.value)
    assert not (tmp_path / "made_by_yaml").exists()


def test_one_of_several_is_chosen(tmp_path: Path) -> None:
    found = read(tmp_path, {"a": AGP, "b": {**AGP, "final_sparsity": 0.6}})
    assert found.pruner("b").config.target.share == 0.6
    with pytest.raises(ConfigError, match="several pruners, and one run takes one: a, b"):
        found.pruner()
    with pytest.raises(ConfigError, match=r"must be one of a, b\. Got 'c'"):
        found.pruner("c")
