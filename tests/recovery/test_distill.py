"""Distillation: it brings the outputs nearer, leaves what it is given as it was, and goes on bit for bit."""

import copy
import io
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from torchthin import PruneResult, Ratio, Recovery, prune, recover
from torchthin.errors import CheckpointError, ConfigError
from torchthin.graph.inputs import Inputs, as_inputs
from torchthin.graph.recorder import record
from torchthin.recovery.distillation import _mixed, default_lr, lr_curve
from torchthin.recovery.layer_distance import layer_distance


def task() -> tuple[nn.Module, PruneResult, torch.Tensor]:
    torch.manual_seed(0)
    net = nn.Sequential(
        nn.Conv2d(1, 12, 3), nn.BatchNorm2d(12), nn.ReLU(inplace=True), nn.Dropout(0.5), nn.Conv2d(12, 12, 3),
        nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(12, 5),
    )  # fmt: skip
    net.eval()
    net[4].bias.requires_grad_(False)
    data = torch.randn(96, 1, 8, 8)
    return net, prune(net, data[:1]), data


def weights(result: PruneResult) -> list[torch.Tensor]:
    return list(result.model.state_dict().values())


@pytest.mark.parametrize("loss", ["values", "logits"])
def test_epochs_bring_the_outputs_nearer(loss: str) -> None:
    net, result, data = task()
    told: list[tuple[int, int, str]] = []
    found = recover(
        net, result, data[:1], data, recovery=Recovery(epochs=8, loss=loss),
        progress=lambda done, total, what, loss: told.append((done, total, what)),
    )  # fmt: skip
    facts = found.report.recovery
    assert facts is not None
    stages = {stage.name: stage for stage in facts.stages}
    assert stages["distillation"].taken
    assert facts.after < stages["reconstruction"].distance
    layers, epochs = (
        [(done, 3, "layers") for done in range(1, 4)],
        [(done, 8, "epochs") for done in range(1, 9)],
    )
    assert told == [*layers, *epochs]
    assert [p.requires_grad for p in found.model.parameters()] == [p.requires_grad for p in net.parameters()]
    assert all(p.grad is None for p in (*net.parameters(), *found.model.parameters()))
    assert not found.model.training


def test_the_learning_rate_rises_over_the_share_that_is_asked_for_and_falls_to_nothing() -> None:
    whole, warm = lr_curve(100, 0.0), lr_curve(100, 0.2)
    assert whole(0) == 1
    assert warm(0) == pytest.approx(1 / 20)
    assert [warm(step) for step in range(20)] == sorted(warm(step) for step in range(20))
    assert [warm(step) for step in range(19, 101)] == [whole(step) for step in range(19, 101)]
    assert warm(50) == pytest.approx(0.5)
    assert warm(100) == pytest.approx(0)


