"""The parties' nets: the original's sizes, names and first values; formulas against plain ones."""

from __future__ import annotations

import msgspec
import pytest
import torch
from torch import Tensor, nn

from flps.models.wide_deep.model import (
    BottomLossNet,
    LeaderTeeLossNet,
    LeaderTeeNet,
    LeaderTopAfterTeeEvalNet,
    LeaderTopAfterTeeLossNet,
    LeaderTopAfterTeeNet,
    LeaderTopEvalNet,
    LeaderTopLossNet,
    LeaderTopNet,
    WideDeepModel,
    drawn,
)
from flps.models.wide_deep.options import FULL, SMALL, NetworkConfig

TINY = NetworkConfig(vocab_size=30, emb_dim=4, deep_layer_dim=(6, 5), batch_size=8)


@pytest.fixture(autouse=True)
def one_thread() -> None:
    torch.set_num_threads(1)


def count(net: nn.Module) -> int:
    return sum(parameter.numel() for parameter in net.parameters())


def columns(rows: int, fields: int, seed: int = 0) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    ids = torch.randint(0, TINY.vocab_size, (rows, fields), generator=generator, dtype=torch.int32)
    return ids, torch.rand(rows, fields, generator=generator, dtype=torch.float64)


@pytest.mark.parametrize(("fields", "parameters"), [(20, 18_528_578), (19, 18_446_658)])
def test_the_full_nets_have_the_originals_sizes(fields: int, parameters: int) -> None:
    with torch.device("meta"):
        net = nn.Module()
        net.add_module("bottom", WideDeepModel(FULL, fields))
    assert count(net) == parameters


def test_the_other_nets_have_the_originals_sizes() -> None:
    assert [count(net) for net in (LeaderTopNet(), LeaderTeeNet(), LeaderTopAfterTeeNet())] == [5, 10, 3]
    assert count(LeaderTopNet(parties=3)) == 7


def test_names_are_matched_by_the_yamls_params_as_in_the_original() -> None:
    net = BottomLossNet(WideDeepModel(TINY, 3), TINY)
    names = [name for name, _ in net.named_parameters()]
    assert [name for name in names if "wide" in name] == ["net.wide_embeddinglookup.embedding_table"]
    assert [name for name in names if "deep" in name] == ["net.deep_embeddinglookup.embedding_table"]
    dense = [f"net.dense_layer_{n}.{kind}" for n in (1, 2, 3) for kind in ("weight", "bias")]
    assert [name for name in names if "dense" in name] == dense
    assert set(names) - {"net.Wide_b"} == {name for name in names if any(p in name for p in ("wide", "deep", "dense"))}
    tops = (LeaderTopLossNet(LeaderTopNet()), LeaderTeeLossNet(LeaderTeeNet()))
    assert all("dense" in name for top in tops for name, _ in top.named_parameters())


def test_first_values() -> None:
    net = WideDeepModel(SMALL, 20, seed=4)
    for name, parameter in net.named_parameters():
        if parameter.numel() > 500:
            assert abs(float(parameter.detach().std()) - 0.01) < 0.001, name
            assert abs(float(parameter.detach().mean())) < 0.002, name
    assert net.get_parameter("dense_layer_1.bias").detach().abs().max() > 0
    top = LeaderTopNet(seed=1).dense_layer
    assert top.bias.item() == 0
    assert 0 < top.weight.detach().abs().max() < 0.05


def test_a_seed_decides_and_leaves_torchs_generator_alone() -> None:
    torch.manual_seed(5)
    before = torch.get_rng_state()
    first, again, other = (WideDeepModel(TINY, 3, seed).state_dict() for seed in (1, 1, 2))
    assert torch.equal(torch.get_rng_state(), before)
    assert all(torch.equal(first[name], again[name]) for name in first)
    assert not torch.equal(first["Wide_b"], other["Wide_b"])
    unseeded = WideDeepModel(TINY, 3).state_dict()  # as in the original, after set_seed
    torch.manual_seed(5)
    assert torch.equal(WideDeepModel(TINY, 3).state_dict()["Wide_b"], unseeded["Wide_b"])


def test_other_first_values() -> None:
    uniform = drawn([500], "uniform", (-0.5, 0.25), None).detach()
    assert -0.5 <= uniform.min() < -0.4 < 0.15 < uniform.max() <= 0.25
    assert drawn([2], "one", (), None).tolist() == [1, 1]
    assert drawn([2], "zero", (), None).tolist() == [0, 0]
    with pytest.raises(ValueError, match="expected normal, uniform, one or zero"):
        drawn([2], "xavier", (), None)


