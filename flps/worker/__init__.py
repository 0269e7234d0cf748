"""The training loop of a client.

parameters.py  a model's parameters as tables, and where each lives
upcoming.py    batches with what they will look up, some ahead of their time
homes.py       what travels: nothing, gradients each step
windows.py     what travels: deltas each window (geo)
feedback.py    what rounding takes from gradients goes with the next ones
train.py       one epoch, the same in every mode
evaluate.py    how well held-out items are ranked
checkpoint.py  what a worker remembers, to go on from
saving.py      what of a saved model a worker writes; saved.py finds saved models again
story.py       what it tells of its progress
session.py     one worker's part of a job: connections, model, samples
client.py      FLClient, the class that a user's trainer script derives from
dump.py        samples and parameters as text, when asked for
"""

from flps.worker.client import FLClient

__all__ = ["FLClient"]
