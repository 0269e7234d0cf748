"""How a push changes rows.

rule.py      what a table needs of its rule
plain.py     sum, summary, sgd, momentum
adagrad.py   adagrad, adagrad_v2, sparse_adagrad, std_adagrad
adam.py      adam, shared_adam, adam_d2sum, yogi
ftrl.py      ftrl
"""

from __future__ import annotations

from typing import Any, TypeAlias

from flps.table.rules.adagrad import Adagrad, AdagradV2, SparseAdagrad, StdAdagrad
from flps.table.rules.adam import Adam, AdamD2sum, SharedAdam, Yogi
from flps.table.rules.ftrl import Ftrl
from flps.table.rules.plain import Momentum, Sgd, Sum, Summary
from flps.table.rules.rule import Bounds, Rows, Rule, State

AnyRule: TypeAlias = (
    Sum | Summary | Sgd | Momentum | Adagrad | AdagradV2 | SparseAdagrad | StdAdagrad | Adam | SharedAdam | AdamD2sum
    | Yogi | Ftrl
)  # fmt: skip
RULES: dict[str, type[AnyRule]] = {
    rule.name: rule
    for rule in (
        Sum, Summary, Sgd, Momentum, Adagrad, AdagradV2, SparseAdagrad, StdAdagrad, Adam, SharedAdam, AdamD2sum, Yogi,
        Ftrl,
    )
}  # fmt: skip
ALIASES = {"adagrad_row": "adagrad_v2"}  # a name of earlier versions
OF_PADDLE = ("sparse_adagrad", "std_adagrad", "adagrad_v2", "shared_adam")  # their rows begin in -1e-4..1e-4


def make_rule(name: str, **settings: Any) -> AnyRule:
    """The rule of that name, with those of the settings that it knows; the others belong to other rules.

    Raises ValueError for settings that the rule cannot be run with.
    """
    rule = RULES[ALIASES.get(name, name)]
    known = set(rule.__struct_fields__)
    return rule(**{key: value for key, value in settings.items() if key in known and value is not None})


__all__ = [
    "ALIASES", "OF_PADDLE", "RULES", "Adagrad", "AdagradV2", "Adam", "AdamD2sum", "AnyRule", "Bounds",
    "Ftrl", "Momentum", "Rows", "Rule", "Sgd", "SharedAdam", "SparseAdagrad", "State", "StdAdagrad", "Sum", "Summary",
    "Yogi", "make_rule",
]  # fmt: skip
