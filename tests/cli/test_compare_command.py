"""``torchthin compare``, as a user runs it."""

import contextlib
import json
import signal
import sqlite3
import time
from pathlib import Path

import numpy as np
import pytest
from workplace import Workplace

from torchthin.cli.main import main

MODEL = ("--model-factory", "net.py:net", "--input-shape", "1,3,8,8")
GRID = ("--criterion", "l1", "fpgm", "--target-sparsity", "0.25", "0.5", "--target-macs", "0.6x")
METRIC = """
import time
from pathlib import Path

import torch

X = torch.ones(2, 3, 8, 8)

def score(model):
    return -float(model(X).abs().mean())

def slow(model):
    time.sleep(0.3)
    return score(model)

def stuck(model):  # from the fourth call on, until it is freed
    with open("calls", "a") as calls:
        calls.write(".")
    while Path("calls").stat().st_size > 3 and not Path("free").exists():
        time.sleep(0.05)
    return score(model)

def raises(model):
    raise OSError("no data here")

def nan(model):
    return float("nan")
"""


@pytest.fixture(autouse=True)
def files(place: Workplace) -> None:
    (place.path / "judge.py").write_text(METRIC)
    np.save(place.path / "inputs.npy", np.random.default_rng(0).normal(size=(8, 3, 8, 8)).astype(np.float32))


def test_table_answer_and_picture(place: Workplace) -> None:
    pytest.importorskip("matplotlib")
    outcome = place.run(
        "compare", *MODEL, *GRID, "--data", "inputs.npy", "--plot", "front.png", "--within", "50", main=main
    )
    assert outcome.code == 0, outcome
    assert "| dense " in outcome.out
    assert outcome.out.count("| l1-structured |") == 6
    assert "Smallest in MACs within a distance of 50: l1-structured" in outcome.out
    assert (place.path / "front.png").read_bytes().startswith(b"\x89PNG")


def test_json_is_all_there_is_on_stdout(place: Workplace) -> None:
    outcome = place.run("compare", *MODEL, *GRID, "--metric", "judge.py:score", "--json", main=main)
    facts = json.loads(outcome.out)
    assert outcome.code == 0
    assert len(facts["rows"]) == 6
    assert facts["metric"] == "judge.py:score"
    assert any(row["front"] for row in facts["rows"])


def test_a_killed_comparison_goes_on(place: Workplace) -> None:
    arguments = ("compare", *MODEL, *GRID, "--metric", "judge.py:stuck", "--rows", "rows.jsonl", "--json")
    rows = place.path / "rows.jsonl"
    run = place.started(*arguments, main=main)
    run.wait_for(lambda: rows.exists() and rows.read_bytes().count(b"\n") == 3)
    assert run.stop(signal.SIGKILL).code == -signal.SIGKILL
    known = rows.read_bytes()
    assert known.count(b"\n") == 3
    (place.path / "free").touch()
    outcome = place.run(*arguments, main=main)
    assert outcome.code == 0, outcome
    assert rows.read_bytes().startswith(known[: known.rfind(b"\n") + 1])
    assert rows.read_bytes().count(b"\n") == 7
    assert len(json.loads(outcome.out)["rows"]) == 6


def test_two_runs_share_a_storage(place: Workplace) -> None:
    pytest.importorskip("optuna")
    arguments = ("compare", *MODEL, *GRID, "--metric", "judge.py:slow", "--storage", "sqlite:///grid.db")
    runs = [place.started(*arguments, "--json", main=main) for _ in range(2)]
    outcomes = [run.outcome() for run in runs]
    assert [outcome.code for outcome in outcomes] == [0, 0], outcomes
    shared = json.loads(place.run(*arguments, "--json", main=main).out)
    alone = json.loads(place.run(*arguments[:-2], "--json", main=main).out)
    assert [{**row, "seconds": 0} for row in shared["rows"]] == [
        {**row, "seconds": 0} for row in alone["rows"]
    ]
    import optuna

    study = optuna.load_study(study_name=None, storage="sqlite:///grid.db")
    done = [t.user_attrs["candidate"] for t in study.get_trials() if "row" in t.user_attrs]
    assert len(done) == len(set(done)) == 6


