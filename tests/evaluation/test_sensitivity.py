"""Sensitivity: each loss is what masking does, killed runs go on, an allocation loses less than a uniform cut."""

import json
import math
from itertools import pairwise
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

import torchthin
from torchthin.config import Budget
from torchthin.errors import ConfigError, InputError, TorchthinError
from torchthin.evaluation.sensitivity_scan import RATIOS
from torchthin.graph.clone import clone, duplicate
from torchthin.selection.masks import apply_masks_
from torchthin.selection.sensitivity_table import GroupCurve, Sensitivity, read_table

X = torch.randn(6, 3, 8, 8, generator=torch.Generator().manual_seed(5))


class Net(nn.Module):
    """Two groups: the first layer matters, the second hardly does."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.a, self.b, self.c = nn.Conv2d(3, 16, 3), nn.Conv2d(16, 20, 3), nn.Conv2d(20, 4, 1)
        self.side = nn.Conv2d(16, 4, 3)

    def forward(self, x: Tensor) -> Tensor:
        a = self.a(x).relu()
        return self.side(a) + 1e-3 * self.c(self.b(a).relu())


def _table(**options: object) -> Sensitivity:
    return torchthin.sensitivity(Net(), X[:1], data=X, **options)  # type: ignore[arg-type]


def test_each_loss_is_what_masking_alone_does() -> None:
    table, net = _table(), Net()
    assert [(curve.name, curve.size) for curve in table.groups] == [("a.weight", 16), ("b.weight", 20)]
    with torch.no_grad():
        dense = net(X)
        for curve in table.groups:
            assert curve.gone == tuple(sorted({math.floor(r * curve.size) for r in RATIOS}))
            for gone, loss in zip(curve.gone, curve.losses, strict=True):
                target = (gone + 0.5) / curve.size
                masks = torchthin.prune(net, X[:1], target, thin=False).masks
                masked = clone(net, duplicate)
                apply_masks_(masked, {curve.name: masks[curve.name]})
                centred = (dense - dense.mean(0)).double()
                by_hand = float(((masked(X) - dense).double() ** 2).sum() / (centred**2).sum())
                assert loss == pytest.approx(by_hand, rel=1e-4)


def test_a_metric_of_ones_own_and_the_model_stays_as_it_is() -> None:
    net = Net().train()
    before = {name: value.clone() for name, value in net.state_dict().items()}
    seen = []

    def metric(model: nn.Module) -> float:
        seen.append(model.training)
        return float(model(X).abs().mean())

    table = torchthin.sensitivity(net, X[:1], metric=metric, ratios=[0.5])
    assert table.dense == pytest.approx(float(Net()(X).abs().mean().detach()))
    assert all(len(curve.losses) == 1 for curve in table.groups)
    assert "metric" in table.metric
    assert not any(seen)
    assert net.training
    assert all(torch.equal(before[name], value) for name, value in net.state_dict().items())


def test_a_run_that_was_ended_goes_on(tmp_path: Path) -> None:
    cache = tmp_path / "scan.jsonl"
    whole = _table(cache=cache)
    lines = cache.read_bytes().splitlines(keepends=True)
    assert len(lines) == 1 + sum(len(curve.gone) for curve in whole.groups)
    for ending in (b"", b'{"key": ["b.wei'):  # killed between two lines, and in the middle of one
        cache.write_bytes(b"".join(lines[:7]) + ending)
        counts: list[tuple[int, int]] = []
        again = _table(cache=cache, progress=lambda *at, counts=counts: counts.append(at))
        assert again == whole
        assert counts[0] == (6, len(lines) - 1)
        assert counts[-1] == (len(lines) - 1, len(lines) - 1)
        assert sorted(cache.read_bytes().splitlines()) == sorted(b"".join(lines).splitlines())
    before = cache.read_bytes()
    assert _table(cache=cache) == whole
    assert cache.read_bytes() == before
    cache.write_bytes(lines[0][:20])  # killed in the first line
    assert _table(cache=cache) == whole


def test_an_interrupted_run_keeps_what_it_has(tmp_path: Path) -> None:
    def stop(done: int, total: int) -> None:
        if done == 3:
            raise KeyboardInterrupt

    for workers in (1, 2):
        cache = tmp_path / f"{workers}.jsonl"
        with pytest.raises(KeyboardInterrupt):
            _table(cache=cache, progress=stop, workers=workers)
        assert len(cache.read_bytes().splitlines()) == 4
        assert _table(cache=cache) == _table()


def test_a_cache_of_something_else_is_refused(tmp_path: Path) -> None:
    cache = tmp_path / "scan.jsonl"
    _table(cache=cache, ratios=[0.5])
    content = cache.read_bytes()
    _table(cache=cache, ratios=[0.25, 0.5])  # more ratios of the same are no other thing
    with pytest.raises(ConfigError, match="was made for other weights, data"):
        torchthin.sensitivity(Net(), X[:1], data=2 * X, cache=cache)
    with pytest.raises(ConfigError, match="was made for other weights, data"):
        _table(cache=cache, criterion="l2")
    assert cache.read_bytes().startswith(content)
    for text in ("some notes\n", "no line break", '{"mark": 1}\n', "[1]\n"):
        cache.write_text(text)
        with pytest.raises(ConfigError, match="does not hold results of torchthin sensitivity"):
            _table(cache=cache)
        assert cache.read_text() == text


def test_workers_find_the_same() -> None:
    assert _table(workers=2) == _table()


def test_the_table_goes_through_json_and_prints() -> None:
    table = _table(ratios=[0.25, 0.5])
    assert Sensitivity.from_dict(json.loads(json.dumps(table.to_dict()))) == table
    assert "| a.weight |       16 |" in str(table)


def test_the_hull_is_convex_below_the_curve_and_never_falls() -> None:
    curve = GroupCurve("g", 20, (2, 4, 6, 8, 10), (1.0, 0.5, 6.0, 6.5, 20.0))
    hull = curve.hull()
    slopes = [(b[1] - a[1]) / (b[0] - a[0]) for a, b in pairwise(hull)]
    assert slopes == sorted(slopes)
    assert slopes[0] >= 0
    assert (hull[0], hull[-1]) == ((0, 0.0), (10, 20.0))
    assert GroupCurve("g", 4, (1, 2), (-3.0, -1.0)).hull() == ((0, 0.0), (2, 0.0))


@pytest.mark.parametrize("budget", [{"macs": "0.5x"}, {"params": "0.6x"}])
def test_an_allocation_cuts_where_it_hurts_least(budget: dict[str, str], tmp_path: Path) -> None:
    path = tmp_path / "scan.json"
    path.write_text(json.dumps(_table().to_dict()))
    even = torchthin.prune(Net(), X[:1], Budget(**budget))
    told = torchthin.prune(Net(), X[:1], Budget(**budget, allocation=str(path)))
    auto = torchthin.prune(Net(), X[:1], Budget(**budget, allocation="auto"), data=X, criterion="l1")
    assert all(torch.equal(mask, auto.masks[name]) for name, mask in told.masks.items())
    lost = {layer.name: layer.channel_sparsity for layer in told.report.layers}
    assert lost["b.weight"] > 0.5 > lost["a.weight"]
    with torch.no_grad():
        dense = Net()(X)
        off = [float((result.model(X) - dense).square().mean()) for result in (even, told)]
    assert off[1] < 0.5 * off[0]
    (facts,) = told.report.section("budgets").facts
    assert 0.85 * facts.limit < facts.after <= facts.limit
    assert told.proof is not None
    assert told.proof.holds


def test_with_a_sparsity_as_well_that_share_of_all_channels_goes() -> None:
    result = torchthin.prune(Net(), X[:1], Budget(macs="0.95x", ratio=0.5, allocation="auto"), data=X)
    assert result.report.total.pruned_channels == 18  # of 36 that can go, wherever that hurts least
    lost = {layer.name: layer.pruned_channels for layer in result.report.layers}
    assert lost["b.weight"] > 12


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"allocation": "auto"}, "needs macs, params or latency"),
        ({"allocation": "auto", "macs": "0.5x", "scope": "global"}, "must be None with scope='global'"),
        ({"allocation": "none.json", "macs": "0.5x"}, "The allocation none.json cannot be read"),
        ({"allocation": "", "macs": "0.5x"}, "must be 'auto', 'outputs' or what torchthin sensitivity found"),
        ({"allocation": 3, "macs": "0.5x"}, "must be 'auto', 'outputs' or what torchthin sensitivity found"),
    ],
)
def test_bad_allocations_are_refused(options: dict[str, object], sentence: str) -> None:
    with pytest.raises(ConfigError) as caught:
        torchthin.prune(Net(), X[:1], Budget(**options))  # type: ignore[arg-type]
    assert sentence in str(caught.value)


def test_tables_of_something_else_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "scan.json"
    good = _table(ratios=[0.5]).to_dict()
    cases = {
        "not json": "must be JSON",
        "[]": "Got a list",
        "{}": "what torchthin sensitivity writes",
        json.dumps({**good, "version": 9}): "version 9",
        json.dumps({**good, "groups": []}): "knows no group of the model, such as a.weight",
        json.dumps(good).replace('"size": 20', '"size": 24'): "has 24 channels of b.weight, the model 20",
        json.dumps(good).replace('"gone": [8]', '"gone": [99]'): "rising counts",
        json.dumps(good).replace('"gone": [8]', '"gone": [8, 4]'): "rising counts",
    }
    for text, sentence in cases.items():
        path.write_text(text)
        with pytest.raises(ConfigError) as caught:
            torchthin.prune(Net(), X[:1], Budget(macs="0.5x", allocation=str(path)), thin=False)
        assert sentence in str(caught.value), text


def _raises(model: nn.Module) -> float:
    raise RuntimeError("no such file")


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"metric": _raises}, "The metric fails on the model: RuntimeError: no such file."),
        ({"metric": lambda model: float("nan")}, "The metric must be a finite number"),
        ({"ratios": [0.5, 1.0]}, "The ratios of sensitivity must be numbers between 0 and 1."),
        ({"ratios": []}, "The ratios of sensitivity must be numbers between 0 and 1."),
        ({"workers": 0}, "The workers of sensitivity must be a whole number of at least 1. Got 0."),
        ({"exclude": ["*"]}, "to prune"),
        ({"criterion": "l22"}, "Did you mean 'l2'"),
    ],
)
def test_bad_input_is_refused(options: dict[str, object], sentence: str) -> None:
    with pytest.raises(InputError) as caught:
        _table(**options)
    assert sentence in str(caught.value)


def test_a_metric_that_raises_in_a_worker_is_named() -> None:
    calls = []

    def metric(model: nn.Module) -> float:
        calls.append(1)
        if len(calls) > 1:
            raise RuntimeError("out of data")
        return 1.0

    with pytest.raises(TorchthinError, match="The metric fails on the model: RuntimeError: out of data"):
        _table(metric=metric, workers=2)


def test_noise_in_place_of_data_is_said_and_kept_in_the_file(tmp_path: Path) -> None:
    table = torchthin.sensitivity(Net(), X[:1], data="noise", ratios=[0.5])
    assert "calibration inputs are noise" in str(table).splitlines()[-1]
    (tmp_path / "table.json").write_text(json.dumps(table.to_dict()))
    assert read_table(tmp_path / "table.json") == table
    assert torchthin.sensitivity(Net(), X[:1], data=X, ratios=[0.5]).notes == ()
