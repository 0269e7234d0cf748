"""Wide & Deep, cut between parties that hold different columns of the same rows.

options.py  the keys of network_config, the presets
model.py    the nets of the parties, for one device
metric.py   AUC and log loss
cut.py      the same nets joined in one process, as split training sees them when nothing is split
dataset.py  batches as tensors: construct_local_dataset
"""
