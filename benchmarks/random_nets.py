"""Random nets pruned and held against what the proof claims; every wrong claim is made small. See benchmarks/README.md."""

from __future__ import annotations

import argparse
import random
import sys
import time
import warnings
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch import Tensor, nn

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))
from nets import second_generator
from nets.blocks import BLOCKS, Net
from nets.laws import CHECKS, Case, checked
from nets.small import lively


@dataclass(frozen=True)
class FirstCase:
    """A net of the first generator: pictures of two sizes."""

    seed: int
    plan: tuple[tuple[str, int, int], ...]
    head: int

    def model(self) -> nn.Module:
        torch.manual_seed(self.seed)
        return lively(Net(self.plan, self.head).double()).eval()

    def example(self) -> Tensor:
        return self._images(0, 2, 10)

    def others(self) -> Iterator[Tensor]:
        for seed, batch, size in ((1, 2, 10), (2, 1, 10), (3, 4, 12), (4, 2, 14)):
            yield self._images(seed, batch, size)

    def _images(self, seed: int, batch: int, size: int) -> Tensor:
        generator = torch.Generator().manual_seed(seed)
        return torch.randn(batch, 3, size, size, generator=generator, dtype=torch.float64)


def first(seed: int) -> Case:
    rng = random.Random(seed)
    names = sorted(BLOCKS)
    plan = tuple(
        (rng.choice(names), rng.choice((4, 8, 12)), rng.randrange(4)) for _ in range(rng.randint(1, 4))
    )
    return FirstCase(seed, plan, rng.randrange(3))


def second(seed: int) -> Case:
    return second_generator.Case(second_generator.spec(seed))


GENERATORS: dict[str, Callable[[int], Case]] = {"first": first, "second": second}


def smaller(case: Case, still: Callable[[Case], bool]) -> Case:
    """Take blocks out as long as the claim stays wrong."""
    if isinstance(case, second_generator.Case):
        return second_generator.smaller(case, still)
    assert isinstance(case, FirstCase)
    for number in range(len(case.plan)):
        less = replace(case, plan=case.plan[:number] + case.plan[number + 1 :])
        if still(less):
            return smaller(less, still)
    return case


def run(name: str, check: str, seeds: range, slow: float) -> int:
    """Check nets of one generator, print what comes of them, and return how many claims were wrong."""
    found: Counter[str] = Counter()
    for seed in seeds:
        before, case = time.process_time(), GENERATORS[name](seed)
        finding = checked(case, check)
        found[finding.outcome] += 1
        seconds = time.process_time() - before
        if finding.wrong:
            found["wrong"] += 1
            small = smaller(case, lambda less: bool(checked(less, check).wrong))
            print(f"WRONG {name} {check} seed {seed}: {finding.wrong}\n    {small}", flush=True)
        if finding.slow or seconds > slow:
            print(f"slow {name} {check} seed {seed}: {finding.slow} {seconds:.1f} s", flush=True)
    print(
        f"{name} {check}: {', '.join(f'{count} {outcome}' for outcome, count in sorted(found.items()))}",
        flush=True,
    )
    return found["wrong"]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--generator", nargs="+", choices=GENERATORS, default=list(GENERATORS))
    parser.add_argument("--check", nargs="+", choices=CHECKS, default=list(CHECKS))
    parser.add_argument("--count", type=int, default=1000, help="seeds of each generator")
    parser.add_argument("--start", type=int, default=0, help="the first seed")
    parser.add_argument("--slow", type=float, default=10.0, help="CPU seconds after which a net is named")
    options = parser.parse_args()
    warnings.simplefilter("ignore")
    torch.set_num_threads(1)
    seeds = range(options.start, options.start + options.count)
    wrong = sum(
        run(name, check, seeds, options.slow) for name in options.generator for check in options.check
    )
    print(f"{wrong} wrong claims")
    return min(wrong, 1)


if __name__ == "__main__":
    sys.exit(main())
