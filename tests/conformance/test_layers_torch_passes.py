"""Backward passes and steps in which rows were trained with other gradients than a weight of PyTorch gets."""

import pytest
from torch_beside import a_table, equal, pushed, torch, touched, twin

from rowloom.client import InvalidRequest
from rowloom.client.layers_torch import Embedding, push_on_step

IDS = torch.tensor([1, 2, 3])


def scaled(**how):
    return torch.amp.GradScaler("cpu", init_scale=2.0**16, **how)


# ------------------------------------------------------------------------------------------------------ GradScaler


@pytest.mark.parametrize("fused", [False, True])
@pytest.mark.parametrize("other", [False, True])
def test_rows_were_pushed_65536_times_too_large_if_the_scaler_was_not_given(fused, other):
    table = a_table()
    model = torch.nn.ModuleList([Embedding(table), torch.nn.Linear(3, 1)])
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, fused=fused)
    scaler = scaled()
    push_on_step(optimizer, model, scaler=scaled() if other else None)
    dense = model[1].weight.detach().clone()
    scaler.scale(model[1](model[0](IDS)).sum()).backward()
    with pytest.raises(InvalidRequest, match=r"scale 65536 .*'t'.*push_on_step\(optimizer, model, scaler=scaler\)"):
        scaler.step(optimizer)
    assert table.pushes == []
    equal(model[1].weight, dense)


def test_a_scaler_that_is_not_enabled_scales_nothing_and_need_not_be_given():
    table = a_table()
    layer = Embedding(table)
    optimizer = torch.optim.SGD(layer.parameters(), lr=0.1)
    push_on_step(optimizer, layer)
    scaler = scaled(enabled=False)
    scaler.scale(layer(IDS).sum()).backward()
    scaler.step(optimizer)
    assert pushed(table)[1].tolist() == [1.0, 1.0, 1.0]
