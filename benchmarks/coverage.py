"""What of the zoo can be thinned: per model ok or the stage that failed, sizes, errors, seconds.

    python benchmarks/coverage.py                                  # all models, this package
    python benchmarks/coverage.py --tool torchthin torch-pruning   # both on the same cases in one run (extra: bench)
    python benchmarks/coverage.py --models 'resnet*' --json out.jsonl
    python benchmarks/coverage.py --table out.jsonl more.jsonl --markdown coverage.md    # of earlier runs; runs nothing
    python benchmarks/coverage.py --source timm --json more.jsonl --per-family 1         # a package, with the independent check

Every case runs in a process of its own, on one thread, with a limit of CPU time. What the file has is not run again, so a
run goes on where it was stopped.
"""

from __future__ import annotations

import argparse
import json
import os
from collections import Counter
from collections.abc import Mapping
from fnmatch import fnmatchcase
from functools import partial
from pathlib import Path
from statistics import median
from typing import Any

from package_table import line_of, table

TOOLS = ("torchthin", "torch-pruning")
SOURCES = ("torchvision", "transformers")
PACKAGES = ("timm", "pytorchcv", "smp", "vit-pytorch", "monai", "diffusers", "torch-geometric")
COLUMNS = (
    "model", "tool", "result", "prune s", "proof off s", "forward passes", "forward s",
    "parameters", "left", "MACs", "left", "error", "vs masked",
)  # fmt: skip


def main() -> int:
    options = _options()
    if options.source in PACKAGES:
        return _package(options)
    if options.table:
        lines = [line for path in options.table for line in Path(path).read_text().splitlines()]
        rows = [json.loads(line) for line in lines]
        text = markdown(rows) if all(row["source"] in SOURCES for row in rows) else table(rows)
        Path(options.markdown or "coverage.md").write_text(text)
        return 0
    return _zoo(options)


def _zoo(options: argparse.Namespace) -> int:
    """Run the zoo's models with each tool, but for what the file has already."""
    from coverage_case import measure_case
    from forked import in_own_process
    from package_case import version
    from zoo import cases

    sources = SOURCES if options.source is None else (options.source,)
    chosen = [
        (name, source)
        for source in sources
        for name in cases(source=source)
        if not options.models or any(fnmatchcase(name, m) for m in options.models)
    ]
    file = Path(options.json) if options.json else None
    rows = [json.loads(line) for line in file.read_text().splitlines()] if file and file.exists() else []
    known = {(row["model"], row["tool"]) for row in rows}
    for name, source in chosen:
        for tool in options.tool:
            if (name, tool) in known:
                continue
            row = {"source": source, "model": name, "tool": tool, "load": os.getloadavg()[0], **version()}
            row |= in_own_process(partial(measure_case, name, tool, options.seed), options.limit or 300)
            rows.append(row)
            print(_text(row), flush=True)
            if file:
                with file.open("a") as opened:
                    opened.write(json.dumps(row) + "\n")
    if options.markdown:
        Path(options.markdown).write_text(markdown(rows))
    return 0


def _package(options: argparse.Namespace) -> int:
    """Run the models of a package that the file does not have yet, one of each family first."""
    from forked import in_own_process
    from package_case import measure_candidate, version
    from zoo.candidates import candidates

    file = Path(options.json) if options.json else None
    rows = [json.loads(line) for line in file.read_text().splitlines()] if file and file.exists() else []
    asked = (options.source, options.exact)
    known = {row["model"] for row in rows if (row["source"], bool(row.get("exact_asked"))) == asked}
    seen, done = Counter[str](), 0
    for candidate in candidates(options.source):
        seen[candidate.family] += 1
        if (options.per_family and seen[candidate.family] > options.per_family) or candidate.name in known:
            continue
        if options.models and not any(fnmatchcase(candidate.name, pattern) for pattern in options.models):
            continue
        if (done := done + 1) > options.count:
            break
        row = {"source": options.source, "model": candidate.name, "family": candidate.family, **version()}
        row |= in_own_process(
            partial(measure_candidate, candidate, options.seed, options.exact), options.limit or 60
        )
        print(line_of(row), flush=True)
        if file:
            with file.open("a") as opened:
                opened.write(json.dumps(row) + "\n")
    return 0


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--models", nargs="*", help="patterns of names; default all")
    parser.add_argument(
        "--source", choices=SOURCES + PACKAGES, help="one half of the zoo, or a package of candidates"
    )
    parser.add_argument(
        "--per-family", type=int, help="of a package: at most so many models of one architecture"
    )
    parser.add_argument("--count", type=int, default=10**9, help="of a package: at most so many more models")
    parser.add_argument("--exact", action="store_true", help="of a package: prune with exact=True")
    parser.add_argument("--tool", nargs="+", choices=TOOLS, default=["torchthin"])
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--limit", type=int, help="CPU seconds a case may take; default 300, of a package 60")
    parser.add_argument("--json", help="append one JSON line per case to this file")
    parser.add_argument("--table", nargs="+", help="JSON files of earlier runs to make the table from")
    parser.add_argument("--markdown", help="write the table to this file")
    return parser.parse_args()


