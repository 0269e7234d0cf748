"""What another party may learn from labels, activations and gradients, and what that costs.

chance.py     random numbers from a secret key
label.py      LabelDP: randomised response on labels, once for each row
embedding.py  EmbeddingDP: signs of activations, with randomised response
cut.py        CutNoise: gradients at the cut, clipped and noised
applied.py    Protection: the three as a net's yaml names them
budget.py     Budget: what was spent so far, as numbers for metrics

Law 1: each of the three says in its `statement` what its epsilon covers, and what it does not.
Law 2: the same seed gives the same numbers, after a restart too (`state_dict`, `load_state_dict`).
Law 3: a seed is a secret. Whoever knows it takes the noise off again; the other parties must not have it.
"""

from __future__ import annotations

from flps.split.privacy.applied import Protection
from flps.split.privacy.budget import Budget, Mechanism, Spent, gaussian_epsilon
from flps.split.privacy.cut import CutNoise
from flps.split.privacy.embedding import EmbeddingDP
from flps.split.privacy.label import LabelDP

__all__ = ["Budget", "CutNoise", "EmbeddingDP", "LabelDP", "Mechanism", "Protection", "Spent", "gaussian_epsilon"]
