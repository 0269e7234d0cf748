"""The keys of the original's network_config, their defaults, and the presets. Imports no torch.

Every key of the original is here. Those that belong to MindSpore's own machinery are accepted and have no effect;
`without_effect` names the ones that were set.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal

import msgspec
import yaml
from msgspec import Meta

from flps.errors import ConfigError

Size = Annotated[int, Meta(ge=1, le=2**31 - 1)]
Width = Annotated[int, Meta(ge=1, le=65536)]
Init = Literal["normal", "uniform", "random", "one", "zero"]
CONFIGS = "configs/wide_deep"
_INERT = Meta(description="MindSpore's own; accepted, without effect.")


class NetworkConfig(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Sizes of the nets, and where a single run of them finds data, yaml files and its peer."""

    data_path: Annotated[str, Meta(description="Folder that datasets/criteo.py wrote; embedded: generated rows.")] = (
        "embedded:criteo_like"
    )
    device_target: Annotated[str, Meta(description="CPU or GPU; it names the log of the single-process run.")] = "GPU"
    epochs: Annotated[int, Meta(ge=1, description="Passes over the training rows.")] = 15
    batch_size: Annotated[Size, Meta(description="Rows of a step.")] = 16000
    field_size: Annotated[Size, Meta(description="Columns of all parties: at least those of the two below.")] = 39
    leader_field_size: Annotated[Size, Meta(description="Columns of the leader.")] = 20
    follower_field_size: Annotated[Size, Meta(description="Columns of the follower.")] = 19
    vocab_size: Annotated[Size, Meta(description="Rows of each party's tables; every id is below this number.")] = (
        200_000
    )
    emb_dim: Annotated[Width, Meta(description="Width of a row of the deep table.")] = 80
    deep_layer_dim: Annotated[tuple[Width, ...], Meta(max_length=64, description="Widths of the hidden layers.")] = (
        1024,
        512,
        256,
        128,
    )
    deep_layer_act: Annotated[Literal["relu", "sigmoid", "tanh"], Meta(description="Behind each hidden layer.")] = (
        "relu"
    )
    keep_prob: Annotated[float, Meta(gt=0, le=1, description="With dropout_flag: share that is kept.")] = 1.0
    dropout_flag: Annotated[bool, Meta(description="Dropout before each dense layer.")] = False
    weight_bias_init: Annotated[tuple[Init, Init], Meta(description="First weights and biases.")] = ("normal", "normal")
    emb_init: Annotated[Init, Meta(description="First value of Wide_b; the tables are always normal.")] = "normal"
    init_args: Annotated[tuple[float, float], Meta(description="Limits of `uniform`.")] = (-0.01, 0.01)
    l2_coef: Annotated[float, Meta(ge=0, description="Weight of the deep table's l2 term.")] = 8e-5
    sparse: Annotated[bool, Meta(description="Sparse gradients of the tables.")] = False
    seed: Annotated[int, Meta(ge=0, le=2**63 - 1, description="Of first weights and of the order of rows.")] = 0

    leader_top_yaml_path: Annotated[str, Meta(description="Yaml of the leader's top, where the job names no nets.")] = (
        f"{CONFIGS}/leader_top.yaml"
    )
    leader_bottom_yaml_path: Annotated[str, Meta(description="Yaml of the leader's bottom.")] = (
        f"{CONFIGS}/leader_bottom.yaml"
    )
    follower_bottom_yaml_path: Annotated[str, Meta(description="Yaml of a follower's bottom.")] = (
        f"{CONFIGS}/follower_bottom.yaml"
    )
    leader_tee_yaml_path: Annotated[str, Meta(description="Three-stage form: yaml of the stage in the middle.")] = (
        f"{CONFIGS}/leader_tee.yaml"
    )
    leader_top_tee_yaml_path: Annotated[str, Meta(description="Three-stage form: yaml of the leader's top.")] = (
        f"{CONFIGS}/leader_top_tee.yaml"
    )
    leader_bottom_tee_yaml_path: Annotated[str, Meta(description="Three-stage form: yaml of the leader's bottom.")] = (
        f"{CONFIGS}/leader_bottom_tee.yaml"
    )
    follower_bottom_tee_yaml_path: Annotated[
        str, Meta(description="Three-stage form: yaml of a follower's bottom.")
    ] = f"{CONFIGS}/follower_bottom_tee.yaml"
    simu_tee: Annotated[bool, Meta(description="The three-stage form; a simulation that protects nothing.")] = False
    label_dp: Annotated[
        bool,
        Meta(description="Noise on the labels, as leader_top's privacy section says; eps 1 where it is silent."),
    ] = False

    ckpt_path: Annotated[
        str, Meta(description="Folder of checkpoints in loops of one's own; a job has runner.checkpoint_path instead.")
    ] = "./ckpt"
    resume: Annotated[bool, Meta(description="Go on from the newest run, as `--resume` says it.")] = False
    pre_trained_follower: Annotated[
        str, Meta(description="Folder of checkpoints or trained nets whose newest weights the follower starts from.")
    ] = ""
    pre_trained_leader: Annotated[str, Meta(description="The same of the leader.")] = ""
    http_server_address: Annotated[
        str, Meta(description="A party that starts alone: its own host:port. The leader listens there.")
    ] = "127.0.0.1:10087"
    remote_server_address: Annotated[
        str, Meta(description="A party that starts alone: the other's host:port. A follower dials it.")
    ] = "127.0.0.1:10086"
    enable_ssl: Annotated[bool, Meta(description="TLS between the parties, with the certificates below.")] = False
    server_cert_path: Annotated[str, Meta(description="Certificate that the leader shows.")] = ""
    client_cert_path: Annotated[str, Meta(description="Certificate that a follower shows.")] = ""
    ca_cert_path: Annotated[str, Meta(description="Certificates of those whom a party trusts.")] = ""
    server_password: Annotated[str, Meta(description="Refused in a job: see FLPS_SERVER_PASSWORD.")] = ""
    client_password: Annotated[str, Meta(description="Refused in a job: see FLPS_CLIENT_PASSWORD.")] = ""

    # MindSpore's own: accepted so that the original's file loads, without effect
    leader_yaml_path: Annotated[str, _INERT] = ""
    follower_yaml_path: Annotated[str, _INERT] = ""
    full_batch: Annotated[bool, _INERT] = False
    vocab_cache_size: Annotated[int, _INERT] = 0
    host_device_mix: Annotated[int, _INERT] = 0
    dataset_type: Annotated[str, _INERT] = "mindrecord"
    parameter_server: Annotated[int, _INERT] = 0
    field_slice: Annotated[bool, _INERT] = False
    deep_table_slice_mode: Annotated[str, _INERT] = "column_slice"
    manual_shape: Annotated[str | None, _INERT] = None
    enable_TEE: Annotated[bool, _INERT] = False  # noqa: N815  the original's key
    embedding_tee: Annotated[bool, _INERT] = False

    def __post_init__(self) -> None:
        """Refuse what contradicts itself: parties' columns are all columns."""
        if self.leader_field_size + self.follower_field_size > self.field_size:
            raise ValueError(
                f"leader_field_size {self.leader_field_size} + follower_field_size {self.follower_field_size} "
                f"is more than field_size {self.field_size}"
            )

    def without_effect(self) -> list[str]:
        """Keys that were set, to another value than their default, and change nothing here."""
        return [name for name in INERT if getattr(self, name) != getattr(FULL, name)]


