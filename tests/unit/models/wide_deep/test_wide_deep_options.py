"""network_config: the original's file loads, presets, complaints."""

from __future__ import annotations

from pathlib import Path

import pytest

from flps.errors import ConfigError
from flps.models.wide_deep.options import FULL, SMALL, load_network_config, network_config

# Every key of the original's file with its value there.
ORIGINAL = """\
data_path: "./mindrecord/"
device_target: GPU
leader_yaml_path: "./yaml_files/leader.yaml"
follower_yaml_path: "./yaml_files/follower.yaml"
epochs: 15
full_batch: False
batch_size: 16000
field_size: 39
leader_field_size: 20
follower_field_size: 19
vocab_size: 200000
vocab_cache_size: 0
emb_dim: 80
deep_layer_dim: [1024, 512, 256, 128]
deep_layer_act: "relu"
keep_prob: 1.0
dropout_flag: False
ckpt_path: "./ckpt"
host_device_mix: 0
dataset_type: "mindrecord"
parameter_server: 0
field_slice: False
sparse: False
deep_table_slice_mode: "column_slice"
enable_TEE: False
weight_bias_init: ["normal", "normal"]
emb_init: "normal"
init_args: [-0.01, 0.01]
l2_coef: 8.e-5
manual_shape: None
resume: False
pre_trained_follower: ""
pre_trained_leader: ""
"""


def test_the_originals_file_is_the_full_preset(tmp_path: Path) -> None:
    path = tmp_path / "network_config.yaml"
    path.write_text(ORIGINAL)
    config = load_network_config(path)
    differing = {name for name in config.__struct_fields__ if getattr(config, name) != getattr(FULL, name)}
    assert differing == {"data_path", "leader_yaml_path", "follower_yaml_path"}
    assert config.without_effect() == ["leader_yaml_path", "follower_yaml_path"]


def test_presets() -> None:
    assert (FULL.batch_size, FULL.emb_dim, FULL.deep_layer_dim) == (16000, 80, (1024, 512, 256, 128))
    assert (SMALL.batch_size, SMALL.emb_dim, len(SMALL.deep_layer_dim)) == (1024, 16, 2)
    assert network_config({"epochs": 2}, "small").epochs == 2
    assert network_config({"epochs": 2}, "small").emb_dim == 16


@pytest.mark.parametrize(
    ("settings", "what"),
    [
        ({"emb_dims": 3}, "emb_dims"),
        ({"emb_dim": 0}, "emb_dim"),
        ({"emb_dim": "80"}, "emb_dim"),
        ({"deep_layer_act": "swish"}, "deep_layer_act"),
        ({"keep_prob": 0.0}, "keep_prob"),
        ({"leader_field_size": 30}, "leader_field_size 30 . follower_field_size 19 is more than field_size 39"),
    ],
)
def test_complaints_name_the_key(settings: dict[str, object], what: str) -> None:
    with pytest.raises(ConfigError, match=what):
        network_config(settings)


def test_complaints_name_the_file(tmp_path: Path) -> None:
    path = tmp_path / "n.yaml"
    with pytest.raises(ConfigError, match="no such file"):
        load_network_config(path)
    for text, what in (("[1]", "expected keys"), ("a: [", "no yaml"), ("epochs: 0", "epochs")):
        path.write_text(text)
        with pytest.raises(ConfigError, match=rf"n\.yaml: .*{what}"):
            load_network_config(path)
    with pytest.raises(ConfigError, match="expected full or small"):
        network_config(preset="tiny")
