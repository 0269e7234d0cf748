"""Wide & Deep (Cheng et al. 2016), cut after the last layer of each party's own net.

    bottom   every party: ids and weights of its columns -> a wide and a deep logit
    top      the leader: the logits of all parties -> one linear layer -> logit, loss
    tee      a stage between the two, 4 -> 2, with the top after it 2 -> 1: a SIMULATION of the cut in an enclave.
             All of it runs in the leader's process, in the open; nothing here protects anything.

Law 1: parameters are called as in the original, since its yaml names them by parts of names: `wide` is the wide
       table, `deep` the deep table, `dense` the dense layers. `Wide_b` (capital W) is matched by none of the three.
Law 2: a net knows neither its party nor an optimizer; order and number of arguments and results are the yaml's.

Shapes: B samples, F columns of this party, E width of a row of the deep table, P parties.
Ids are int32 or int64, everything else floats of the weights' dtype. Labels (B, 1).
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from typing import Protocol

import torch
import torch.nn.functional as F
from torch import Tensor, nn

SIGMA = 0.01  # of the original's initializer "normal"
ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {"relu": F.relu, "sigmoid": torch.sigmoid, "tanh": torch.tanh}


class WideDeepConfig(Protocol):
    """What the nets read of network_config; any object with these attributes will do."""

    @property
    def vocab_size(self) -> int: ...
    @property
    def emb_dim(self) -> int: ...
    @property
    def deep_layer_dim(self) -> Sequence[int]: ...
    @property
    def deep_layer_act(self) -> str: ...
    @property
    def dropout_flag(self) -> bool: ...
    @property
    def keep_prob(self) -> float: ...
    @property
    def weight_bias_init(self) -> Sequence[str]: ...
    @property
    def emb_init(self) -> str: ...
    @property
    def init_args(self) -> Sequence[float]: ...
    @property
    def sparse(self) -> bool: ...


class L2Config(Protocol):
    """What BottomLossNet reads of network_config."""

    @property
    def l2_coef(self) -> float: ...


def drawn(
    shape: Sequence[int], method: str, init_args: Sequence[float], generator: torch.Generator | None
) -> nn.Parameter:
    """A new parameter: `normal` (sigma 0.01), `uniform` within init_args, `one` or `zero`.

    generator: None draws from torch's global one.
    """
    values = torch.empty(*shape)
    if method == "normal":
        values.normal_(0.0, SIGMA, generator=generator)
    elif method in ("uniform", "random"):
        values.uniform_(init_args[0], init_args[-1], generator=generator)
    elif method in ("one", "zero"):
        values.fill_(float(method == "one"))
    else:
        raise ValueError(f"initialisation {method!r}: expected normal, uniform, one or zero")
    return nn.Parameter(values)


class EmbeddingLookup(nn.Module):
    """A table of `rows` rows; `sparse` gives its gradient as a sparse tensor of the touched rows.

    Sparse gradients save the pass over the whole table in optimizers that know them (torch's SparseAdam, SGD), but the
    original's are dense, and so is the gradient of the l2 term: whoever wants split == unsplit == original keeps dense.
    """

    def __init__(self, table: nn.Parameter, sparse: bool) -> None:
        super().__init__()
        self.embedding_table = table
        self.sparse = sparse

    def forward(self, ids: Tensor) -> Tensor:
        """Rows (..., E) of ids (...)."""
        if self.sparse:
            return F.embedding(ids, self.embedding_table, sparse=True)
        # the same numbers as F.embedding, and a way back that takes a seventh of its time for width 1, else two thirds
        width = self.embedding_table.shape[1]
        table = self.embedding_table.flatten() if width == 1 else self.embedding_table
        return table.index_select(0, ids.flatten()).view(*ids.shape, width)


class DenseLayer(nn.Module):
    """Dropout, linear layer, activation; the last one of a net has no activation."""

    def __init__(
        self, weight: nn.Parameter, bias: nn.Parameter, activation: str | None = None, keep_prob: float = 1.0
    ) -> None:
        """weight (outputs, inputs), bias (outputs,)."""
        super().__init__()
        self.weight, self.bias = weight, bias
        self.activation = ACTIVATIONS[activation] if activation else None
        self.keep_prob = keep_prob

    def forward(self, x: Tensor) -> Tensor:
        """(B, inputs) -> (B, outputs)."""
        if self.keep_prob < 1:
            x = F.dropout(x, 1 - self.keep_prob, self.training)
        y = F.linear(x, self.weight, self.bias)
        return self.activation(y) if self.activation else y


class WideDeepModel(nn.Module):
    """A party's own net.

    wide = sum over its columns of w[id] * weight, plus Wide_b; deep = a perceptron over E[id] * weight of all columns
    side by side.
    """

    def __init__(self, config: WideDeepConfig, field_size: int, seed: int | None = None) -> None:
        """field_size: columns of this party. seed: None draws the first weights from torch's global generator."""
        super().__init__()
        generator = None if seed is None else torch.Generator().manual_seed(seed)
        weight_init, bias_init = config.weight_bias_init
        activation = config.deep_layer_act.lower()
        if activation not in ACTIVATIONS:
            raise ValueError(f"deep_layer_act {config.deep_layer_act!r}: expected {', '.join(ACTIVATIONS)}")

        def draw(shape: Sequence[int], method: str) -> nn.Parameter:
            return drawn(shape, method, config.init_args, generator)

        self.Wide_b = draw([1], config.emb_init)
        self.wide_embeddinglookup = EmbeddingLookup(draw([config.vocab_size, 1], "normal"), config.sparse)
        self.deep_embeddinglookup = EmbeddingLookup(draw([config.vocab_size, config.emb_dim], "normal"), config.sparse)
        widths = [field_size * config.emb_dim, *config.deep_layer_dim, 1]
        self.depth = len(widths) - 1
        for number, (inputs, outputs) in enumerate(itertools.pairwise(widths), 1):
            layer = DenseLayer(
                draw([outputs, inputs], weight_init),
                draw([outputs], bias_init),
                activation if number < self.depth else None,
                config.keep_prob if config.dropout_flag else 1.0,
            )
            self.add_module(f"dense_layer_{number}", layer)

    def forward(self, id_hldr: Tensor, wt_hldr: Tensor) -> tuple[Tensor, Tensor]:
        """Wide and deep logit, each (B, 1), of ids (B, F) and weights (B, F)."""
        wide_BF = self.wide_embeddinglookup(id_hldr).squeeze(-1)
        wide_out = (wide_BF * wt_hldr).sum(1, keepdim=True) + self.Wide_b
        deep_BFE = self.deep_embeddinglookup(id_hldr) * wt_hldr.unsqueeze(-1)
        deep = deep_BFE.flatten(1)
        for number in range(1, self.depth + 1):
            deep = self.get_submodule(f"dense_layer_{number}")(deep)
        return wide_out, deep


class BottomLossNet(nn.Module):
    """What a party trains: its net and the l2 term of its deep table."""

    def __init__(self, net: WideDeepModel, config: L2Config) -> None:
        super().__init__()
        self.net = net
        self.l2_coef = config.l2_coef

    def forward(self, id_hldr: Tensor, wt_hldr: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Wide (B, 1), deep (B, 1), l2_regu () = mean(table^2) / 2 * l2_coef.

        The mean, as in the original, which makes the term 16 million times weaker than the paper's sum.
        """
        wide_embedding, deep_embedding = self.net(id_hldr, wt_hldr)
        table = self.net.deep_embeddinglookup.embedding_table
        l2_regu = torch.dot(table.flatten(), table.flatten()) / table.numel() / 2 * self.l2_coef
        return wide_embedding, deep_embedding, l2_regu


def dense(inputs: int, outputs: int, seed: int | None) -> DenseLayer:
    """A linear layer with MindSpore's first values of nn.Dense: weights normal (sigma 0.01), biases zero."""
    generator = None if seed is None else torch.Generator().manual_seed(seed)
    return DenseLayer(drawn([outputs, inputs], "normal", (), generator), drawn([outputs], "zero", (), None))


class LeaderTopNet(nn.Module):
    """One linear layer over the wide and deep logits of all parties; 5 parameters with two parties."""

    def __init__(self, parties: int = 2, seed: int | None = None) -> None:
        super().__init__()
        self.dense_layer = dense(2 * parties, 1, seed)

    def forward(self, *embeddings: Tensor) -> Tensor:
        """Logit (B, 1) of 2 P tensors (B, 1): leader wide, leader deep, follower wide, follower deep, ..."""
        logits: Tensor = self.dense_layer(torch.cat(embeddings, 1))
        return logits


def cross_entropy(logits: Tensor, label: Tensor) -> Tensor:
    """Mean sigmoid cross entropy () of logits (B, 1) and labels (B, 1) or (B,)."""
    return F.binary_cross_entropy_with_logits(logits, label.to(logits.dtype).reshape(logits.shape))


class LeaderTopLossNet(nn.Module):
    """What the leader trains of the top."""

    def __init__(self, net: LeaderTopNet) -> None:
        super().__init__()
        self.net = net

    def forward(self, *inputs: Tensor) -> tuple[Tensor, Tensor]:
        """(logits (B, 1), loss ()) of the 2 P embeddings (B, 1) and, last, the label (B, 1)."""
        *embeddings, label = inputs
        out = self.net(*embeddings)
        return out, cross_entropy(out, label)


class LeaderTopEvalNet(nn.Module):
    """What the leader asks of the top when there is no label."""

    def __init__(self, net: LeaderTopNet) -> None:
        super().__init__()
        self.net = net

    def forward(self, *embeddings: Tensor) -> tuple[Tensor, Tensor]:
        """(logits, probabilities), each (B, 1), of the 2 P embeddings (B, 1)."""
        logits = self.net(*embeddings)
        return logits, torch.sigmoid(logits)


class LeaderTeeNet(nn.Module):
    """The cut layer of the simulated enclave: 2 P -> 2."""

    def __init__(self, parties: int = 2, seed: int | None = None) -> None:
        super().__init__()
        self.dense_layer = dense(2 * parties, 2, seed)

    def forward(self, *embeddings: Tensor) -> Tensor:
        """tee_embedding (B, 2) of 2 P tensors (B, 1)."""
        tee_embedding: Tensor = self.dense_layer(torch.cat(embeddings, 1))
        return tee_embedding


class LeaderTeeLossNet(nn.Module):
    """What is trained of the simulated enclave; its gradient comes from the top after it."""

    def __init__(self, net: LeaderTeeNet) -> None:
        super().__init__()
        self.net = net

    def forward(self, *embeddings: Tensor) -> Tensor:
        """tee_embedding (B, 2) of 2 P tensors (B, 1)."""
        tee_embedding: Tensor = self.net(*embeddings)
        return tee_embedding


class LeaderTopAfterTeeNet(nn.Module):
    """The top behind the simulated enclave: 2 -> 1."""

    def __init__(self, seed: int | None = None) -> None:
        super().__init__()
        self.dense_layer = dense(2, 1, seed)

    def forward(self, tee_embedding: Tensor) -> Tensor:
        """Logit (B, 1) of (B, 2)."""
        logits: Tensor = self.dense_layer(tee_embedding)
        return logits


class LeaderTopAfterTeeLossNet(nn.Module):
    """What the leader trains of it."""

    def __init__(self, net: LeaderTopAfterTeeNet) -> None:
        super().__init__()
        self.net = net

    def forward(self, tee_embedding: Tensor, label: Tensor) -> tuple[Tensor, Tensor]:
        """(logits (B, 1), loss ()) of tee_embedding (B, 2) and label (B, 1)."""
        out = self.net(tee_embedding)
        return out, cross_entropy(out, label)


class LeaderTopAfterTeeEvalNet(nn.Module):
    """What the leader asks of it when there is no label."""

    def __init__(self, net: LeaderTopAfterTeeNet) -> None:
        super().__init__()
        self.net = net

    def forward(self, tee_embedding: Tensor) -> tuple[Tensor, Tensor]:
        """(logits, probabilities), each (B, 1), of tee_embedding (B, 2)."""
        logits = self.net(tee_embedding)
        return logits, torch.sigmoid(logits)
