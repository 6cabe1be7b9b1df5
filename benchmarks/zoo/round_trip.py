"""Pruned tiny models of every architecture, written as folders and loaded again: by their own class, and by this package.

    cd benchmarks
    python -m zoo.round_trip --models 'q*'
    python -m zoo.round_trip --cut 'mlp, heads' --record rows.jsonl     # all; stopped, it goes on where it was

Kinds that a model lacks are left out of the cut; layers are cut evenly. A loaded model must hold to the pruned one in float64.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
import warnings
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import torchthin
from torchthin.integrations.transformers import from_pretrained
from zoo.by_rule import REASON, SECONDS, Architecture, _time_limit, architectures
from zoo.records import Records, Row, table

LIMIT = 3
"""Times `SECONDS` that a cut of a model may take."""
LOADERS = "own", "ours"
CUTS: dict[str, Any] = {"mlp": {"mlp": 0.5}, "mlp, heads": {"mlp": 0.5, "heads": 0.5}, "default": 0.5}


def trips(found: Architecture, cut: str, loaders: Sequence[str]) -> Iterator[Row]:
    """Yield for each loader what became of a cut."""
    row = {"name": found.name, "class": found.kind, "cut": cut}
    try:
        result = torchthin.prune(found.build(), found.inputs, torchthin.Ratio(CUTS[cut], even=True))
    except torchthin.TorchthinError as error:
        yield {**row, "outcome": "not pruned", "reason": _words(error)}
        return
    if not result.recipe:
        yield {**row, "outcome": "not pruned", "reason": "nothing removed"}
        return
    for loader in loaders:
        yield {**row, "loader": loader, **_trip(result, found, loader == "own")}


def _trip(result: torchthin.PruneResult, found: Architecture, described: bool) -> Row:
    with tempfile.TemporaryDirectory() as folder:
        try:
            result.save_pretrained(Path(folder) / "thin", described=described)
            if not described:
                proof = torchthin.verify(result.model, from_pretrained(Path(folder) / "thin"), found.inputs)
                if not proof.holds:
                    return {"outcome": "WRONG", "reason": str(proof)}
        except torchthin.TorchthinError as error:
            return {"outcome": "refused", "reason": _words(error)}
        return {"outcome": "ok"}


def _words(error: Exception) -> str:
    return " ".join(str(error).split())[:REASON]


def measured(pattern: str, cut: str, loaders: Sequence[str], records: Records) -> None:
    """Add the rows of every architecture that has none of this cut yet."""
    done = {row["name"] for row in records.rows if row.get("cut") in (None, cut)}
    for found in architectures(pattern, done):
        if not isinstance(found, Architecture):
            records.add([{"name": found[0], "outcome": "not built", "reason": found[1][:REASON]}])
            continue
        started = time.perf_counter()
        rows = list[Row]()
        try:
            with _time_limit(LIMIT * SECONDS):
                rows.extend(trips(found, cut, loaders))
        except Exception as error:  # to be shown
            reason = f"{type(error).__name__}: {_words(error)}"
            rows.append(
                {"name": found.name, "class": found.kind, "cut": cut, "outcome": "FAILED", "reason": reason}
            )
        records.add(rows)
        for row in rows:
            what = f"{row['outcome']:10} {row.get('reason', '')}"
            took = time.perf_counter() - started
            print(f"{found.name:24} {took:5.1f} s  {row.get('loader', ''):4} {what}", flush=True)


def main() -> int:
    """Print what became of each architecture and cut, and how many there were of each kind."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--models", default="*", metavar="PATTERN", help="names, as in a shell")
    parser.add_argument("--cut", default="mlp", choices=CUTS)
    parser.add_argument("--loaders", nargs="+", default=LOADERS, choices=LOADERS, help="default: both")
    parser.add_argument("--record", type=Path, metavar="FILE", help="rows; names that have some are left out")
    parser.add_argument(
        "--table", type=Path, metavar="FILE", help="print the table of a file of rows instead"
    )
    options = parser.parse_args()
    if options.table:
        print(table(Records(options.table).rows))
        return 0
    warnings.simplefilter("ignore")
    records = Records(options.record)
    measured(options.models, options.cut, options.loaders, records)
    counted = Counter(tuple(row.get(key, "") for key in ("cut", "loader", "outcome")) for row in records.rows)
    for (cut, loader, outcome), number in sorted(counted.items()):
        print(f"{cut:12} {loader:4} {number:4} {outcome}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