class PlainAttention(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.q, self.k, self.v = (nn.Linear(8, 8) for _ in range(3))

    def forward(self, x: Tensor) -> Tensor:
        scores = self.q(x) @ self.k(x).transpose(1, 2)
        return scores.softmax(-1) @ self.v(x)


@pytest.mark.parametrize(
    ("net", "shape", "lr"),
    [
        (nn.Sequential(nn.Conv1d(8, 8, 3), nn.ReLU(), nn.Flatten(), nn.Linear(24, 2)), (2, 8, 5), 5e-3),
        (nn.TransformerEncoderLayer(8, 2, 16, batch_first=True), (2, 5, 8), 2e-4),
        (PlainAttention(), (2, 5, 8), 2e-4),
    ],
)
def test_attention_learns_at_a_lower_rate_unless_one_is_given(
    net: nn.Module, shape: tuple[int, ...], lr: float
) -> None:
    assert Recovery().lr is None
    assert default_lr(record(net.eval(), as_inputs(torch.randn(shape)))) == lr


def test_without_mixup_the_inputs_are_the_given_ones() -> None:
    net, result, data = task()
    known = {image.numpy().tobytes() for image in data}
    seen: list[Tensor] = []
    hooked = copy.deepcopy(net)
    hooked.register_forward_pre_hook(lambda module, args: seen.extend(args[0].clone()))
    for mixup in (False, True):
        seen.clear()
        recover(hooked, result, data[:1], data, recovery=Recovery(epochs=1, mixup=mixup))
        assert all(image.numpy().tobytes() in known for image in seen) != mixup


@pytest.mark.parametrize("share", [-0.1, 1.0, float("nan"), "all"])
def test_a_warmup_that_is_no_share_is_refused(share: Any) -> None:
    with pytest.raises(ConfigError, match="warmup of Recovery must be in"):
        Recovery(epochs=1, warmup=share)


@pytest.mark.parametrize("options", [{}, {"mixup": False, "warmup": 0.3}])
def test_an_interrupted_run_goes_on_bit_for_bit(tmp_path: Path, options: dict[str, Any]) -> None:
    net, result, data = task()
    whole = recover(net, result, data[:1], data, recovery=Recovery(epochs=4, **options))
    state = tmp_path / "run.recovery"

    def stop(done: int, total: int, what: str, loss: float | None) -> None:
        if (done, what) == (2, "epochs"):
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        recover(
            net, result, data[:1], data, recovery=Recovery(epochs=4, **options), state=state, progress=stop
        )
    assert state.exists()
    resumed: list[tuple[int, str]] = []
    again = recover(
        net, result, data[:1], data, recovery=Recovery(epochs=4, **options),
        state=state, progress=lambda done, total, what, *_: resumed.append((done, what)),
    )  # fmt: skip
    assert resumed[3:] == [(3, "epochs"), (4, "epochs")]
    assert all(map(torch.equal, weights(whole), weights(again)))
    assert not state.exists()


def saved(content: object) -> bytes:
    file = io.BytesIO()
    torch.save(content, file)
    return file.getvalue()


def test_a_state_of_another_run_is_refused(tmp_path: Path) -> None:
    net, result, data = task()
    state = tmp_path / "run.recovery"

    def stop(done: int, total: int, what: str, loss: float | None) -> None:
        if what == "epochs":
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        recover(net, result, data[:1], data, recovery=Recovery(epochs=4), state=state, progress=stop)
    before = state.read_bytes()
    with pytest.raises(CheckpointError, match="another recovery"):
        recover(net, result, data[:1], data, recovery=Recovery(epochs=5), state=state)
    content = torch.load(state, weights_only=True)
    damaged = {
        "is empty": b"",
        "is damaged: it is cut short": before[: len(before) // 2],
        "must hold plan": saved({key: value for key, value in content.items() if key != "plan"}),
        "does not fit this model": saved({**content, "model": {}}),
    }
    for message, found in damaged.items():
        state.write_bytes(found)
        with pytest.raises(CheckpointError, match=message) as raised:
            recover(net, result, data[:1], data, recovery=Recovery(epochs=4), state=state)
        assert "\n" not in str(raised.value)
        assert str(raised.value).endswith("Remove it to start again.")
        assert state.read_bytes() == found
    state.write_bytes(before)
    assert state.read_bytes() == before
    state.write_bytes(b"nothing")
    with pytest.raises(CheckpointError, match="cannot be read"):
        recover(net, result, data[:1], data, recovery=Recovery(epochs=4), state=state)


def test_texts_are_spliced_and_their_masks_with_them() -> None:
    size, length = 200, 8
    tokens = torch.arange(size)[:, None] * 100 + torch.arange(length)
    lengths = torch.arange(size) % length + 1
    mask = (torch.arange(length) < lengths[:, None]).long()
    inputs = Inputs((tokens,), {"mask": mask, "scale": torch.ones(size)})
    index = torch.arange(size)
    batch = _mixed(inputs, index, torch.Generator().manual_seed(0))
    found, masks = batch.args[0], dict(batch.kwargs or {})["mask"]
    source = found // 100
    assert torch.equal(found % 100, torch.arange(length).expand(size, length))  # nothing moves
    assert torch.equal(
        masks, mask[source, torch.arange(length)]
    )  # both come from the same text at each position
    strange = source != index[:, None]
    assert 0.1 < float(strange.float().mean()) < 0.4
    assert int(strange.sum(1).max()) <= length // 2
    edges = strange.long().diff(dim=1).abs().sum(1)
    assert int(edges.max()) <= 2  # one span
    assert torch.equal(dict(batch.kwargs or {})["scale"], torch.ones(size))


class Stack(nn.Module):
    """Two blocks of attention and an MLP."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.blocks = nn.ModuleList([Block() for _ in range(2)])

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        for block in self.blocks:
            x = block(x)[0]
        return x.mean(1)


class Block(nn.Module):
    """Attention and an MLP, which returns a tuple as those of transformers do."""

    def __init__(self) -> None:
        super().__init__()
        self.query, self.value, self.inner, self.outer = (nn.Linear(8, 8) for _ in range(4))

    def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, None]:
        query = self.query(x)[:, None]
        x = x + nn.functional.scaled_dot_product_attention(query, query, self.value(x)[:, None])[:, 0]
        return x + self.outer(self.inner(x).relu()), None


def test_of_a_stack_of_blocks_with_attention_the_hidden_states_are_compared() -> None:
    net, data = Stack().eval(), torch.randn(40, 5, 8)
    result = prune(net, data[:2], Ratio({"mlp": 0.5}))
    assert result.recipe is not None
    with layer_distance(net, result.model, result.recipe, as_inputs(data[:2])) as distance, torch.no_grad():
        net(data), result.model(data)
        found = float(distance())
    parts, dense, small = [], data, data
    for block, other in zip(net.blocks, result.model.blocks, strict=True):
        with torch.no_grad():
            dense, small = block(dense)[0], other(small)[0]
        parts.append(float((dense - small).square().mean() / dense.var(correction=0)))
    assert found == pytest.approx(sum(parts) / 2, rel=2e-3)
    assert found > 0
