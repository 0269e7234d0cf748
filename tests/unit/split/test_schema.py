"""FLYamlData: the original's files load as they are, and what they say arrives."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from flps.errors import ConfigError
from flps.split.schema import FLYamlData

NETS = Path(__file__).with_name("nets")


def net(name: str) -> FLYamlData:
    return FLYamlData(NETS / f"{name}.yaml")


def changed(folder: Path, name: str, old: str, new: str) -> FLYamlData:
    """A good file with one place changed."""
    text = (NETS / f"{name}.yaml").read_text(encoding="utf-8")
    assert old in text
    path = folder / "net.yaml"
    path.write_text(text.replace(old, new, 1), encoding="utf-8")
    return FLYamlData(path)


@pytest.mark.parametrize("name", sorted(path.stem for path in NETS.glob("*.yaml")))
def test_what_the_original_reads_is_read_alike(name: str) -> None:
    """Against yaml's own reading of the parts that the original takes as they are."""
    file, plain = net(name), yaml.safe_load((NETS / f"{name}.yaml").read_text(encoding="utf-8"))
    assert file.role == plain["role"]
    assert file.model_data.keys() == plain["model"].keys()
    for key, side in (("train_net", "train_net"), ("eval_net", "eval_net")):
        for names, tensors, place in (("in", "inputs", "source"), ("out", "outputs", "destination")):
            written = plain["model"][key][tensors]
            assert getattr(file, f"{side}_{names}_names") == [one["name"] for one in written]
            assert getattr(file, f"{side}_{names}s") == [{place: "local", **one} for one in written]
    assert [(opt["type"], opt["grads"]) for opt in file.opts] == [(opt["type"], opt["grads"]) for opt in plain["opts"]]
    assert file.grad_scalers == plain.get("grad_scalers")
    assert file.eval_net_gt == plain["model"]["eval_net"].get("gt")


def test_the_embedding_net_of_the_pangu_page() -> None:
    file = net("embedding")
    assert file.role == "follower"
    assert file.train_net["name"] == "follower_loss_net"
    assert file.train_net_in_names == ["input_ids", "position_id", "attention_mask"]
    assert {one["destination"] for one in file.train_net_outs} == {"remote"}
    assert [grad["sens"] for grad in file.opts[0]["grads"]] == ["hidden_states", "word_table"]
    assert [one["name"] for one in file.opts[0]["params"]] == ["word_embedding", "position_embedding"]
    assert file.opts[0]["hyper_parameters"] == {"learning_rate": 5e-6, "eps": 1e-8, "loss_scale": 1024.0}
    assert (file.embedding_dp_eps, file.label_dp_eps, file.privacy) == (5.0, None, {"embedding_dp": {"eps": 5.0}})


def test_the_settings_of_the_leaders_top_net() -> None:
    file = net("leader_top")
    assert (file.epochs, file.batch_size, file.is_eval, file.micro_batches) == (20, 16000, True, 1)
    assert (file.dataset_name, file.features, file.labels) == ("criteo", ["id_hldr", "wt_hldr"], ["ctr"])
    assert (file.label_dp_eps, file.embedding_dp_eps, file.ckpt_path) == (1.0, None, "./checkpoints")
    assert file.train_net_ins[2] == {
        "name": "follower_wide_embedding", "source": "remote", "compress_type": "min_max", "bit_num": 6,
    }  # fmt: skip
    assert file.grad_scalers is not None
    assert file.grad_scalers[0]["sens"] == 1024.0


def test_what_is_left_out_has_the_originals_defaults() -> None:
    file = net("head")
    assert (file.epochs, file.batch_size, file.is_eval, file.ckpt_path) == (1, 1, False, "./checkpoints")
    assert (file.dataset_name, file.features, file.labels) == ("", [], [])
    assert (file.privacy, file.label_dp_eps, file.embedding_dp_eps) == (None, None, None)
    assert net("leader_bottom").grad_scalers is None


