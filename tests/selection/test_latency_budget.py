"""A budget of time: what is foretold is what is measured, widths lie where time is saved, and nothing is timed twice.

No test looks at the clock: layers cost what `nets.stepped` says.
"""

import json
import sys
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

import torchthin
from torchthin import Budget, PruneResult, Ratio
from torchthin.errors import ConfigError, KindError, TargetMissedError
from torchthin.graph.inputs import as_inputs
from torchthin.pruning import latency_plan
from torchthin.report.page import render_page
from torchthin.report.record import run_record
from torchthin.report.sections import LatencyFacts

sys.path.append(str(Path(__file__).parents[1] / "thinning"))
from nets.stepped import BLOCK, Stepped

X = torch.randn(1, 3, 4, 4, generator=torch.Generator().manual_seed(0))


class Net(nn.Module):
    """A residual stream, a depthwise convolution and a linear head: 64, 48 and 32 channels."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.norm = nn.Conv2d(3, 64, 1), nn.BatchNorm2d(64)
        self.a, self.b = nn.Conv2d(64, 48, 1), nn.Conv2d(48, 64, 1)
        self.deep, self.wide = nn.Conv2d(64, 64, 3, padding=1, groups=64), nn.Conv2d(64, 32, 1)
        self.head = nn.Linear(32, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = self.norm(self.stem(x)).relu()
        x = x + self.b(self.a(x).relu())
        return self.head(self.wide(self.deep(x)).relu().mean((2, 3)))


@pytest.fixture(scope="module")
def net() -> nn.Module:
    torch.manual_seed(0)
    return Net().eval()


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Stepped:
    return use(Stepped(), monkeypatch)


def use(clock: Stepped, monkeypatch: pytest.MonkeyPatch) -> Stepped:
    monkeypatch.setattr(latency_plan, "CLOCK", clock)
    return clock


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> str:
    """All stopwatches here time layers alike."""
    return str(tmp_path_factory.mktemp("times") / "times.json")


def facts(result: PruneResult) -> LatencyFacts:
    found = result.report.section("budgets").facts[-1]
    assert isinstance(found, LatencyFacts)
    return found


@pytest.mark.parametrize("how", [{}, {"scope": "global"}, {"allocation": "auto"}])
def test_the_limit_is_kept_at_widths_that_save_time(
    net: nn.Module, clock: Stepped, cache: str, how: dict[str, str]
) -> None:
    result = torchthin.prune(net, X, Budget(latency="0.6x", latency_cache=cache, **how))
    found = facts(result)
    assert found.foretold == pytest.approx(found.after) and found.after <= found.limit
    assert found.limit == pytest.approx(0.6 * found.before)
    cut = {layer.name: layer.filters - layer.pruned_channels for layer in result.report.layers}
    assert all(width % BLOCK == 0 for name, width in cut.items()), cut
    assert sum(cut.values()) < 272 and result.proof is not None and result.proof.holds


def test_seconds_and_milliseconds_are_limits_too(net: nn.Module, clock: Stepped, cache: str) -> None:
    ((whole,),) = clock.models((net,), as_inputs(X))
    limit = 0.7 * whole / 1e9
    found = [
        facts(torchthin.prune(net, X, Budget(latency=latency, latency_cache=cache), proof="off"))
        for latency in (limit, f"{1000 * limit:.6f}ms")
    ]
    assert found[0].limit == pytest.approx(limit) == found[1].limit
    assert found[0].after == found[1].after <= limit


def test_equal_layers_are_timed_once_on_a_machine(net: nn.Module, clock: Stepped, tmp_path: Path) -> None:
    """What a file holds of another machine is neither used nor touched."""
    file, told = tmp_path / "times.json", []

    def progress(done: int, total: int) -> None:
        told.append((done, total))

    def pruned() -> LatencyFacts:
        target = Budget(latency="0.6x", latency_cache=str(file))
        return facts(torchthin.prune(net, X, target, proof="off", progress=progress))

    first, count = pruned(), len(clock.measured)
    (times,) = json.loads(file.read_text())["machines"].values()
    assert len(times) == count and told == [(done, count) for done in range(1, count + 1)]
    assert pruned() == first and len(clock.measured) == len(told) == count
    content = json.loads(file.read_text())
    content["machines"] = {"another": dict.fromkeys(times, 1e12)}
    file.write_text(json.dumps(content))
    assert pruned() == first and len(clock.measured) == 2 * count
    assert set(json.loads(file.read_text())["machines"]["another"].values()) == {1e12}


@pytest.mark.parametrize("power", [0.6, 1.5])
def test_a_wrong_forecast_is_corrected_by_what_was_measured(
    net: nn.Module, monkeypatch: pytest.MonkeyPatch, cache: str, power: float
) -> None:
    """Models take another share of the full time than their layers add up to: above 1 too much was removed at first."""
    clock = use(Stepped(lambda time, full: full * (time / full) ** power), monkeypatch)
    found = facts(torchthin.prune(net, X, Budget(latency="0.6x", latency_cache=cache), proof="off"))
    layers = (found.after / found.before) ** (1 / power)
    assert found.after <= found.limit and 2 <= clock.compared - 1 <= 3
    assert layers < 0.5 if power < 1 else layers > 0.6


def test_where_no_cut_saves_time_the_limit_is_missed_in_one_line(
    net: nn.Module, monkeypatch: pytest.MonkeyPatch, cache: str
) -> None:
    use(Stepped(lambda time, full: full), monkeypatch)
    with pytest.raises(TargetMissedError) as caught:
        torchthin.prune(net, X, Budget(latency="0.8x", latency_cache=cache), proof="off")
    message = str(caught.value)
    assert caught.value.exit_code == 3 and "\n" not in message
    assert "The latency was missed: asked at most" in message and "(100.0 %;" in message
    assert "Most time is left in " in message and any(name in message for name in ("a ", "b ", "wide "))
    result = torchthin.prune(net, X, Budget(latency="1x", params="0.5x", latency_cache=cache), proof="off")
    assert "The cut saves no time there." in str(result.report)


def test_a_limit_below_the_narrowest_is_refused_after_it_was_measured(
    net: nn.Module, clock: Stepped, cache: str
) -> None:
    target = Budget(latency="0.2x", latency_cache=cache, round_to=48)
    with pytest.raises(
        TargetMissedError, match=r"The latency was missed: asked at most .* ms.*Most time is left in "
    ):
        torchthin.prune(net, X, target)
    assert clock.compared == 2  # the model as it is, and the narrowest


def test_a_forecast_alone_refuses_nothing(
    net: nn.Module, monkeypatch: pytest.MonkeyPatch, cache: str
) -> None:
    """Layers add up to more than the limit at any width, and the whole model is faster than they are."""
    use(Stepped(lambda time, full: full * (time / full) ** 3), monkeypatch)
    target = Budget(latency="0.5x", latency_cache=cache, round_to=48)
    found = facts(torchthin.prune(net, X, target, proof="off"))
    assert found.reached and found.after <= 0.5 * found.before


def test_noise_is_allowed_and_said() -> None:
    near = LatencyFacts(0.010, 0.020, 0.0101, 0.010, 0.02, 30, "cpu")
    assert near.reached and "noise 2.0 %" in str(near)
    far = LatencyFacts(0.010, 0.020, 0.0103, 0.010, 0.02, 30, "cpu")
    assert not far.reached and "The latency was missed" in far.missed


@pytest.mark.parametrize("latency", ["1.5x", "0x", "fast", True, -1, "12 minutes", float("nan")])
def test_wrong_limits_are_refused(latency: object) -> None:
    with pytest.raises(
        ConfigError, match=r"The latency of Budget \(--target-latency\) must be a share such as 0.6x"
    ):
        Budget(latency=latency)  # type: ignore[arg-type]
    with pytest.raises(
        ConfigError, match=r"latency_cache of Budget \(--latency-cache\) must be None without"
    ):
        Budget(macs="0.5x", latency_cache="times.json")


class Wide(nn.Sequential):
    def __init__(self, width: int, dtype: torch.dtype = torch.float32) -> None:
        super().__init__(
            nn.Conv2d(3, width, 1), nn.ReLU(), nn.Conv2d(width, width, 1), nn.ReLU(), nn.Conv2d(width, 4, 1)
        )
        self.to(dtype)


@pytest.mark.parametrize(
    ("device", "dtype", "width", "target", "kept", "said"),
    [
        ("cuda", torch.float16, 128, Ratio(0.55), 64, True),
        ("cuda", torch.float32, 128, Ratio(0.53), 64, True),
        ("cuda", torch.float16, 128, Ratio(0.55, round_to=1), 58, False),
        ("cuda", torch.float32, 20, Ratio(0.55), 10, True),  # narrow: multiples of 2
        ("cpu", torch.float32, 128, Ratio(0.55), 58, False),
    ],
)
def test_a_gpu_gets_the_widths_that_its_kernels_want(
    monkeypatch: pytest.MonkeyPatch,
    clock: Stepped,
    device: str,
    dtype: torch.dtype,
    width: int,
    target: Ratio,
    kept: int,
    said: bool,
) -> None:
    monkeypatch.setattr("torchthin.selection.kernel_widths.device_type", lambda model: device)
    result = torchthin.prune(Wide(width, dtype), X.to(dtype), target)
    assert [layer.thinned_shape[0] for layer in result.report.layers if layer.pruned_channels] == [kept, kept]  # type: ignore[index]
    notes = [note for note in result.report.notes if note.startswith("Cut layers keep multiples of")]
    assert len(notes) == said


def test_on_a_gpu_a_cut_that_saves_no_time_is_called_so(monkeypatch: pytest.MonkeyPatch) -> None:
    """Eight channels of a block of 16 cost what all 16 cost. On the CPU nobody looked."""

    def said(share: float) -> bool:
        result = torchthin.prune(Wide(32), X, Ratio(share, round_to=1))
        return any(
            note.startswith("The cut saves no time on this GPU: 8 -> ") for note in result.report.notes
        )

    clock = use(Stepped(), monkeypatch)
    assert not said(0.25) and clock.compared == 0
    monkeypatch.setattr("torchthin.selection.kernel_widths.device_type", lambda model: "cuda")
    assert said(0.25) and not said(0.5) and clock.compared == 2


def test_a_pruner_on_a_gpu_keeps_the_same_widths(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("torchthin.selection.kernel_widths.device_type", lambda model: "cuda")
    pruner = torchthin.Pruner(Wide(128), X, Ratio(0.53), schedule=torchthin.Schedule(steps=1))
    pruner.step()
    pruner.thin_()
    assert pruner.model[0].out_channels == 64  # type: ignore[index]
    assert any(note.startswith("Cut layers keep multiples of 8") for note in pruner.result().report.notes)


@pytest.mark.parametrize("part", [0.0, 0.3, 0.5, 0.7])
@pytest.mark.parametrize("latency", ["1x", 0.5])
def test_a_limit_that_the_model_keeps_removes_nothing(
    net: nn.Module, monkeypatch: pytest.MonkeyPatch, cache: str, latency: str | float, part: float
) -> None:
    """Whatever part of a nanosecond the model takes beside whole ones."""
    use(Stepped(lambda time, full: time + part), monkeypatch)
    result = torchthin.prune(net, X, Budget(latency=latency, latency_cache=cache), proof="off")
    assert not any(layer.pruned_channels for layer in result.report.layers) and facts(result).reached
    line = str(facts(result))
    assert line.startswith("Within the budget already: ") and "medians" not in line


def test_the_users_random_numbers_stay_where_they_were(
    net: nn.Module, clock: Stepped, tmp_path: Path
) -> None:
    before = torch.get_rng_state()
    target = Budget(latency="0.6x", latency_cache=str(tmp_path / "new.json"))
    torchthin.prune(net, X, target, proof="off")
    assert clock.measured and torch.equal(torch.get_rng_state(), before)


def test_noise_excuses_a_quarter_of_the_saving_at_most() -> None:
    wide = LatencyFacts(0.0095, 0.010, 0.00999, 0.0095, 0.2, 7, "cpu")
    assert not wide.reached and "noise 20.0 %" in wide.missed
    assert LatencyFacts(0.0095, 0.010, 0.0096, 0.0095, 0.02, 7, "cpu").reached
    assert not LatencyFacts(0.0095, 0.010, 0.0097, 0.0095, 0.025, 7, "cpu").reached
    saves_nothing = LatencyFacts(0.0095, 0.010, 0.0094, 0.0094, 0.1, 7, "cpu")
    assert saves_nothing.saves_nothing and not saves_nothing.reached


@pytest.mark.parametrize("name", [5, "", b"times", True])
def test_a_file_of_times_has_a_name(name: object) -> None:
    with pytest.raises(ConfigError, match=r"latency_cache of Budget \(--latency-cache\) must be the name"):
        Budget(latency="0.5x", latency_cache=name)  # type: ignore[arg-type]


def test_a_wrong_kind_of_a_budget_is_called_one(net: nn.Module) -> None:
    with pytest.raises(KindError, match=r"The kinds \(--kinds\) name nothing with 'headz'.*'heads'"):
        torchthin.prune(net, X, Budget(params="0.9x", kinds=("headz",)))


def test_the_page_says_of_a_time_what_the_text_says(net: nn.Module, clock: Stepped, cache: str) -> None:
    result = torchthin.prune(net, X, Budget(latency="0.6x", latency_cache=cache), proof="off")
    page = render_page(json.loads(json.dumps(run_record(result.report.to_dict(), {}, title="timed"))))
    assert f"<p>{facts(result)}</p>" in page and "of 0.00" not in page
