"""The laws of a Pruner: exact counts at every step, masks that only grow, weights that stay zero, keys that stay the class's."""

from __future__ import annotations

import copy
import weakref
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import nn
from training import IMAGES, RUNS, Net, assert_zero_where_masked, batch, live, setting, train_step

import torchthin
from torchthin import Pruner, Ratio, Schedule
from torchthin.selection import schedule
from torchthin.selection.channels import prune_count

SIZES = {"stem.weight": 10, "branch.weight": 10, "wide.weight": 12}


@pytest.mark.parametrize("curve", ["agp", "linear"])
def test_the_count_is_exact_after_every_step(curve: str) -> None:
    net, optimizer, pruner = setting(curve=curve)
    for step in range(1, 9):
        train_step(net, optimizer, step)
        asked = pruner.step()
        assert asked == getattr(schedule, curve)(step, target=0.5, steps=6)
        assert live(pruner.masks) == {name: n - prune_count(asked, n) for name, n in SIZES.items()}
        assert pruner.finished == (step >= 6)
    assert pruner.sparsity == 11 / 22


@pytest.mark.parametrize("scope", ["group", "global"])
@pytest.mark.parametrize("run", RUNS)
def test_masks_only_grow_and_masked_weights_stay_zero(run: str, scope: str) -> None:
    net, optimizer, pruner = setting(run, scope=scope)
    before = pruner.masks
    for step in range(8):
        pruner.step()
        for name, mask in pruner.masks.items():
            assert not (mask & ~before[name]).any()
        before = pruner.masks
        for number in range(3):
            train_step(net, optimizer, 3 * step + number)
            assert_zero_where_masked(net, pruner.masks)
    assert any(not mask.all() for mask in before.values())


@pytest.mark.parametrize(
    ("run", "scope"),
    [
        *((run, "group") for run in RUNS),
        # AGP over all groups together compares channels with the mean of the rest, which the zeros change.
        ("channels at once", "global"),
        ("weights", "global"),
    ],
)
def test_without_training_the_masks_are_those_of_prune(run: str, scope: str) -> None:
    net, _, pruner = setting(run, scope=scope)
    # Where single weights go, thinning masks more: what makes channels that nothing reads any longer.
    thin = run.startswith("channels")
    expected = torchthin.prune(copy.deepcopy(net), IMAGES[:2], RUNS[run][0](0.5, scope), thin=thin)
    while not pruner.finished:
        pruner.step()
    assert pruner.masks.keys() == expected.masks.keys()
    assert all(torch.equal(mask, expected.masks[name]) for name, mask in pruner.masks.items())
    got, wanted = pruner.report(), expected.report
    masked = tuple(replace(layer, thinned_shape=None) for layer in wanted.layers)  # nothing is removed yet
    assert (got.total, got.layers) == (wanted.total, masked)
    assert got.target_reached


def test_the_state_dict_keeps_the_keys_of_the_class() -> None:
    net, optimizer, pruner = setting()
    for step in range(6):
        pruner.step()
        train_step(net, optimizer, step)
    fresh = Net(seed=3)
    fresh.load_state_dict(net.state_dict())
    assert_zero_where_masked(fresh, pruner.masks)


def test_interval_and_start_say_when_masks_grow() -> None:
    net, optimizer, pruner = setting(curve="linear", steps=2, start=3, interval=2)
    seen = []
    for step in range(8):
        train_step(net, optimizer, step)
        pruner.step()
        seen.append(live(pruner.masks)["wide.weight"])
    assert seen == [12, 12, 12, 12, 9, 9, 6, 6]


def test_a_function_gives_the_sparsity_itself() -> None:
    _, _, pruner = setting(curve=lambda step: 0.1 * step, steps=3)
    assert [pruner.step() for _ in range(4)] == [0.1, 0.2, 0.1 * 3, 0.1 * 3]
    assert live(pruner.masks)["wide.weight"] == 12 - prune_count(0.1 * 3, 12)


def test_one_shot_prunes_at_the_first_step() -> None:
    _, _, pruner = setting(curve="one-shot")
    pruner.step()
    assert pruner.finished
    assert pruner.sparsity == 0.5


def test_a_model_of_which_nothing_can_be_removed_is_trained_as_it_is() -> None:
    pruner = Pruner(nn.Sequential(nn.Conv2d(3, 8, 3)), IMAGES[:2])
    assert (pruner.step(), pruner.sparsity) == (pytest.approx(0.1355), 0.0)
    assert not pruner.report().target_reached


def test_a_pruner_without_optimizer_enforces_when_told() -> None:
    net = Net()
    pruner = Pruner(net, IMAGES[:2], schedule=Schedule(steps=1))
    pruner.step()
    with torch.no_grad():
        net.stem.weight.add_(1.0)
    pruner.enforce_()
    assert_zero_where_masked(net, pruner.masks)


