"""Pruned tiny models of every architecture, written as folders and loaded again: by their own class, and by this package.

    cd benchmarks
    python -m zoo.round_trip --models 'q*'

Kinds that a model lacks are left out of the cut; layers are cut evenly. A loaded model must hold to the pruned one in float64.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
import warnings
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import torchthin
from torchthin.integrations.transformers import from_pretrained
from zoo.by_rule import SECONDS, Architecture, _time_limit, architectures

CUTS = {"mlp": {"mlp": 0.5}, "mlp, heads": {"mlp": 0.5, "heads": 0.5}}


def trips(found: Architecture) -> Iterator[tuple[str, str]]:
    """Yield for each cut what became of it."""
    for name, kinds in CUTS.items():
        model = found.build()
        try:
            result = torchthin.prune(model, found.inputs, torchthin.Ratio(kinds, even=True))
        except torchthin.TorchthinError as error:
            yield name, f"not pruned: {' '.join(str(error).split())[:120]}"
            continue
        if not result.recipe:
            yield name, "not pruned: nothing removed"
            continue
        for described in (True, False):
            yield f"{name}, {'its own' if described else 'our'} loader", _trip(result, found, described)


def _trip(result: torchthin.PruneResult, found: Architecture, described: bool) -> str:
    with tempfile.TemporaryDirectory() as folder:
        started = time.perf_counter()
        try:
            result.save_pretrained(Path(folder) / "thin", described=described)
            if not described:
                proof = torchthin.verify(result.model, from_pretrained(Path(folder) / "thin"), found.inputs)
                if not proof.holds:
                    return f"WRONG: {proof}"
        except torchthin.TorchthinError as error:
            return f"refused: {' '.join(str(error).split())[:400]}"
        return f"ok, {time.perf_counter() - started:.1f} s"


def main() -> int:
    """Print a line for each architecture and cut, and how many there were of each kind."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--models", default="*", metavar="PATTERN", help="names, as in a shell")
    options = parser.parse_args()
    warnings.simplefilter("ignore")
    counted: Counter[tuple[str, str]] = Counter()
    for found in architectures(options.models):
        if not isinstance(found, Architecture):
            continue
        try:
            with _time_limit(3 * SECONDS):
                for cut, text in trips(found):
                    counted[cut, text.partition(",")[0].partition(":")[0]] += 1
                    print(f"{found.name:24} {cut:24} {text}", flush=True)
        except Exception as error:  # to be shown
            counted["any", "FAILED"] += 1
            print(
                f"{found.name:24} FAILED {type(error).__name__}: {' '.join(str(error).split())[:300]}",
                flush=True,
            )
    for (cut, outcome), number in sorted(counted.items()):
        print(f"{cut}: {number} {outcome}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
