"""The yardstick: the same NCF in one process with nothing but torch - no tables, no servers, no federation.

Speed form: samples/s of one thread on preshuffled tensors with fused Adam over dense embeddings, the fastest plain
loop that we know. benchmarks/ncf.py starts two of them side by side; by hand:

    python benchmarks/plain.py --speed --seconds 10 --batch_size 512

Quality form: what training on everybody's data in one place reaches, with fresh negatives each epoch:

    python benchmarks/plain.py --quality --data ../shared/data/ml-1m --epochs 20 --mode NCF_NeuMF --optimizer lazy

The model is written down here once more on purpose: a yardstick that shared the code it measures would share its
faults. Only the ranking is flps's own, so that both are judged alike.
"""

from __future__ import annotations

import argparse
import itertools
import lzma
import math
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor, nn

from flps.data.evaluation import TestSet, rankable
from flps.data.interactions import Interactions
from flps.worker.evaluate import Evaluation, Score, evaluate

LAYERS = (64, 32, 16, 8)
MF_DIM = 8
MODES = ("NCF_NeuMF", "NCF_MLP", "NCF_GMF")
Ids = NDArray[np.int64]


class Plain(nn.Module):
    """NCF with ordinary embeddings; `sparse` makes their gradients sparse, as lazy Adam wants them."""

    def __init__(self, mode: str, users: int, items: int, sparse: bool = False) -> None:
        super().__init__()
        self.mf = 0 if mode == "NCF_MLP" else MF_DIM
        mlp = 0 if mode == "NCF_GMF" else LAYERS[0] // 2
        self.users = nn.Embedding(users, self.mf + mlp, sparse=sparse)
        self.items = nn.Embedding(items, self.mf + mlp, sparse=sparse)
        sizes = itertools.pairwise(LAYERS) if mlp else ()
        self.tower = nn.Sequential(*(layer for pair in sizes for layer in (nn.Linear(*pair), nn.ReLU())))
        self.prediction = nn.Linear(self.mf + (LAYERS[-1] if mlp else 0), 1)
        for table in (self.users, self.items):
            nn.init.normal_(table.weight, 0, 0.01)
        for layer in self.tower:
            if isinstance(layer, nn.Linear):
                deviation = 1 / math.sqrt(layer.in_features)
                nn.init.trunc_normal_(layer.weight, 0, deviation, -2 * deviation, 2 * deviation)
                nn.init.zeros_(layer.bias)
        nn.init.kaiming_uniform_(self.prediction.weight, nonlinearity="relu")
        nn.init.zeros_(self.prediction.bias)

    def forward(self, user: Tensor, item: Tensor) -> Tensor:
        user, item = self.users(user), self.items(item)
        parts = [user[:, : self.mf] * item[:, : self.mf]] if self.mf else []
        if len(self.tower):
            parts.append(self.tower(torch.cat((user[:, self.mf :], item[:, self.mf :]), 1)))
        logits: Tensor = self.prediction(torch.cat(parts, 1))
        return logits.squeeze(1)


class Samples(NamedTuple):
    """Preshuffled training samples, each (N,)."""

    users: Tensor
    items: Tensor
    labels: Tensor

    def batches(self, size: int) -> Iterator[tuple[Tensor, ...]]:
        """Slices of `size` samples; the last may be shorter."""
        return zip(*(torch.split(column, size) for column in self), strict=True)


def optimizer_of(model: Plain, kind: str, lr: float) -> Callable[[], None]:
    """A function that steps and clears the gradients.

    `dense`: fused Adam over everything; `lazy`: rows without a gradient do not move.
    """
    tables = [model.users.weight, model.items.weight]
    rest = [*model.tower.parameters(), *model.prediction.parameters()]
    optimizers: list[torch.optim.Optimizer]
    if kind == "dense":
        optimizers = [torch.optim.Adam([*tables, *rest], lr=lr, fused=True)]
    else:
        optimizers = [torch.optim.SparseAdam(tables, lr=lr), torch.optim.Adam(rest, lr=lr, fused=True)]

    def step() -> None:
        for optimizer in optimizers:
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)

    return step


# -- speed --------------------------------------------------------------------------------------------------------


def run(
    seconds: float,
    batch_size: int,
    mode: str = "NCF_NeuMF",
    users: int = 6040,
    items: int = 3706,
    samples: Samples | None = None,
    warmup_steps: int = 50,
    seed: int = 0,
) -> float:
    """Samples/s of one thread that trains for `seconds` after `warmup_steps`, on `samples` or 2**20 random ones."""
    torch.set_num_threads(1)
    torch.manual_seed(seed)
    samples = samples or random_samples(users, items, 2**20)
    model = Plain(mode, users, items)
    step = optimizer_of(model, "dense", 0.001)
    done, steps, start = 0, 0, time.perf_counter()
    while True:
        for user, item, label in samples.batches(batch_size):
            torch.autograd.backward(F.binary_cross_entropy_with_logits(model(user, item), label))
            step()
            steps += 1
            if steps == warmup_steps:
                done, start = 0, time.perf_counter()
                continue
            done += len(label)
            if steps > warmup_steps and time.perf_counter() - start >= seconds:
                return done / (time.perf_counter() - start)


def random_samples(users: int, items: int, number: int) -> Samples:
    """Pairs drawn evenly, a fifth of them positive."""
    return Samples(torch.randint(users, (number,)), torch.randint(items, (number,)), (torch.rand(number) < 0.2).float())


# -- quality ------------------------------------------------------------------------------------------------------