def test_when_all_fail_the_exit_code_is_3(place: Workplace) -> None:
    outcome = place.run("compare", *MODEL, "--target-macs", "0.0001x", "0.0002x", main=main)
    assert outcome.code == 3, outcome
    assert outcome.err.startswith("error: All 2 candidates failed. The first: ")
    assert outcome.err.count("\n") == 1
    assert outcome.out.count("| failed ") == 2


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((), "The grid of compare is empty."),
        (("--target-sparsity",), "expected at least one argument"),
        (("--target-sparsity", "2"), "(--target-sparsity) must be in [0, 1)"),
        (("--target-macs", "half"), "half"),
        ((*GRID, "--criterion", "l7"), "Got 'l7'."),
        ((*GRID, "--method", "magic"), "Got 'magic'"),
        ((*GRID, "--criterion", "taylor"), "needs data"),
        ((*GRID, "--metric", "judge.py:raises"), "The metric fails on the model: OSError: no data here."),
        ((*GRID, "--metric", "judge.py:nan"), "The metric must be a finite number"),
        ((*GRID, "--metric", "judge.py:scor"), "Did you mean 'score'"),
        ((*GRID, "--rows", "judge.py"), "does not hold results of torchthin compare"),
        ((*GRID, "--cost", "mac"), "Did you mean 'macs'"),
        ((*GRID, "--cost", "latency"), "The cost latency needs --latency."),
        ((*GRID, "--within", "-1"), "The within of compare"),
        ((*GRID, "--plot", "."), "."),
        ((*GRID, "--plot", "front.pdf"), "The file of --plot must end in .png. Got front.pdf."),
        ((*GRID, "--plot", "a.png", "--rows", "a.png"), "The files of --plot and --rows must differ."),
        ((*GRID, "--rows", "net.py"), "The file of --rows must not be the model's own."),
    ],
)
def test_bad_input_is_one_line(place: Workplace, arguments: tuple[str, ...], message: str) -> None:
    place.assert_refused(message, "compare", *MODEL, *arguments, run=lambda *a: place.run(*a, main=main))


def test_a_storage_that_is_none_is_refused(place: Workplace) -> None:
    pytest.importorskip("optuna")
    place.assert_refused(
        "The storage nonsense cannot be used",
        "compare", *MODEL, *GRID, "--storage", "nonsense",
        run=lambda *a: place.run(*a, main=main),
    )  # fmt: skip


def test_what_a_dead_run_had_is_given_out_again(place: Workplace) -> None:
    optuna = pytest.importorskip("optuna")
    from torchthin.pruning.comparison.candidate import grid
    from torchthin.pruning.comparison.comparison import Row
    from torchthin.pruning.comparison.storage import shared

    url, metric = "sqlite:///grid.db", ("--metric", "judge.py:stuck")
    arguments = ("compare", *MODEL, "--target-sparsity", "0.5", *metric, "--storage", url, "--json")
    (place.path / "calls").write_text("..")  # the dense model's is the third call, the candidate's is stuck
    run = place.started(*arguments, main=main)
    run.wait_for(lambda: _signs_of_life(place.path / "grid.db") == 1)
    run.stop(signal.SIGKILL)
    (place.path / "free").touch()
    assert _states(url) == ["RUNNING"]
    early = json.loads(place.run(*arguments, main=main).out)
    assert early["rows"] == []
    assert "1 of 1 candidates are still with other runs" in early["notes"][-1]
    (name,) = optuna.get_all_study_names(url)
    (trial,) = optuna.load_study(study_name=name, storage=url).get_trials()
    key, mark = trial.user_attrs["candidate"], name.rpartition(" ")[2]
    (config,) = grid([0.5])
    time.sleep(2.5)  # more than two heartbeats of the run below
    late = shared(url, mark, {key: config}, lambda config: Row("l1-structured", value=0.0), heartbeat=1)
    assert list(late) == [key]
    assert _states(url) == ["FAIL", "COMPLETE"]


def _states(url: str) -> list[str]:
    """Return the states of trials that began, of the one study that there is."""
    import optuna

    trials = optuna.load_study(study_name=None, storage=url).get_trials()
    return [trial.state.name for trial in trials if trial.state.name != "WAITING"]


def _signs_of_life(database: Path) -> int:
    """Return how many trials have given one; a trial without any is never taken for dead."""
    try:
        with contextlib.closing(sqlite3.connect(f"file:{database}?mode=ro", uri=True)) as connection:
            return int(connection.execute("SELECT COUNT(*) FROM trial_heartbeats").fetchone()[0])
    except sqlite3.Error:  # its tables are being made
        return 0


def test_rows_of_another_model_are_refused(place: Workplace) -> None:
    rows = ("--target-sparsity", "0.5", "--rows", "rows.jsonl")
    assert place.run("compare", *MODEL, *rows, main=main).code == 0
    place.assert_refused(
        "was made for other weights",
        "compare", *MODEL, "--checkpoint", "best.pth", *rows,
        run=lambda *a: place.run(*a, main=main),
    )  # fmt: skip


def test_the_path_of_rows_may_be_in_a_new_folder(place: Workplace) -> None:
    rows = Path("new") / "rows.jsonl"
    assert place.run("compare", *MODEL, "--target-sparsity", "0.5", "--rows", str(rows), main=main).code == 0
    assert (place.path / rows).exists()
