"""What a yaml says about one table: its rule, how rows begin, what is counted about them.

The same laws hold as in `types.py`, of which this is a part.
"""

from __future__ import annotations

from typing import Annotated, Literal

import msgspec
from msgspec import Meta

Placement = Literal["shared", "private"]
Names = tuple[str, ...]
NotNegative = Annotated[float, Meta(ge=0)]
Decay = Annotated[float, Meta(ge=0, lt=1)]
RuleName = Literal[
    "sgd", "momentum", "adagrad", "adagrad_v2", "sparse_adagrad", "std_adagrad", "adam", "shared_adam", "adam_d2sum",
    "yogi", "ftrl",
]  # fmt: skip


class Initializer(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """How the first value of a row is drawn, seeded by table and key."""

    kind: Annotated[Literal["normal", "uniform", "zeros"], Meta(description="The distribution.")] = "normal"
    scale: Annotated[
        float, Meta(ge=0, description="Standard deviation of `normal`, half width of `uniform`; unused by `zeros`.")
    ] = 0.01


class EntryParameters(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Which keys a table lets in."""

    kind: Annotated[
        Literal["count", "probability", "show_click"],
        Meta(
            description="Required. `count`: by the n-th push that a key stands in; `probability`: each push lets it in "
            "with this probability; `show_click`: when its score reaches the threshold."
        ),
    ]
    count: Annotated[Annotated[int, Meta(ge=1, le=2**24)] | None, Meta(description="Of `count`: how many.")] = None
    probability: Annotated[
        Annotated[float, Meta(ge=0, le=1)] | None, Meta(description="Of `probability`: how probable.")
    ] = None
    threshold: Annotated[
        NotNegative | None, Meta(description="Of `show_click`: the score; left out: 10, the original's.")
    ] = None

    def __post_init__(self) -> None:
        for key in sorted({"count", "probability", "threshold"} - {self._setting}):
            if getattr(self, key) is not None:
                raise ValueError(f"{key} has no effect: an entry of the kind {self.kind} knows {self._setting}")
        if self.kind != "show_click" and not self.own():
            raise ValueError(f"{self.kind} is missing: an entry of the kind {self.kind} needs it")

    @property
    def _setting(self) -> str:
        return "threshold" if self.kind == "show_click" else self.kind

    def own(self) -> dict[str, float]:
        """The setting of its kind, if it is said."""
        value = getattr(self, self._setting)
        return {} if value is None else {self._setting: value}


class AccessorParameters(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What a table counts about its rows, and what follows from it; defaults are the original's."""

    nonclk_coeff: Annotated[
        float, Meta(ge=0, description="score = (show - click) * `nonclk_coeff` + click * `click_coeff`.")
    ] = 0.1
    click_coeff: Annotated[float, Meta(ge=0, description="What a click counts in the score.")] = 1.0
    base_threshold: Annotated[float, Meta(ge=0, description="A delta or base holds rows of at least this score.")] = 1.5
    delta_threshold: Annotated[
        float, Meta(ge=0, description="A delta holds rows that gained at least this much since the last one.")
    ] = 0.25
    delta_keep_days: Annotated[
        float, Meta(ge=0, description="A delta or base leaves out rows that were not pushed for more days than this.")
    ] = 16.0
    show_click_decay_rate: Annotated[
        float, Meta(ge=0, le=1, description="Shows and clicks are multiplied by it at each shrink.")
    ] = 0.98
    delete_threshold: Annotated[float, Meta(ge=0, description="A shrink removes rows of a lower score.")] = 0.8
    delete_after_unseen_days: Annotated[
        float, Meta(ge=0, description="A shrink removes rows that were not pushed for more days than this.")
    ] = 30.0
    show_scale: Annotated[
        bool,
        Meta(description="The adagrads divide a gradient by the shows of its push, as the original does by default."),
    ] = False
    entry: Annotated[
        EntryParameters | None, Meta(description="Which keys are let in; left out: each by its first push.")
    ] = None
    slots: Annotated[
        Names, Meta(description="Names of the slots: the columns of the feature that is looked up, in their order.")
    ] = ()


class TableParameters(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What the yaml says about one table; a key left out means what the model says."""

    rule: Annotated[
        Literal[RuleName, "adagrad_row", "sum"] | None,
        Meta(
            description="How a push changes rows, see [tables](tables.md); `adagrad_row` is an older name of "
            "`adagrad_v2`."
        ),
    ] = None
    update: Annotated[
        Literal["step", "window"] | None,
        Meta(description="In geo: sent to the servers each step, or as a delta once per window of `geo_step` steps."),
    ] = None
    placement: Annotated[
        Placement | None,
        Meta(description="`shared` lives on the servers, `private` never leaves the client."),
    ] = None
    learning_rate: Annotated[NotNegative | None, Meta(description="Step size of the rule.")] = None
    momentum: Annotated[Decay | None, Meta(description="Decay of momentum's velocity.")] = None
    nesterov: Annotated[bool | None, Meta(description="Momentum that looks ahead.")] = None
    beta1: Annotated[Decay | None, Meta(description="Decay of the first moment of Adam and its kin.")] = None
    beta2: Annotated[Decay | None, Meta(description="Decay of the second moment of Adam and its kin.")] = None
    epsilon: Annotated[NotNegative | None, Meta(description="Keeps the rule's denominator away from zero.")] = None
    ada_decay_rate: Annotated[Decay | None, Meta(description="`adam_d2sum`: decay of the sums of squares.")] = None
    mom_decay_rate: Annotated[Decay | None, Meta(description="`adam_d2sum`: decay of the first moment.")] = None
    initial_v: Annotated[NotNegative | None, Meta(description="`yogi`: the second moment at the start.")] = None
    initial_g2sum: Annotated[
        NotNegative | None,
        Meta(
            description="The adagrads' sum of squares at the start; of `sparse_adagrad` and `std_adagrad` the G0 that "
            "scales their steps."
        ),
    ] = None
    beta: Annotated[NotNegative | None, Meta(description="`ftrl`: smooths the first steps.")] = None
    l1: Annotated[NotNegative | None, Meta(description="`ftrl`: how much evidence makes a weight leave zero.")] = None
    l2: Annotated[NotNegative | None, Meta(description="`ftrl`: pull towards zero.")] = None
    weight_bounds: Annotated[
        tuple[float, float] | None, Meta(description="The lowest and the highest weight, for rules that know bounds.")
    ] = None
    initial_range: Annotated[
        NotNegative | None,
        Meta(description="Short for `initializer: {kind: uniform, scale: ...}`, by the name of the original."),
    ] = None
    initializer: Annotated[Initializer | None, Meta(description="How the first value of a row is drawn.")] = None
    dtype: Annotated[Literal["float32", "float64"] | None, Meta(description="Number type of the rows.")] = None
    memory_bytes_max: Annotated[
        Annotated[int, Meta(ge=1)] | None,
        Meta(
            description="Bytes that the rows of a sparse table may take in the memory of one server (or of the client, "
            "if it is private); cold rows beyond it go to disk, see [memory](memory.md). Left out: no bound."
        ),
    ] = None

    accessor: Annotated[
        AccessorParameters | None,
        Meta(description="Count shows and clicks of a sparse table's rows, see [tables](tables.md)."),
    ] = None
