"""The configuration of a split job as frozen, typed parts: parties, their nets and columns, and how the job is run.

Law 1: every key has a description here; the configuration reference in docs/ is generated from these types.
Law 2: one value is checked by its type; what binds several keys together is checked in `split_check.py`.
Law 3: nothing here opens a file; what a net takes, gives and how it is trained stands in the net's own yaml.
"""

from __future__ import annotations

import re
from typing import Annotated, Any, Literal

import msgspec
from msgspec import Meta

from flps.config.tables import Names
from flps.config.tls import TlsFiles
from flps.config.types import Network

EMBEDDED_ROWS = "embedded:criteo_like"
_RANGE = re.compile(r"(\d{1,6})(?:-(\d{1,6}))?")

Seed = Annotated[int, Meta(ge=0, le=2**63 - 1)]
NetFiles = Annotated[
    Names,
    Meta(
        description="The yaml of each of the party's nets, in any order; looked for beside the job's yaml, then in the "
        "working folder. Left out: what the model's hyper_parameters name."
    ),
]
Columns = Annotated[
    str,
    Meta(
        description="The party's columns of all, as `0-6,13-25`. Left out: as the folder of the rows says, which is "
        "what a folder of the party's own rows wants."
    ),
]
Rows = Annotated[
    str, Meta(description="Folder of the party's own rows, or of all parties' rows. Left out: the job's `data`.")
]
Input = Annotated[
    str,
    Meta(
        description="With `psi`: the party's table, as `--input` of `flps psi`: a file .csv (also .gz, .xz) or "
        ".parquet, a database as sqlite:///file.db, or env:NAME for its URL."
    ),
]
Table = Annotated[str, Meta(description="With a database: the table or view that holds the rows.")]
Delimiter = Annotated[str, Meta(min_length=1, max_length=1, description="Between the values of a csv.")]

Certificates = Annotated[
    TlsFiles | None,
    Meta(description="Certificates of this party alone, as in the part `tls`. Left out: the job's `tls`."),
]