def test_null_is_a_value_of_embedding_dp_only(tmp_path: Path) -> None:
    file = changed(tmp_path, "embedding", "eps: 5.0", "eps: null")
    assert file.embedding_dp_eps is None
    assert file.privacy == {"embedding_dp": {"eps": None}}
    with pytest.raises(ConfigError, match=r"net.yaml:51: privacy.label_dp.eps: has no value"):
        changed(tmp_path, "leader_top", "eps: 1.0", "eps: null")


def test_the_keys_that_are_ours(tmp_path: Path) -> None:
    scale = "{loss_scale: {init: 65536, window: 10}}"
    file = changed(tmp_path, "leader_top", "{learning_rate: 3.5e-4, eps: 1.e-8, loss_scale: 1024.0}", scale)
    assert file.opts[0]["hyper_parameters"]["loss_scale"] == {"init": 65536.0, "factor": 2.0, "window": 10}
    file = changed(tmp_path, "leader_top", "{label_dp: {eps: 1.0}}", "{cut: {clip: 2, noise: .5}}")
    assert file.privacy == {"cut": {"clip": 2.0, "noise": 0.5, "delta": 1e-5}}
    assert changed(tmp_path, "leader_top", "is_eval: True", "micro_batches: 4").micro_batches == 4
    more = "bit_num: 6, grad_compress_type: topk, top_k: 0.1, error_feedback: true"
    file = changed(tmp_path, "follower_bottom", "bit_num: 6}", f"{more}}}")  # train_net's; eval_net's says less
    packed = file.net.model.train_net.outputs[0]
    assert (packed.packed, packed.grad_packed, packed.top_k) == (("min_max", 6), ("topk", 0), 0.1)


def test_gradients_are_packed_like_their_tensors_unless_they_say() -> None:
    tensor = net("follower_bottom").net.model.train_net.outputs[0]
    assert tensor.grad_packed == tensor.packed == ("min_max", 6)
    assert net("embedding").net.model.train_net.outputs[0].packed == ("no_compress", 0)


def test_empty_params_mean_left_out(tmp_path: Path) -> None:
    file = changed(tmp_path, "leader_top", "params: [{name: deep}, {name: dense}]", "params: []")
    assert "params" not in file.opts[0]
    assert changed(tmp_path, "head", "      - name: top_query_layer\n", "      []\n").opts[0].keys() == {
        "type", "grads", "hyper_parameters",
    }  # fmt: skip


def test_a_net_may_be_trained_by_nothing(tmp_path: Path) -> None:
    text = "model: {train_net: {name: n, inputs: [{name: x}], outputs: [{name: y}]},"
    path = tmp_path / "net.yaml"
    path.write_text(f"role: follower\nopts: []\n{text} eval_net: {{inputs: [{{name: x}}], outputs: [{{name: y}}]}}}}\n")
    assert FLYamlData(path).opts == []


def test_where_a_key_was_written() -> None:
    file = net("leader_top")
    name = NETS / "leader_top.yaml"
    assert file.where("role") == f"{name}:1"
    assert file.where("opts[0].params[1].name") == file.where(("opts", 0, "params", 1, "name")) == f"{name}:36"
    assert file.where("privacy.embedding_dp") == file.where("privacy") == f"{name}:51"
    assert file.where("nothing") == f"{name}:1"
    assert str(name) in repr(file)


def test_the_digest_is_of_what_a_file_means(tmp_path: Path) -> None:
    digest = net("leader_top").digest
    assert len(digest) == 64
    assert changed(tmp_path, "leader_top", "name: label, source: local", "name: label").digest == digest
    assert changed(tmp_path, "leader_top", "role: leader", "# words\nrole:   leader").digest == digest
    assert changed(tmp_path, "leader_top", "./checkpoints", "elsewhere").digest == digest
    assert changed(tmp_path, "leader_top", "epochs: 20", "epochs: 21").digest != digest
    assert changed(tmp_path, "leader_top", "sens: 1024.0", "sens: 512.0").digest != digest
    assert net("leader_bottom").digest != digest


def test_a_file_that_is_changed_through_its_attributes_keeps_its_meaning() -> None:
    file = net("leader_top")
    file.opts[0]["hyper_parameters"]["learning_rate"] = 1.0
    assert file.net.opts[0].hyper_parameters["learning_rate"] == 3.5e-4
