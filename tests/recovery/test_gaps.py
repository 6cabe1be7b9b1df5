"""What writes into the stream before layers that were left out is refitted to what the last of them would have given."""

import torch
from torch import Tensor, nn

from torchthin import Recovery, plan, prune, recover


class Branch(nn.Module):
    """Adds a linear function of what it is given, so that one wide enough can give what two gave."""

    def __init__(self) -> None:
        super().__init__()
        self.wide, self.narrow = nn.Linear(6, 12), nn.Linear(12, 6)

    def forward(self, x: Tensor) -> tuple[Tensor]:
        return (x + self.narrow(self.wide(x)),)


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.blocks, self.head = nn.ModuleList(Branch() for _ in range(5)), nn.Linear(6, 3)

    def forward(self, x: Tensor) -> Tensor:
        for block in self.blocks:
            (x,) = block(x)
        return self.head(x)


def test_the_layer_before_a_gap_makes_up_for_it() -> None:
    torch.manual_seed(0)
    net, data = Net().eval(), torch.randn(256, 6)
    result = prune(net, data[:2], {"layers": 2}, data=data, criterion="l1")
    assert result.proof is not None and result.proof.exact  # of the removal, before anything is refitted
    found = recover(net, result, data[:2], data, recovery=Recovery(epochs=1))
    facts = found.report.recovery
    assert facts is not None
    assert facts.stages[0].name == "layers before gaps" and facts.stages[0].taken
    assert facts.stages[0].distance < 1e-3 * facts.before
    assert facts.after <= facts.stages[0].distance


def test_layers_and_channels_are_recovered_together() -> None:
    torch.manual_seed(0)
    net, data = Net().eval(), torch.randn(256, 6)
    result = prune(net, data[:2], {"layers": 1, "mlp": 0.25}, data=data, criterion="l1")
    assert result.proof is not None and result.proof.exact
    facts = recover(net, result, data[:2], data).report.recovery
    assert facts is not None and facts.after < 1e-2 * facts.before


class Attended(Branch):
    """Weighs by a softmax, so that data decide all there is to decide."""

    def forward(self, x: Tensor) -> tuple[Tensor]:
        (y,) = super().forward(x)
        return (y + 0.01 * ((y @ y.mT).softmax(-1) @ y),)


def test_data_alone_make_prune_refit_a_model_with_attention() -> None:
    torch.manual_seed(0)
    net, data = Net().eval(), torch.randn(128, 4, 6)
    net.blocks = nn.ModuleList(Attended() for _ in range(5))
    result = prune(net, data[:2], {"layers": 2}, data=data)
    facts = result.report.recovery
    assert facts is not None and facts.stages[0].name == "layers before gaps" and facts.stages[0].taken
    assert facts.after < 0.1 * facts.before
    assert result.proof is not None and result.proof.exact
    plain = prune(net, data[:2], {"layers": 2}, criterion="l1", data=data)
    assert plain.report.recovery is None
    both = plan(net, data[:2], {"layers": 1, "mlp": 0.25}, data=data).apply().report
    assert both.recovery is not None and both.recovery.after < both.recovery.before
    assert [note for note in both.notes if "chosen by reconstruction" in note]
