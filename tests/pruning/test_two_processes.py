"""Two real processes that train together: the same masks on every rank, sharded or not, and the same thinning."""

from __future__ import annotations

import copy
from typing import Any

import processes
import pytest
import ranks_program
import torch
from training import IMAGES, MORE, Net, assert_zero_where_masked

from torchthin import Pruner, Ratio, Recovery, Schedule, Unstructured, prune
from torchthin.graph.inputs import as_inputs
from torchthin.io.calibration import picked
from torchthin.recovery.distillation import batch_loss, distill_

Ranks = tuple[dict[str, Any], dict[str, Any]]


@pytest.fixture(scope="module")
def ranks(tmp_path_factory: pytest.TempPathFactory) -> Ranks:
    """What both processes found."""
    folder = tmp_path_factory.mktemp("ranks")
    ended = processes.ranks(2, ranks_program.main, folder, folder=folder)
    assert [outcome.code for outcome in ended] == [0, 0], ended
    first, second = (torch.load(folder / f"{rank}.pt", weights_only=True) for rank in (0, 1))
    return first, second


def same_masks(a: dict[str, torch.Tensor], b: dict[str, torch.Tensor]) -> bool:
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


def test_data_parallel_ranks_have_the_same_masks_and_weights(ranks: Ranks) -> None:
    first, second = (rank["data_parallel"] for rank in ranks)
    assert same_masks(first["masks"], second["masks"])
    assert first["weights"] == second["weights"]
    assert first["width"] == second["width"] < 10
    assert any(not mask.all() for mask in first["masks"].values())


def test_the_old_wrapper_is_refused_after_thinning(ranks: Ranks) -> None:
    assert all("Make a new one" in rank["data_parallel"]["refused"] for rank in ranks)


@pytest.mark.parametrize("target", [Ratio(), Unstructured()])
def test_rank_0_decides_even_where_weights_differ(ranks: Ranks, target: Ratio | Unstructured) -> None:
    alone = Pruner(Net(), IMAGES[:2], target, schedule=Schedule(steps=2))
    alone.step()
    for rank in ranks:
        assert same_masks(rank["first_decides"][type(target).__name__], alone.masks)


def test_ranks_that_would_prune_different_groups_are_told(ranks: Ranks) -> None:
    assert all("different groups of channels" in rank["different"]["told"] for rank in ranks)


def test_a_recovery_ends_with_the_same_weights_everywhere(ranks: Ranks) -> None:
    first, second = (rank["recovered"] for rank in ranks)
    assert same_masks(first["shared"], second["shared"])
    assert same_masks(first["own"], second["own"])
    assert all(
        "different models, numbers of inputs or states" in found["refused"] for found in (first, second)
    )


def test_a_shared_recovery_is_that_of_one_process_with_the_mean_loss_of_the_parts(
    ranks: Ranks,
) -> None:
    def of_both(*models: Any) -> torch.Tensor:
        *given, batch = models
        size = next(batch.tensors()).shape[0]
        parts = [picked(batch, torch.arange(rank, size, 2)) for rank in (0, 1)]
        return (batch_loss(*given, parts[0]) + batch_loss(*given, parts[1])) / 2

    net = Net().eval()
    pruned = prune(net, IMAGES[:2])
    before = copy.deepcopy(pruned.model.state_dict())
    assert pruned.recipe is not None
    recovery = Recovery(epochs=2, lr=1e-3)
    distill_(net, pruned.model, pruned.recipe, as_inputs(MORE), recovery, loss=of_both)
    for name, value in pruned.model.state_dict().items():
        shared = ranks[0]["recovered"]["shared"][name]
        assert torch.allclose(value, shared, rtol=1e-4, atol=1e-5), name
        assert not name.endswith("weight") or not torch.allclose(before[name], shared, rtol=1e-4, atol=1e-5)


def test_sharded_weights_are_masked_by_whole_masks(ranks: Ranks) -> None:
    first, second = (rank.get("sharded") for rank in ranks)
    if first is None or second is None:
        pytest.skip("fully_shard came with torch 2.6")
    assert same_masks(first["masks"], second["masks"])
    assert all(int((~mask.flatten(1).any(1)).sum()) == len(mask) // 2 for mask in first["masks"].values())
    for name, mask in first["masks"].items():
        assert not first["weights"][name][~mask].any()
        assert first["weights"][name][mask].any()
    assert ["A sharded model cannot be thinned" in text for text in first["refused"]] == [True, False]
    assert "must not be sharded yet" in first["refused"][1]


def test_what_was_pruned_sharded_is_thinned_beside_a_whole_model(ranks: Ranks) -> None:
    found = ranks[0].get("sharded")
    if found is None:
        pytest.skip("fully_shard came with torch 2.6")
    net = Net(seed=4)
    pruner = Pruner(net, IMAGES[:2], schedule=Schedule(steps=3))
    pruner.load_state_dict(found["pruner"])
    net.load_state_dict(found["weights"], strict=False)  # buffers are not sharded
    assert_zero_where_masked(net, pruner.masks)
    pruner.thin_()
    assert (net.stem.out_channels, net.wide.out_channels) == (5, 6)
