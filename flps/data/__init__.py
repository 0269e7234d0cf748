"""A client's own ratings: divided, read, shuffled, with negatives. Nothing here knows a socket or a model."""

from flps.data.batch import Batch, Rows
from flps.data.evaluation import TestSet, open_test
from flps.data.interactions import Interactions
from flps.data.sources import Reader
from flps.data.train import Sampling, TrainSet, open_train

__all__ = ["Batch", "Interactions", "Reader", "Rows", "Sampling", "TestSet", "TrainSet", "open_test", "open_train"]