@pytest.mark.parametrize("activation", ["relu", "sigmoid", "tanh"])
def test_a_partys_net_is_its_formula(activation: str) -> None:
    config = msgspec.structs.replace(TINY, deep_layer_act=activation)
    net = WideDeepModel(config, 3, seed=2).double()
    ids, weights = columns(7, 3)
    wide, deep = net(ids, weights)
    weight_of = net.state_dict()
    for row in range(7):
        expected = weight_of["Wide_b"][0]
        x = []
        for field in range(3):
            one, scale = int(ids[row, field]), weights[row, field]
            expected = expected + weight_of["wide_embeddinglookup.embedding_table"][one, 0] * scale
            x.append(weight_of["deep_embeddinglookup.embedding_table"][one] * scale)
        hidden = torch.cat(x)
        for layer in (1, 2, 3):
            hidden = weight_of[f"dense_layer_{layer}.weight"] @ hidden + weight_of[f"dense_layer_{layer}.bias"]
            hidden = getattr(torch, activation)(hidden) if layer < 3 else hidden
        torch.testing.assert_close(wide[row, 0], expected, rtol=1e-12, atol=0)
        torch.testing.assert_close(deep[row], hidden, rtol=1e-12, atol=0)
    assert wide.shape == deep.shape == (7, 1)


def test_l2_regu_is_half_the_mean_of_squares_by_its_weight_and_touches_the_deep_table_only() -> None:
    config = msgspec.structs.replace(TINY, l2_coef=0.3)
    net = BottomLossNet(WideDeepModel(config, 3, seed=2).double(), config)
    _, _, l2_regu = net(*columns(7, 3))
    table = net.net.deep_embeddinglookup.embedding_table
    torch.testing.assert_close(l2_regu, table.square().mean() / 2 * 0.3, rtol=1e-12, atol=0)
    torch.autograd.backward(l2_regu)
    assert table.grad is not None
    torch.testing.assert_close(table.grad, table.detach() * 0.3 / table.numel(), rtol=1e-12, atol=0)
    assert [name for name, p in net.named_parameters() if p.grad is not None] == [
        "net.deep_embeddinglookup.embedding_table"
    ]


def test_sparse_tables_have_the_same_gradient() -> None:
    gradients = []
    for sparse in (False, True):
        config = msgspec.structs.replace(TINY, sparse=sparse)
        net = WideDeepModel(config, 3, seed=2).double()
        torch.autograd.backward(torch.cat(net(*columns(7, 3)), 1).sum())
        grad = net.deep_embeddinglookup.embedding_table.grad
        assert grad is not None
        assert grad.is_sparse == sparse
        gradients.append(grad.to_dense())
    torch.testing.assert_close(*gradients, rtol=1e-12, atol=1e-15)


def test_dropout_is_on_in_training_only() -> None:
    config = msgspec.structs.replace(TINY, dropout_flag=True, keep_prob=0.5)
    net, plain = WideDeepModel(config, 3, seed=2).double(), WideDeepModel(TINY, 3, seed=2).double()
    ids, weights = columns(7, 3)
    assert not torch.equal(net(ids, weights)[1], net(ids, weights)[1])
    assert torch.equal(net.eval()(ids, weights)[1], plain(ids, weights)[1])


@pytest.mark.parametrize("parties", [2, 3])
def test_the_top_is_its_formula(parties: int) -> None:
    top = LeaderTopNet(parties, seed=3).double()
    generator = torch.Generator().manual_seed(0)
    embeddings = [torch.rand(9, 1, generator=generator, dtype=torch.float64) for _ in range(2 * parties)]
    label = (torch.rand(9, 1, generator=generator) < 0.5).float()
    out, loss = LeaderTopLossNet(top)(*embeddings, label)
    logits, pred_probs = LeaderTopEvalNet(top)(*embeddings)
    expected = torch.cat(embeddings, 1) @ top.dense_layer.weight.T + top.dense_layer.bias
    torch.testing.assert_close(out, expected, rtol=1e-12, atol=0)
    assert torch.equal(out, logits)
    torch.testing.assert_close(pred_probs, 1 / (1 + torch.exp(-expected)), rtol=1e-12, atol=0)
    plain = -(label * pred_probs.log() + (1 - label) * (1 - pred_probs).log()).mean()
    torch.testing.assert_close(loss, plain, rtol=1e-12, atol=0)
    flat_out, flat_loss = LeaderTopLossNet(top)(*embeddings, label.flatten())
    assert flat_out.shape == (9, 1)
    assert torch.equal(flat_loss, loss)


def test_three_stages_have_their_shapes() -> None:
    embeddings = [torch.rand(9, 1) for _ in range(4)]
    tee_embedding = LeaderTeeLossNet(LeaderTeeNet(seed=1))(*embeddings)
    assert tee_embedding.shape == (9, 2)
    top = LeaderTopAfterTeeNet(seed=2)
    out, loss = LeaderTopAfterTeeLossNet(top)(tee_embedding, torch.ones(9, 1))
    logits, pred_probs = LeaderTopAfterTeeEvalNet(top)(tee_embedding)
    assert out.shape == logits.shape == pred_probs.shape == (9, 1)
    assert loss.shape == ()
    assert torch.equal(torch.sigmoid(out), pred_probs)


def test_an_unknown_activation_is_named() -> None:
    class Odd:
        deep_layer_act = "swish"

        def __getattr__(self, name: str) -> object:
            return getattr(TINY, name)

    with pytest.raises(ValueError, match="deep_layer_act 'swish': expected relu, sigmoid, tanh"):
        WideDeepModel(Odd(), 3)  # type: ignore[arg-type]
