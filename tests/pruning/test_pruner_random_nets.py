"""Random nets pruned step by step: counts hold for the full size, and the thinned net goes on."""

from __future__ import annotations

import torch
from hypothesis import HealthCheck, given, reject, settings
from hypothesis import strategies as st
from nets.blocks import BLOCKS, Net
from nets.small import lively

from torchthin import InputError, Pruner, Ratio, Schedule, TargetMissedError

specs = st.tuples(st.sampled_from(sorted(BLOCKS)), st.sampled_from([4, 8, 12]), st.integers(0, 3))


@settings(max_examples=15, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(
    st.lists(specs, min_size=1, max_size=3),
    st.integers(0, 2),
    st.integers(1, 3),
    st.sampled_from(["group", "global"]),
)
def test_counts_hold_through_thinnings(
    plan: list[tuple[str, int, int]], head: int, thin_at: int, scope: str
) -> None:
    torch.manual_seed(0)
    net = lively(Net(plan, head).double())
    images = torch.randn(2, 3, 10, 10, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    try:
        pruner = Pruner(
            net, images, Ratio(0.6, scope=scope), include=["*"], schedule=Schedule("linear", steps=3)
        )
    except InputError as error:
        assert "nothing to prune" in str(error)
        reject()
    before = pruner.sparsity
    for step in range(1, 4):
        pruner.step()
        assert pruner.sparsity >= before
        before = pruner.sparsity
        if scope == "group":
            assert all(layer.pruned_channels >= layer.asked for layer in pruner.report().layers)
        if step == thin_at:
            small = _thin(pruner)
            assert pruner.sparsity >= before
            if small:
                assert sum(p.numel() for p in net.parameters()) < pruner.report().parameters
        with torch.no_grad():
            assert net(images).isfinite().all()
    assert pruner.finished


def _thin(pruner: Pruner) -> bool:
    try:
        pruner.thin_()
    except TargetMissedError:
        return False
    return True