class Leader(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The party that has the labels; the others call it `leader`."""

    nets: NetFiles = ()
    columns: Columns = ""
    data: Rows = ""
    input: Input = ""
    table: Table = ""
    delimiter: Delimiter = ","
    tls: Certificates = None


class Follower(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A party that has columns of the leader's rows."""

    name: Annotated[
        str, Meta(min_length=1, description="Required. What the others call it, a word that no other party has.")
    ]
    nets: NetFiles = ()
    columns: Columns = ""
    data: Rows = ""
    input: Input = ""
    table: Table = ""
    delimiter: Delimiter = ","
    tls: Certificates = None


class Parties(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Who takes part."""

    leader: Annotated[Leader, Meta(description="The party that has the labels.")] = Leader()
    followers: Annotated[
        tuple[Follower, ...],
        Meta(min_length=1, description="The others, in the order of their ranks. Left out: one, called `follower`."),
    ] = (Follower(name="follower"),)


class SplitRunner(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """How a split job is run: what is printed, measured and saved. Epochs and rows of a step stand with the model."""

    task: Annotated[
        Literal["train", "evaluate", "predict"],
        Meta(
            description="What is done; `--evaluate=FOLDER` and `--predict=FOLDER` say it on the command line. "
            "`evaluate`: measure trained nets on the held-out rows. `predict`: write their scores for these rows, in "
            "the order of the rows, into the run folder; no labels are needed."
        ),
    ] = "train"
    trained_models: Annotated[
        str,
        Meta(
            description="Required by `evaluate` and `predict`: the `output_model` folder of a run, which has a folder "
            "for each party."
        ),
    ] = ""
    print_interval: Annotated[int, Meta(ge=1, description="Steps between two progress lines.")] = 100
    eval_interval: Annotated[
        int, Meta(ge=0, description="Epochs between two evaluations on held-out rows; 0: only at the end.")
    ] = 1
    micro_batches: Annotated[
        Annotated[int, Meta(ge=1)] | None,
        Meta(
            description="Parts of a batch that are under way between the parties at once, to hide the delay of a link; "
            "gradients are those of the whole batch. Left out: as the nets' yaml files say."
        ),
    ] = None
    thread_num: Annotated[int, Meta(ge=1, description="Compute threads of one party.")] = 1
    use_gpu: Annotated[bool, Meta(description="Train on the first CUDA device; an error where there is none.")] = False
    save_checkpoint_interval: Annotated[
        int,
        Meta(
            ge=0,
            description="Steps between two checkpoints, from which `flrun --resume` and a party that is started again "
            "go on; above 0 there is also one after each epoch. 0: none.",
        ),
    ] = 0
    keep_checkpoint_max: Annotated[
        int, Meta(ge=1, description="How many checkpoints each party keeps; two at least.")
    ] = 5
    checkpoint_path: Annotated[
        str, Meta(min_length=1, description="Where checkpoints go; inside the run folder when relative.")
    ] = "checkpoint"
    model_save_path: Annotated[
        str, Meta(min_length=1, description="Where each party's trained nets go; inside the run folder when relative.")
    ] = "output_model"


class Psi(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The first phase of a job whose parties have partly different rows: they find and order the rows that all have.

    The keys are those of `flps psi`, and how a table becomes rows to train on.
    """

    id_column: Annotated[
        str, Meta(min_length=1, description="Required. Name of the column by which rows are told; each party has it.")
    ]
    label: Annotated[str, Meta(min_length=1, description="Name of the leader's column of labels, 0 or 1.")] = "label"
    duplicates: Annotated[
        Literal["refuse", "first"],
        Meta(description="Ids that come again: an error, or the first row counts."),
    ] = "refuse"
    empty: Annotated[
        Literal["refuse", "drop"], Meta(description="Rows without an id: an error, or they are left out.")
    ] = "refuse"
    order: Annotated[
        Literal["chance", "leader"],
        Meta(
            description="Order of the aligned rows: by chance, new in each run, which tells nobody anything; or that "
            "of the leader's table: the same in each run, and by time where the table is. Followers then learn it."
        ),
    ] = "chance"
    train_share: Annotated[
        float,
        Meta(gt=0, lt=1, description="Share of the aligned rows, the first ones, to train on; others are held out."),
    ] = 6 / 7
    threshold: Annotated[
        int,
        Meta(
            ge=0,
            description="A category that occurs more often than this in a party's training rows has an id of its own.",
        ),
    ] = 100
    cores: Annotated[
        Annotated[int, Meta(ge=1)] | None,
        Meta(description="Processes of each party that compute; 1: the party itself. Left out: as many as cores."),
    ] = None


class SplitConfig(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One split job, as its yaml, the overrides and the flags of the command line say."""

    job: Annotated[Literal["split"], Meta(description="The kind of job.")] = "split"
    model: Annotated[str, Meta(min_length=1, description="`wide_deep`, or your own as `path/to/file.py:build`.")] = (
        "wide_deep"
    )
    preset: Annotated[
        Literal["full", "small"],
        Meta(description="What a built-in model's hyper_parameters are where they are silent."),
    ] = "full"
    seed: Annotated[
        Seed | None,
        Meta(
            description="Everything drawn by chance is drawn from this number. Left out: hyper_parameters.seed, else 0."
        ),
    ] = None
    data: Annotated[
        str,
        Meta(
            description=f"Folder of the rows that datasets/criteo.py wrote, or `{EMBEDDED_ROWS}` for generated ones. "
            "Left out: hyper_parameters.data_path."
        ),
    ] = ""
    parties: Annotated[Parties, Meta(description="Who takes part, with which nets and columns.")] = Parties()
    psi: Annotated[Psi | None, Meta(description="Align the parties' rows first. Left out: they are aligned.")] = None
    runner: Annotated[SplitRunner, Meta(description="How the job is run.")] = SplitRunner()
    hyper_parameters: Annotated[
        dict[str, Any],
        Meta(description="The model's own keys; of `wide_deep` those of the original's network_config, each a flag."),
    ] = {}
    network: Annotated[Network, Meta(description="Deadlines and limits.")] = Network()
    tls: Annotated[
        TlsFiles | None,
        Meta(
            description="Certificates: parties that meet over TCP speak TLS. Left out: `enable_ssl` says it, or CURVE."
        ),
    ] = None

    @property
    def chance(self) -> int:
        """The seed, when it was left out, too."""
        return self.seed or 0

    @property
    def epochs(self) -> int | None:
        """Passes over the rows, where the hyper_parameters say it; else the nets' yaml files do."""
        epochs = self.hyper_parameters.get("epochs")
        return epochs if isinstance(epochs, int) else None

    def party(self, role: str, rank: int) -> Leader | Follower:
        """A party by its role and rank."""
        return self.parties.leader if role == "leader" else self.parties.followers[rank]

    @property
    def is_tls(self) -> bool:
        """Whether parties that meet over TCP speak TLS."""
        said = [self.tls, self.parties.leader.tls, *(one.tls for one in self.parties.followers)]
        return any(said) or self.hyper_parameters.get("enable_ssl") is True

    def certificates(self, role: str, rank: int) -> TlsFiles | None:
        """A party's certificates, where a part `tls` says them: its own, or the job's."""
        return self.party(role, rank).tls or self.tls

    def name(self, role: str, rank: int) -> str:
        """What the others call a party."""
        return "leader" if role == "leader" else self.parties.followers[rank].name


def column_numbers(text: str) -> tuple[int, ...]:
    """`0-2,7` as (0, 1, 2, 7). Raises ValueError for anything else."""
    numbers: list[int] = []
    for part in text.split(","):
        found = _RANGE.fullmatch(part.strip())
        if found is None or int(found[2] or found[1]) < int(found[1]):
            raise ValueError(f"expected columns as 0-6,13-25, got {text!r}")
        numbers += range(int(found[1]), int(found[2] or found[1]) + 1)
    return tuple(numbers)
