"""prune --report and torchthin report: the page, its JSON twin, and plots, as files of a real run."""

import importlib.util
import json

import pytest
import torch
from workplace import Outcome, Workplace

from torchthin.cli.main import main

NET = ("--model-factory", "net.py:net", "--input-shape", "1,3,8,8")


def run(place: Workplace, *arguments: str) -> Outcome:
    return place.run(*arguments, main=main)


def test_a_run_and_its_checkpoint_give_the_same_report(place: Workplace) -> None:
    outcome = run(place, "prune", *NET, "--thin", "--save-to", "thin.pth", "--report", "run.html")
    assert outcome.code == 0, outcome.err
    assert "Saved run.html." in outcome.out
    twin = json.loads((place.path / "run.json").read_text())
    page = (place.path / "run.html").read_text()
    assert f"{twin['report']['thinned_parameters']:,}" in page
    assert twin["network"]["groups"]
    assert twin["versions"]["torch"]
    assert twin["config"]["seed"] == 0

    outcome = run(place, "report", "thin.pth", *NET, "--to", "later.html", "--json")
    assert outcome.code == 0, outcome.err
    later = json.loads(outcome.out)
    assert later["report"] == twin["report"]
    assert later["network"] == twin["network"]
    assert json.loads((place.path / "later.json").read_text()) == later

    other = ("--model-factory", "net.py:net", "--factory-args", '{"width": 6}', "--input-shape", "1,3,8,8")
    place.assert_refused(
        "conv1.weight was (8, 3, 3, 3), here it is (6, 3, 3, 3). Name the full-size class.",
        "report", "thin.pth", *other, "--to", "other.html",
        run=lambda *given: run(place, *given),
    )  # fmt: skip

    (place.path / "run.html").unlink()
    assert run(place, "report", "run.json").code == 0
    assert (place.path / "run.html").read_text() == page


@pytest.mark.skipif(
    importlib.util.find_spec("matplotlib") is None, reason="plots need matplotlib (extra plot)"
)
def test_plots_are_pictures(place: Workplace) -> None:
    outcome = run(place, "prune", *NET, "--plots", "figures")
    assert outcome.code == 0, outcome.err
    for name in ("layers.png", "schedule.png"):
        assert (place.path / "figures" / name).read_bytes().startswith(b"\x89PNG")


def test_a_scan_gives_curves(place: Workplace) -> None:
    curve = {"name": "conv1.weight", "size": 8, "gone": [4], "losses": [0.25]}
    scan = {
        "version": 1, "groups": [curve], "ratios": [0.5], "metric": "distance", "dense": 0.0, "criterion": "l1",
    }  # fmt: skip
    (place.path / "scan.json").write_text(json.dumps(scan))
    outcome = run(place, "prune", *NET, "--report", "run.html", "--sensitivity", "scan.json")
    assert outcome.code == 0, outcome.err
    assert 'id="sensitivity"' in (place.path / "run.html").read_text()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("prune", *NET, "--report", "run.pdf"), "must end in .html"),
        (("prune", *NET, "--report", "net.py/run.html"), "must be in a folder"),
        (("prune", *NET, "--report", "a.html", "--sensitivity", "none.json"), "none.json"),
        (("report",), "A file is needed"),
        (("report", "best.pth"), "holds no report"),
        (("report", "none.json"), "cannot be read"),
        (("report", "best.pth", "--checkpoint", "best.pth"), "Leave --checkpoint out"),
    ],
)
def test_bad_input(place: Workplace, arguments: tuple[str, ...], message: str) -> None:
    def refused(*given: str) -> Outcome:
        return run(place, *given)

    place.assert_refused(message, *arguments, run=refused)


def shared_lists() -> object:
    found: object = "x"
    for _ in range(40):
        found = [found, found]
    return found


DAMAGED: dict[str, tuple[tuple[str, ...], object]] = {
    "layers": (("report", "layers"), 3),
    "nothing": (("report",), {}),
    "recovery": (("report", "recovery"), 3),
    "configuration": (("config",), 3),
    "shared lists": (("config",), {"a": shared_lists()}),
    "a name": (("report", "layers"), [{"a": 1}]),
}


@pytest.mark.parametrize("case", DAMAGED)
def test_a_damaged_report_is_one_line(place: Workplace, case: str) -> None:
    assert run(place, "prune", *NET, "--save-to", "p.pth", "--quiet").code == 0
    (*path, last), value = DAMAGED[case]
    content = torch.load("p.pth", weights_only=True)
    entry = content["torchthin"]
    for name in path:
        entry = entry[name]
    entry[last] = value
    torch.save(content, "bad.pth")
    place.assert_refused(
        "The report in bad.pth is damaged",
        *("report", "bad.pth", "--to", "bad.html"),
        run=lambda *given: run(place, *given),
    )
