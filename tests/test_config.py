"""The configuration: what is accepted, what is refused and how, the trip through a mapping."""

import json
from typing import Any

import numpy as np
import pytest

from torchthin import Distiller, Schedule
from torchthin.config import DISTILLER_METHODS, METHODS, PruneConfig
from torchthin.errors import ConfigError


def test_the_defaults() -> None:
    config = PruneConfig()
    assert (config.method, config.target_sparsity, config.agp_steps) == ("agp-structured", 0.5, 10)
    assert (config.weights, config.keep, config.compat, config.thin, config.scope) == (
        None,
        (),
        None,
        False,
        "group",
    )


def test_the_methods_that_are_offered() -> None:
    assert list(METHODS) == ["agp-structured", "l1-structured", "agp-unstructured", "nm-unstructured"]
    assert all(method.description for method in [*METHODS.values(), *DISTILLER_METHODS.values()])


def test_names_are_normalised() -> None:
    assert PruneConfig(0.5, include=["b", "a", "b"]).weights == ("b", "a")  # type: ignore[arg-type]
    assert PruneConfig(0.5, exclude="heat*").keep == ("heat*",)  # type: ignore[arg-type]


def test_numpy_numbers_become_plain_ones() -> None:
    config = PruneConfig(np.float32(0.25), schedule=Schedule(steps=np.int64(3)))  # type: ignore[arg-type]
    assert json.dumps(config.to_dict())
    assert (config.target_sparsity, config.agp_steps) == (0.25, 3)


@pytest.mark.parametrize(
    ("values", "sentence"),
    [
        ({"target_sparsity": 1.2}, "The target_sparsity of prune must be in [0, 1). Got 1.2."),
        ({"target_sparsity": -0.1}, "The target_sparsity of prune must be in [0, 1). Got -0.1."),
        ({"target_sparsity": float("nan")}, "The target_sparsity of prune must be in [0, 1). Got nan."),
        ({"target_sparsity": 1.0}, "The target_sparsity of prune must be in [0, 1). Got 1.0. At 1.0 nothing"),
        ({"target_sparsity": "0.5"}, "The target_sparsity of prune must be in [0, 1). Got '0.5'."),
        ({"target_sparsity": True}, "The target_sparsity of prune must be in [0, 1). Got True."),
        ({"target_sparsity": 1.1, "compat": "distiller"}, "must be in [0, 1]. Got 1.1."),
        ({"agp_steps": 0}, "The agp_steps of prune must be a whole number of at least 1. Got 0."),
        ({"agp_steps": 2.5}, "The agp_steps of prune must be a whole number of at least 1. Got 2.5."),
        ({"method": "agp-structure"}, "Did you mean 'agp-structured'"),
        ({"method": "level"}, "It is there with compat='distiller'."),
        ({"method": None}, "The method of prune must be one of agp-structured, l1-structured"),
        ({"method": ["x"]}, "The method of prune must be one of"),
        ({"compat": "nni"}, "The compat of prune must be None or 'distiller'. Got 'nni'."),
        ({"scope": "layer"}, "The scope of prune must be 'group' or 'global'. Got 'layer'."),
        ({"scope": "global", "compat": "distiller"}, "The scope of prune must be 'group' with compat="),
        ({"thin": "yes"}, "The thin of prune must be true or false. Got 'yes'."),
        ({"weights": []}, "The weights of prune must be None (the default targets) or at least one name."),
        ({"weights": [3]}, "The weights of prune must be a list of names. Got [3]."),
        ({"keep": 7}, "The keep of prune must be a list of names. Got 7."),
    ],
)
def test_bad_values_are_refused_in_one_line(values: dict[str, Any], sentence: str) -> None:
    with pytest.raises(ConfigError) as caught:
        PruneConfig(**values)
    assert isinstance(caught.value, ValueError)
    assert sentence in str(caught.value)
    assert "\n" not in str(caught.value)


def test_distiller_admits_the_whole_range() -> None:
    assert PruneConfig(Distiller("level", 1.0)).rule.axis is None


def test_dashes_and_underscores_are_the_same() -> None:
    config = PruneConfig.from_mapping({"target-sparsity": 0.3, "agp_steps": 4, "keep": ["a*"]})
    assert config == PruneConfig(0.3, exclude=("a*",), schedule=Schedule(steps=4))


def test_a_mapping_and_back() -> None:
    config = PruneConfig("l1-structured", 0.25, 3, ("a.weight",), ("b*",), None, True, "global")
    assert PruneConfig.from_mapping(json.loads(json.dumps(config.to_dict()))) == config


@pytest.mark.parametrize(
    ("mapping", "sentence"),
    [
        ({"target_sparsty": 0.3}, "has no key 'target_sparsty'. Allowed: method, target_sparsity"),
        ({"target_sparsty": 0.3}, "Did you mean 'target_sparsity' or 'target_params'"),
        ({"agp-steps": 1, "agp_steps": 2}, "has the key 'agp_steps' twice"),
        (["agp_steps"], "must be a mapping of names to values"),
    ],
)
def test_bad_mappings_are_refused(mapping: Any, sentence: str) -> None:
    with pytest.raises(ConfigError) as caught:
        PruneConfig.from_mapping(mapping)
    assert sentence in str(caught.value)
