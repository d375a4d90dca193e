"""Modules: attributes, names, state, epoch, functional calls."""

from __future__ import annotations

import numpy as np
import pytest

import plait
from plait import nn
from plait.base.errors import ArgumentTypeError, InvalidArgument, ShapeMismatch


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.first = nn.Linear(4, 3)
        self.second = nn.Sequential(nn.ReLU(), nn.Linear(3, 2, bias=False))
        self.register_buffer("count", plait.zeros(()))
        self.register_buffer("scratch", plait.zeros(2), persistent=False)
        self.scale = 2.0

    def forward(self, x):
        return self.second(self.first(x)) * self.scale + self.count


def test_names_come_in_order_of_registration():
    net = Net()
    assert [n for n, _ in net.named_parameters()] == [
        "first.weight",
        "first.bias",
        "second.1.weight",
    ]
    assert [n for n, _ in net.named_buffers()] == ["count", "scratch"]
    assert [n for n, _ in net.named_modules()] == ["", "first", "second", "second.0", "second.1"]
    assert list(net.state_dict()) == ["first.weight", "first.bias", "second.1.weight", "count"] or (
        set(net.state_dict()) == {"first.weight", "first.bias", "second.1.weight", "count"}
    )


def test_shared_parameters_come_once():
    net = nn.Sequential(nn.Linear(3, 3), nn.Linear(3, 3))
    net[1].weight = net[0].weight
    assert [n for n, _ in net.named_parameters()] == ["0.weight", "0.bias", "1.bias"]
    assert len(list(net.named_parameters(remove_duplicate=False))) == 4


def test_parameter_is_a_leaf_and_its_results_are_plain():
    parameter = nn.Parameter(plait.ones(2))
    assert parameter.requires_grad and parameter.is_leaf
    assert type(parameter + 1) is plait.Tensor
    assert type(parameter.detach()) is plait.Tensor
    assert "Parameter containing" in repr(parameter)


def test_parameter_shares_memory():
    data = plait.zeros(2)
    parameter = nn.Parameter(data)
    with plait.no_grad():
        parameter.add_(1)
    assert data.tolist() == [1.0, 1.0]


def test_parameter_of_something_else():
    with pytest.raises(ArgumentTypeError, match="Parameter: argument 'data'"):
        nn.Parameter([1.0, 2.0])


CHANGES = {
    "plain attribute": lambda net: setattr(net, "scale", 3.0),
    "new attribute": lambda net: setattr(net, "fresh", 1),
    "parameter": lambda net: setattr(net.first, "bias", nn.Parameter(plait.zeros(3))),
    "buffer": lambda net: setattr(net, "count", plait.ones(())),
    "module": lambda net: setattr(net, "first", nn.Linear(4, 3)),
    "deletion": lambda net: delattr(net, "scale"),
    "register_parameter": lambda net: net.register_parameter("p", None),
    "register_buffer": lambda net: net.register_buffer("b", plait.zeros(1)),
    "register_module": lambda net: net.register_module("m", nn.ReLU()),
    "train": lambda net: net.train(),
    "eval": lambda net: net.eval(),
    "requires_grad_": lambda net: net.requires_grad_(False),
}


@pytest.mark.parametrize("change", CHANGES)
def test_epoch_moves_with(change):
    net = Net()
    before = nn.module_epoch()
    CHANGES[change](net)
    assert nn.module_epoch() > before


def test_epoch_stays_when_only_data_change():
    net = Net()
    before = nn.module_epoch()
    with plait.no_grad():
        net.first.weight.zero_()
    net(plait.ones(1, 4))
    assert nn.module_epoch() == before


def test_train_and_eval_reach_everything():
    net = Net().eval()
    assert not any(m.training for m in net.modules())
    assert all(m.training for m in net.train().modules())


def test_state_dict_round_trip():
    source, target = Net(), Net()
    assert target.load_state_dict(source.state_dict()) == ([], [])
    x = plait.ones(2, 4)
    np.testing.assert_array_equal(source(x).detach().numpy(), target(x).detach().numpy())


def test_load_state_dict_is_all_or_nothing():
    net = Net()
    before = net.first.bias.tolist()
    state = {**net.state_dict(), "second.1.weight": plait.zeros(5)}
    state["first.bias"] = plait.ones(3)
    with pytest.raises(ShapeMismatch, match=r"second\.1\.weight"):
        net.load_state_dict(state)
    assert net.first.bias.tolist() == before


def test_load_state_dict_names():
    net = Net()
    state = net.state_dict()
    state["extra"] = state.pop("count")
    with pytest.raises(InvalidArgument, match=r"missing \['count'\], unexpected \['extra'\]"):
        net.load_state_dict(state)
    assert net.load_state_dict(state, strict=False) == (["count"], ["extra"])


def test_attribute_before_init():
    class Early(nn.Module):
        def __init__(self):
            self.x = 1

    with pytest.raises(InvalidArgument, match="before Module.__init__"):
        Early()


def test_parameter_name_cannot_hold_something_else():
    net = Net()
    with pytest.raises(ArgumentTypeError, match="'weight' is a parameter"):
        net.first.weight = plait.zeros(3, 4)
    with pytest.raises(AttributeError, match="no attribute 'third'"):
        net.third


def test_attribute_changes_its_kind():
    net = Net()
    net.scale = nn.Parameter(plait.ones(()))
    assert "scale" in dict(net.named_parameters())
    assert "scale" not in vars(net)


def test_functional_call_uses_and_restores():
    net = Net()
    own = dict(net.named_parameters())
    zeros = {name: plait.zeros_like(p) for name, p in own.items()}
    result = nn.functional_call(net, {**zeros, "count": plait.full((), 7.0)}, plait.ones(1, 4))
    assert result.tolist() == [[7.0, 7.0]]
    assert all(own[n] is p for n, p in net.named_parameters())


def test_functional_call_restores_after_an_error():
    net = Net()
    weight = net.first.weight
    with pytest.raises(RuntimeError):
        nn.functional_call(net, {"first.weight": plait.zeros(3, 9)}, plait.ones(1, 4))
    assert net.first.weight is weight


def test_functional_call_exchanges_shared_parameters_everywhere():
    net = nn.Sequential(nn.Linear(2, 2, bias=False), nn.Linear(2, 2, bias=False))
    net[1].weight = net[0].weight
    doubled = plait.eye(2) * 2
    assert nn.functional_call(net, {"0.weight": doubled}, plait.ones(1, 2)).tolist() == [[4.0, 4.0]]


def test_functional_call_unknown_name():
    with pytest.raises(InvalidArgument, match=r"names \['third'\]"):
        nn.functional_call(Net(), {"third": plait.zeros(1)}, plait.ones(1, 4))


def test_repr():
    assert repr(nn.Sequential(nn.Linear(2, 1), nn.Dropout(0.1))) == (
        "Sequential(\n  (0): Linear(2, 1, bias=True)\n  (1): Dropout(p=0.1)\n)"
    )