class MovieLens(NamedTuple):
    """The NCF split of MovieLens-1M."""

    train: tuple[Ids, Ids]  # users (N,), items (N,) of the positives
    test: TestSet
    num_users: int
    num_items: int


def read_movielens(folder: Path) -> MovieLens:
    """`ml-1m.train.rating.xz`, `ml-1m.test.rating` and `ml-1m.test.negative.xz` of `folder`."""
    with lzma.open(folder / "ml-1m.train.rating.xz", "rt") as file:
        users, items = np.loadtxt(file, dtype=np.int64, usecols=(0, 1), unpack=True)
    held_out = np.loadtxt(folder / "ml-1m.test.rating", dtype=np.int64, usecols=(0, 1))
    with lzma.open(folder / "ml-1m.test.negative.xz", "rt") as file:
        negatives = np.array([line.split("\t")[1:] for line in file], dtype=np.int64)
    test = rankable(held_out[:, 0], np.column_stack((held_out[:, 1], negatives)))
    num_users = int(max(users.max(), test.users.max())) + 1
    num_items = int(max(items.max(), test.items.max())) + 1
    return MovieLens((users, items), test, num_users, num_items)


def epoch_samples(
    train: tuple[Ids, Ids], seen: NDArray[np.bool_], negatives: int, draw: np.random.Generator
) -> Samples:
    """All positives and `negatives` fresh ones for each.

    train: users (N,) and items (N,). Negatives are drawn evenly from what the user has not `seen` (users, items).
    """
    users, items = (np.repeat(column, 1 + negatives) for column in train)
    labels = np.zeros(len(users), dtype=np.float32)
    labels[:: 1 + negatives] = 1
    wanting = np.flatnonzero(labels == 0)
    while wanting.size:
        items[wanting] = draw.integers(seen.shape[1], size=wanting.size)
        wanting = wanting[seen[users[wanting], items[wanting]]]
    order = draw.permutation(len(users))
    return Samples(*(torch.from_numpy(column[order]) for column in (users, items, labels)))


def train_centralised(
    movielens: MovieLens,
    mode: str = "NCF_NeuMF",
    epochs: int = 20,
    batch_size: int = 2048,
    learning_rate: float = 0.003,
    optimizer: str = "lazy",
    negatives: int = 4,
    seed: int = 0,
) -> Iterator[tuple[int, float, Evaluation]]:
    """Train on all data in one process.

    Yields (epoch, mean loss, evaluation) after each epoch, the last one with the full ranking.
    """
    torch.set_num_threads(1)
    torch.manual_seed(seed)
    draw = np.random.default_rng(seed)
    num_users, num_items = movielens.num_users, movielens.num_items
    seen = np.zeros((num_users, num_items), dtype=bool)
    seen[movielens.train] = True
    own_items = Interactions.build(*movielens.train, num_items)
    model = Plain(mode, num_users, num_items, sparse=optimizer == "lazy")
    step = optimizer_of(model, optimizer, learning_rate)
    for epoch in range(1, epochs + 1):
        loss_sum, number = 0.0, 0
        for user, item, label in epoch_samples(movielens.train, seen, negatives, draw).batches(batch_size):
            loss = F.binary_cross_entropy_with_logits(model(user, item), label)
            torch.autograd.backward(loss)
            step()
            loss_sum, number = loss_sum + loss.item() * len(label), number + len(label)
        result = evaluate(score_of(model), movielens.test, own_items, num_items, full=epoch == epochs)
        yield epoch, loss_sum / number, result


def score_of(model: Plain) -> Score:
    """The model's logits without gradients."""

    def score(users: Ids, items: Ids) -> NDArray[np.float64]:
        with torch.inference_mode():
            logits: Tensor = model(torch.from_numpy(users), torch.from_numpy(items))
        scores: NDArray[np.float64] = logits.double().numpy()
        return scores

    return score


def main() -> None:
    """Both forms from the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    form = parser.add_mutually_exclusive_group(required=True)
    form.add_argument("--speed", action="store_true", help="samples/s of a plain loop")
    form.add_argument("--quality", action="store_true", help="HR@10 and NDCG@10 of centralised training, each epoch")
    parser.add_argument("--mode", choices=MODES, default="NCF_NeuMF")
    parser.add_argument("--batch_size", type=int, default=2048)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--seconds", type=float, default=10, help="speed: how long")
    parser.add_argument("--data", type=Path, default=Path("../shared/data/ml-1m"), help="quality: folder of the split")
    parser.add_argument("--epochs", type=int, default=20)
    parser.add_argument("--lr", type=float, default=0.003)
    parser.add_argument("--optimizer", choices=("dense", "lazy"), default="lazy")
    arguments = parser.parse_args()
    if arguments.speed:
        print(f"{run(arguments.seconds, arguments.batch_size, arguments.mode, seed=arguments.seed):.0f} samples/s")
        return
    start = time.perf_counter()
    print(vars(arguments), flush=True)
    for epoch, loss, result in train_centralised(
        read_movielens(arguments.data), arguments.mode, arguments.epochs, arguments.batch_size, arguments.lr,
        arguments.optimizer, seed=arguments.seed,
    ):  # fmt: skip
        shown = " ".join(f"{name} {value:.4f}" for name, value in result.fields().items() if isinstance(value, float))
        print(f"epoch {epoch} loss {loss:.4f} {shown} after {time.perf_counter() - start:.0f} s", flush=True)


if __name__ == "__main__":
    main()
