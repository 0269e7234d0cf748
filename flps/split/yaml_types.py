"""What the yaml of one net may say, as frozen, typed parts: the schema that `schema.py` reads a file by.

Law 1: every key has a description here; docs/split-yaml.md is generated from these types.
Law 2: one value is checked by its type; what binds several keys together is checked in `yaml_check.py`.
Law 3: a key of the original's schema is never renamed, and what is ours beside it is optional.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

import msgspec
from msgspec import Meta

BITS = ("min_max", "bit_pack")  # the compress types that a number of bits belongs to

Text = Annotated[str, Meta(min_length=1)]
CompressType = Literal["min_max", "bit_pack", "fp16", "bf16", "int8", "topk", "no_compress"]
Bits = Annotated[int, Meta(ge=1, le=8)]
Sens = Annotated[
    Text | float | None,
    Meta(
        description="The gradient that the output is given: a number fills it; a text is the label under which the net "
        "behind sends it, the name of that net's output. Left out: 1."
    ),
]


class Travelling(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """How a tensor of a net, and the gradient that comes back for it, are packed for another party."""

    name: Annotated[Text, Meta(description="Required. The tensor's name, unique in its list, in the net's order.")]
    compress_type: Annotated[
        CompressType | None,
        Meta(
            description="How it is packed where it leaves this party. The sender's file decides; a receiver needs to "
            "say nothing. Left out: as it is."
        ),
    ] = None
    bit_num: Annotated[Bits | None, Meta(description="Bits a number, of `min_max` and `bit_pack`. Left out: 8.")] = None
    grad_compress_type: Annotated[
        CompressType | None,
        Meta(
            description="How the gradient of this tensor is packed where it leaves this party. Left out: as "
            "`compress_type` says, as in the original."
        ),
    ] = None
    grad_bit_num: Annotated[Bits | None, Meta(description="Bits a number of the gradient. Left out: as `bit_num`.")] = (
        None
    )
    top_k: Annotated[
        Annotated[float, Meta(gt=0, le=1)] | None,
        Meta(description="Of `topk`: the fraction of the numbers that is sent. Left out: 0.1."),
    ] = None
    grad_top_k: Annotated[
        Annotated[float, Meta(gt=0, le=1)] | None,
        Meta(description="Of `topk` for the gradient. Left out: as `top_k`."),
    ] = None
    error_feedback: Annotated[
        bool, Meta(description="What packing took from a gradient goes with the next one of that name.")
    ] = False

    @property
    def packed(self) -> tuple[str, int]:
        """How the tensor is packed: the type, and the bits where they matter, else 0."""
        return _packed(self.compress_type, self.bit_num)

    @property
    def grad_packed(self) -> tuple[str, int]:
        """How its gradient is packed, in the same form."""
        return _packed(self.grad_compress_type or self.compress_type, self.grad_bit_num or self.bit_num)


def _packed(kind: str | None, bits: int | None) -> tuple[str, int]:
    return kind or "no_compress", (bits or 8) if kind in BITS else 0


class NetInput(Travelling, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One input of a net."""

    source: Annotated[
        Literal["local", "remote"],
        Meta(
            description="`local`: from this party's own samples, or its own net before this one; `remote`: from "
            "another net. If no net of this party has it, another party must send it."
        ),
    ] = "local"


