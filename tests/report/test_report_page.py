"""The HTML report: what the run found stands in it, escaped, and a browser shows it without a network."""

import html
import json
import re
import shutil
import subprocess
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

import torchthin
from torchthin.pruning.inspection import overview
from torchthin.report.diagram import diagram
from torchthin.report.page import render_page
from torchthin.report.record import read_record, run_record

IMAGES = torch.randn(1, 3, 8, 8)
EVIL = "<script>alert('x')</script> & \"quoted\""
CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.stem = nn.Conv2d(3, 8, 3, padding=1)
        self.branch = nn.Conv2d(8, 8, 3, padding=1)
        self.head = nn.Conv2d(8, 4, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.stem(x).relu()
        return self.head(x + self.branch(x))


def record(**more: Any) -> dict[str, Any]:
    result = torchthin.prune(Net(), IMAGES, 0.5)
    given = {
        "title": "net",
        "command": "torchthin prune net.py:net",
        "network": overview(Net(), IMAGES).to_dict(),
        "sensitivity": {
            "metric": "distance",
            "groups": [{"name": "stem.weight", "size": 8, "gone": [2, 4], "losses": [0.1, 0.4]}],
        },
        "scores": {"accuracy": (0.9, 0.8)},
        "scored_on": "held-out pictures",
        **more,
    }
    report = {**result.report.to_dict(), "schedule": [0.25, 0.4, 0.5]}
    made = run_record(report, result.config.to_dict(), **given)
    return json.loads(json.dumps(made))  # type: ignore[no-any-return]


class _Parts(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.words: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_data(self, data: str) -> None:
        self.words.append(data)


def parts(page: str) -> _Parts:
    parser = _Parts()
    parser.feed(page)
    return parser


def test_the_page_holds_what_the_run_found() -> None:
    facts = record()
    page = render_page(facts)
    text = " ".join(" ".join(parts(page).words).split())
    report = facts["report"]
    for number in ("parameters", "thinned_parameters", "macs", "thinned_macs"):
        assert f"{report[number]:,}" in text
    assert "Target reached" in text
    assert "Approximate: the function changed" in text
    assert f"{report['proof']['relative']:.1e}" in text
    assert text.count("4 of 8") >= 4  # stem and branch, in the diagram and in the list
    assert "part of the model's output" in text
    assert "0.8000" in text
    assert "held-out pictures" in text
    assert torch.__version__ in text
    assert "torchthin prune net.py:net" in text
    assert "head: a constant" not in text  # 1x1: exact
    for line in report["inexact"]:
        assert line in text
    sections = [attrs.get("id") for tag, attrs in parts(page).tags if tag == "section"]
    assert sections == ["figures", "network", "layers", "schedule", "sensitivity", "proof", "frozen", "made"]


def test_nothing_is_loaded_and_nothing_runs() -> None:
    tags = parts(render_page(record())).tags
    assert {tag for tag, _ in tags} & {"script", "link", "img", "iframe", "object"} == set()
    assert not [attrs for _, attrs in tags if {"src", "href"} & set(attrs)]
    assert "@import" not in render_page(record())
    assert "url(" not in render_page(record())


def test_names_of_the_model_are_escaped() -> None:
    facts = record(title=EVIL, command=EVIL, scored_on=EVIL)
    facts["report"]["layers"][0]["name"] = EVIL
    facts["report"]["notes"] = facts["report"]["kept"] = facts["report"]["inexact"] = [EVIL]
    facts["network"]["layers"][0].update(name=EVIL, kind=EVIL)
    facts["network"]["groups"][0]["name"] = EVIL
    facts["network"]["frozen"][0].update(weight=EVIL, reason=EVIL)
    facts["sensitivity"]["groups"][0]["name"] = facts["sensitivity"]["metric"] = EVIL
    facts["scores"]["values"] = {EVIL: [0, 1]}
    facts["config"] = {EVIL: EVIL, "keep": [EVIL]}
    facts["versions"][EVIL] = EVIL
    page = render_page(facts)
    assert "<script" not in page
    assert "script" not in {tag for tag, _ in parts(page).tags}
    assert page.count(html.escape("<script>alert(")) > 15


def test_without_a_network_scores_and_proof() -> None:
    masked = torchthin.prune(Net(), None, 0.5, thin=False)
    page = render_page(json.loads(json.dumps(run_record(masked.report.to_dict(), {}, title="masked"))))
    text = " ".join(parts(page).words)
    assert "not thinned" in text
    assert "Not drawn" in text
    assert "not compared" in text


def test_a_lane_holds_one_group_at_a_time() -> None:
    drawn = diagram(record()["network"])
    assert [row.name for row in drawn.rows] == ["stem.weight", "branch.weight", "head.weight"]
    assert [row.frozen for row in drawn.rows] == [False, False, True]
    chain = {
        "layers": [
            {
                "name": str(n),
                "kind": "Linear",
                "channels": 2,
                "produces": [n],
                "consumes": [n - 1] if n else [],
            }
            for n in range(9)
        ],
        "groups": [{"name": str(n), "channels": 2} for n in range(9)],
    }
    laid = diagram(chain)
    assert laid.width == 2
    for one in laid.lanes:
        for other in laid.lanes:
            if one.group < other.group and one.lane == other.lane:
                assert one.last < other.first


@pytest.mark.skipif(
    CHROMIUM is None, reason="no Chromium is installed: the page is not looked at in a browser"
)
def test_a_browser_shows_it_on_a_phone_without_sideways_scrolling(tmp_path: Path) -> None:
    """Measured by a script of the test's own, put into a copy of the page."""
    page = render_page(record())
    probe = (
        "<script>addEventListener('load', () => { const d = document.documentElement; const out = {"
        "wide: d.scrollWidth, inner: innerWidth, text: document.body.innerText.length,"
        "boxes: document.querySelectorAll('#network rect').length,"
        "lines: [...document.querySelectorAll('#network line')].every(l => l.getBoundingClientRect().height > 0),"
        "ground: getComputedStyle(document.body).backgroundColor, colour: getComputedStyle(document.body).color};"
        "document.body.dataset.found = JSON.stringify(out); })</script></body>"
    )
    (tmp_path / "page.html").write_text(page.replace("</body>", probe), encoding="utf-8")
    found = {}
    for scheme, number in (("dark", 0), ("light", 1)):
        done = subprocess.run(
            [
                str(CHROMIUM), "--headless=new", "--no-sandbox", "--disable-gpu", f"--user-data-dir={tmp_path / 'profile'}",
                f"--blink-settings=preferredColorScheme={number}", "--window-size=500,900", "--dump-dom",
                (tmp_path / "page.html").as_uri(),
            ],
            capture_output=True, text=True, timeout=600, check=True,
        )  # fmt: skip
        match = re.search(r'data-found="([^"]*)"', done.stdout)
        assert match is not None
        found[scheme] = json.loads(html.unescape(match[1]))
    for seen in found.values():
        assert seen["wide"] <= seen["inner"] <= 500
        assert seen["text"] > 800
        assert seen["boxes"] >= 2
        assert seen["lines"]
    assert (
        found["light"]["ground"] == found["dark"]["colour"]
        or found["light"]["ground"] == "rgb(255, 255, 255)"
    )
    assert found["light"]["ground"] != found["dark"]["ground"]
    assert found["light"]["colour"] != found["dark"]["colour"]


def test_a_record_from_before_the_network_had_producers_is_read(tmp_path: Path) -> None:
    facts = record()
    old = {**facts, "torchthin_record": 1, "network": {"layers": [{"makes": [0], "takes": []}]}}
    (tmp_path / "old.json").write_text(json.dumps(old))
    read = read_record(tmp_path / "old.json")
    assert read == {**facts, "network": None}
    assert "Not drawn" in render_page(read)
