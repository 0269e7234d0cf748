"""Three nets in a row, as PanGu-alpha is cut: embedding and head with one party, the backbone with the other.

The word table goes round: from the embedding through the backbone to the head, and its gradient comes back the same
way, to be added to what the embedding's own use of it gives. B rows, T tokens, H width, V words.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any
from unittest.mock import patch

import pytest
import torch
from torch import Tensor, nn

from flps.split.model import FLModel

ROWS, TOKENS, WIDTH, WORDS = 2, 5, 8, 11
SCALE = 1024.0
Described = Callable[[str, dict[str, Any]], Any]


class Embedding(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.word_embedding = nn.Embedding(WORDS, WIDTH)
        self.position_embedding = nn.Embedding(TOKENS, WIDTH)

    def forward(self, ids_BT: Tensor, position_BT: Tensor, mask_BTT: Tensor) -> tuple[Tensor, ...]:
        embedded = self.word_embedding(ids_BT) + self.position_embedding(position_BT)
        return torch.dropout(embedded, 0.2, self.training), self.word_embedding.weight, position_BT, mask_BTT


class Backbone(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.backbone = nn.Linear(WIDTH, WIDTH)

    def forward(
        self, embedded_BTH: Tensor, words_VH: Tensor, position_BT: Tensor, mask_BTT: Tensor
    ) -> tuple[Tensor, ...]:
        hidden = torch.dropout(torch.tanh(self.backbone(mask_BTT @ embedded_BTH)), 0.2, self.training)
        return hidden, words_VH, position_BT, mask_BTT


class Head(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.top_query_layer = nn.Linear(WIDTH, WIDTH)

    def forward(
        self, hidden_BTH: Tensor, ids_BT: Tensor, words_VH: Tensor, position_BT: Tensor, mask_BTT: Tensor
    ) -> Tensor:
        state = self.top_query_layer(hidden_BTH) + mask_BTT.sum() + position_BT[..., None]
        return nn.functional.cross_entropy((state @ words_VH.T).flatten(0, 1), ids_BT.flatten())


def named(*names: str) -> list[dict[str, str]]:
    return [{"name": name} for name in names]


def net_yaml(
    name: str,
    inputs: list[str],
    outputs: list[str],
    params: list[str],
    grads: dict[str, Any],
    scalers: dict[str, Any],
) -> dict[str, Any]:
    """grads, scalers: output -> its sens."""
    net = {"name": name, "inputs": named(*inputs), "outputs": named(*outputs)}

    def entries(weights: dict[str, Any]) -> list[dict[str, Any]]:
        return [{"inputs": named(*inputs), "output": {"name": key}, "sens": sens} for key, sens in weights.items()]

    hyper = {"learning_rate": 1e-2, "eps": 1e-8, "loss_scale": SCALE}
    opts = [{"type": "Adam", "grads": entries(grads), "params": named(*params), "hyper_parameters": hyper}]
    model = {"train_net": net, "eval_net": net}
    return {"role": "follower", "model": model, "opts": opts, "grad_scalers": entries(scalers)}


def test_the_pangu_chain_is_one_model(described: Described) -> None:
    torch.manual_seed(0)
    rest = ["position_id", "attention_mask"]
    embedding = FLModel(described("embedding", net_yaml(
        "embedding", ["input_ids", *rest], ["embedding_table", "word_table", *rest],
        ["word_embedding", "position_embedding"], {"embedding_table": "hidden_states", "word_table": "word_table"}, {},
    )), Embedding().double())  # fmt: skip
    backbone = FLModel(described("backbone", net_yaml(
        "backbone", ["embedding_table", "word_table", *rest], ["hidden_states", "word_table", *rest],
        ["backbone"], {"hidden_states": "output"}, {"hidden_states": "output", "word_table": "output"},
    )), Backbone().double())  # fmt: skip
    head = FLModel(described("head", net_yaml(
        "head", ["hidden_states", "input_ids", "word_table", *rest], ["output"],
        ["top_query_layer"], {"output": SCALE}, {"output": SCALE},
    )), Head().double())  # fmt: skip
    models = [embedding, backbone, head]
    whole = [Embedding().double(), Backbone().double(), Head().double()]
    for mine, theirs in zip(whole, models, strict=True):
        mine.load_state_dict(theirs.network.state_dict())
    adam = torch.optim.Adam([weight for net in whole for weight in net.parameters()], 1e-2)
    mask = torch.ones(TOKENS, TOKENS).double().tril().expand(ROWS, -1, -1)
    for step in range(20):
        batch = {
            "input_ids": torch.randint(0, WORDS, (ROWS, TOKENS)),
            "position_id": torch.arange(TOKENS).expand(ROWS, -1),
            "attention_mask": mask,
        }
        torch.manual_seed(step)
        sent = embedding.forward_one_step(batch)
        hidden = backbone.forward_one_step(remote_data_batch=sent)
        loss = head.forward_one_step(batch, hidden)["output"]
        with patch("torch.autograd.backward", wraps=torch.autograd.backward) as backward:
            scale = head.backward_one_step(batch, hidden)
            scales = backbone.backward_one_step(remote_data_batch=sent, sens=scale)
            embedding.backward_one_step(batch, sens=scales)
        assert backward.call_count == 3
        torch.manual_seed(step)
        table, words, *others = whole[0](*batch.values())
        state, words, *others = whole[1](table, words, *others)
        expected = whole[2](state, batch["input_ids"], words, *others)
        expected.backward()
        adam.step()
        adam.zero_grad()
        assert loss.item() == pytest.approx(expected.item(), rel=1e-12)
    for mine, theirs in zip(whole, models, strict=True):
        for one, other in zip(mine.parameters(), theirs.network.parameters(), strict=True):
            torch.testing.assert_close(other, one, rtol=1e-11, atol=1e-12)