def _cells(row: dict[str, Any]) -> list[str]:
    def ratio(after: str, before: str) -> str:
        return f"{row[after] / row[before]:.3f}" if row.get(after) and row.get(before) else ""

    def number(key: str, form: str) -> str:
        return format(row[key], form) if row.get(key) is not None else ""

    passes = f"{row['prune_s'] / row['forward_s']:.1f}" if row.get("prune_s") and row.get("forward_s") else ""
    result = "ok" if row["ok"] else f"{row['stage']}: {row.get('message', '')}"
    return [
        row["model"], row["tool"], result.replace("|", "/").replace("\n", " ")[:120],
        number("prune_s", ".2f"), number("off_s", ".2f"), passes, number("forward_s", ".3f"),
        number("parameters", ","), ratio("parameters_left", "parameters"),
        number("macs", ","), ratio("macs_left", "macs"),
        number("error", ".0e"), number("error_masked", ".0e"),
    ]  # fmt: skip


def _text(row: dict[str, Any]) -> str:
    return "  ".join(cell for cell in _cells(row) if cell)


def markdown(rows: list[dict[str, Any]]) -> str:
    """Return the table with a summary line per tool."""
    lines = []
    for tool in dict.fromkeys(row["tool"] for row in rows):
        of_tool = [row for row in rows if row["tool"] == tool]
        lines.append(_managed(tool, of_tool))
    lines += _compared(rows)
    loads = [row["load"] for row in rows if "load" in row]
    if loads:
        lines.append(f"Load of the machine while it ran: {min(loads):.1f} to {max(loads):.1f}.")
    table = [" | ".join(COLUMNS), " | ".join("---" for _ in COLUMNS)]
    table += [" | ".join(_cells(row)) for row in rows]
    return "\n\n".join(lines) + "\n\n" + "\n".join(f"| {line} |" for line in table) + "\n"


def _managed(tool: str, rows: list[dict[str, Any]]) -> str:
    """Say how many models a tool managed, where it failed with the others, and what is left in the median."""
    halves = ", ".join(
        f"{sum(row['ok'] for row in half)} of {len(half)} of {source}"
        for source in SOURCES
        if (half := [row for row in rows if row["source"] == source])
    )
    stages = Counter(row["stage"] for row in rows if not row["ok"])
    failed = "".join(f"; {count} failed at {stage}" for stage, count in stages.most_common())
    left = [row["parameters_left"] / row["parameters"] for row in rows if row["ok"]]
    share = f" Parameters left: {median(left):.3f} in the median." if left else ""
    return f"{tool}: {sum(row['ok'] for row in rows)} of {len(rows)} models ({halves}{failed}).{share}"


def _compared(rows: list[dict[str, Any]]) -> list[str]:
    """Return what the tools did to the models that both managed."""
    by_tool = {
        tool: {row["model"]: row for row in rows if row["tool"] == tool and row["ok"]} for tool in TOOLS
    }
    ours, theirs = (by_tool[tool] for tool in TOOLS)
    both = sorted(ours.keys() & theirs.keys())
    if not both:
        return []
    larger, smaller = [], []
    for name in both:
        mine, other = ours[name]["parameters_left"], theirs[name]["parameters_left"]
        if abs(mine - other) > 0.001 * ours[name]["parameters"]:
            shares = (
                f"{name} {mine / ours[name]['parameters']:.3f} against {other / ours[name]['parameters']:.3f}"
            )
            (larger if mine > other else smaller).append(shares)
    return [
        *_ratios("prune with its proof", "prune_s", ours, theirs),
        *_ratios('prune with proof="off"', "off_s", ours, theirs),
        f"Parameters left: equal to a thousandth on {len(both) - len(larger) - len(smaller)}; fewer on {len(smaller)}"
        + (f" ({', '.join(smaller)})" if smaller else "")
        + f"; more on {len(larger)}"
        + (f" ({', '.join(larger)})." if larger else "."),
    ]


def _ratios(
    what: str, key: str, ours: Mapping[str, dict[str, Any]], theirs: Mapping[str, dict[str, Any]]
) -> list[str]:
    """Return how the CPU seconds of a call compare with Torch-Pruning's, over the models that both managed."""
    found = {
        name: ours[name][key] / theirs[name]["prune_s"]
        for name in sorted(ours.keys() & theirs.keys())
        if key in ours[name]
    }
    parts = {"all": list(found)} | {
        source: [name for name in found if ours[name]["source"] == source] for source in SOURCES
    }
    # rows name their commit since those that are not were measured
    dated = {f"{source}, last run": [n for n in parts[source] if "commit" in ours[n]] for source in SOURCES}
    parts |= {part: names for part, names in dated.items() if names != parts[part.partition(",")[0]]}
    table = ["| models of | both manage | median | range | slower on |", "|---|---|---|---|---|"]
    for part, names in parts.items():
        ratios = [found[name] for name in names]
        if ratios:
            above = sum(ratio > 1.0 for ratio in ratios)
            span = f"{min(ratios):.2f} to {max(ratios):.2f}"
            table.append(f"| {part} | {len(names)} | {median(ratios):.2f} | {span} | {above} |")
    slower = [f"{name} {ratio:.2f}" for name, ratio in found.items() if ratio > 1.0]
    others = [f"{name} {ratio:.2f}" for name, ratio in found.items() if ratio <= 1.0]
    few, names = ("Slower", slower) if len(slower) <= len(others) else ("Not slower", others)
    ending = f"{few}: {', '.join(names) or 'none'}."
    heading = f"CPU seconds of {what}, as a ratio to Torch-Pruning's:"
    return [heading, "\n".join(table), ending] if found else []


if __name__ == "__main__":
    raise SystemExit(main())
