"""Torch modules over tables, and a model's dense parameters as one tensor."""

from flps.nn.dense import DensePack
from flps.nn.embedding import Embedding, apply_gradients
from flps.nn.private import PrivateTable
from flps.table import Initializer

__all__ = ["DensePack", "Embedding", "Initializer", "PrivateTable", "apply_gradients"]
