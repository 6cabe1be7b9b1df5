"""Layer times: which widths are measured, what is between them, and the file that keeps them."""

import itertools
import json
import math
from pathlib import Path

import pytest
import torch

from torchthin.errors import ConfigError
from torchthin.evaluation.bench.latency import waiting
from torchthin.evaluation.latency import LatencyCache, WallClock, in_turns
from torchthin.evaluation.latency.cache import machine
from torchthin.evaluation.latency.widths import Interpolated, grid
from torchthin.graph.inputs import as_inputs
from torchthin.graph.trace import trace
from torchthin.selection.kernel_widths import block_of


@pytest.mark.parametrize("kernel", [8, 16])
@pytest.mark.parametrize("size", [1, 3, 16, 24, 50, 64, 100, 512, 1000])
@pytest.mark.parametrize("axes", [1, 2, 3])
def test_measured_widths_are_few_blocks_and_the_full_one(size: int, kernel: int, axes: int) -> None:
    widths, block = grid(size, kernel, axes), block_of(size, kernel)
    assert widths[-1] == size and widths[0] >= 1 and len(widths) ** axes <= {1: 9, 2: 81, 3: 216}[axes]
    assert all(width % block == 0 for width in widths[:-1])


def test_between_the_measured_widths_a_part_of_a_block_costs_a_block() -> None:
    """Exact where kernels work in blocks of 16 and every block was measured, for each pair of widths."""
    grids, blocks = (grid(64, 16, 2), grid(48, 8, 2)), (16, 8)

    def cost(a: int, b: int) -> float:
        return 3.0 * math.ceil(a / 16) + 2.0 * math.ceil(b / 8) * math.ceil(a / 16)

    times = {point: cost(*point) for point in itertools.product(*grids)}
    found = Interpolated(grids, blocks, times)
    assert all(found((a, b)) == pytest.approx(cost(a, b)) for a in range(1, 65) for b in range(1, 49))


def test_between_far_widths_it_is_linear() -> None:
    widths = grid(1024, 8, 1)
    found = Interpolated((widths,), (8,), {(width,): 5.0 * width for width in widths})
    assert found((520,)) == pytest.approx(5 * 520) and found((513,)) == found((520,))
    assert found((1,)) == 5 * widths[0]


def test_times_of_another_machine_are_left_alone(tmp_path: Path) -> None:
    path = tmp_path / "times.json"
    one, other = LatencyCache(path, "one"), LatencyCache(path, "other")
    one.known["layer"] = 1.0
    one.save()
    assert LatencyCache(path, "other").known == {}
    other.known["layer"] = 2.0
    other.save()
    assert [LatencyCache(path, name).known for name in ("one", "other")] == [{"layer": 1.0}, {"layer": 2.0}]


def test_a_device_is_waited_for() -> None:
    assert waiting(torch.device("cuda")) is torch.cuda.synchronize
    assert waiting(torch.device("mps")) is torch.mps.synchronize
    assert waiting(torch.device("meta"))() is None


def test_the_wall_clock_runs_layers_and_models() -> None:
    model = torch.nn.Linear(3, 2)
    op = trace(model, as_inputs(torch.ones(1, 3))).graph.ops[-1]
    given = {"self": torch.ones(2), "mat1": torch.ones(1, 3), "mat2": torch.ones(3, 2)}
    assert 0 < WallClock().layer(op, given) < 1e9
    compared = in_turns(WallClock(), model, model, as_inputs(torch.ones(1, 3)))
    assert 7 <= compared.runs <= 50 and compared.before > 0 and compared.after > 0 and compared.noise >= 0


class Drifting:
    """Every turn is slower than the one before, by what has nothing to do with the models."""

    def models(self, models: object, inputs: object, *, briefly: bool = False) -> list[tuple[float, ...]]:
        return [tuple(10.0 * load for load in range(1, 10)), tuple(6.0 * load for load in range(1, 10))]


def test_load_that_slows_both_does_not_count() -> None:
    model = torch.nn.Identity()
    compared = in_turns(Drifting(), model, model, as_inputs(torch.ones(1)))  # type: ignore[arg-type]
    assert compared.after / compared.before == pytest.approx(0.6) and compared.noise == pytest.approx(0)