@pytest.mark.parametrize("precision", ["bfloat16", "scaled float16"])
def test_mixed_precision_with_gradient_accumulation(precision: str) -> None:
    net, optimizer, pruner = setting()
    dtype = torch.bfloat16 if precision == "bfloat16" else torch.float16
    scaler = torch.amp.GradScaler("cpu", enabled=dtype is torch.float16)
    for step in range(6):
        pruner.step()
        for part in range(4):
            images, labels = batch(4 * step + part)
            with torch.autocast("cpu", dtype=dtype):
                loss = nn.functional.cross_entropy(net(images), labels) / 2
            scaler.scale(loss).backward()
            if part % 2:
                scaler.unscale_(optimizer)
                nn.utils.clip_grad_norm_(net.parameters(), 1.0)
                scaler.step(optimizer)
                scaler.update()
                optimizer.zero_grad()
            assert_zero_where_masked(net, pruner.masks)
    assert net.stem.weight.dtype == torch.float32
    assert pruner.sparsity == 0.5


def test_an_average_is_masked_as_well() -> None:
    net, optimizer, pruner = setting()
    average = torch.optim.swa_utils.AveragedModel(
        net, multi_avg_fn=torch.optim.swa_utils.get_ema_multi_avg_fn(0.9)
    )
    for step in range(6):
        pruner.step()
        train_step(net, optimizer, step)
        average.update_parameters(net)
    dead = ~pruner.masks["wide.weight"]
    assert average.module.wide.weight[dead].any()  # it remembers what was there before
    pruner.apply_to_(average)
    assert_zero_where_masked(average.module, pruner.masks)


@pytest.mark.parametrize(
    "make",
    [
        lambda p: torch.optim.Adam(p, 0.01, weight_decay=0.1),
        lambda p: torch.optim.AdamW(p, 0.01, foreach=True),
        lambda p: torch.optim.RMSprop(p, 0.01, momentum=0.9),
        lambda p: torch.optim.Adagrad(p, 0.01),
    ],
)
def test_momentum_revives_nothing(make: Any) -> None:
    net = Net()
    optimizer = make(net.parameters())
    pruner = Pruner(net, IMAGES[:2], schedule=Schedule(steps=2), optimizer=optimizer)
    for step in range(3):
        train_step(net, optimizer, step)  # momentum of weights that go later
    while not pruner.finished:
        pruner.step()
        train_step(net, optimizer, pruner.steps_done)
        assert_zero_where_masked(net, pruner.masks)


def test_another_optimizer_takes_over() -> None:
    net, old, pruner = setting()
    new = torch.optim.Adam(net.parameters(), 0.01)
    pruner.attach_(new)
    pruner.step()
    for step in range(2):
        train_step(net, new, step)
        assert_zero_where_masked(net, pruner.masks)
    train_step(net, old, 3)
    assert any(net.get_parameter(name)[~mask].any() for name, mask in pruner.masks.items())


def test_what_is_computed_from_parameters_is_masked_where_its_zeros_come_from() -> None:
    torch.manual_seed(0)
    net = nn.Sequential(
        nn.utils.parametrizations.weight_norm(nn.Conv2d(3, 8, 3)), nn.ReLU(), nn.Conv2d(8, 4, 3)
    )
    optimizer = torch.optim.SGD(net.parameters(), 0.1, momentum=0.9)
    pruner = Pruner(net, IMAGES[:2], schedule=Schedule(steps=2), optimizer=optimizer)
    for _ in range(2):
        pruner.step()
        net(IMAGES).square().mean().backward()
        optimizer.step()
        optimizer.zero_grad()
    assert live(pruner.masks) == {"0.parametrizations.weight.original0": 4, "2.weight": 4}
    assert int((net[0].weight.flatten(1) != 0).any(1).sum()) == 4
    pruner.thin_()
    assert net[0].weight.shape == (4, 3, 3, 3)
    assert net(IMAGES).shape == (8, 4, 4, 4)


@pytest.mark.parametrize("criterion", ["l2", "fpgm", "bn-scale", "group-l2", "flow", "random"])
@pytest.mark.parametrize("scope", ["group", "global"])
def test_other_criteria(criterion: str, scope: str) -> None:
    net = Net()
    optimizer = torch.optim.SGD(net.parameters(), 0.05)
    target = Ratio(0.5, scope=scope)
    pruner = Pruner(
        net, IMAGES[:2], target, criterion=criterion, schedule=Schedule(steps=3), optimizer=optimizer
    )
    for step in range(3):
        pruner.step()
        train_step(net, optimizer, step)
        if step == 1:
            pruner.thin_()
    assert pruner.sparsity == 11 / 22
    if scope == "global":
        floors = {name: -(-target.floor * size // 1) for name, size in SIZES.items()}
        assert all(count >= floors[name] for name, count in live(pruner.masks).items())


def test_the_report_says_where_the_schedule_stands() -> None:
    _, _, pruner = setting(steps=4)
    pruner.step()
    report = pruner.report()
    assert report.request.target_sparsity == schedule.agp(1, target=0.5, steps=4)
    assert any("step 1 of 4" in note for note in report.notes)
    assert report.target_reached


def test_a_wrapper_lives_no_longer_than_the_user_wants() -> None:
    net = Net()
    wrapper = nn.DataParallel(net)
    pruner = Pruner(wrapper, IMAGES[:2])
    alive = weakref.ref(wrapper)
    del wrapper
    assert alive() is None
    pruner.step()
    pruner.thin_()
    assert pruner.model is net
