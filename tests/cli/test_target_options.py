"""Which target options stand for, and which options do not go together: one line that names the flags."""

from typing import Any

import pytest

from torchthin import NM, Budget, Chip, Distiller, Ratio, Schedule, Unstructured
from torchthin.cli.targets import METHODS, prune_config
from torchthin.config import ONE_SHOT, Target
from torchthin.errors import ConfigError

DISTILLER, CHIP, BUDGET = {"compat": "distiller"}, {"chip": "MAX78000", "fit": True}, {"target_macs": "0.5x"}
SINGLE, PATTERN = {"method": "agp-unstructured"}, {"method": "nm-unstructured"}
TARGETS: list[tuple[dict[str, Any], Target]] = [
    ({}, Ratio(0.5)),
    ({"method": "l1-structured", "scope": "global", "keep_at_least": 0.2}, Ratio(scope="global", at_least=0.2)),
    ({"round_to": 8, **BUDGET}, Budget("0.5x", round_to=8)),
    ({"target_latency": "0.6x", "latency_cache": "a.json"}, Budget(latency="0.6x", latency_cache="a.json")),
    ({"target_latency": 0.012, **BUDGET}, Budget("0.5x", latency=0.012)),
    ({"target_params": 1000, "target_sparsity": 0.1, "allocation": "auto"}, Budget(None, 1000, 0.1, allocation="auto")),
    ({**SINGLE, "target_sparsity": 0.9}, Unstructured(0.9)),
    ({**SINGLE, "round_to": 1, "fit": False}, Unstructured(0.5)),  # defaults of another target are no conflict
    (PATTERN, NM(2, 4)),
    ({**PATTERN, "pattern": "1:4", "target_sparsity": 0.75}, NM(1, 4)),
    ({**DISTILLER, "method": "level", "target_sparsity": 1.0}, Distiller("level", 1.0)),
    ({"backend": "distiller"}, Distiller("agp-structured", backend="distiller")),
    ({**CHIP, "target_sparsity": 0.2}, Chip("MAX78000", fit=True, ratio=0.2)),
]  # fmt: skip


@pytest.mark.parametrize(("options", "target"), TARGETS)
def test_options_stand_for_one_target(options: dict[str, Any], target: Target) -> None:
    config = prune_config(options)
    assert config.target == target
    assert config.thin is False
    assert prune_config(config.to_dict()) == config


def test_the_methods_that_are_offered() -> None:
    assert list(METHODS) == ["agp-structured", "l1-structured", "agp-unstructured", "nm-unstructured"]
    assert all(method.description for method in METHODS.values())
    assert prune_config({"agp_steps": 3}).schedule == Schedule(steps=3)
    assert prune_config({"agp_steps": 3, "method": "l1-structured"}).schedule == ONE_SHOT


OF_WEIGHTS = "--target-sparsity, --scope, --keep-at-least"
ZEROS = " Zeros in single weights make no model smaller."
CONFLICTS: list[tuple[dict[str, Any], str]] = [
    ({"method": ["x"]}, "The method (--method) must be one of agp-structured, l1-structured"),
    ({"method": "level"}, "Got 'level'. It is there with --compat distiller."),
    ({**DISTILLER, **PATTERN}, "agp-l1-channels, level with --compat distiller. Got 'nm-unstructured'."),
    ({"backend": "distiller", "method": "level"}, "agp-unstructured with --backend. Got 'level'."),
    ({"backend": "nni"}, "The backend of Distiller (--backend) must be None or 'distiller'. Got 'nni'."),
    ({"compat": "nni"}, "The compat (--compat) must be 'distiller' or left out. Got 'nni'."),
    ({"agp_steps": 0, "method": "l1-structured"}, "(--agp-steps) must be a whole number of at least 1. Got 0."),
    ({"scope": "global", **DISTILLER}, "--scope does not go with --compat distiller"),
    ({"scope": "global", **PATTERN}, "--scope does not go with --method nm-unstructured, which takes --pattern."),
    ({"scope": "global", **CHIP}, "--scope does not go with a chip"),
    ({"keep_at_least": 0.2}, "(--keep-at-least) must be None without scope='global'"),
    ({"keep_at_least": 0.2, **PATTERN}, "--keep-at-least does not go with --method nm-unstructured"),
    ({"round_to": 2, **SINGLE}, "--round-to does not go with --method agp-unstructured"),
    ({"round_to": 2, **DISTILLER}, "--round-to does not go with --compat distiller"),
    ({"round_to": 2, **CHIP}, "The chip's own widths decide there."),
    ({"criterion": "l1", **DISTILLER}, "(--criterion) must be None for Distiller's masks"),
    ({"criterion": "l1", **SINGLE}, "lamp, random, wanda, sparsegpt with the method agp-unstructured. Got 'l1'."),
    ({"pattern": "2:4"}, "--pattern does not go with --method agp-structured; nm-unstructured takes one."),
    ({"pattern": "2:4", **DISTILLER}, "--pattern does not go with"),
    ({"pattern": "4:2", **PATTERN}, "The pattern (--pattern) must be n:m"),
    ({"target_sparsity": 0.3, **PATTERN}, "--target-sparsity must be 0.5 with the pattern 2:4. Got 0.3."),
    ({"chip": "MAX78000"}, "The chip (--chip) needs a target: --target-cycles, --target-kernel-words or --fit."),
    ({"fit": True}, "--fit does not go with --method agp-structured"),
    ({"target_cycles": "0.5x"}, "Give --chip as well."),
    ({"target_kernel_words": 700, **SINGLE}, ZEROS),
    ({"chip": "MAX78000", **SINGLE}, f"does not go with --method agp-unstructured, which takes {OF_WEIGHTS}.{ZEROS}"),
    ({"chip": "MAX78000", **DISTILLER}, "--chip does not go with --compat distiller"),
    ({**BUDGET, **SINGLE}, f"--target-macs does not go with --method agp-unstructured, which takes {OF_WEIGHTS}.{ZEROS}"),
    ({**BUDGET, **DISTILLER}, "--target-macs does not go with --compat distiller"),
    ({**BUDGET, **CHIP}, "--target-macs does not go with a chip"),
    ({"allocation": "auto"}, "Give the budget to spread, --target-macs or --target-params."),
    ({"allocation": "auto", **CHIP}, "(--allocation) must be 'outputs' or None"),
    ({"allocation": "auto", "scope": "global", **BUDGET}, "(--allocation) must be None with scope='global'"),
    ({"allocation": 3, **BUDGET}, "The allocation (--allocation) must be 'auto', 'outputs' or a file of torchthin sensitivity."),
]  # fmt: skip


@pytest.mark.parametrize(("options", "sentence"), CONFLICTS)
def test_options_that_do_not_go_together(options: dict[str, Any], sentence: str) -> None:
    with pytest.raises(ConfigError) as caught:
        prune_config(options)
    assert sentence in str(caught.value)
    assert "\n" not in str(caught.value)
