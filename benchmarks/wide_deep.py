"""Wide & Deep on Criteo in one process: what all columns in one place reach, and what the leader reaches alone.

    python datasets/criteo.py --data_path ../shared/data/criteo/train.tsv.xz --threshold 10 --output criteo_columns
    python benchmarks/wide_deep.py --data criteo_columns --preset small --epochs 3
    python benchmarks/wide_deep.py --data criteo_columns --preset small --epochs 3 --parties 0

Measured on the rows that were held out: the last seventh in time. The update rules are written down here once more on
purpose, one tensor at a time as in the papers: a yardstick that shared the code it measures would share its faults.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import msgspec
import torch
from torch import Tensor

from flps.models.wide_deep.cut import Unsplit, build_unsplit
from flps.models.wide_deep.dataset import EMBEDDED, PartyDataset, construct_local_dataset
from flps.models.wide_deep.metric import AUCMetric
from flps.models.wide_deep.options import PRESETS, NetworkConfig

Column = tuple[Tensor, Tensor]


class Ftrl:
    """FTRL-proximal as the original has it: lr_power -1/2, no beta, `initial_accum` under the root.

    m' = m + g^2;  u' = u + g - (sqrt(m') - sqrt(m)) / lr * w;
    w' = (sign(u') l1 - u') / (sqrt(m') / lr + 2 l2) where |u'| > l1, else 0.
    """

    def __init__(self, parameters: Sequence[Tensor], lr: float, l1: float, l2: float, initial_accum: float) -> None:
        self.lr, self.l1, self.l2 = lr, l1, l2
        self.rows = [(p, torch.full_like(p, initial_accum), torch.zeros_like(p)) for p in parameters]

    @torch.no_grad()
    def step(self) -> None:
        """One update; gradients are cleared."""
        for w, m, u in self.rows:
            g = w.grad
            assert g is not None
            before = m.sqrt()
            m.addcmul_(g, g)
            root = m.sqrt()
            u += g - (root - before) / self.lr * w
            w.copy_((u.clamp(-self.l1, self.l1) - u) / (root / self.lr + 2 * self.l2))
            w.grad = None


class Epoch(NamedTuple):
    """What one pass over the training rows gave."""

    number: int
    loss: float  # mean of the training batches
    auc: float
    log_loss: float
    samples_per_s: float


def columns_of(batch: dict[str, Tensor], parties: Sequence[int]) -> list[Column]:
    """(ids, weights) of each party."""
    ends = ["" if party == 0 else str(party - 1) for party in parties]
    return [(batch[f"id_hldr{end}"], batch[f"wt_hldr{end}"]) for end in ends]


def train(
    config: NetworkConfig, train_set: PartyDataset, test_set: PartyDataset, parties: Sequence[int], most_steps: int
) -> Iterator[Epoch]:
    """Train the joined nets with one optimizer step a batch: FTRL for wide, Adam for deep and dense."""
    model = build_unsplit(config, [rows.field_size for rows in train_set.parties], config.seed)
    wide = Ftrl(model.parameters_of("wide"), 5e-2, 1e-8, 1e-8, 1.0)
    deep = torch.optim.Adam(model.parameters_of("deep", "dense"), lr=3.5e-4, eps=1e-8, fused=True)
    for number in range(config.epochs):
        start, losses, rows = time.perf_counter(), [], 0
        for step, batch in enumerate(train_set.batches(number)):
            if step == most_steps:
                break
            outcome = model(columns_of(batch, parties), batch["label"])
            torch.autograd.backward(outcome.loss + outcome.l2_regu)
            wide.step()
            deep.step()
            deep.zero_grad()
            losses.append(outcome.loss.detach())
            rows += len(batch["label"])
        seconds = time.perf_counter() - start
        metric = evaluated(model, test_set, parties)
        yield Epoch(number, float(torch.stack(losses).mean()), metric.eval(), metric.log_loss(), rows / seconds)


@torch.no_grad()
def evaluated(model: Unsplit, rows: PartyDataset, parties: Sequence[int]) -> AUCMetric:
    """The metric after all rows; the weights stay as they are."""
    metric = AUCMetric()
    model.eval()
    for batch in rows.batches():
        outcome = model(columns_of(batch, parties), batch["label"])
        metric.update(outcome.logits, torch.sigmoid(outcome.logits), batch["label"])
    model.train()
    return metric


def main() -> None:
    """A line per epoch."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", default=EMBEDDED, help="folder of datasets/criteo.py")
    parser.add_argument("--preset", choices=tuple(PRESETS), default="small")
    parser.add_argument("--epochs", type=int, default=3)
    parser.add_argument("--parties", type=int, nargs="+", default=[0, 1], help="whose columns: 0 is the leader")
    parser.add_argument("--steps", type=int, default=-1, help="of an epoch at most")
    parser.add_argument("--batch_size", type=int, help="instead of the preset's")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--threads", type=int, default=2)
    chosen = parser.parse_args()
    if 0 not in chosen.parties:
        parser.error("--parties: 0, the leader, has the labels and is always one of them")
    torch.set_num_threads(chosen.threads)
    config = msgspec.structs.replace(
        PRESETS[chosen.preset], data_path=chosen.data, epochs=chosen.epochs, seed=chosen.seed,
        batch_size=chosen.batch_size or PRESETS[chosen.preset].batch_size,
    )  # fmt: skip
    train_set, test_set = construct_local_dataset(config, chosen.parties)
    print(vars(chosen), f"{train_set.get_dataset_size()} steps an epoch", flush=True)
    for epoch in train(config, train_set, test_set, chosen.parties, chosen.steps):
        print(" ".join(f"{name} {value:.5g}" for name, value in epoch._asdict().items()), flush=True)


if __name__ == "__main__":
    main()
