"""Hyper parameters to a model with its first weights."""

from __future__ import annotations

import torch

from flps.models.ctr_dnn.hyper import CtrDnnHyperParameters
from flps.models.ctr_dnn.model import CtrDnn, LabelPart, SparsePart
from flps.nn import Embedding
from flps.table import Initializer

_HALF_WIDTH = 0.1  # of a row's first values; the original's [-1, 1] drowns what 26 slots have learned


def build(hyper_parameters: CtrDnnHyperParameters, seed: int) -> CtrDnn:
    """The model that the hyper parameters describe; the same seed gives the same weights, bit for bit.

    Draws from a generator of its own: torch's global one is neither used nor moved.
    """
    h = hyper_parameters
    embedding = Embedding(
        "embedding",
        h.sparse_feature_dim,
        rows=h.sparse_feature_number,
        feature="slots",
        init=Initializer("uniform", _HALF_WIDTH),
        seed=seed,
    )
    a = SparsePart(embedding, h.sparse_inputs_slots - 1, h.fc_sizes_a)
    model = CtrDnn(a, LabelPart(h.dense_input_dim, h.fc_sizes_b))
    model.initialize(torch.Generator().manual_seed(seed % 2**63))
    return model
