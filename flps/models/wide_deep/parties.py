"""Wide & Deep as one party of a job sees it: its nets with their first weights, and its rows.

Which of the nets a yaml describes is told by what it takes: ids of rows (a bottom), embeddings and labels (the top),
embeddings alone (the simulated enclave), or one embedding and labels (the top behind it).
"""

from __future__ import annotations

import logging
import os
from collections.abc import Sequence
from pathlib import Path

from torch import nn

from flps.config.split import Psi
from flps.data.criteo_like import ensure
from flps.data.criteo_parties import Party, PartyRows
from flps.data.criteo_tables import TableColumns, columns_of, prepare_table
from flps.models.wide_deep.cut import party_seed
from flps.models.wide_deep.dataset import EMBEDDED, PartyDataset, refuse_misfits
from flps.models.wide_deep.metric import AUCMetric
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
)
from flps.models.wide_deep.options import NetworkConfig
from flps.split.model import FLModel
from flps.split.schema import FLYamlData
from flps.split.seat import Seat

log = logging.getLogger(__name__)
LABEL_DP_EPS = 1.0  # the original's
TOP, TEE = -1, -2  # the leader's top, and the stage before it, among the parts that have a seed of their own


class PartyOfWideDeep:
    """What one party brings."""

    def __init__(self, config: NetworkConfig, seat: Seat) -> None:
        self.epochs, self.batch_size = config.epochs, config.batch_size
        self._config, self._seat = config, seat
        self._fields = 0

    def rows(self, folder: str) -> tuple[PartyDataset, PartyDataset]:
        """Training and held-out rows of a folder, or generated ones. Raises DataError, ConfigError."""
        seat, config = self._seat, self._config
        division = [Party(name, columns) for name, columns in zip(seat.names, seat.columns, strict=False)]
        cache = os.environ.get("FLPS_CACHE_DIR") or Path.home() / ".cache" / "flps"
        place = ensure(cache) if folder == EMBEDDED else Path(folder)
        train, test = (PartyRows.open(place, part, seat.number, division) for part in ("train", "test"))
        refuse_misfits(place, train, config)
        self._fields = train.field_size
        return (
            PartyDataset([train], config.batch_size, seat.seed),
            PartyDataset([test], config.batch_size, drop_remainder=False),
        )

    def columns(self, label: str) -> TableColumns:
        """What of this party's table is needed: its columns, and the label where it has one."""
        return columns_of(self._seat.columns[self._seat.number], label)

    def prepare(self, table: Path, folder: Path, psi: Psi) -> None:
        """Rows in the new folder, of an aligned csv. Raises DataError when they are too few to be divided."""
        number = self._seat.number
        columns = self.columns("" if number else psi.label)
        prepare_table(table, folder, columns, number, psi.threshold, psi.train_share)

    def nets(self, files: Sequence[str | Path]) -> dict[str, FLModel]:
        """The nets that these yaml files describe, by the files' names; after `rows`, which tell the columns."""
        made = {}
        config = self._config
        first_weights = config.pre_trained_follower if self._seat.number else config.pre_trained_leader
        for file in files:
            yaml = self._read(file)
            network, eval_network, metrics = self._net(yaml)
            model = made[Path(file).stem] = FLModel(yaml, network, metrics=metrics, eval_network=eval_network)
            if first_weights:
                model.load_ckpt("eval", first_weights)  # which shares its weights with the net that is trained
        return made

    def _read(self, file: str | Path) -> FLYamlData:
        """A net's yaml; with noise on its labels where `label_dp` asks for it and the file does not say how much."""
        yaml = FLYamlData(file)
        if not self._config.label_dp or "label" not in yaml.train_net_in_names or yaml.label_dp_eps is not None:
            return yaml
        log.warning("%s says no privacy.label_dp: label_dp: True makes its eps %g", file, LABEL_DP_EPS)
        return FLYamlData(file, (f"privacy.label_dp.eps={LABEL_DP_EPS}",))

    def _net(self, yaml: FLYamlData) -> tuple[nn.Module, nn.Module, AUCMetric | None]:
        seat, config = self._seat, self._config
        if any(name.startswith("id_hldr") for name in yaml.train_net_in_names):
            bottom = WideDeepModel(config, self._fields, party_seed(seat.seed, seat.number))
            return BottomLossNet(bottom, config), bottom, None
        parties = len(seat.names)
        if "label" not in yaml.train_net_in_names:
            log.warning(
                "%s: a SIMULATION of an enclave: it runs in this party's process, in the open, and protects nothing",
                yaml.train_net["name"],
            )
            tee = LeaderTeeNet(parties, party_seed(seat.seed, TEE))
            return LeaderTeeLossNet(tee), tee, None
        if len(yaml.train_net_in_names) == 2:
            after = LeaderTopAfterTeeNet(party_seed(seat.seed, TOP))
            return LeaderTopAfterTeeLossNet(after), LeaderTopAfterTeeEvalNet(after), AUCMetric()
        top = LeaderTopNet(parties, party_seed(seat.seed, TOP))
        return LeaderTopLossNet(top), LeaderTopEvalNet(top), AUCMetric()


def build(hyper_parameters: NetworkConfig, seat: Seat) -> PartyOfWideDeep:
    """One party's part of Wide & Deep."""
    return PartyOfWideDeep(hyper_parameters, seat)
