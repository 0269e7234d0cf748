"""FLModel: what it takes, gives, refuses and leaves alone."""

from __future__ import annotations

import logging
from collections import OrderedDict
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from flps.errors import ConfigError, FlpsError, ProtocolError
from flps.split.model import FLModel

Described = Callable[[str, dict[str, Any]], Any]
SGD = {"type": "SGD", "hyper_parameters": {"learning_rate": 0.5}}


def named(*names: str) -> list[dict[str, str]]:
    return [{"name": name} for name in names]


def grad(output: str, sens: Any = None, *inputs: str) -> dict[str, Any]:
    return {"inputs": named(*(inputs or ("x",))), "output": {"name": output}} | ({} if sens is None else {"sens": sens})


class Tail(nn.Module):
    """x (B, 3), ids (B,), label (B, 1) -> score (B, 1), loss."""

    def __init__(self, dropout: float = 0.0) -> None:
        super().__init__()
        self.table = nn.Embedding(4, 3)
        self.dropout = nn.Dropout(dropout)
        self.head = nn.Linear(3, 1)
        self.runs = 0

    def forward(self, x: Tensor, ids: Tensor, label: Tensor) -> tuple[Tensor, Tensor]:
        self.runs += 1
        score = self.head(self.dropout(x * self.table(ids)))
        return score, (score - label).square().mean()


class TailEval(nn.Module):
    """The score alone: another module over the same weights."""

    def __init__(self, tail: Tail) -> None:
        super().__init__()
        self.tail = tail

    def forward(self, x: Tensor, ids: Tensor) -> Tensor:
        score: Tensor = self.tail(x, ids, torch.zeros(len(x), 1, dtype=x.dtype))[0]
        return score


def tail_yaml(**more: Any) -> dict[str, Any]:
    inputs = [{"name": "x", "source": "remote"}, *named("ids", "label")]
    values = {
        "role": "leader",
        "model": {
            "train_net": {"name": "tail", "inputs": inputs, "outputs": named("score", "loss")},
            "eval_net": {"name": "tail", "inputs": inputs[:2], "outputs": named("score"), "gt": "label"},
        },
        "opts": [{**SGD, "grads": [grad("loss")]}],
        "grad_scalers": [{**grad("loss", None, "x", "ids")}],
    }
    return {**values, **more}


def batch(rows: int = 4) -> dict[str, Tensor]:
    source = torch.Generator().manual_seed(4)
    return {
        "x": torch.randn(rows, 3, generator=source, dtype=torch.float64),
        "ids": torch.arange(rows) % 4,
        "label": torch.ones(rows, 1, dtype=torch.float64),
    }


def parted(whole: dict[str, Tensor]) -> tuple[dict[str, Tensor], OrderedDict[str, Tensor]]:
    """The leader's part, and what comes from the follower."""
    return {name: whole[name] for name in ("ids", "label")}, OrderedDict(x=whole["x"])


@pytest.fixture
def tail() -> Tail:
    torch.manual_seed(1)
    return Tail().double()


def weights(model: FLModel) -> list[Tensor]:
    return [weight.detach().clone() for weight in model.network.parameters()]


def test_a_step_is_one_forward_and_one_backward(described: Described, tail: Tail) -> None:
    opts = [{**SGD, "grads": [grad("loss"), grad("score", 2.0)]}] * 2
    model = FLModel(described("tail", tail_yaml(opts=opts, grad_scalers=[grad("loss", None, "x")])), tail)
    backwards = []
    tail.head.weight.register_hook(lambda gradient: backwards.append(gradient))
    out = model.forward_one_step(*parted(batch()))
    model.backward_one_step(*parted(batch()))
    assert tail.runs == 1
    assert len(backwards) == 2  # x wants the loss alone, which the score reaches, too; over the same graph
    assert not out["loss"].requires_grad
    assert model.global_step == 1


