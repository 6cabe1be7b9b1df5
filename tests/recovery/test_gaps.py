"""What writes into the stream before layers that were left out is refitted to what the last of them would have given."""

import torch
from torch import Tensor, nn

from torchthin import Recovery, prune, recover


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
    result = prune(net, data[:2], {"layers": 2}, data=data)
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
    result = prune(net, data[:2], {"layers": 1, "mlp": 0.25}, data=data)
    assert result.proof is not None and result.proof.exact
    facts = recover(net, result, data[:2], data).report.recovery
    assert facts is not None and facts.after < 1e-2 * facts.before