def test_the_machine_is_named_by_all_that_times_depend_on() -> None:
    found = machine(torch.device("cpu"), torch.float32)
    assert found.startswith("cpu: ") and found.endswith(f"torch {torch.__version__}, float32")
    assert f"{torch.get_num_threads()} threads" in found


WHOLE = {"format": "torchthin layer times 1", "machines": {"here": {"a": 1.0}}}


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("{", "Expecting"),
        ("[]", "it is no file of layer times"),
        (json.dumps({**WHOLE, "format": "other"}), "it is no file of layer times"),
        (json.dumps({**WHOLE, "machines": [1]}), "its times are damaged"),
        (json.dumps({**WHOLE, "machines": {"there": {"a": "1"}}}), "its times are damaged"),
        (json.dumps({**WHOLE, "machines": {"here": {"a": -1.0}}}), "its times are damaged"),
        ('{"format": "torchthin layer times 1", "machines": {"here": {"a": NaN}}}', "its times are damaged"),
    ],
)
def test_a_damaged_file_is_refused_in_one_line(tmp_path: Path, text: str, why: str) -> None:
    path = tmp_path / "times.json"
    path.write_text(text)
    with pytest.raises(ConfigError) as caught:
        LatencyCache(path, "here")
    message = str(caught.value)
    assert str(path) in message and why in message and "\n" not in message and "--latency-cache" in message
    assert path.read_text() == text


def test_the_cache_of_the_user_is_no_reason_to_stop(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is written where it can be; a file that the user named must be written."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "a"))
    cache = LatencyCache(None, "here")
    cache.known["layer"] = 1.0
    cache.save()
    assert (tmp_path / "a" / "torchthin" / "layer-times.json").exists()
    (tmp_path / "b").write_text("a file where a folder should be")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "b"))
    LatencyCache(None, "here").save()
    with pytest.raises(ConfigError, match="cannot be used"):
        LatencyCache(tmp_path / "b" / "times.json", "here").save()


@pytest.mark.parametrize("name", ["a" * 300, "a\0b", "."])
def test_what_is_no_file_is_refused_without_the_advice_to_delete_it(tmp_path: Path, name: str) -> None:
    with pytest.raises(ConfigError) as caught:
        LatencyCache(str(tmp_path / name), "here")
    message = str(caught.value)
    assert "cannot be used" in message and "\n" not in message and "Delete" not in message


def test_the_home_is_found_and_without_one_there_is_no_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def no_home() -> Path:
        raise RuntimeError("Could not determine home directory.")

    monkeypatch.setenv("HOME", str(tmp_path))
    cache = LatencyCache("~/times.json", "here")
    cache.save()
    assert (tmp_path / "times.json").exists()
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    monkeypatch.setattr(Path, "home", no_home)
    cache = LatencyCache(None, "here")
    cache.save()
    assert cache.known == {}


def test_a_cache_directory_that_cannot_be_searched_is_no_reason_to_stop(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def locked(path: Path) -> str:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr("torchthin.evaluation.latency.cache.read_text", locked)
    assert LatencyCache(None, "here").known == {}
    with pytest.raises(ConfigError, match="Permission denied"):
        LatencyCache("times.json", "here")


class Restless(torch.nn.Module):
    """Changes what it is given, draws numbers and takes a gradient."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        with torch.enable_grad():
            own = x.clone().requires_grad_()
            (slope,) = torch.autograd.grad(own.square().sum(), own)
        seen.append(float(x[0]))
        return x.sub_(0.5) + slope + torch.rand(1)


seen: list[float] = []


def test_every_run_gets_the_same_inputs_and_leaves_the_users_alone() -> None:
    given, before = torch.ones(2), torch.get_rng_state()
    (times,) = WallClock().models([Restless()], as_inputs(given), briefly=True)
    assert given.tolist() == [1.0, 1.0] and set(seen) == {1.0} and len(seen) > len(times)
    assert torch.equal(torch.get_rng_state(), before)
