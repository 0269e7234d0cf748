"""The training loop of a client.

parameters.py  a model's parameters as tables, and where each lives
homes.py       what travels: nothing, gradients each step, deltas each window
train.py       one epoch, the same in every mode
evaluate.py    how well held-out items are ranked
session.py     one worker's part of a job: connections, model, samples
client.py      FLClient, the class that a user's trainer script derives from
dump.py        samples and parameters as text, when asked for
"""

from flps.worker.client import FLClient

__all__ = ["FLClient"]
