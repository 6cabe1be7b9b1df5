"""Tokens that no output depends on are found, and have no say in criteria and fits."""

import torch
from torch import Tensor, nn

from torchthin import Ratio, prune, recover
from torchthin.graph.inputs import as_inputs
from torchthin.importance.used_rows import used_rows


class Pooled(nn.Module):
    """The mean of what layers make of the tokens that a mask names."""

    def __init__(self) -> None:
        super().__init__()
        self.inner, self.outer, self.last = nn.Linear(6, 12), nn.Linear(12, 6), nn.Linear(6, 5)

    def forward(self, x: Tensor, mask: Tensor) -> Tensor:
        x = x + self.outer(self.inner(x).relu())
        return self.last((x * mask[..., None]).sum(1) / mask.sum(1, keepdim=True))


def net() -> nn.Module:
    torch.manual_seed(0)
    return Pooled().eval()


def data(padding: float) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(1)
    lengths = torch.randint(2, 8, (48,), generator=generator)
    mask = (torch.arange(8) < lengths[:, None]).float()
    tokens = torch.randn(48, 8, 6, generator=generator)
    return {"x": torch.where(mask[..., None] > 0, tokens, padding * tokens), "mask": mask}


def test_rows_are_those_of_the_tokens_that_count() -> None:
    given = data(50.0)
    found = used_rows(net(), {"inner", "outer", "last"}, as_inputs(given))
    assert found.keys() == {"inner", "outer"}  # all rows of the last layer count
    for rows in found.values():
        assert torch.equal(rows, given["mask"].flatten() > 0)


def test_where_all_tokens_count_nothing_is_said() -> None:
    model = nn.Sequential(nn.Linear(4, 4), nn.Tanh(), nn.Linear(4, 2))
    assert used_rows(model, {"0", "2"}, as_inputs(torch.randn(20, 3, 4))) == {}


def test_padding_has_no_say_in_what_goes_and_in_the_refit() -> None:
    states = []
    for padding in (0.0, 50.0):
        given = data(padding)
        example = {name: tensor[:2] for name, tensor in given.items()}
        target = Ratio({"mlp": 0.5})
        result = prune(
            net(), example, target, criterion="reconstruction", data=given, proof="off", include=["*"]
        )
        states.append(recover(net(), result, example, given).model.state_dict())
    for name, tensor in states[0].items():
        assert torch.allclose(tensor, states[1][name], atol=1e-5), name
