"""Hyper parameters to a model with its first weights."""

from __future__ import annotations

import torch

from flps.models.ncf.hyper import NcfHyperParameters
from flps.models.ncf.model import NCF_GMF, NCF_MLP, Ncf, NCF_NeuMF


def build(hyper_parameters: NcfHyperParameters, seed: int) -> Ncf:
    """The NCF model that the hyper parameters describe; the same seed gives the same weights, bit for bit.

    Draws from a generator of its own: torch's global one is neither used nor moved.
    """
    h = hyper_parameters
    model: Ncf
    if h.mode == "NCF_GMF":
        model = NCF_GMF(h.num_users, h.num_items, h.mf_dim, seed)
    elif h.mode == "NCF_MLP":
        model = NCF_MLP(h.num_users, h.num_items, h.fc_layers, seed)
    else:
        model = NCF_NeuMF(h.num_users, h.num_items, h.mf_dim, h.fc_layers, seed)
    # The original takes the width before the perceptron's last as fan-in of the prediction, in every mode.
    fan_in = h.fc_layers[-2] if len(h.fc_layers) > 1 else model.prediction.in_features
    model.initialize(torch.Generator().manual_seed(seed % 2**63), fan_in)
    return model
