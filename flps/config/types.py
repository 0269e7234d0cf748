"""The configuration of a job as frozen, typed parts: what may be said in a yaml, and what is meant when it is silent.

Law 1: every key has a description here; the configuration reference in docs/ is generated from these types (those of a
table stand in `tables.py`).
Law 2: one value is checked by its type; what binds several keys together is checked in `check.py`.
Law 3: nothing here opens a file.

Below the launcher a function gets the part it needs (`config.runner`), never the whole.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

import msgspec
from msgspec import Meta

from flps.config.tables import Names, Placement, TableParameters

EMBEDDED = "embedded:movielens_like"
EMBEDDED_PAIRED = "embedded:criteo_like"

# The names that Paddle's static graph gives to NCF's two embeddings, and the tables they mean here.
TABLE_OF_VARIABLE = {"embedding_0.w_0": "user_embedding", "embedding_1.w_0": "item_embedding"}

Epoch = Annotated[int, Meta(ge=0)]


def table_name(variable: str) -> str:
    """The table that a name in `local_sparse` or `remote_sparse` means; a table's own name means itself."""
    return TABLE_OF_VARIABLE.get(variable, variable)


ReaderType = Literal["columnar", "QueueDataset", "DataLoader", "RecDataset"]


class Runner(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """How a job is run: mode, files, readers, batches, epochs, what is saved and dumped."""

    train_data_dir: Annotated[
        str,
        Meta(
            description="Required. Folder of the training files, one per client (`0.csv`, `1.csv`, ...), or "
            f"`{EMBEDDED}` for the generated default data. With `vertical`: a folder of datasets/criteo.py, or "
            f"`{EMBEDDED_PAIRED}`."
        ),
    ] = ""
    sync_mode: Annotated[
        Literal["sync", "async", "geo"],
        Meta(
            description="`sync`: a gradient each step, applied when all workers have sent theirs; `async`: a gradient "
            "each step, applied on arrival; `geo`: a delta every `geo_step` steps, applied on arrival."
        ),
    ] = "geo"
    vertical: Annotated[
        bool,
        Meta(
            description="Whether rows are cut between two parties, see [vertical](vertical-ps.md): `worker` i has some "
            "columns of the rows of which `heter_worker` i has the others and the label."
        ),
    ] = False
    with_coordinator: Annotated[
        bool | None,
        Meta(
            description="Whether a coordinator takes part (0 and 1 are read too). Left out: what the command line "
            "says; where the two disagree the command line wins and the log says so."
        ),
    ] = None
    geo_step: Annotated[int, Meta(ge=1, description="Steps of one window in geo.")] = 100
    geo_weights: Annotated[
        Literal["samples", "uniform"],
        Meta(description="Weight of a client's delta: its share of the samples, or 1/N of the N clients alive."),
    ] = "samples"
    row_type: Annotated[
        Literal["float32", "float16", "int8"],
        Meta(
            description="How rows, gradients and deltas travel: as they are, in half precision, or one byte a number "
            "and a scale a row. What rounding takes from a gradient or delta goes with the next one."
        ),
    ] = "float32"
    split_file_list: Annotated[
        bool,
        Meta(
            description="True: the folder holds all clients' files and client i takes its share of them, in the order "
            "of their numbers. False: the folder is this client's own, and every file in it is read."
        ),
    ] = True
    thread_num: Annotated[int, Meta(ge=1, description="Compute threads of one worker.")] = 1
    reader_type: Annotated[
        ReaderType,
        Meta(
            description="`columnar` maps the binary columns that gen_heter_data writes into memory; a csv without "
            "them is parsed at each start. `QueueDataset` pipes each file through `pipe_command`; `DataLoader` and "
            "`RecDataset` import `train_reader_path`."
        ),
    ] = "columnar"
    pipe_command: Annotated[
        str,
        Meta(description="QueueDataset: the command that reads lines on its input and writes slots on its output."),
    ] = ""
    dataset_debug: Annotated[bool, Meta(description="QueueDataset: log what the reading costs.")] = False
    shuffle: Annotated[bool, Meta(description="Draw a new, seeded order of the samples each epoch.")] = True
    negatives: Annotated[
        Literal["fresh", "fixed"] | None,
        Meta(
            description="`fresh`: the worker draws new negatives each epoch; `fixed`: those in the files are used. "
            "Left out: `fresh` with the columnar reader, `fixed` with the others."
        ),
    ] = None
    num_neg: Annotated[int, Meta(ge=0, description="Fresh negatives drawn for one positive.")] = 4
    train_reader_path: Annotated[
        str, Meta(description="Module or file of the reader class, looked for beside the yaml first.")
    ] = ""
    train_batch_size: Annotated[int, Meta(ge=1, description="Samples of one training step of one worker.")] = 512
    epochs: Annotated[int, Meta(ge=1, description="Passes over a client's own samples.")] = 1
    example_count_method: Annotated[
        Literal["example", "word"], Meta(description="What is counted as a client's size: lines, or words.")
    ] = "example"
    print_interval: Annotated[int, Meta(ge=1, description="Steps between two progress lines.")] = 50
    use_auc: Annotated[
        bool, Meta(description="Also print the AUC over all clients at the end of an epoch in the workers' logs.")
    ] = False
    use_gpu: Annotated[bool, Meta(description="Train on the first CUDA device; an error where there is none.")] = False
    pure_bf16: Annotated[bool, Meta(description="Compute in bfloat16 on the workers; tables keep their type.")] = False
    private: Annotated[
        Names,
        Meta(description="Glob patterns of dense parameters that stay private, for example `prediction.*`."),
    ] = ()
    local_sparse: Annotated[
        Names,
        Meta(description="Private sparse tables; `embedding_0.w_0` means `user_embedding`."),
    ] = ()
    remote_sparse: Annotated[
        Names,
        Meta(description="Shared sparse tables; `embedding_1.w_0` means `item_embedding`."),
    ] = ()
    model_save_path: Annotated[
        str,
        Meta(
            min_length=1,
            description="Where `<epoch>/` folders of saved models go; inside the run folder when relative.",
        ),
    ] = "output_model"
    save_mode: Annotated[
        Literal["all", "delta", "base", "batch", 0, 1, 2, 3],
        Meta(
            description="Which rows of tables with an accessor a saved model holds, see [tables](tables.md); 0 to 3 "
            "are the original's numbers of all, delta, base and batch."
        ),
    ] = "all"
    shrink_interval: Annotated[
        int, Meta(ge=0, description="Epochs of one day of tables with an accessor, at whose end they forget; 0: never.")
    ] = 0
    save_interval: Annotated[int, Meta(ge=0, description="Epochs between two saved models; 0: only at the end.")] = 1
    durability: Annotated[
        Literal["off", "log", "log+fsync"],
        Meta(
            description="Whether servers and coordinator write down what they are told before they do it, so that "
            "`--max_restarts` can start them again: `log` outlives a killed role, `log+fsync` a machine that crashes, "
            "too."
        ),
    ] = "off"
    journal_bytes_max: Annotated[
        int,
        Meta(ge=2**16, description="A journal longer than this is replaced by a snapshot of the state, in bytes."),
    ] = 2**29
    save_checkpoint_interval: Annotated[
        int,
        Meta(
            ge=0,
            description="Steps of an epoch between two checkpoints, from which `flrun --resume` goes on; above 0 there "
            "is also one after each epoch. 0: none.",
        ),
    ] = 0
    keep_checkpoint_max: Annotated[int, Meta(ge=1, description="How many complete checkpoints are kept.")] = 5
    checkpoint_path: Annotated[
        str,
        Meta(min_length=1, description="Where checkpoints go; inside the run folder when relative."),
    ] = "checkpoint"
    warmup_model_path: Annotated[
        str | Names,
        Meta(description="A saved model to start from, or several that are read in turn: a base and its deltas."),
    ] = ""
    test_data_dir: Annotated[
        str,
        Meta(
            description="Folder of the test files, one per client. Left out: no ranking is measured, except with the "
            "generated default data, which bring their own."
        ),
    ] = ""
    infer_reader_type: Annotated[
        ReaderType | None, Meta(description="Reader of the test files; left out: the same as `reader_type`.")
    ] = None
    infer_reader_path: Annotated[
        str, Meta(description="Module or file of the test reader; left out: the same as `train_reader_path`.")
    ] = ""
    infer_batch_size: Annotated[
        int,
        Meta(
            ge=1,
            description="Samples that a test reader gives at once. Above 1 it is also how many pairs of user and item "
            "`flps eval -m` scores in one call, at least one user's.",
        ),
    ] = 512
    infer_load_path: Annotated[
        str,
        Meta(
            description="Where `flps eval -m` looks for saved models; left out: `model_save_path`. A relative path is "
            "looked for in the run folder that is named, else in the newest run of the log folder, then beside the "
            "yaml."
        ),
    ] = ""
    infer_start_epoch: Annotated[
        int, Meta(ge=0, description="First saved epoch that `flps eval -m` measures; folders count the epochs done.")
    ] = 0
    infer_end_epoch: Annotated[
        Epoch | None, Meta(description="`flps eval -m` stops before this epoch; left out: after the last saved one.")
    ] = None
    need_dump: Annotated[bool, Meta(description="Write samples or parameters to text files; off unless asked.")] = False
    dump_fields_path: Annotated[
        str,
        Meta(description="Folder of the dumps; always inside the run folder, whatever path is written here."),
    ] = "dump"
    dump_fields: Annotated[
        Names, Meta(description="Fields of a sample that are dumped; private ones are left out, and the log says so.")
    ] = ()
    dump_param: Annotated[Names, Meta(description="Dense parameters that are dumped; private ones are refused.")] = ()

    @property
    def saves(self) -> Literal["all", "delta", "base", "batch"]:
        """`save_mode` by its name."""
        names: dict[int, Literal["all", "delta", "base", "batch"]] = {0: "all", 1: "delta", 2: "base", 3: "batch"}
        return names[self.save_mode] if isinstance(self.save_mode, int) else self.save_mode

    @property
    def warm_from(self) -> Names:
        """The saved models of `warmup_model_path`."""
        path = self.warmup_model_path
        return path if isinstance(path, tuple) else (path,) * bool(path)

    @property
    def fresh_negatives(self) -> bool:
        """Whether the worker draws new negatives each epoch."""
        return self.negatives == "fresh" or (self.negatives is None and self.reader_type == "columnar")


class Network(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Deadlines, losses and limits of what peers may send."""

    heartbeat_s: Annotated[float, Meta(gt=0, description="Seconds between two signs of life of a role.")] = 1.0
    lease_s: Annotated[float, Meta(gt=0, description="A role that is silent for this long is lost.")] = 10.0
    start_timeout_s: Annotated[float, Meta(gt=0, description="Every role must report itself within this time.")] = 60.0
    request_timeout_s: Annotated[float, Meta(gt=0, description="Longest wait for the answer to one request.")] = 60.0
    barrier_timeout_s: Annotated[float, Meta(gt=0, description="Longest wait at the end of an epoch.")] = 600.0
    retry_s: Annotated[float, Meta(gt=0, description="An unanswered request is sent again after this time.")] = 5.0
    max_refused: Annotated[
        int, Meta(ge=1, description="A worker ends after this many pushes in a row were refused.")
    ] = 10
    min_workers: Annotated[int, Meta(ge=1, description="The job stops when fewer workers than this are alive.")] = 1
    frame_bytes_max: Annotated[int, Meta(ge=1024, description="Largest frame that a role accepts.")] = 256 * 2**20
    message_bytes_max: Annotated[
        int,
        Meta(
            ge=1024,
            description="Largest message in all its frames, and the most that a peer may have under way over TCP.",
        ),
    ] = 2**30
    frames_max: Annotated[int, Meta(ge=4, description="Most frames in one message.")] = 1024
    keys_max: Annotated[int, Meta(ge=1, description="Most keys in one pull or push.")] = 2**24


class Evaluation(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """When ranking quality is measured, and how."""

    interval: Annotated[int, Meta(ge=0, description="Epochs between two evaluations; 0: only at the end.")] = 1
    k: Annotated[int, Meta(ge=1, description="Length of the ranked list in HR@k and NDCG@k.")] = 10
    full: Annotated[
        bool, Meta(description="At the end, also rank against all items but the user's training items.")
    ] = True


class Config(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One job, as its yaml and the overrides of the command line say."""

    job: Annotated[
        Literal["federation", "split", "pretrain"],
        Meta(description="The kind of job. A `split` job has keys of its own; `pretrain` is not built yet."),
    ] = "federation"
    model: Annotated[
        str,
        Meta(
            min_length=1,
            description="A built-in model's name, or `path/to/model.py:build`, or `package.module:build`.",
        ),
    ] = "ncf"
    seed: Annotated[
        int, Meta(ge=0, le=2**63 - 1, description="Everything drawn by chance is drawn from this number.")
    ] = 42
    runner: Annotated[Runner, Meta(description="How the job is run.")] = Runner()
    hyper_parameters: Annotated[
        dict[str, Any], Meta(description="The model's own keys, checked against the model's type.")
    ] = {}
    table_parameters: Annotated[
        dict[str, TableParameters], Meta(description="Settings of a table, by the table's name.")
    ] = {}
    network: Annotated[Network, Meta(description="Deadlines, losses and limits.")] = Network()
    evaluation: Annotated[Evaluation, Meta(description="When and how ranking quality is measured.")] = Evaluation()

    def placement(self, table: str) -> Placement | None:
        """Where the yaml puts this sparse table, or None when it leaves that to the model."""
        if table in map(table_name, self.runner.local_sparse):
            return "private"
        if table in map(table_name, self.runner.remote_sparse):
            return "shared"
        parameters = self.table_parameters.get(table)
        return parameters.placement if parameters else None