INERT = (
    "leader_yaml_path",
    "follower_yaml_path",
    "full_batch",
    "vocab_cache_size",
    "host_device_mix",
    "dataset_type",
    "parameter_server",
    "field_slice",
    "deep_table_slice_mode",
    "manual_shape",
    "enable_TEE",
    "embedding_tee",
)

FULL = NetworkConfig()
SMALL = NetworkConfig(emb_dim=16, deep_layer_dim=(64, 32), batch_size=1024, vocab_size=20_000)
PRESETS = {"full": FULL, "small": SMALL}


def network_config(settings: dict[str, Any] | None = None, preset: str = "full", where: str = "") -> NetworkConfig:
    """A preset with some of its keys set otherwise.

    settings: keys of network_config; the text `None` for manual_shape, as the original's file has it, means none.
    where: opens the complaint, e.g. a file's name.

    Raises:
        ConfigError: an unknown preset or key, or a value of the wrong type or size.
    """
    if preset not in PRESETS:
        raise ConfigError(f"{where}preset {preset!r}: expected {' or '.join(PRESETS)}")
    wanted = dict(settings or {})
    if wanted.get("manual_shape") == "None":
        wanted["manual_shape"] = None
    try:
        return msgspec.convert({**msgspec.to_builtins(PRESETS[preset]), **wanted}, NetworkConfig)
    except msgspec.ValidationError as error:
        raise ConfigError(f"{where}network_config: {error}") from error


def load_network_config(path: str | Path, preset: str = "full") -> NetworkConfig:
    """network_config.yaml over a preset; the original's own file loads unchanged.

    Raises:
        ConfigError: no such file, no yaml mapping, or as `network_config` says.
    """
    try:
        read = yaml.safe_load(Path(path).read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise ConfigError(f"{path}: no such file") from error
    except yaml.YAMLError as error:
        raise ConfigError(f"{path}: no yaml: {error}") from error
    if not isinstance(read, dict):
        raise ConfigError(f"{path}: expected keys of network_config, found {type(read).__name__}")
    return network_config({str(key): value for key, value in read.items()}, preset, f"{path}: ")
