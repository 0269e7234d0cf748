"""The parties' nets joined in one process: what split training has to equal.

Law: nothing is copied. The joined model holds the very modules that it was given, so that its weights before and after
are the parties' weights, name by name.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from torch import Tensor, nn

from flps.models.wide_deep.model import BottomLossNet, LeaderTopLossNet, LeaderTopNet, WideDeepModel
from flps.models.wide_deep.options import NetworkConfig


class Outcome(NamedTuple):
    """What one forward of the joined model gives."""

    logits: Tensor  # (B, 1)
    loss: Tensor  # (), the mean cross entropy
    l2_regu: Tensor  # (), sum of the parties' l2 terms; training minimises loss + l2_regu


class Unsplit(nn.Module):
    """Bottoms and top in one graph: one backward of `loss + l2_regu` is what all parties' backwards are together."""

    def __init__(self, bottoms: Sequence[BottomLossNet], top: LeaderTopLossNet) -> None:
        """bottoms: the leader's first, then the followers' in the order in which the top takes their outputs."""
        super().__init__()
        self.bottoms = nn.ModuleList(bottoms)
        self.top = top

    def forward(self, columns: Sequence[tuple[Tensor, Tensor]], label: Tensor) -> Outcome:
        """columns: (ids (B, F_p), weights (B, F_p)) of each party, leader first; label (B, 1)."""
        embeddings, l2_terms = [], []
        for bottom, (ids, weights) in zip(self.bottoms, columns, strict=True):
            wide, deep, l2_regu = bottom(ids, weights)
            embeddings += [wide, deep]
            l2_terms.append(l2_regu)
        logits, loss = self.top(*embeddings, label)
        return Outcome(logits, loss, sum(l2_terms[1:], l2_terms[0]))

    def parameters_of(self, *parts: str) -> list[nn.Parameter]:
        """The parameters with one of `parts` in their names within the party's net, as the yaml's `params` say it."""
        nets: list[nn.Module] = [bottom.get_submodule("net") for bottom in self.bottoms]
        nets.append(self.top.net)
        return [
            parameter
            for net in nets
            for name, parameter in net.named_parameters()
            if any(part in name for part in parts)
        ]


def build_unsplit(config: NetworkConfig, field_sizes: Sequence[int], seed: int = 0) -> Unsplit:
    """The nets of all parties with the weights that `party_seed` gives each of them."""
    bottoms = [
        BottomLossNet(WideDeepModel(config, fields, party_seed(seed, party)), config)
        for party, fields in enumerate(field_sizes)
    ]
    return Unsplit(bottoms, LeaderTopLossNet(LeaderTopNet(len(field_sizes), party_seed(seed, -1))))


def party_seed(seed: int, party: int) -> int:
    """The seed of a party's first weights: 0 the leader, 1.. the followers, -1 the leader's top."""
    return (seed * 1_000_003 + party + 1) % 2**63
