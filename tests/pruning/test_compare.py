"""`compare`: every candidate once, the same rows however many processes, and failures that are rows."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import nn

import torchthin
from torchthin.config import Budget
from torchthin.errors import ConfigError, InputError, ProofError
from torchthin.evaluation.evaluator import Evaluator
from torchthin.graph.inputs import as_inputs
from torchthin.pruning.comparison.candidate import Measurement, grid, key_of
from torchthin.pruning.comparison.compare import compare
from torchthin.pruning.comparison.comparison import Comparison, Row
from torchthin.pruning.comparison.storage import shared
from torchthin.pruning.comparison.text import answer_line, comparison_text, draw

X = torch.randn(1, 3, 8, 8, generator=torch.Generator().manual_seed(0))
DATA = torch.randn(12, 3, 8, 8, generator=torch.Generator().manual_seed(1))


def net() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.ReLU(), nn.Conv2d(8, 8, 3), nn.ReLU(), nn.Conv2d(8, 2, 3)
    ).eval()


def score(model: nn.Module) -> float:
    with torch.no_grad():
        return -float(model(DATA).square().mean())


def told(found: Comparison) -> list[Row]:
    """Return the rows without what differs from run to run."""
    return [replace(row, seconds=0.0) for row in (found.dense, *found.rows)]


GRID = grid([0.25, 0.5, Budget(macs="0.6x")], ["l1", "random"])


def test_rows_are_what_prune_gives() -> None:
    model = net()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    found = torchthin.compare(model, X, GRID, metric=score)
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert len(found.rows) == len(GRID) == 6
    for config, row in zip(GRID, found.rows, strict=True):
        result = torchthin.prune(model, X, config.target, criterion=config.criterion)
        assert (row.macs, row.parameters) == (
            result.report.thinned.after.macs,
            result.report.thinned.after.parameters,
        )
        assert row.value == pytest.approx(score(result.model))
        assert row.channel_sparsity == result.report.total.channel_sparsity
    assert found.dense.value == pytest.approx(score(model))
    assert found.dense.macs == torchthin.prune(model, example_inputs=X).report.thinned.before.macs


def test_processes_and_an_ended_run_give_the_same_rows(tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    whole = told(compare(net(), X, GRID, data=DATA))
    assert told(compare(net(), X, GRID, data=DATA, workers=2, rows=path)) == whole
    lines = path.read_bytes().splitlines(keepends=True)
    assert len(lines) == 1 + len(GRID)
    path.write_bytes(b"".join(lines[:4]) + lines[4][:9])
    counts: list[tuple[int, int]] = []
    again = compare(net(), X, GRID, data=DATA, rows=path, progress=lambda *at: counts.append(at))
    assert told(again) == whole
    assert counts == [(done, len(GRID)) for done in range(3, len(GRID) + 1)]
    path_before = path.read_bytes()
    more = compare(net(), X, grid([0.75]) + GRID, data=DATA, rows=path)  # another grid
    assert told(more)[2:] == whole[1:]
    assert path.read_bytes().startswith(path_before)
    other = net()
    with torch.no_grad():
        other[0].weight.mul_(2)
    for change in (
        {"model": other},
        {"metric": score},
        {"data": 2 * DATA},
        {"cost": torchthin.Chip("MAX78000")},
    ):
        arguments = {"model": net(), "data": DATA, **change}
        with pytest.raises(ConfigError, match="was made for other weights, data"):
            compare(arguments.pop("model"), X, GRID, rows=path, **arguments)


def test_recovery_brings_the_outputs_nearer_on_inputs_it_never_saw() -> None:
    data = torch.randn(64, 3, 8, 8, generator=torch.Generator().manual_seed(2))
    ways = grid([0.5])
    without = compare(net(), X, ways, data=data, recovery=None)
    recovered = compare(net(), X, ways, data=data)
    assert recovered.rows[0].macs == without.rows[0].macs
    assert recovered.rows[0].value is not None
    assert without.rows[0].value is not None
    assert recovered.rows[0].value < without.rows[0].value
    assert "16 of 64 inputs" in recovered.notes[0]


def test_chip_and_latency_are_measured() -> None:
    found = compare(net(), X, grid([0.5]), cost=torchthin.Chip("max78000"), latency=3)
    for row in (found.dense, *found.rows):
        assert row.latency_ms is not None
        assert row.latency_ms > 0
        assert row.cycles is not None
    assert found.front("latency")
    assert found.rows[0].cycles < found.dense.cycles
    assert "cycles" in str(found)


def test_a_candidate_that_fails_is_a_row() -> None:
    ways = grid([0.25, Budget(macs="0.0001x")])  # no cut is as small
    found = compare(net(), X, ways)
    assert found.rows[0].failure is None
    assert found.rows[1].failure is not None
    assert found.rows[1].macs is None
    assert "Failed, l1-structured l1 MACs 0.0001x: " in comparison_text(found)
    assert found.rows[1] not in found.front()
    assert not found.all_failed

    failed = compare(net(), X, ways[1:])
    assert failed.all_failed
    assert failed.smallest() is None

    def unproved(config: torchthin.PruneConfig) -> torchthin.PruneResult:
        raise ProofError("They disagree.")

    inputs = as_inputs(X)
    row = Measurement(net(), inputs, Evaluator(net(), [inputs])).row(unproved, ways[0])
    assert (row.failure, row.macs, row.value) == ("They disagree.", None, None)


def test_the_answer_is_relative_to_dense() -> None:
    rows = tuple(
        Row("m", "l1", f"t{n}", macs=n, parameters=n, value=value)
        for n, value in ((10, 0.5), (50, 0.892), (60, 0.899), (70, 0.88))
    )
    found = Comparison(Row("dense", macs=100, parameters=100, value=0.9), rows, "judge:accuracy")
    assert found.smallest(0.01) is rows[1]
    assert found.smallest(0.005) is rows[2]
    assert found.smallest(0.0) is None
    assert [row.macs for row in found.front()] == [10, 50, 60, 100]
    assert answer_line(found).startswith("Smallest in MACs within 1 % of dense: m l1 t50 (50.0 % of the MACs")
    far = replace(found, metric="distance", dense=replace(found.dense, value=0.0))
    assert far.smallest(0.6) is rows[0]
    assert far.smallest(0.1) is None
    with pytest.raises(ConfigError, match="No model has the cost 'cycles'"):
        found.front("cycles")
    facts = json.loads(json.dumps(found.to_dict()))
    assert [row["front"] for row in facts["rows"]] == [True, True, True, False]


def test_the_plot_is_a_picture(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    rows = (Row("m", "l1", "t", macs=10, value=0.5), Row("m", "l1", "t", failure="none"))
    draw(
        Comparison(Row("dense", macs=100, value=0.9), rows, "judge:accuracy_$x"),
        tmp_path / "front.png",
        "macs",
    )
    assert (tmp_path / "front.png").read_bytes().startswith(b"\x89PNG")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"candidates": ()}, "The candidates of compare are empty"),
        ({"candidates": [torchthin.PruneConfig(thin=False)]}, "must be thinned"),
        ({"candidates": grid([0.5], ["l7"])}, "criterion must be one of"),
        ({"candidates": grid([0.5], ["taylor"])}, "needs data"),
        ({"workers": 0}, "workers of compare must be"),
        ({"workers": 2, "latency": 3}, "needs one worker"),
        ({"latency": -1}, "latency of compare must be"),
        ({"recovery": torchthin.Recovery(epochs=2)}, "without data"),
        ({"metric": lambda model: float("nan")}, "The metric must be a finite number"),
        ({"storage": "sqlite:///x.db", "rows": "rows.jsonl"}, "Give neither workers nor rows"),
    ],
)
def test_bad_input_is_refused(arguments: dict[str, object], message: str) -> None:
    given = {"candidates": grid([0.5]), **arguments}
    with pytest.raises(InputError, match=message):
        compare(net(), X, given.pop("candidates"), **given)


def test_an_empty_grid_is_refused() -> None:
    with pytest.raises(ConfigError, match="The grid of compare is empty"):
        grid([])


class Counted:
    """Evaluates nothing; remembers what it was asked for."""

    def __init__(self) -> None:
        self.asked: list[torchthin.PruneConfig] = []

    def __call__(self, config: torchthin.PruneConfig) -> Row:
        self.asked.append(config)
        return Row("m", target=key_of(config), value=float(len(self.asked)))


def test_runs_that_share_a_storage_take_each_candidate_once(tmp_path: Path) -> None:
    optuna = pytest.importorskip("optuna")
    url = f"sqlite:///{tmp_path / 'grid.db'}"
    alone = told(compare(net(), X, GRID))
    assert told(compare(net(), X, GRID[:3], storage=url)) == alone[:4]
    assert told(compare(net(), X, GRID, storage=url)) == alone
    compare(net().double(), X.double(), GRID[:1], storage=url)  # another model, another study
    assert len(optuna.get_all_study_names(url)) == 2

    first, second = Counted(), Counted()
    wanted = {key_of(config): config for config in GRID}
    shared(url, "mark", dict(list(wanted.items())[:3]), first)
    rows = shared(url, "mark", wanted, second)
    assert first.asked + second.asked == list(GRID)
    assert [rows[key].target for key in wanted] == list(wanted)


def test_two_runs_that_were_given_the_same_candidate(tmp_path: Path) -> None:
    """SQLite does not prevent it. Here the other run is first with the second candidate."""
    optuna = pytest.importorskip("optuna")
    url, counted = f"sqlite:///{tmp_path / 'grid.db'}", Counted()

    def raced(config: torchthin.PruneConfig) -> Row:
        row = counted(config)
        if len(counted.asked) == 2:
            storage = optuna.storages.RDBStorage(url)
            (study,) = storage.get_all_studies()
            (trial,) = storage.get_all_trials(study._study_id, states=(optuna.trial.TrialState.RUNNING,))
            storage.set_trial_user_attr(trial._trial_id, "row", json.dumps(row.to_dict()))
            storage.set_trial_state_values(trial._trial_id, optuna.trial.TrialState.COMPLETE, [0.0])
        return row

    wanted = {key_of(config): config for config in GRID[:3]}
    rows = shared(url, "mark", wanted, raced)
    assert [rows[key].target for key in wanted] == list(wanted)
    assert counted.asked == list(GRID[:3])


def test_what_raises_in_a_shared_run_is_not_swallowed(tmp_path: Path) -> None:
    pytest.importorskip("optuna")

    def broken(config: torchthin.PruneConfig) -> Row:
        raise InputError("no data here")

    with pytest.raises(InputError, match="no data here"):
        shared(f"sqlite:///{tmp_path / 'grid.db'}", "mark", {"k": GRID[0]}, broken)
