"""`Pruner.thin_` in the middle of a schedule: the optimizer follows, targets stay shares of the full-size model."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn
from training import IMAGES, Net, live, setting, train_step

import torchthin
from torchthin import InputError, Schedule, TargetMissedError
from torchthin.selection.channels import prune_count

FULL = {"stem.weight": 10, "branch.weight": 10, "wide.weight": 12}


@pytest.mark.parametrize("when", [2, 4, 6])
def test_counts_are_those_of_the_full_size_model(when: int) -> None:
    net, optimizer, pruner = setting()
    for step in range(1, 7):
        asked = pruner.step()
        expected = {name: n - prune_count(asked, n) for name, n in FULL.items()}
        assert live(pruner.masks) == expected
        for number in range(2):
            train_step(net, optimizer, 2 * step + number)
        if step == when:
            sparsity = pruner.sparsity
            pruner.thin_()
            assert {name: net.get_parameter(name).shape[0] for name in FULL} == expected
            assert pruner.sparsity == sparsity
            assert all(mask.all() for mask in pruner.masks.values())
    report = pruner.report()
    assert {layer.name: layer.filters - layer.pruned_channels for layer in report.layers} == expected
    assert report.parameters == sum(p.numel() for p in Net().parameters())
    assert report.target_reached


def test_thinning_twice_ends_where_thinning_once_does(tmp_path: object) -> None:
    net, optimizer, pruner = setting()
    for step in range(6):
        pruner.step()
        train_step(net, optimizer, step)
        if step in (2, 5):
            pruner.thin_()
    assert [net.stem.out_channels, net.branch.out_channels, net.wide.out_channels] == [5, 5, 6]
    path = f"{tmp_path}/small.pth"
    pruner.result().save(path)
    loaded = torchthin.load(Net(seed=9), path)
    assert torch.equal(loaded.eval()(IMAGES), net.eval()(IMAGES))


def test_training_goes_on_as_it_would_have_masked() -> None:
    """Without padding and BatchNorm removal is exact, so the masked run goes the same way as the thinned one."""
    torch.manual_seed(0)
    masked = nn.Sequential(
        nn.Conv2d(3, 8, 3, bias=False), nn.ReLU(), nn.Conv2d(8, 6, 3, bias=False), nn.ReLU(), nn.Flatten(), nn.Linear(96, 4)
    ).double()  # fmt: skip
    thinned = copy.deepcopy(masked)
    outputs = []
    for net, thin in ((masked, False), (thinned, True)):
        optimizer = torch.optim.Adam(net.parameters(), 0.01)
        pruner = torchthin.Pruner(
            net, IMAGES[:2], schedule=Schedule("one-shot", steps=1), optimizer=optimizer
        )
        for step in range(6):
            if step == 2:
                pruner.step()
                if thin:
                    pruner.thin_()
            optimizer.zero_grad()
            (net(IMAGES.double()) - 1).square().mean().backward()
            optimizer.step()
        outputs.append(net(IMAGES.double()))
    assert thinned[0].out_channels == 4
    assert torch.allclose(outputs[0], outputs[1], rtol=1e-9, atol=1e-12)


def test_a_failing_step_after_thinning_changes_nothing() -> None:
    net, _, pruner = setting()
    pruner.step()
    pruner.thin_()
    before = pruner.state_dict()
    with torch.no_grad():
        net.wide.weight[0, 0] = float("nan")
    with pytest.raises(InputError, match=r"wide\.weight"):
        pruner.step()
    assert pruner.steps_done == before["step"]


def test_nothing_masked_is_said_and_nothing_changed() -> None:
    net, _, pruner = setting()
    before = {name: value.clone() for name, value in net.state_dict().items()}
    with pytest.raises(TargetMissedError, match="no dead channel"):
        pruner.thin_()
    assert all(torch.equal(value, before[name]) for name, value in net.state_dict().items())


def test_an_average_is_thinned_with_the_model() -> None:
    net, optimizer, pruner = setting()
    average = torch.optim.swa_utils.AveragedModel(net)
    for step in range(3):
        pruner.step()
        train_step(net, optimizer, step)
        average.update_parameters(net)
    left = copy.deepcopy(average)
    pruner.apply_to_(left)
    expected = left.eval()(IMAGES)
    pruner.thin_(average)
    assert average.module.stem.out_channels == net.stem.out_channels < 10
    assert expected.shape == average.eval()(IMAGES).shape
    with pytest.raises(InputError, match="sizes"):
        pruner.apply_to_(left)
    train_step(net, optimizer, 3)
    average.update_parameters(net)
    pruner.step()
    pruner.apply_to_(average)


def test_a_copy_of_another_model_is_refused_before_anything_changes() -> None:
    net, _, pruner = setting()
    pruner.step()
    with pytest.raises(torchthin.TorchthinError):
        pruner.thin_(nn.Sequential(nn.Conv2d(3, 10, 3), nn.ReLU(), nn.Conv2d(10, 4, 3)))
    assert net.stem.out_channels == 10


def test_compiled_models_are_pruned_inside() -> None:
    net = Net()
    pruner = torchthin.Pruner(torch.compile(net, backend="eager"), IMAGES[:2], schedule=Schedule(steps=1))
    pruner.step()
    pruner.thin_()
    assert pruner.model is net
    assert net.stem.out_channels == 5


def _padded() -> nn.Sequential:
    """Constants of the first layer meet a border, and the second one has no bias for them."""
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Conv2d(8, 4, 3, padding=1, bias=False))


@pytest.mark.parametrize("options", [{}, {"add_biases": True}, {"exact": True}])
def test_exact_and_add_biases_hold_as_they_do_in_prune(options: dict[str, bool]) -> None:
    net = _padded()
    pruner = torchthin.Pruner(net, torch.randn(2, 3, 8, 8), 0.5, schedule=Schedule(steps=1), **options)
    pruner.step()
    thinned = pruner.thin_()
    once = torchthin.prune(_padded(), torch.randn(2, 3, 8, 8), 0.5, **options)
    assert once.proof is not None
    assert (thinned.proof.exact, tuple(thinned.recipe.added)) == (once.proof.exact, tuple(once.recipe.added))
    assert thinned.proof.exact != ("add_biases" in options)
    assert ("2.bias" in thinned.recipe.added) == ("add_biases" in options)
    config = pruner.result().config
    assert (config.exact, config.add_biases) == (
        options.get("exact", False),
        options.get("add_biases", False),
    )


def test_a_padded_border_is_exact_only_where_it_was_asked() -> None:
    for exact in (False, True):
        torch.manual_seed(0)
        net = nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Conv2d(8, 4, 3, padding=1))
        pruner = torchthin.Pruner(net, torch.randn(2, 3, 8, 8), 0.5, schedule=Schedule(steps=1), exact=exact)
        pruner.step()
        assert pruner.thin_().proof.exact == exact
