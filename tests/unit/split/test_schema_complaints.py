"""Everything that a split yaml can say wrong is told with file and line, all at once."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from flps.errors import ConfigError
from flps.split.schema import FLYamlData

NETS = Path(__file__).with_name("nets")
TOP = (NETS / "leader_top.yaml").read_text(encoding="utf-8")


def complaint(folder: Path, text: str) -> str:
    """What is said of a file, without the folder."""
    path = folder / "net.yaml"
    path.write_text(text, encoding="utf-8")
    with pytest.raises(ConfigError) as caught:
        FLYamlData(path)
    return str(caught.value).replace(f"{folder}/", "")


@pytest.mark.parametrize(
    ("old", "new", "says"),
    [
        # names of keys
        ("role: leader", "rôle: leader", "net.yaml:1: rôle: there is no such key; did you mean role?"),
        ("bit_num: 6", "bits: 6", ":8: model.train_net.inputs[2].bits: there is no such key; did you mean "),
        ("sens: 1024.0", "sense: 1", ":35: opts[0].grads[0].sense: there is no such key; did you mean opts[0].grads"),
        ("epochs: 20", "epoch: 20", ":50: hyper_parameters.epoch: there is no such key; did you mean hyper_parameters"),
        ("label_dp: {eps", "laplace: {eps", ":51: privacy.laplace: there is no such key; did you mean privacy.l"),
        ("epochs: 20", "epochs: 20, epochs: 21", "hyper_parameters.epochs is said twice, first at net.yaml:50"),
        # values
        ("role: leader", "role: boss", ":1: role: expected one of follower, leader, got 'boss'"),
        ("bit_num: 6", "bit_num: 9", ":8: model.train_net.inputs[2].bit_num: expected an integer of at least 1 and of"),
        ("bit_num: 6", "bit_num: 0", "of at most 8, got 0"),
        ("bit_num: 6", "bit_num: 6.0", "of at most 8, got 6.0"),
        ("compress_type: min_max", "compress_type: zip", "compress_type: expected one of bf16, bit_pack, fp16, int8"),
        ("label, source: local", "label, source: here", "source: expected one of local, remote, got 'here'"),
        ("out, destination: local", "out, destination: far", "destination: expected one of local, remote, got 'far'"),
        ("gt: label", "gt: 3", ":24: model.eval_net.gt: expected text that is not empty, got 3"),
        ("gt: label", "gt: [label]", ":24: model.eval_net.gt: expected text that is not empty, got ['label']"),
        ("epochs: 20", "epochs: 0", "epochs: expected an integer of at least 1, got 0"),
        ("batch_size: 16000", "batch_size: many", "batch_size: expected an integer of at least 1, got 'many'"),
        ("is_eval: True", "is_eval: perhaps", "is_eval: expected true or false, got 'perhaps'"),
        ("ckpt_path: ./checkpoints", "ckpt_path:", "ckpt_path: has no value; give text that is not empty"),
        ("features: [id_hldr, wt_hldr]", "features: id", "dataset.features: expected a list, each entry text"),
        # sens, of grads and of grad_scalers
        ("sens: 1024.0\n    params", "sens: [1]\n    params", ":35: opts[0].grads[0].sens: expected text that is not"),
        ("sens: 1024.0\n    params", "sens: true\n    params", "or a number, got True"),
        ("sens: 1024.0\n    params", "sens: ''\n    params", "or a number, got ''"),
        ("sens: 1024.0\n    params", "sens:\n    params", "opts[0].grads[0].sens: has no value; give text that is not"),
        ("sens: 1024.0\ndataset", "sens: {a: 1}\ndataset", ":45: grad_scalers[0].sens: expected text that is not"),
        ("sens: 1024.0\ndataset", "sens: .nan\ndataset", ":45: grad_scalers[0].sens: .nan is not a finite number"),
        # tensors that train_net does not have
        (
            "          - name: label",
            "          - name: lable",
            ":33: opts[0].grads[0].inputs[4].name: train_net has no input lable; did you mean label?",
        ),
        (
            "output: {name: loss}\n        sens",
            "output: {name: lost}\n        sens",
            ":34: opts[0].grads[0].output.name: train_net has no output lost; did you mean loss?",
        ),
        (
            "grad_scalers:\n  - inputs:\n      - name: leader_wide_embedding\n",
            "grad_scalers:\n  - inputs:\n      - name: logits\n",
            ":40: grad_scalers[0].inputs[0].name: train_net has no input logits; did you mean ",
        ),
        (
            "output: {name: loss}\n    sens",
            "output: {name: label}\n    sens",
            ":44: grad_scalers[0].output.name: train_net has no output label; did you mean ",
        ),
        (
            "output: {name: loss}\n    sens",
            "output: {name: loss, output_index: 0}\n    sens",
            ":44: grad_scalers[0].output.output_index: loss is output 1 of train_net, not 0",
        ),
        # what is missing
        ("role: leader\n", "", "net.yaml:1: role: is missing"),
        ("    name: leader_loss_net\n", "", ":3: model.train_net.name: is missing"),
        ("{name: label, source: local}", "{source: local}", ":10: model.train_net.inputs[4].name: is missing"),
        ("  - type: Adam\n    grads", "  - grads", ": opts[0].type: is missing"),
        ("        output: {name: loss}\n        sens", "        sens", ":28: opts[0].grads[0].output: is missing"),
        ("    output: {name: loss}\n    sens: 1024.0\nd", "\nd", ": grad_scalers[0].output: is missing"),
        ("{label_dp: {eps: 1.0}}", "{label_dp: {}}", ":51: privacy.label_dp.eps: is missing"),
        ("{label_dp: {eps: 1.0}}", "{embedding_dp: }", ":51: privacy.embedding_dp.eps: is missing"),
        ("{label_dp: {eps: 1.0}}", "{cut: {noise: 1}}", ":51: privacy.cut.clip: is missing"),
        # privacy
        ("eps: 1.0", "eps: -1", ":51: privacy.label_dp.eps: expected a number of at least 0, got -1"),
        ("eps: 1.0", "eps: one", ":51: privacy.label_dp.eps: expected a number of at least 0, got 'one'"),
        ("eps: 1.0", "eps: true", "expected a number of at least 0, got True"),
        (
            "{label_dp: {eps: 1.0}}",
            "{embedding_dp: {eps: -2}}",
            "eps: expected a number of at least 0, or null, got -2",
        ),
        ("{label_dp: {eps: 1.0}}", "[label_dp]", ":51: privacy: expected keys and values, got ['label_dp']"),
        ("{label_dp: {eps: 1.0}}", "{cut: {clip: 0}}", "privacy.cut.clip: expected a number above 0, got 0"),
        # a name twice
        (
            "name: out,",
            "name: loss,",
            ":13: model.train_net.outputs[1].name: loss stands twice in this list, first at net.yaml:12",
        ),
        ("[{name: deep}, {name: dense}]", "[{name: deep}, {name: deep}]", "opts[0].params[1].name: deep stands twice"),
        (
            "features: [id_hldr, wt_hldr]",
            "features: [id, id]",
            ":48: dataset.features[1]: id stands twice in this list",
        ),
        # settings without effect, or against each other
        (
            "compress_type: min_max, bit_num: 6",
            "bit_num: 6",
            ":8: model.train_net.inputs[2].bit_num: has no effect here: it "
            "belongs to compress_type min_max or bit_pack, and that is left out",
        ),
        ("compress_type: min_max, bit_num: 6", "compress_type: fp16, bit_num: 6", "and that is fp16"),
        (
            "compress_type: min_max, bit_num: 6",
            "compress_type: topk, top_k: 2",
            "expected a number above 0 and of at most 1",
        ),
        (
            "compress_type: min_max, bit_num: 6",
            "compress_type: topk, grad_compress_type: fp16, grad_top_k: .5",
            "grad_top_k: has no effect",
        ),
        (
            "compress_type: min_max, bit_num: 6",
            "compress_type: fp16, grad_compress_type: bit_pack, error_feedback: true",
            "and that is bit_pack",
        ),
        ("compress_type: min_max, bit_num: 6", "compress_type: fp16, top_k: .5", "top_k: has no effect here"),
        ("compress_type: min_max, bit_num: 6", "error_feedback: true", "error_feedback: has no effect here"),
        ("compress_type: min_max, bit_num: 6", "compress_type: fp16, grad_bit_num: 6", "grad_bit_num: has no effect"),
        (
            "bit_num: 6",
            "bit_num: 4",
            ":19: model.eval_net.inputs[2].bit_num: 6, but follower_wide_embedding has 4 at "
            "net.yaml:8; a tensor is packed one way",
        ),
        (
            "batch_size: 16000",
            "batch_size: 3, micro_batches: 4",
            "micro_batches: a batch of 3 cannot be cut into 4 parts",
        ),
        # the optimizer's arguments
        (
            "loss_scale: 1024.0",
            "loss_scale: 0",
            "loss_scale: expected a number above 0, or the keys init, factor and window, got 0",
        ),
        ("loss_scale: 1024.0", "loss_scale: {innit: 1}", "loss_scale.innit: there is no such key; did you mean "),
        ("loss_scale: 1024.0", "loss_scale: {factor: 1}", "loss_scale.factor: expected a number above 1, got 1"),
        ("learning_rate: 3.5e-4", "learning_rate: fast", "learning_rate: expected a number of at least 0, got 'fast'"),
        ("eps: 1.e-8", "eps: ", "opts[0].hyper_parameters.eps: has no value; give one, or remove the line"),
    ],
)
def test_what_a_file_can_say_wrong(old: str, new: str, says: str, tmp_path: Path) -> None:
    assert old in TOP
    said = complaint(tmp_path, TOP.replace(old, new, 1))
    assert says in said, said
    assert "net.yaml:" in said


@pytest.mark.parametrize(
    ("old", "new", "complaints"),
    [
        ("bit_num: 6", "bit_num: 9", 1),
        ("compress_type: min_max", "compress_type: minmax", 1),
        ("name: label, source", "nam: label, source", 2),  # a key too many, and one too few
        ("opts:", "opts: 3\nx:", 2),
        ("    outputs:\n      - {name: out, destination: local}\n", "    outputs: 3\n    x:\n", 2),
    ],
)
def test_a_mistake_hides_nothing_and_is_not_told_twice(old: str, new: str, complaints: int, tmp_path: Path) -> None:
    said = complaint(tmp_path, TOP.replace(old, new, 1))
    assert len(said.splitlines()) == (1 if complaints == 1 else complaints + 1), said


@pytest.mark.parametrize("section", ["role", "model", "opts"])
def test_a_section_that_is_missing(section: str, tmp_path: Path) -> None:
    tree = yaml.safe_load(TOP)
    del tree[section]
    said = complaint(tmp_path, yaml.safe_dump(tree, sort_keys=False))
    assert said == f"net.yaml:1: {section}: is missing"


@pytest.mark.parametrize("net", ["train_net", "eval_net"])
def test_a_net_that_is_missing_or_empty(net: str, tmp_path: Path) -> None:
    tree = yaml.safe_load(TOP)
    part = tree["model"].pop(net)
    assert f": model.{net}: is missing" in complaint(tmp_path, yaml.safe_dump(tree))
    for side in ("inputs", "outputs"):
        tree["model"][net] = {**part, side: []}
        assert f"model.{net}.{side}: expected a list that is not empty" in complaint(tmp_path, yaml.safe_dump(tree))
        tree["model"][net] = {key: value for key, value in part.items() if key != side}
        assert f"model.{net}.{side}: is missing" in complaint(tmp_path, yaml.safe_dump(tree))


@pytest.mark.parametrize(
    ("path", "says"),
    [
        (("opts", 0, "grads"), "opts[0].grads: expected a list that is not empty"),
        (("opts", 0, "grads", 0, "inputs"), "opts[0].grads[0].inputs: expected a list that is not empty"),
        (("grad_scalers", 0, "inputs"), "grad_scalers[0].inputs: expected a list that is not empty"),
    ],
)
def test_a_list_that_is_empty(path: tuple[str | int, ...], says: str, tmp_path: Path) -> None:
    tree = yaml.safe_load(TOP)
    part = tree
    for step in path[:-1]:
        part = part[step]
    part[path[-1]] = []
    assert says in complaint(tmp_path, yaml.safe_dump(tree))


def test_a_gradient_that_was_copied(tmp_path: Path) -> None:
    text = (NETS / "embedding.yaml").read_text(encoding="utf-8")
    said = complaint(
        tmp_path,
        text.replace(
            "name: word_table\n        sens: word_table", "name: embedding_table\n        sens: hidden_states"
        ),
    )
    assert "net.yaml:35: opts[0].grads[1]: is the same gradient as opts[0].grads[0]; it would count twice" in said


def test_two_scalers_of_one_output(tmp_path: Path) -> None:
    text = (NETS / "backbone.yaml").read_text(encoding="utf-8")
    said = complaint(tmp_path, text.replace("{name: word_table, output_index: 1}", "{name: hidden_states}"))
    assert "net.yaml:33: grad_scalers[1].output.name: hidden_states has a grad_scaler at net.yaml:30 already" in said


def test_all_complaints_come_at_once(tmp_path: Path) -> None:
    text = TOP
    for old, new in (
        ("role: leader", "role: boss"),
        ("bit_num: 6", "bit_num: 12"),
        ("          - name: label", "          - name: lable"),
        ("gt: label", "gt: 5"),
        ("output: {name: loss}\n    sens: 1024.0", "output: {name: lost}\n    sens: [1]"),
        ("epochs: 20", "epochs: 0"),
        ("eps: 1.0", "eps: -1"),
        ("ckpt_path", "chpt_path"),
        ("batch_size: 16000", "batch_size: 2, micro_batches: 3"),
    ):
        assert old in text
        text = text.replace(old, new, 1)
    said = complaint(tmp_path, text)
    lines = said.splitlines()
    assert lines[0] == "10 things are wrong in the configuration:"
    for start in (
        "net.yaml:1: role: ",
        "net.yaml:8: model.train_net.inputs[2].bit_num: ",
        "net.yaml:24: model.eval_net.gt: ",
        "net.yaml:33: opts[0].grads[0].inputs[4].name: ",
        "net.yaml:44: grad_scalers[0].output.name: ",
        "net.yaml:45: grad_scalers[0].sens: ",
        "net.yaml:50: hyper_parameters.epochs: ",
        "net.yaml:50: hyper_parameters.micro_batches: ",
        "net.yaml:51: privacy.label_dp.eps: ",
        "net.yaml:52: chpt_path: there is no such key; did you mean ckpt_path?",
    ):
        assert any(line.strip().startswith(start) for line in lines), f"{start!r} is not in {said}"


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("", "net.yaml: the file is empty; a net needs at least role, model and opts"),
        ("- role: leader\n", "net.yaml:1: expected `key: value` lines at the top"),
        ("role: [leader\n", "this is not yaml"),
        ("model: {train_net: , eval_net: }\nopts: \nrole: \n", "7 things"),
    ],
)
def test_a_file_that_is_no_net(text: str, says: str, tmp_path: Path) -> None:
    assert says in complaint(tmp_path, text)


def test_a_file_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"nowhere.yaml: cannot be read: No such file"):
        FLYamlData(tmp_path / "nowhere.yaml")


scalars = st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20) | st.dates()
values = st.recursive(
    scalars, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(scalars, inner, max_size=3), max_leaves=6
)
quickly = settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


def places(tree: object, path: tuple[str | int, ...] = ()) -> list[tuple[str | int, ...]]:
    """The paths of all values in a tree."""
    steps = tree.items() if isinstance(tree, dict) else enumerate(tree) if isinstance(tree, list) else ()
    return [path] * bool(path) + [found for step, inner in steps for found in places(inner, (*path, step))]


@quickly
@given(place=st.sampled_from(places(yaml.safe_load(TOP))), value=values)
def test_any_value_at_any_key(place: tuple[str | int, ...], value: object, tmp_path: Path) -> None:
    """A net or a ConfigError comes out, nothing else."""
    tree = yaml.safe_load(TOP)
    part = tree
    for step in place[:-1]:
        part = part[step]
    part[place[-1]] = value
    outcome(tmp_path, yaml.dump(tree, allow_unicode=True).encode("utf-8", "surrogatepass"))


@quickly
@given(start=st.integers(0, len(TOP)), length=st.integers(0, 40), text=st.text(max_size=10))
def test_any_characters_anywhere(start: int, length: int, text: str, tmp_path: Path) -> None:
    outcome(tmp_path, (TOP[:start] + text + TOP[start + length :]).encode("utf-8", "surrogatepass"))


def outcome(folder: Path, text: bytes) -> None:
    path = folder / "net.yaml"
    path.write_bytes(text)
    try:
        FLYamlData(path)
    except ConfigError as error:
        said = str(error)
    else:
        return
    assert "net.yaml" in said
