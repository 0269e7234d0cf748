"""The hyper parameters of NCF, as the yaml's `hyper_parameters` says them. Imports no torch."""

from __future__ import annotations

from typing import Annotated, Literal

import msgspec
from msgspec import Meta

from flps.config.tables import Decay, NotNegative, RuleName

Positive = Annotated[float, Meta(gt=0)]
Size = Annotated[int, Meta(ge=1, le=65536)]


class NcfOptimizer(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """How weights move by their gradients; a rule takes the settings that it knows and leaves the others.

    A setting that is left out is the rule's own default.
    """

    rule: Annotated[
        RuleName,
        Meta(description="The optimizer, see [tables](tables.md); adam is lazy: rows without a gradient do not move."),
    ] = msgspec.field(default="adam", name="class")
    learning_rate: Annotated[Positive | None, Meta(description="Step size; left out: the rule's own.")] = None
    momentum: Annotated[Decay | None, Meta(description="Decay of momentum's velocity.")] = None
    nesterov: Annotated[bool | None, Meta(description="Momentum that looks ahead.")] = None
    beta1: Annotated[Decay | None, Meta(description="Decay of the first moment of Adam and its kin.")] = None
    beta2: Annotated[Decay | None, Meta(description="Decay of the second moment of Adam and its kin.")] = None
    epsilon: Annotated[NotNegative | None, Meta(description="Keeps the rule's denominator away from zero.")] = None
    initial_g2sum: Annotated[
        NotNegative | None, Meta(description="The adagrads' sum of squares at the start, or their G0.")
    ] = None
    beta: Annotated[NotNegative | None, Meta(description="`ftrl`: smooths the first steps.")] = None
    l1: Annotated[NotNegative | None, Meta(description="`ftrl`: how much evidence makes a weight leave zero.")] = None
    l2: Annotated[NotNegative | None, Meta(description="`ftrl`: pull towards zero.")] = None


class NcfHyperParameters(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Sizes and kind of a neural collaborative filtering model (He et al. 2017)."""

    optimizer: Annotated[NcfOptimizer, Meta(description="Optimizer of tables and dense layers.")] = NcfOptimizer()
    num_users: Annotated[int, Meta(ge=1, le=2**40, description="Users; a user_input is below this number.")] = 6040
    num_items: Annotated[int, Meta(ge=1, le=2**40, description="Items; an item_input is below this number.")] = 3706
    mf_dim: Annotated[Size, Meta(description="Factors of the product part (GMF, NeuMF).")] = 8
    mode: Annotated[
        Literal["NCF_MLP", "NCF_GMF", "NCF_NeuMF"],
        Meta(description="Perceptron over both embeddings, their weighted product, or both side by side."),
    ] = "NCF_NeuMF"
    fc_layers: Annotated[
        tuple[Size, ...],
        Meta(
            min_length=1,
            max_length=64,
            description="Widths of the perceptron (MLP, NeuMF); the first is user and item embedding side by side, "
            "so it is even.",
        ),
    ] = (64, 32, 16, 8)

    def __post_init__(self) -> None:
        if self.mode != "NCF_GMF" and self.fc_layers[0] % 2:
            raise ValueError(
                f"fc_layers starts with {self.fc_layers[0]}; half of it is a user's embedding and half an item's, "
                "so give an even number"
            )