def test_many_grads_and_scalers_are_one_backward(described: Described, tail: Tail) -> None:
    adam = {"type": "Adam", "hyper_parameters": {}, "params": named("head")}
    opts = [{**SGD, "grads": [grad("loss")], "params": named("table")}, {**adam, "grads": [grad("loss")]}]
    scalers = [grad("loss", None, "x", "ids")]
    model = FLModel(described("tail", tail_yaml(opts=opts, grad_scalers=scalers)), tail)
    backwards = []
    tail.head.weight.register_hook(lambda gradient: backwards.append(gradient))
    model.forward_one_step(*parted(batch()))
    model.backward_one_step()
    assert (tail.runs, len(backwards)) == (1, 1)


def test_backward_alone_runs_its_own_forward(described: Described, tail: Tail) -> None:
    model = FLModel(described("tail", tail_yaml()), tail)
    before = weights(model)
    scales = model.backward_one_step(*parted(batch()))
    assert tail.runs == 1
    assert list(scales) == ["loss"]
    assert not any(torch.equal(one, other) for one, other in zip(weights(model), before, strict=True))


def test_the_gradient_that_crosses_the_cut_against_finite_differences(described: Described, tail: Tail) -> None:
    model = FLModel(described("tail", tail_yaml(grad_scalers=[grad("loss", 1024.0, "x")])), tail)
    whole, step = batch(), 1e-6
    numeric = torch.zeros_like(whole["x"])
    for index in np.ndindex(*numeric.shape):
        moved = [whole["x"].clone(), whole["x"].clone()]
        moved[0][index] += step
        moved[1][index] -= step
        up, down = (model.forward_one_step({**whole, "x": x})["loss"] for x in moved)
        numeric[index] = (up - down) / (2 * step)
    model.forward_one_step(whole)
    scales = model.backward_one_step(whole)
    torch.testing.assert_close(scales["loss"]["x"] / 1024, numeric, rtol=1e-7, atol=1e-9)


def test_the_gradient_has_the_dropout_of_the_activation_that_was_sent(described: Described) -> None:
    torch.manual_seed(2)
    tail = Tail(dropout=0.5).double()
    model = FLModel(described("tail", tail_yaml(grad_scalers=[grad("score", None, "x")])), tail)
    whole = batch(64)
    score = model.forward_one_step(whole)["score"] - tail.head.bias.detach()
    sent = (whole["x"] * model.backward_one_step(whole)["score"]["x"]).sum(dim=1, keepdim=True)
    torch.testing.assert_close(sent, score)  # linear in x, as long as the mask is the same


def test_scalers_see_the_weights_before_the_update(described: Described, tail: Tail) -> None:
    model = FLModel(described("tail", tail_yaml()), tail)
    whole = batch()
    x = whole["x"].clone().requires_grad_()
    (expected,) = torch.autograd.grad(tail(x, whole["ids"], whole["label"])[1], x)
    torch.testing.assert_close(model.backward_one_step(whole)["loss"]["x"], expected)


def test_integer_inputs_have_no_gradient_and_it_is_said_once(
    described: Described, tail: Tail, caplog: pytest.LogCaptureFixture
) -> None:
    model = FLModel(described("tail", tail_yaml()), tail)
    with caplog.at_level(logging.WARNING):
        for _ in range(2):
            assert list(model.backward_one_step(batch())["loss"]) == ["x"]
    assert caplog.text.count("'ids' is torch.int64 and has no gradient") == 1


