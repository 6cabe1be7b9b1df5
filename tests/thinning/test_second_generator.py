"""Nets of the second generator: what the proof claims holds on other numbers, batches and sizes, by masks alone.

`python benchmarks/random_nets.py` runs as many seeds as there is time for, and makes small what it finds.
"""

from __future__ import annotations

import warnings

import pytest
from nets.laws import Finding, checked
from nets.second_generator import Case, Spec, smaller, spec


def wrong(check: str, seeds: range) -> list[str]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of the nets themselves: odd sizes, masks that are deprecated
        found = [(seed, checked(Case(spec(seed)), check)) for seed in seeds]
    return [f"seed {seed}: {finding.wrong}" for seed, finding in found if finding.wrong]


@pytest.mark.parametrize("first", range(0, 28, 14))
def test_what_prune_claims_holds(first: int) -> None:
    assert wrong("prune", range(first, first + 14)) == []


def test_an_exact_result_is_exact() -> None:
    assert wrong("exact", range(60, 74)) == []


def test_thin_changes_no_net_that_nobody_masked() -> None:
    assert wrong("thin", range(100, 140)) == []


FOUND = {
    "an expert without a token": Spec(148, "series", (("T:experts", 366670),), 2, 5),
    "positions of one token": Spec(448, "tokens", (("T:positions", 993344), ("T:convolved", 165196)), 3, 1),
    "a mixture of one token": Spec(476, "series", (("T:time_mixing", 375141),), 3, 1),
    "a write to the only token": Spec(507, "series", (("T:token_writes", 992008),), 2, 1),
    "a mean over channels of parts": Spec(
        3559, "pictures", (("P:assembled", 358318), ("P:masked", 730186)), 3, 8
    ),
}


@pytest.mark.parametrize("name", FOUND)
def test_what_was_once_claimed_wrongly_holds(name: str) -> None:
    # the mean runs over what is left once channels are removed with what reads them, and the proof names it
    outcome = "approximate" if name.startswith("a mean") else "exact"
    assert checked(Case(FOUND[name]), "prune") == Finding(outcome)


def test_attention_with_learned_keys_is_looked_at() -> None:
    case = Case(Spec(25, "series", (("T:module_attention", 976196),), 3, 5))
    assert checked(case, "thin") == Finding("nothing pruned")


def test_a_weight_of_given_length_is_masked_by_its_length() -> None:
    """Where what makes a channel is masked too: zeros in its direction would be 0 / 0."""
    blocks = (("P:residual", 825551), ("P:parametrized", 755114), ("P:windows", 762062))
    assert checked(Case(Spec(2076, "pictures", blocks, 2, 7)), "prune").outcome == "approximate"


def test_a_net_is_made_small_as_long_as_it_fails() -> None:
    case = Case(spec(3))
    name = case.spec.blocks[-1]
    assert smaller(case, lambda less: name in less.spec.blocks).spec.blocks == (name,)


@pytest.mark.parametrize("seed", [6142, 6155])
def test_other_operators_for_masked_weights_end_no_run(seed: int) -> None:
    """Tokens are sent to experts by value: with masked weights an expert may get none, and operators are left out."""
    assert checked(Case(spec(seed)), "prune").outcome in ("nothing pruned", "exact", "approximate")