class NetOutput(Travelling, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One output of a net."""

    destination: Annotated[
        Literal["local", "remote"],
        Meta(
            description="`local`: never leaves this party; `remote`: another net may have it. It is sent only where "
            "another party asks for it; between two nets of one party it stays there."
        ),
    ] = "local"


Inputs = Annotated[
    tuple[NetInput, ...], Meta(min_length=1, description="Required. The net's inputs, in the order of its `forward`.")
]
Outputs = Annotated[
    tuple[NetOutput, ...], Meta(min_length=1, description="Required. The net's outputs, in the order of its `forward`.")
]


class TrainNet(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The net that is trained, with what it takes and gives."""

    name: Annotated[Text, Meta(description="Required. The net's name; checkpoints are called after it.")]
    inputs: Inputs
    outputs: Outputs


class EvalNet(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The net that evaluates and predicts, with the weights of the trained one."""

    name: Annotated[Text | None, Meta(description="A name for people.")] = None
    inputs: Inputs
    outputs: Outputs
    gt: Annotated[
        Text | None,
        Meta(
            description="The label in the batch that `eval_one_step` hands to the metrics with the outputs. Left out: "
            "this party has none."
        ),
    ] = None


class Model(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The nets of this file."""

    train_net: Annotated[TrainNet, Meta(description="Required. The net that is trained.")]
    eval_net: Annotated[EvalNet, Meta(description="Required. The net that evaluates and predicts.")]


class Name(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """An entry that is a name and no more."""

    name: Annotated[Text, Meta(description="Required. Of a tensor in `inputs`; in `params` a part of a weight's name.")]


class OutputName(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The output that a gradient starts from."""

    name: Annotated[Text, Meta(description="Required. An output of `train_net`.")]
    index: Annotated[
        Annotated[int, Meta(ge=0)] | None,
        Meta(
            description="Its place among them, from 0. The name says it already; a place that is not its is an error."
        ),
    ] = None
    output_index: Annotated[
        Annotated[int, Meta(ge=0)] | None, Meta(description="The same: the original's files have both spellings.")
    ] = None


GradInputs = Annotated[
    tuple[Name, ...], Meta(min_length=1, description="Required. Inputs of `train_net`, as `- name: ...` lines.")
]
GradOutput = Annotated[OutputName, Meta(description="Required. The output that the gradient starts from.")]


class Grad(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One gradient that an optimizer adds to its step."""

    inputs: GradInputs
    output: GradOutput
    params: Annotated[
        tuple[Name, ...],
        Meta(description="Weights this gradient reaches, as `- name: ...` lines. Left out or empty: its optimizer's."),
    ] = ()
    sens: Sens = None


class Optimizer(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One optimizer, its weights and the gradients it adds up."""

    type: Annotated[
        Text,
        Meta(
            description="Required. Any of torch.optim, `FTRL`, `AdamWeightDecay`; or any word for an optimizer that is "
            "handed to FLModel, as `CustomizedAdam`."
        ),
    ]
    grads: Annotated[
        tuple[Grad, ...],
        Meta(min_length=1, description="Required. Gradients that are added up before the one step of the optimizer."),
    ]
    params: Annotated[
        tuple[Name, ...],
        Meta(
            description="Weights it trains, as `- name: ...` lines: those whose name contains one of these texts "
            "(upper and lower case differ). Left out or empty: all."
        ),
    ] = ()
    hyper_parameters: Annotated[
        dict[str, Any],
        Meta(
            description="The optimizer's own arguments: `learning_rate`, `eps`, ...; and `loss_scale`: the number that "
            "gradients are divided by, or a dynamic one, see below. Left out: 1."
        ),
    ] = {}


class LossScale(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A loss scale that grows while gradients are finite and shrinks when one is not; that step is skipped."""

    init: Annotated[float, Meta(gt=0, description="The scale at the start.")] = 1024.0
    factor: Annotated[float, Meta(gt=1, description="What it is multiplied or divided by.")] = 2.0
    window: Annotated[int, Meta(ge=1, description="Finite steps in a row after which it grows.")] = 1000


class GradScaler(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The gradients that this net sends back to the nets before it, under the label `output.name`."""

    inputs: GradInputs
    output: GradOutput
    sens: Sens = None


class Dataset(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What the net is fed with, for people and tools: no value is chosen by it."""

    name: Annotated[str, Meta(description="Name of the data set.")] = ""
    features: Annotated[tuple[Text, ...], Meta(description="Names of the columns of features.")] = ()
    labels: Annotated[tuple[Text, ...], Meta(description="Names of the columns of labels.")] = ()


class HyperParameters(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """How the net is trained; all parties must say the same."""

    epochs: Annotated[int, Meta(ge=1, description="Passes over the aligned samples.")] = 1
    batch_size: Annotated[int, Meta(ge=1, description="Samples of one step.")] = 1
    is_eval: Annotated[bool, Meta(description="Whether held-out samples are measured after each epoch.")] = False
    micro_batches: Annotated[
        int,
        Meta(
            ge=1,
            description="Parts of a batch that are under way between the parties at once, to hide the link's delay; "
            "the gradients are those of the whole batch.",
        ),
    ] = 1


class LabelPrivacy(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Labels are flipped by chance, once each, before anything is computed from them."""

    eps: Annotated[
        float, Meta(ge=0, description="Required. Epsilon of the randomised response; smaller is more private.")
    ]


class EmbeddingPrivacy(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What leaves is reduced to signs, and these are flipped by chance."""

    eps: Annotated[
        Annotated[float, Meta(ge=0)] | None,
        Meta(
            description="Required. Epsilon of the randomised response, per bit; `null`: signs only, without chance.",
            extra={"null": True},
        ),
    ]


class CutPrivacy(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What a sample may do to the gradients that cross the cut."""

    clip: Annotated[
        float, Meta(gt=0, description="Required. Longest gradient of one sample at the cut, in the 2-norm.")
    ]
    noise: Annotated[
        float, Meta(ge=0, description="Standard deviation of the Gaussian noise, as a multiple of `clip`; 0: none.")
    ] = 0.0
    delta: Annotated[float, Meta(gt=0, lt=1, description="The delta at which the spent epsilon is told.")] = 1e-5


class Privacy(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What protects this party's labels and activations; a scheme that is not written is not applied."""

    label_dp: Annotated[LabelPrivacy | None, Meta(description="Randomised labels.")] = None
    embedding_dp: Annotated[EmbeddingPrivacy | None, Meta(description="Randomised activations.")] = None
    cut: Annotated[CutPrivacy | None, Meta(description="Clipped and noised gradients at the cut.")] = None


class Net(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One file: a net of one party, how it is trained and what it exchanges."""

    role: Annotated[
        Literal["leader", "follower"],
        Meta(
            description="Required. The leader has the labels. A party with several nets is the leader if one says so."
        ),
    ]
    model: Annotated[Model, Meta(description="Required. The nets.")]
    opts: Annotated[
        tuple[Optimizer, ...],
        Meta(description="Required. The optimizers, stepped in this order; `[]`: nothing is trained."),
    ]
    grad_scalers: Annotated[
        tuple[GradScaler, ...], Meta(description="The gradients that go back to the nets before this one.")
    ] = ()
    dataset: Annotated[Dataset, Meta(description="What the net is fed with.")] = Dataset()
    hyper_parameters: Annotated[HyperParameters, Meta(description="How the net is trained.")] = HyperParameters()
    privacy: Annotated[Privacy | None, Meta(description="What protects labels and activations.")] = None
    ckpt_path: Annotated[
        Text, Meta(description="Folder of the checkpoints; a relative path starts in the working folder.")
    ] = "./checkpoints"