def test_an_input_that_plays_no_part_has_gradient_0(described: Described) -> None:
    class First(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.weight = nn.Parameter(torch.ones(1))

        def forward(self, x: Tensor, ids: Tensor, label: Tensor) -> tuple[Tensor, Tensor]:
            return x, x.mean() * self.weight

    yaml = tail_yaml(grad_scalers=[grad("loss", None, "x", "label")])
    scales = FLModel(described("tail", yaml), First()).backward_one_step(batch())
    assert scales["loss"]["label"].tolist() == [[0.0]] * 4


def test_given_optimizers_get_the_gradients_of_the_one_backward(described: Described, tail: Tail) -> None:
    calls: list[tuple[tuple[Tensor, ...], object, dict[str, Tensor]]] = []

    class Customized:
        def __call__(self, *inputs: Tensor, sens: object = None) -> None:
            own = {name: weight.grad.clone() for name, weight in tail.named_parameters() if weight.grad is not None}
            calls.append((inputs, sens, own))

    opts = [{"type": "CustomizedAdam", "grads": [grad("loss", 1024.0)], "params": named("head"),
             "hyper_parameters": {"loss_scale": 1024.0, "learning_rate": 5e-6}}]  # fmt: skip
    model = FLModel(described("tail", tail_yaml(opts=opts)), tail, optimizers=Customized())
    whole = batch()
    expected = torch.autograd.grad(tail(whole["x"], whole["ids"], whole["label"])[1], list(tail.head.parameters()))
    model.backward_one_step(whole)
    ((inputs, sens, own),) = calls
    assert [tensor.tolist() for tensor in inputs] == [whole[name].tolist() for name in ("x", "ids", "label")]
    assert sens is None
    assert list(own) == ["head.weight", "head.bias"]
    for gradient, right in zip(own.values(), expected, strict=True):
        torch.testing.assert_close(gradient, right)  # the loss scale is out of it
    assert all(weight.grad is None for weight in tail.parameters())


def test_sens_reaches_the_given_optimizer(described: Described, tail: Tail) -> None:
    seen: list[object] = []
    opts = [{"type": "My", "grads": [grad("score", "next")]}]
    model = FLModel(
        described("tail", tail_yaml(opts=opts)), tail, optimizers=[lambda *inputs, sens=None: seen.append(sens)]
    )
    sens = {"next": {"score": torch.ones(4, 1)}}
    model.backward_one_step(batch(), sens=sens)
    assert seen == [sens]


def test_one_given_optimizer_gets_the_sum_over_all_entries(described: Described, tail: Tail) -> None:
    opts = [{"type": "My", "grads": [grad("loss")], "params": named(name)} for name in ("head", "head", "table")]
    optimizer = torch.optim.SGD(tail.parameters(), 0.5)
    model = FLModel(described("tail", tail_yaml(opts=opts)), tail, optimizers=optimizer)
    whole = batch()
    expected = torch.autograd.grad(tail(whole["x"], whole["ids"], whole["label"])[1], tail.head.weight)[0]
    before = tail.head.weight.detach().clone()
    model.backward_one_step(whole)
    torch.testing.assert_close(before - tail.head.weight, expected)  # two entries, each with 0.5 of it


def test_a_gradient_listed_twice_counts_twice_and_own_params_narrow_it(described: Described, tail: Tail) -> None:
    once, only_head = grad("loss"), {**grad("loss"), "params": named("head")}
    model = FLModel(described("tail", tail_yaml(opts=[{**SGD, "grads": [once, only_head]}])), tail)
    whole = batch()
    both = [tail.table.weight, tail.head.weight]
    expected = torch.autograd.grad(tail(whole["x"], whole["ids"], whole["label"])[1], both)
    before = [weight.detach().clone() for weight in both]
    scales = model.backward_one_step(whole)
    torch.testing.assert_close(before[0] - both[0], 0.5 * expected[0])
    torch.testing.assert_close(before[1] - both[1], 1.0 * expected[1])
    x = whole["x"].clone().requires_grad_()
    assert scales["loss"]["x"].shape == x.shape


def test_loss_fn_makes_net_and_loss_one(described: Described) -> None:
    yaml = tail_yaml(opts=[{**SGD, "grads": [grad("loss")]}], grad_scalers=[grad("loss", None, "x")])
    yaml["model"]["train_net"]["outputs"] = named("loss")
    yaml["model"]["train_net"]["inputs"] = named("x", "label")
    yaml["model"]["eval_net"]["inputs"] = named("x")
    net = nn.Linear(3, 1).double()
    model = FLModel(described("tail", yaml), net, loss_fn=nn.functional.mse_loss)
    whole = batch()
    assert torch.equal(model.forward_one_step(whole)["loss"], nn.functional.mse_loss(net(whole["x"]), whole["label"]))
    model.backward_one_step(whole)
    assert torch.equal(model.predict_one_step(whole)["score"], net(whole["x"]))


class Mean:
    def __init__(self) -> None:
        self.seen: list[tuple[Tensor, ...]] = []

    def update(self, *values: Tensor) -> None:
        self.seen.append(values)


def test_evaluation_leaves_modes_weights_and_the_step_under_way_alone(described: Described) -> None:
    torch.manual_seed(3)
    tail = Tail(dropout=0.5).double()
    tail.table.eval()  # somebody froze it on purpose
    model = FLModel(described("tail", tail_yaml()), tail, metrics=(mean := Mean()), eval_network=TailEval(tail))
    tail.table.eval()
    model.forward_one_step(batch())
    before, random = weights(model), torch.get_rng_state()
    one, two = model.eval_one_step(batch()), model.predict_one_step(*parted(batch()))
    assert torch.equal(one["score"], two["score"])
    assert list(one) == ["score"]
    assert mean.seen[0][1].tolist() == batch()["label"].tolist()
    assert all(torch.equal(now, then) for now, then in zip(weights(model), before, strict=True))
    assert torch.equal(torch.get_rng_state(), random)
    assert (tail.training, tail.dropout.training, tail.table.training) == (True, True, False)
    model.backward_one_step(batch())
    assert model.global_step == 1


def test_eval_modes_come_back_after_a_failure(described: Described, tail: Tail) -> None:
    model = FLModel(described("tail", tail_yaml()), tail, eval_network=TailEval(tail))
    with pytest.raises(FlpsError, match="eval_net"):
        model.predict_one_step({"x": torch.zeros(4, 5), "ids": torch.zeros(4, dtype=torch.int64)})
    assert tail.training


def test_eval_says_what_it_lacks(described: Described, tail: Tail) -> None:
    with pytest.raises(ConfigError, match=r"metrics.*predict_one_step"):
        FLModel(described("tail", tail_yaml()), tail).eval_one_step(batch())
    model = FLModel(described("tail", tail_yaml()), tail, metrics=Mean(), eval_network=TailEval(tail))
    without = {name: tensor for name, tensor in batch().items() if name != "label"}
    with pytest.raises(ConfigError, match=r"tail.yaml:\d+: tail: the label 'label' .*'x', 'ids'.*predict_one_step"):
        model.eval_one_step(without)
    yaml = tail_yaml()
    del yaml["model"]["eval_net"]["gt"]
    with pytest.raises(ConfigError, match=r"names no label \(gt\)"):
        FLModel(described("tail", yaml), tail, metrics=Mean()).eval_one_step(batch())


def test_what_is_missing_is_named_with_what_is_there(described: Described, tail: Tail) -> None:
    model = FLModel(described("tail", tail_yaml()), tail)
    local, remote = parted(batch())
    with pytest.raises(ConfigError, match=r"tail: missing input data 'x' \(source: remote\).*'ids', 'label'.*nothing"):
        model.forward_one_step(local)
    with pytest.raises(ProtocolError, match=r"'x'.*from elsewhere came 'y'"):
        model.forward_one_step(local, {"y": remote["x"]})
    with pytest.raises(ConfigError, match=r"'label' \(source: local\)"):
        model.forward_one_step({"ids": local["ids"]}, remote)
    with pytest.raises(ConfigError, match="'ids' is a list"):
        model.forward_one_step({**local, "ids": [1, 2]}, remote)


def test_remote_wins_and_numpy_is_taken(described: Described, tail: Tail) -> None:
    model = FLModel(described("tail", tail_yaml()), tail)
    whole = batch()
    other = {**whole, "x": np.zeros((4, 3)), "ids": whole["ids"].numpy()}
    score = model.forward_one_step(other, OrderedDict(x=whole["x"]))["score"]
    assert torch.equal(score, model.forward_one_step(whole)["score"])


def test_what_comes_in_another_form_is_refused(described: Described, tail: Tail) -> None:
    model = FLModel(described("tail", tail_yaml()), tail)
    local, remote = parted(batch())
    model.forward_one_step(local, remote)
    with pytest.raises(ProtocolError, match=r"'x' came as 2 dimensions of torch.float32 \(shape \(4, 3\)\).*float64"):
        model.forward_one_step(local, {"x": remote["x"].float()})
    with pytest.raises(ProtocolError, match="1 dimensions"):
        model.forward_one_step(local, {"x": remote["x"][0]})
    with pytest.raises(FlpsError, match=r"tail: the net failed on its inputs x \(4, 7\) torch.float64, ids \(4,\)"):
        model.forward_one_step(local, {"x": torch.zeros(4, 7, dtype=torch.float64)})


def test_another_number_of_outputs_than_the_yaml_names(described: Described, tail: Tail) -> None:
    yaml = tail_yaml()
    yaml["model"]["train_net"]["outputs"] = named("score", "loss", "more")
    with pytest.raises(ConfigError, match=r"tail.yaml:.*tail has 2 outputs, its yaml names 3: score, loss, more"):
        FLModel(described("tail", yaml), tail).forward_one_step(batch())
    with pytest.raises(ConfigError, match=r"output 'score' of tail is a int"):
        FLModel(described("tail", tail_yaml()), Odd()).forward_one_step(batch())


class Odd(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(1))

    def forward(self, *inputs: Tensor) -> tuple[int, Tensor]:
        return 3, inputs[0]


def test_backward_wants_the_batch_of_its_forward(described: Described, tail: Tail) -> None:
    model = FLModel(described("tail", tail_yaml()), tail)
    whole = batch()
    model.forward_one_step(whole)
    with pytest.raises(ConfigError, match="another 'x'"):
        model.backward_one_step({**whole, "x": whole["x"] + 1})
    model.forward_one_step(whole)
    model.backward_one_step({name: tensor.clone() for name, tensor in whole.items()})
    with torch.no_grad():
        model.forward_one_step(whole)
    with pytest.raises(FlpsError, match="no_grad"):
        model.backward_one_step(whole)


def test_what_was_sent_cannot_be_changed_behind_the_graph(described: Described) -> None:
    class Squares(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.weight = nn.Parameter(torch.ones(1, dtype=torch.float64))

        def forward(self, x: Tensor, ids: Tensor, label: Tensor) -> tuple[Tensor, Tensor]:
            root = (x * self.weight).exp()
            return root, root.mean()

    model = FLModel(described("tail", tail_yaml()), Squares())
    model.forward_one_step(batch())["score"].zero_()
    with pytest.raises(RuntimeError, match="modified by an inplace"):
        model.backward_one_step()


def test_params_that_match_nothing_are_all_told_with_their_lines(described: Described, tail: Tail) -> None:
    opts = [
        {**SGD, "grads": [grad("loss")], "params": named("Head")},
        {**SGD, "grads": [{**grad("loss"), "params": named("tabel")}]},
    ]
    yaml = described("tail", tail_yaml(opts=opts))
    with pytest.raises(ConfigError) as error:
        FLModel(yaml, tail)
    lines = str(error.value).splitlines()
    places = [yaml.where(f"opts[{key}].params[0].name") for key in ("0", "1].grads[0")]
    assert lines[0].startswith(f"{places[0]}: no parameter's name contains 'Head'")
    assert lines[1].startswith(f"{places[1]}: no parameter's name contains 'tabel'")
    assert places[0] != places[1]
    assert "table.weight, head.weight, head.bias" in lines[0]


def test_one_of_several_names_that_matches_nothing_is_told(
    described: Described, tail: Tail, caplog: pytest.LogCaptureFixture
) -> None:
    opts = [{**SGD, "grads": [grad("loss")], "params": named("head", "deep", "table")}]
    with caplog.at_level(logging.WARNING):
        FLModel(yaml := described("tail", tail_yaml(opts=opts)), tail)
    assert f"{yaml.where('opts[0].params[1].name')}: no parameter's name contains 'deep'" in caplog.text


def test_what_nobody_trains_is_told_once(described: Described, tail: Tail, caplog: pytest.LogCaptureFixture) -> None:
    opts = [{**SGD, "grads": [grad("loss")], "params": named("head.w", "weight")}]
    with caplog.at_level(logging.WARNING):
        model = FLModel(described("tail", tail_yaml(opts=opts)), tail)
        model.backward_one_step(batch())
    assert caplog.text.count("no entry of opts trains head.bias: they stay") == 1
    assert list(model.updates[0].parameters) == ["table.weight", "head.weight"]
    assert tail.head.bias.grad is None


def test_a_tied_parameter_goes_by_each_of_its_names(described: Described, tail: Tail) -> None:
    tail.word_table = tail.table  # type: ignore[assignment]
    opts = [{**SGD, "grads": [grad("loss")], "params": named("word")}]
    model = FLModel(described("tail", tail_yaml(opts=opts)), tail)
    assert list(model.updates[0].parameters) == ["table.weight"]


def test_what_is_no_module_or_no_optimizer(described: Described, tail: Tail) -> None:
    yaml = described("tail", tail_yaml())
    with pytest.raises(TypeError, match="'network'"):
        FLModel(yaml, "net")  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="'eval_network'"):
        FLModel(yaml, tail, eval_network="net")  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="str"):
        FLModel(yaml, tail, optimizers="Adam")
    with pytest.raises(ConfigError, match="2 optimizers were given for 1"):
        FLModel(yaml, tail, optimizers=[lambda *inputs: None] * 2)
    with pytest.raises(ConfigError, match="your own is given as FLModel"):
        FLModel(described("own", tail_yaml(opts=[{"type": "CustomizedAdam", "grads": [grad("loss")]}])), tail)


