"""Targets and configurations: what is accepted, what is refused and how."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from torchthin import NM, Budget, Chip, Distiller, PruneConfig, Ratio, Schedule, Unstructured
from torchthin.config import DISTILLER_METHODS, ONE_SHOT, Target
from torchthin.errors import ConfigError


def test_the_defaults() -> None:
    config = PruneConfig()
    assert config.target == Ratio(0.5)
    assert (config.criterion, config.include, config.exclude, config.seed, config.thin) == (
        None,
        None,
        (),
        0,
        True,
    )
    assert config.schedule == ONE_SHOT
    assert config.ranked_by == "l1"


def test_a_number_is_a_ratio() -> None:
    assert PruneConfig(0.25).target == Ratio(0.25)  # type: ignore[arg-type]
    assert PruneConfig(np.float32(0.25)).target == Ratio(0.25)  # type: ignore[arg-type]
    assert PruneConfig(0).target == Ratio(0.0)  # type: ignore[arg-type]


def test_names_are_normalised() -> None:
    assert PruneConfig(include=["b", "a", "b"]).include == ("b", "a")  # type: ignore[arg-type]
    assert PruneConfig(exclude="heat*").exclude == ("heat*",)  # type: ignore[arg-type]


def test_numpy_numbers_become_plain_ones() -> None:
    config = PruneConfig(Ratio(np.float32(0.25), round_to=np.int64(8)), schedule=Schedule(steps=np.int64(3)))  # type: ignore[arg-type]
    assert json.dumps(config.to_dict())
    assert (config.target.share, config.agp_steps) == (0.25, 3)


WRONG: list[tuple[Callable[[], Any], str]] = [
    (lambda: Ratio(1.2), "The ratio of Ratio (--target-sparsity) must be in [0, 1). Got 1.2."),
    (lambda: Ratio(-0.1), "must be in [0, 1). Got -0.1."),
    (lambda: Ratio(float("nan")), "must be in [0, 1). Got nan."),
    (lambda: Ratio(1.0), "must be in [0, 1). Got 1.0. At 1.0 no weight would be left."),
    (lambda: Ratio("0.5"), "must be in [0, 1). Got '0.5'."),  # type: ignore[arg-type]
    (lambda: Ratio(True), "must be in [0, 1). Got True."),
    (lambda: Ratio(scope="layer"), "The scope of Ratio (--scope) must be 'group' or 'global'. Got 'layer'."),
    (lambda: Ratio(at_least=0.2), "The at_least of Ratio (--keep-at-least) must be None without scope='global'"),
    (lambda: Ratio(at_least=0.6, scope="global"), "must be at most 0.5, the share that is kept. Got 0.6."),
    (lambda: Ratio(at_least=True, scope="global"), "must be in [0, 1). Got True."),
    (lambda: Ratio(round_to=0), "The round_to of Ratio (--round-to) must be a whole number of at least 1. Got 0."),
    (lambda: Ratio(round_to=2.5), "must be a whole number of at least 1. Got 2.5."),  # type: ignore[arg-type]
    (lambda: Budget(), "The Budget needs macs, params or latency (--target-macs, --target-params, --target-latency)"),
    (
        lambda: Budget(macs="1.5x"),
        "The macs of Budget (--target-macs) must be a share such as 0.6x, up to 1x, or a whole number.",
    ),
    (lambda: Budget(params="some"), "The params of Budget (--target-params) must be a share"),
    (lambda: Budget(macs=0), "must be a share such as 0.6x"),
    (lambda: Budget(macs="0.5x", allocation=""), "The allocation of Budget (--allocation) must be 'auto', 'outputs' or"),
    (lambda: Budget(macs="0.5x", allocation="auto", scope="global"), "None with scope='global'"),
    (lambda: Unstructured(1.0), "The sparsity of Unstructured (--target-sparsity) must be in [0, 1). Got 1.0."),
    (lambda: NM(4, 2), "The n of NM must be below m, which is 2. Got 4."),
    (lambda: NM(2, 2), "below m"),
    (lambda: NM(0, 4), "The n of NM must be a whole number of at least 1. Got 0."),
    (lambda: NM("2", 4), "a whole number"),  # type: ignore[arg-type]
    (lambda: Distiller("levle"), "Did you mean 'level'"),
    (lambda: Distiller("level", 1.1), "must be in [0, 1]. Got 1.1."),
    (lambda: Distiller(agp_steps=0), "The agp_steps of Distiller (--agp-steps) must be a whole number"),
    (lambda: Distiller(backend="numpy"), "The backend of Distiller (--backend) must be None or 'distiller'"),
    (lambda: Distiller("l2-structured", backend="distiller"), "agp-unstructured with backend='distiller'"),
    (lambda: Chip("MAX79000", fit=True), "MAX78000"),
    (lambda: Chip("MAX78000", cycles="2x"), "The cycles of Chip (--target-cycles) must be a share"),
    (lambda: Chip("MAX78000", fit="yes"), "The fit of Chip (--fit) must be true or false. Got 'yes'."),  # type: ignore[arg-type]
    (lambda: Schedule("cubic"), "The curve of Schedule must be one of agp, linear, one-shot"),
    (lambda: Schedule(steps=0), "The steps of Schedule (--agp-steps) must be a whole number of at least 1. Got 0."),
    (lambda: Schedule(start=-1), "The start of Schedule must be a whole number of at least 0. Got -1."),
    (lambda: PruneConfig("agp-structured"), "The target must be a ratio such as 0.5, ratios by kind such as"),  # type: ignore[arg-type]
    (lambda: PruneConfig(True), "The target must be a ratio"),  # type: ignore[arg-type]
    (lambda: PruneConfig(thin="yes"), "The thin of PruneConfig (--thin) must be true or false. Got 'yes'."),  # type: ignore[arg-type]
    (lambda: PruneConfig(include=[]), "None (the default targets) or at least one name."),  # type: ignore[arg-type]
    (lambda: PruneConfig(include=[3]), "The include of PruneConfig (--weights) must be a list of names. Got [3]."),  # type: ignore[arg-type,list-item]
    (lambda: PruneConfig(exclude=7), "The exclude of PruneConfig (--keep) must be a list of names. Got 7."),  # type: ignore[arg-type]
    (lambda: PruneConfig(seed=-1), "The seed of PruneConfig (--seed) must be a whole number of at least 0. Got -1."),
    (lambda: PruneConfig(criterion=3), "with the method l1-structured. Got 3."),  # type: ignore[arg-type]
    (lambda: PruneConfig(Unstructured(), "fpgm"), "one of magnitude, lamp, random, wanda, sparsegpt with the method"),
    (lambda: PruneConfig(NM(), "l1"), "one of magnitude, lamp, random, wanda, sparsegpt with the method"),
    (lambda: PruneConfig(Distiller(), "l2"), "None for Distiller's masks, whose methods have their own"),
]  # fmt: skip


@pytest.mark.parametrize(("make", "sentence"), WRONG, ids=[sentence[:60] for _, sentence in WRONG])
def test_bad_values_are_refused_in_one_line(make: Callable[[], Any], sentence: str) -> None:
    with pytest.raises(ConfigError) as caught:
        make()
    assert isinstance(caught.value, ValueError)
    assert sentence in str(caught.value)
    assert "\n" not in str(caught.value)


def test_distiller_admits_the_whole_range() -> None:
    assert Distiller("level", 1.0).share == 1.0
    assert not Distiller("level").structured
    assert Distiller("l1-channels").structured


def test_the_methods_of_distiller_say_what_they_are() -> None:
    assert all(method.description for method in DISTILLER_METHODS.values())


TARGETS: list[Target] = [
    Ratio(0.25, scope="global", at_least=0.1, round_to=8),
    Budget(macs="0.5x", params=1000, ratio=0.1, allocation=Path("curves.json")),
    Unstructured(0.9, scope="global"),
    NM(1, 4),
    Distiller("agp-structured", 0.3, agp_steps=4, backend="distiller"),
    Chip("MAX78002", cycles="0.6x", fit=True, ratio=0.2),
]


@pytest.mark.parametrize("target", TARGETS, ids=lambda target: type(target).__name__)
def test_a_configuration_is_plain_data_from_which_the_command_line_makes_it_again(target: Target) -> None:
    from torchthin.cli.targets import prune_config

    config = PruneConfig(target, include=("a.weight",), exclude=("b*",), seed=3)
    facts = json.loads(json.dumps(config.to_dict()))
    again = prune_config(facts)
    assert again.to_dict() == config.to_dict()
    assert (again.target.share, type(again.target)) == (target.share, type(target))


def test_counts_that_a_target_asks_for() -> None:
    assert [Ratio(0.29).units(100), Ratio(0.5).units_of_all([3, 5]), Ratio(0.5, scope="global").units_of_all([3, 5])] == [
        28,
        3,
        4,
    ]  # fmt: skip
    assert NM(1, 4).units(12) == 9
