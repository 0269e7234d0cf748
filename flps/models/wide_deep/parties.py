"""Wide & Deep as one party of a job sees it: its nets with their first weights, and its rows.

Which of the nets a yaml describes is told by what it takes: ids of rows (a bottom), or embeddings (the top).
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import msgspec
from torch import nn

from flps.data.criteo_like import ensure
from flps.data.criteo_parties import Party, PartyRows
from flps.models.wide_deep.cut import party_seed
from flps.models.wide_deep.dataset import EMBEDDED, PartyDataset
from flps.models.wide_deep.metric import AUCMetric
from flps.models.wide_deep.model import BottomLossNet, LeaderTopEvalNet, LeaderTopLossNet, LeaderTopNet, WideDeepModel
from flps.models.wide_deep.options import NetworkConfig
from flps.split.model import FLModel
from flps.split.schema import FLYamlData

TOP = -1  # the leader's top among the parts that have a seed of their own


class PartyOfWideDeep:
    """What one party brings.

    hyper_parameters: keys of network_config, complete. party: 0 the leader, 1.. the followers, of `parties`. division:
    the parties' columns, in the order of the parties; empty: as the folder says.
    """

    def __init__(
        self, hyper_parameters: Mapping[str, Any], party: int, parties: int, division: Sequence[Party], seed: int
    ) -> None:
        self.config = msgspec.convert(dict(hyper_parameters), NetworkConfig)
        self._party, self._parties, self._division, self._seed = party, parties, division, seed

    def rows(self, data: str) -> tuple[PartyDataset, PartyDataset]:
        """Training and evaluation rows of a folder, or of generated data. Raises DataError, ConfigError."""
        cache = os.environ.get("FLPS_CACHE_DIR") or Path.home() / ".cache" / "flps"
        folder = ensure(cache) if data == EMBEDDED else Path(data)
        train, test = (PartyRows.open(folder, part, self._party, self._division) for part in ("train", "test"))
        self._fields = train.field_size
        size = self.config.batch_size
        return PartyDataset([train], size, self._seed), PartyDataset([test], size, drop_remainder=False)

    def nets(self, files: Sequence[str | Path]) -> dict[str, FLModel]:
        """The nets that these yaml files describe, by the files' names; after `rows`, which tell the columns."""
        made = {}
        for file in files:
            yaml = FLYamlData(file)
            network, eval_network, metrics = self._net(yaml)
            made[Path(file).stem] = FLModel(yaml, network, metrics=metrics, eval_network=eval_network)
        return made

    def _net(self, yaml: FLYamlData) -> tuple[nn.Module, nn.Module, AUCMetric | None]:
        if any(name.startswith("id_hldr") for name in yaml.train_net_in_names):
            bottom = WideDeepModel(self.config, self._fields, party_seed(self._seed, self._party))
            return BottomLossNet(bottom, self.config), bottom, None
        top = LeaderTopNet(self._parties, party_seed(self._seed, TOP))
        return LeaderTopLossNet(top), LeaderTopEvalNet(top), AUCMetric()