def test_nothing_to_train_is_allowed(described: Described, tail: Tail) -> None:
    model = FLModel(described("tail", tail_yaml(opts=[])), tail)
    before = weights(model)
    assert model.backward_one_step(batch())["loss"]["x"].abs().sum() > 0
    assert all(torch.equal(now, then) for now, then in zip(weights(model), before, strict=True))


@pytest.mark.parametrize("parts", [1, 2, 4])
def test_micro_batches_are_the_batch(described: Described, parts: int) -> None:
    models = []
    for name in ("whole", "parts"):
        torch.manual_seed(1)
        models.append(FLModel(described(name, tail_yaml()), Tail().double()))
    whole, pieces = models
    rows = batch(8)
    chunks = [
        dict(zip(rows, chunk, strict=True)) for chunk in zip(*(t.chunk(parts) for t in rows.values()), strict=True)
    ]
    for _ in range(3):
        expected = whole.backward_one_step(rows)["loss"]["x"]
        pieces.window = parts
        for chunk in chunks:
            pieces.forward_one_step(chunk)
        found = [pieces.backward_one_step(chunk, update=False, share=1 / parts)["loss"]["x"] for chunk in chunks]
        pieces.update_one_step()
        torch.testing.assert_close(torch.cat(found), expected, rtol=1e-12, atol=1e-14)
        for one, other in zip(weights(whole), weights(pieces), strict=True):
            torch.testing.assert_close(one, other, rtol=1e-12, atol=1e-14)
    assert pieces.global_step == 3


def test_an_update_wants_gradients(described: Described, tail: Tail) -> None:
    with pytest.raises(FlpsError, match="without gradients"):
        FLModel(described("tail", tail_yaml()), tail).update_one_step()
