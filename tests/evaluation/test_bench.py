"""What bench says about memory and sizes is exact; about times only that both models were run in turns."""

import statistics

import pytest
import torch
from torch import Tensor, nn

import torchthin
from torchthin.errors import ConfigError, InputError
from torchthin.evaluation.bench import bench
from torchthin.evaluation.bench.latency import _timed
from torchthin.evaluation.bench.memory import peak_bytes
from torchthin.evaluation.bench.results import Timing
from torchthin.graph.inputs import as_inputs

IMAGES = torch.randn(1, 3, 16, 16)
newer_torch = pytest.mark.skipif(
    tuple(map(int, torch.__version__.split("+")[0].split(".")[:2])) < (2, 6),
    reason="torch writes ONNX from torch.export since 2.6",
)


def net() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(3, 16, 3), nn.ReLU(), nn.Conv2d(16, 4, 3))


def test_the_peak_is_what_is_alive_at_once() -> None:
    """Two big tensors live while the second is made; then the first goes."""

    class Steps(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.weight = nn.Parameter(torch.ones(10))

        def forward(self, x: Tensor) -> Tensor:
            a = x.new_ones(1000)
            b = a + 1
            del a
            small = b[:10] * self.weight
            del b
            return small + x.new_ones(500).sum()

    inputs = torch.zeros(1)
    there = 4 * (10 + 1)
    assert peak_bytes(Steps(), as_inputs(inputs)) == there + 4 * 2000


def test_sizes_of_both_models() -> None:
    dense = net()
    thinned = torchthin.prune(dense, IMAGES, 0.5).model
    result = bench(dense, thinned, IMAGES, repeats=3, warmup=1, threads=1, runtimes=("torch",))
    assert result.dense.parameters == sum(p.numel() for p in dense.parameters())
    assert result.thinned.parameters == sum(p.numel() for p in thinned.parameters())
    assert result.thinned.peak_bytes < result.dense.peak_bytes
    assert result.thinned.torch_file_bytes < result.dense.torch_file_bytes
    assert result.threads == 1
    (timing,) = result.timings
    assert len(timing.dense_ms) == len(timing.thinned_ms) == 3
    assert "3 runs in turns" in str(result)


def test_runs_take_turns() -> None:
    calls: list[str] = []
    _timed("torch", [lambda: calls.append("dense"), lambda: calls.append("thinned")], repeats=3, warmup=2)
    assert calls == ["dense", "thinned"] * 5


def test_median_and_spread() -> None:
    timing = Timing("torch", (4.0, 2.0, 3.0), (1.0, 1.5, 9.0))
    facts = timing.to_dict()
    assert facts["dense_ms"]["median"] == statistics.median(timing.dense_ms)
    assert facts["thinned_ms"] == {"median": 1.5, "p10": 1.0, "p90": 9.0, "min": 1.0}
    assert facts["speedup"] == 2.0


def test_threads_are_put_back_after_an_error() -> None:
    before = torch.get_num_threads()
    with pytest.raises(InputError, match="does not run"):
        bench(net(), net(), torch.ones(1, 5, 8, 8), threads=before + 1, runtimes=("torch",))
    assert torch.get_num_threads() == before
    with pytest.raises(ConfigError, match="repeats of bench must be at least 1"):
        bench(net(), net(), IMAGES, repeats=0)
    with pytest.raises(ConfigError, match=r"threads of bench must be at least 1\. Got 0"):
        bench(net(), net(), IMAGES, threads=0)
    with pytest.raises(ConfigError, match="must be of torch, onnxruntime"):
        bench(net(), net(), IMAGES, runtimes=("tensorrt",))


@newer_torch
def test_both_models_run_in_onnxruntime_where_it_is_installed() -> None:
    version = pytest.importorskip("onnxruntime").__version__
    pytest.importorskip("onnxscript")
    dense = net()
    thinned = torchthin.prune(dense, IMAGES, 0.5).model
    result = bench(dense, thinned, IMAGES, repeats=2, warmup=0, threads=1)
    assert [timing.runtime for timing in result.timings] == [
        f"torch {torch.__version__}",
        f"onnxruntime {version}",
    ]
    assert all(len(timing.dense_ms) == len(timing.thinned_ms) == 2 for timing in result.timings)
    assert result.notes == ()
    weights = [4 * size.parameters for size in (result.dense, result.thinned)]
    files = [size.onnx_file_bytes for size in (result.dense, result.thinned)]
    assert all(file is not None and file > weight for file, weight in zip(files, weights, strict=True))
    assert files[0] > files[1]


@newer_torch
def test_a_model_that_no_file_can_hold_is_a_note() -> None:
    pytest.importorskip("onnxruntime")
    pytest.importorskip("onnxscript")

    class Branches(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return x if x.sum() > 0 else -x

    result = bench(Branches(), Branches(), IMAGES, repeats=1, warmup=0, threads=1)
    (timing,) = result.timings
    assert timing.runtime.startswith("torch ")
    (note,) = result.notes
    assert note.startswith("Not run in onnxruntime, the dense model: torch.export cannot take the model")
    assert result.dense.onnx_file_bytes is None
