"""Each key of the yaml, each complaint; the keys' table is held against the types, so that none is forgotten."""

from __future__ import annotations

import json
import logging
from pathlib import Path
from typing import Annotated, Any, Literal

import msgspec
import pytest
from msgspec import Meta

from flps.config import Config, Evaluation, Initializer, Network, Runner, TableParameters, load
from flps.config.tables import AccessorParameters
from flps.errors import ConfigError

# key: (yaml of a good value, what it means, yaml of a bad value, what the complaint says)
RUNNER: dict[str, tuple[str, Any, str, str]] = {
    "train_data_dir": ("some/folder", "some/folder", "[a]", "expected text, got ['a']"),
    "sync_mode": ("async", "async", "gea", "expected one of async, geo, sync, got 'gea'"),
    "with_coordinator": ("1", True, "2", "expected true or false, got 2"),
    "geo_step": ("7", 7, "0", "expected an integer of at least 1, got 0"),
    "geo_weights": ("uniform", "uniform", "sample", "expected one of samples, uniform, got 'sample'"),
    "split_file_list": ("False", False, "maybe", "expected true or false, got 'maybe'"),
    "thread_num": ("2", 2, "1.5", "expected an integer of at least 1, got 1.5"),
    "reader_type": ("columnar", "columnar", "Queue", "expected one of DataLoader, QueueDataset, RecDataset, columnar"),
    "pipe_command": ("python reader.py", "python reader.py", "3", "expected text, got 3"),
    "dataset_debug": ("True", True, "3", "expected true or false, got 3"),
    "shuffle": ("off", False, "~", "has no value; give true or false"),
    "negatives": ("fixed", "fixed", "stale", "expected one of fixed, fresh, got 'stale'"),
    "num_neg": ("0", 0, "-1", "expected an integer of at least 0, got -1"),
    "train_reader_path": ("movielens_reader", "movielens_reader", "", "has no value; give text"),
    "train_batch_size": ("1_024", 1024, "1e3", "expected an integer of at least 1, got 1000.0"),
    "epochs": ("010", 10, "ten", "expected an integer of at least 1, got 'ten'"),
    "example_count_method": ("word", "word", "lines", "expected one of example, word, got 'lines'"),
    "print_interval": ("1", 1, "true", "expected an integer of at least 1, got True"),
    "use_auc": ("yes", True, "'yes'", "expected true or false, got 'yes'"),
    "use_gpu": ("0", False, "gpu", "expected true or false, got 'gpu'"),
    "pure_bf16": ("True", True, "bf16", "expected true or false, got 'bf16'"),
    "private": ("['prediction.*']", ("prediction.*",), "prediction.*", "expected a list, each entry text"),
    "local_sparse": ("[a, b]", ("a", "b"), "[1]", "expected a list, each entry text, got [1]"),
    "remote_sparse": ("['embedding_1.w_0']", ("embedding_1.w_0",), "{a: b}", "expected a list, each entry text"),
    "model_save_path": ("out", "out", "''", "expected text that is not empty, got ''"),
    "row_type": ("float16", "float16", "float8", "expected one of float16, float32, int8, got 'float8'"),
    "save_mode": ("0", 0, "some", "expected one of 0, 1, 2, 3, all, base, batch, delta, got 'some'"),
    "shrink_interval": ("0", 0, "-1", "expected an integer of at least 0, got -1"),
    "save_interval": ("0", 0, "-1", "expected an integer of at least 0, got -1"),
    "durability": ("log", "log", "disk", "expected one of log, log+fsync, off, got 'disk'"),
    "journal_bytes_max": ("65536", 65536, "65535", "expected an integer of at least 65536, got 65535"),
    "save_checkpoint_interval": ("100", 100, "-1", "expected an integer of at least 0, got -1"),
    "keep_checkpoint_max": ("2", 2, "0", "expected an integer of at least 1, got 0"),
    "checkpoint_path": ("/mnt/c", "/mnt/c", "''", "expected text that is not empty, got ''"),
    "warmup_model_path": ("saved/3", "saved/3", "4", "expected text or a list, each entry text, got 4"),
    "test_data_dir": ("2024-01-31", "2024-01-31", "1.5", "expected text, got 1.5"),
    "infer_reader_type": ("columnar", "columnar", "x", "expected one of DataLoader, QueueDataset"),
    "infer_reader_path": ("1:30", "1:30", "130", "expected text, got 130"),
    "infer_batch_size": ("1", 1, "0", "expected an integer of at least 1, got 0"),
    "infer_load_path": ("output", "output", "[]", "expected text, got []"),
    "infer_start_epoch": ("2", 2, "-2", "expected an integer of at least 0, got -2"),
    "infer_end_epoch": ("3", 3, "last", "expected an integer of at least 0, got 'last'"),
    "vertical": ("False", False, "both", "expected true or false, got 'both'"),
    "need_dump": ("False", False, "all", "expected true or false, got 'all'"),
    "dump_fields_path": ("/some/where", "/some/where", "7", "expected text, got 7"),
    "dump_fields": ("['item_input']", ("item_input",), "item_input", "expected a list, each entry text"),
    "dump_param": ("[]", (), "[[a]]", "expected a list, each entry text, got [['a']]"),
}
NETWORK: dict[str, tuple[str, Any, str, str]] = {
    "heartbeat_s": ("5e-1", 0.5, "0", "expected a number above 0, got 0"),
    "lease_s": ("30", 30.0, "'30'", "expected a number above 0, got '30'"),
    "start_timeout_s": ("1E+2", 100.0, "never", "expected a number above 0, got 'never'"),
    "request_timeout_s": ("9.", 9.0, "-.5", "expected a number above 0, got -0.5"),
    "barrier_timeout_s": ("1.5", 1.5, ".inf", ".inf is not a finite number"),
    "retry_s": (".25", 0.25, ".nan", ".nan is not a finite number"),
    "max_refused": ("1", 1, "0", "expected an integer of at least 1, got 0"),
    "min_workers": ("3", 3, "0", "expected an integer of at least 1, got 0"),
    "frame_bytes_max": ("4096", 4096, "5", "expected an integer of at least 1024, got 5"),
    "message_bytes_max": ("4096", 4096, "5", "expected an integer of at least 1024, got 5"),
    "frames_max": ("8", 8, "1", "expected an integer of at least 4, got 1"),
    "keys_max": ("10", 10, "1.0e1x", "expected an integer of at least 1, got '1.0e1x'"),
}
EVALUATION: dict[str, tuple[str, Any, str, str]] = {
    "interval": ("0", 0, "-1", "expected an integer of at least 0, got -1"),
    "k": ("5", 5, "0", "expected an integer of at least 1, got 0"),
    "full": ("false", False, "x", "expected true or false, got 'x'"),
}
TABLE: dict[str, tuple[str, Any, str, str]] = {
    "rule": ("adagrad_row", "adagrad_row", "adm", "expected one of adagrad, adagrad_row, adagrad_v2, adam"),
    "update": ("step", "step", "steps", "expected one of step, window, got 'steps'"),
    "placement": ("private", "private", "local", "expected one of private, shared, got 'local'"),
    "learning_rate": ("1e-5", 1e-5, "fast", "expected a number of at least 0, got 'fast'"),
    "beta1": ("0.9", 0.9, "1", "expected a number of at least 0 and below 1, got 1"),
    "beta2": ("0", 0.0, "-1", "expected a number of at least 0 and below 1, got -1"),
    "epsilon": ("1e-8", 1e-8, "[1]", "expected a number of at least 0, got [1]"),
    "initial_g2sum": ("3", 3.0, "-3", "expected a number of at least 0, got -3"),
    "momentum": ("0.8", 0.8, "1", "expected a number of at least 0 and below 1, got 1"),
    "nesterov": ("true", True, "often", "expected true or false, got 'often'"),
    "ada_decay_rate": ("0.99", 0.99, "1", "expected a number of at least 0 and below 1, got 1"),
    "mom_decay_rate": ("0.99", 0.99, "1", "expected a number of at least 0 and below 1, got 1"),
    "initial_v": ("1", 1.0, "-1", "expected a number of at least 0, got -1"),
    "beta": ("1", 1.0, "-1", "expected a number of at least 0, got -1"),
    "l1": ("1", 1.0, "-1", "expected a number of at least 0, got -1"),
    "l2": ("1", 1.0, "-1", "expected a number of at least 0, got -1"),
    "weight_bounds": ("[-5, 5.5]", (-5.0, 5.5), "[1]", "expected a list of 2: a number, a number, got [1]"),
    "initial_range": ("1e-4", 1e-4, "-1", "expected a number of at least 0, got -1"),
    "initializer": ("{kind: uniform, scale: 1e-4}", Initializer(kind="uniform", scale=1e-4), "normal", "expected keys"),
    "memory_bytes_max": ("1_000_000", 1_000_000, "0", "expected an integer of at least 1, got 0"),
    "accessor": ("{show_scale: true}", AccessorParameters(show_scale=True), "7", "expected keys and values"),
    "dtype": ("float64", "float64", "float16", "expected one of float32, float64, got 'float16'"),
}
TABLES = {"runner": RUNNER, "network": NETWORK, "evaluation": EVALUATION, "table_parameters.items": TABLE}
PARTS = {"runner": Runner, "network": Network, "evaluation": Evaluation, "table_parameters.items": TableParameters}
KEYS = [(part, key) for part, table in TABLES.items() for key in table]


class Sizes(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A model's hyper_parameters, as a built-in model has them."""

    kind: Literal["a", "b"] = msgspec.field(default="a", name="class")
    width: Annotated[int, Meta(ge=1)]
    layers: Annotated[tuple[int, ...], Meta(min_length=1)] = (2, 1)

    def __post_init__(self) -> None:
        if self.layers[0] % 2:
            raise ValueError(f"layers starts with {self.layers[0]}; give an even number")


def written(folder: Path, text: str) -> Path:
    path = folder / "job.yaml"
    path.write_text(text, encoding="utf-8")
    return path


def yaml_of(part: str, key: str, value: str) -> str:
    """A yaml with one key set; `runner.train_data_dir` is there in any case."""
    lines = [] if (part, key) == ("runner", "train_data_dir") else ["runner.train_data_dir: x"]
    text = ""
    for dotted in [*lines, f"{part}.{key}: {value}"]:
        steps = dotted.partition(":")[0].split(".")
        if steps[0] == "runner" and "runner:" in text:
            text += f"  {steps[1]}:{dotted.partition(':')[2]}\n"
            continue
        for depth, step in enumerate(steps[:-1]):
            text += f"{'  ' * depth}{step}:\n"
        text += f"{'  ' * (len(steps) - 1)}{steps[-1]}:{dotted.partition(':')[2]}\n"
    return text


def complaint(folder: Path, text: str, *overrides: str, schemas: Any = None) -> str:
    with pytest.raises(ConfigError) as caught:
        load(written(folder, text), overrides, schemas)
    assert caught.value.exit_code == 2
    return str(caught.value).replace(f"{folder}/", "")


@pytest.mark.parametrize("part", TABLES)
def test_the_table_knows_every_key(part: str) -> None:
    assert set(TABLES[part]) == set(PARTS[part].__struct_fields__)


@pytest.mark.parametrize(("part", "key"), KEYS)
def test_a_good_value_arrives(part: str, key: str, tmp_path: Path) -> None:
    text, meant, _, _ = TABLES[part][key]
    config = load(written(tmp_path, yaml_of(part, key, text)))
    found = getattr(config.table_parameters["items"] if part.startswith("table") else getattr(config, part), key)
    assert (found, type(found)) == (meant, type(meant))


@pytest.mark.parametrize(("part", "key"), KEYS)
def test_a_good_value_arrives_from_the_command_line(part: str, key: str, tmp_path: Path) -> None:
    text, meant, _, _ = TABLES[part][key]
    base = written(tmp_path, "runner: {train_data_dir: x}")
    config = load(base, [f"{part}.{key}={text}"])
    found = getattr(config.table_parameters["items"] if part.startswith("table") else getattr(config, part), key)
    assert found == meant


@pytest.mark.parametrize(("part", "key"), KEYS)
def test_a_bad_value_is_refused_with_its_line(part: str, key: str, tmp_path: Path) -> None:
    _, _, text, says = TABLES[part][key]
    source = yaml_of(part, key, text)
    line = next(number for number, line in enumerate(source.splitlines(), 1) if line.strip().startswith(f"{key}:"))
    said = complaint(tmp_path, source)
    assert said.startswith(f"job.yaml:{line}: {part}.{key}")
    assert says in said
    assert "\n" not in said


@pytest.mark.parametrize(("part", "key"), KEYS)
def test_a_bad_override_names_the_flag(part: str, key: str, tmp_path: Path) -> None:
    _, _, text, says = TABLES[part][key]
    said = complaint(tmp_path, "runner: {train_data_dir: x}", f"{part}.{key}={text}")
    assert said.startswith(f"-o {part}.{key}={text}: {part}.{key}")
    assert says in said


@pytest.mark.parametrize(("part", "key"), KEYS)
def test_a_misspelt_key_names_the_nearest(part: str, key: str, tmp_path: Path) -> None:
    if key == "k":
        pytest.skip("a letter has no misspelling")
    misspelt = key[:-1] + key[-1] + "s" if key + "s" not in PARTS[part].__struct_fields__ else key + "x"
    said = complaint(tmp_path, yaml_of(part, misspelt, "1"))
    assert f"{part}.{misspelt}: there is no such key; did you mean {part}.{key}?" in said


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("", "job.yaml: the file is empty"),
        ("# only a comment\n", "job.yaml: the file is empty"),
        ("- 1\n", "job.yaml:1: expected `key: value` lines"),
        ("runner: 5\n", "job.yaml:1: runner: expected keys and values, got 5"),
        ("seed: 1\n", "runner.train_data_dir: is missing: name the folder of the training files, or embedded:"),
        ("runner:\n  epochs: 2\n", "job.yaml:1: runner.train_data_dir: is missing"),
        ("runner: {train_data_dir: x}\nsed: 1\n", "job.yaml:2: sed: there is no such key; did you mean seed?"),
        (
            "runner: {train_data_dir: x}\nepochs: 1\n",
            "job.yaml:2: epochs: there is no such key; did you mean runner.epochs?",
        ),
        (
            "runner:\n  train_data_dir: x\n  epochs: 1\n  epochs: 2\n",
            "job.yaml:4: runner.epochs is said twice, first at job.yaml:3",
        ),
        ("runner: {train_data_dir: x}\njob: split\n", "job.yaml:2: job: a split job has keys of its own"),
        ("runner: {train_data_dir: x}\njob: pretrain\n", "jobs of the kind 'pretrain' are not built yet"),
        ("runner: {train_data_dir: x}\njob: both\n", "expected one of federation, pretrain, split, got 'both'"),
        (
            "runner: {train_data_dir: x}\nseed: 99999999999999999999999\n",
            "job.yaml:2: seed: expected an integer of at least 0",
        ),
        ("runner: {train_data_dir: x}\nseed: 1e999\n", "job.yaml:2: seed: 1e999 is not a finite number"),
        ("runner: {train_data_dir: x}\nmodel: ''\n", "model: expected text that is not empty"),
        ("runner: [\n", "job.yaml:2: this is not yaml"),
        ("runner: *x\n", "job.yaml:1: this is not yaml: found undefined alias"),
        ("a: 1\n---\nb: 2\n", "this is not yaml: but found another document"),
        (
            "runner: {train_data_dir: !!python/name:os.system x}\n",
            "the tag tag:yaml.org,2002:python/name:os.system is not",
        ),
        ("runner: {train_data_dir: !own x}\n", "the tag !own is not understood"),
        ("? [a]\n: 1\nrunner: {train_data_dir: x}\n", "job.yaml:1: a key must be one word"),
        ("runner: {train_data_dir: \x01}\n", "this is not yaml: unacceptable character"),
        ("a: &a [*a]\n", "nested deeper than 20"),
        ("[" * 1500, "this is not yaml"),
        (
            "runner: {train_data_dir: x}\ntable_parameters: {items: 4}\n",
            "table_parameters.items: expected keys and values, got 4",
        ),
        ("runner: {train_data_dir: x}\nhyper_parameters: [1]\n", "hyper_parameters: expected keys and values, got [1]"),
    ],
)
def test_a_yaml_that_is_no_job(text: str, says: str, tmp_path: Path) -> None:
    assert says in complaint(tmp_path, text)


X = "runner: {train_data_dir: x, "


@pytest.mark.parametrize(
    ("text", "says"),
    [
        (X + "infer_start_epoch: 4, infer_end_epoch: 3}", "runner.infer_start_epoch: 4 lies behind infer_end_epoch 3"),
        (X + "need_dump: True}", "runner.need_dump: there is nothing to dump"),
        (X + "need_dump: True, dump_param: [w.1], private: ['w.*']}", "runner.dump_param: w.1 is private"),
        (X + "dump_param: [embedding_0.w_0], local_sparse: [user_embedding]}", "embedding_0.w_0 is private"),
        (X + "reader_type: QueueDataset}", "runner.reader_type: QueueDataset needs runner.pipe_command"),
        (X + "reader_type: DataLoader}", "runner.reader_type: DataLoader needs runner.train_reader_path"),
        (X + "reader_type: RecDataset}", "runner.reader_type: RecDataset needs runner.train_reader_path"),
        (X + "infer_reader_type: DataLoader}", "DataLoader needs runner.infer_reader_path"),
        (X + "infer_reader_type: QueueDataset}", "runner.infer_reader_type: QueueDataset needs runner.pipe_command"),
        (X + "negatives: fresh, reader_type: RecDataset, train_reader_path: r}", "fresh negatives are drawn with"),
        (
            X + "local_sparse: [user_embedding], remote_sparse: [embedding_0.w_0]}",
            "the table user_embedding cannot be private (user_embedding) and shared (remote_sparse: embedding_0.w_0)",
        ),
        (
            X + "local_sparse: [user_embedding]}\ntable_parameters: {user_embedding: {placement: shared}}",
            "table_parameters.user_embedding.placement: shared, but the runner's lists make the table private",
        ),
        (
            X + "sync_mode: sync}\ntable_parameters: {items: {update: window}}",
            "table_parameters.items.update: windows exist in geo only; sync_mode is sync",
        ),
        ("runner: {train_data_dir: x}\nnetwork: {lease_s: 1}", "network.lease_s: a lease of 1 s ends before the next"),
        ("runner: {train_data_dir: x}\nnetwork: {retry_s: 90}", "network.request_timeout_s: 60 s leave no time"),
    ],
)
def test_keys_that_do_not_fit_together(text: str, says: str, tmp_path: Path) -> None:
    said = complaint(tmp_path, text)
    assert says in said
    assert said.startswith("job.yaml:")
    assert "\n" not in said


def test_a_choice_called_off_is_not_read_as_false(tmp_path: Path) -> None:
    path = written(tmp_path, yaml_of("runner", "durability", "off"))
    assert load(path).runner.durability == "off"
    assert load(path, ["runner.durability=log", "runner.durability=off"]).runner.durability == "off"


def test_a_wrong_key_is_not_blamed_twice(tmp_path: Path) -> None:
    said = complaint(tmp_path, X + "need_dump: True, dump_fields: item_input}")
    assert "\n" not in said
    assert "runner.dump_fields: expected a list" in said


def test_all_complaints_come_at_once(tmp_path: Path) -> None:
    text = """\
runner:
  epoch: 3
  epochs: ten
  geo_step: 0
  infer_start_epoch: 5
  infer_end_epoch: 4
network: {lease_s: .5}
seeds: 3
hyper_parameters: {width: 0, layers: [1.5]}
"""
    said = complaint(
        tmp_path, text, "runner.foo=3", "nothing", "runner.epochs.x=3", "runner.use_gpu=[", schemas={"ncf": Sizes}
    )
    lines = said.splitlines()
    assert lines[0] == "12 things are wrong in the configuration:"
    for start in (
        "-o nothing: expected key=value",
        "-o runner.epochs.x=3: runner.epochs is a single value",
        "-o runner.use_gpu=[: this is not yaml",
        "-o runner.foo=3: runner.foo: there is no such key",
        "job.yaml:8: seeds: there is no such key; did you mean seed?",
        "job.yaml:2: runner.epoch: there is no such key; did you mean runner.epochs?",
        "job.yaml:4: runner.geo_step: ",
        "job.yaml:9: hyper_parameters.width: expected an integer of at least 1, got 0",
        "job.yaml:9: hyper_parameters.layers: expected a list that is not empty, each entry an integer, got [1.5]",
        "job.yaml:1: runner.train_data_dir: is missing",
        "job.yaml:5: runner.infer_start_epoch: 5 lies behind",
        "job.yaml:7: network.lease_s: ",
    ):
        assert any(line.strip().startswith(start) for line in lines), f"{start!r} is not in {said}"


def test_the_documents_misspelling_is_read_with_a_warning(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING):
        config = load(written(tmp_path, "runner:\n  train_data_dir: x\n  with_coodinator: 1\n"))
    assert config.runner.with_coordinator is True
    assert [record.getMessage() for record in caplog.records] == [
        f"{tmp_path}/job.yaml:3: runner.with_coodinator is read as runner.with_coordinator"
    ]


def test_an_alias_and_its_key_together_are_refused(tmp_path: Path) -> None:
    said = complaint(tmp_path, X + "with_coordinator: 0, with_coodinator: 1}")
    assert "runner.with_coodinator: means the same as runner.with_coordinator; say it once" in said


def test_nothing_is_warned_about_in_a_clean_yaml(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    load(written(tmp_path, "runner: {train_data_dir: x}"))
    assert caplog.records == []


def test_overrides_apply_in_their_order_and_build_what_is_missing(tmp_path: Path) -> None:
    path = written(tmp_path, "runner: {train_data_dir: x, epochs: 1}\nnetwork:\n")
    config = load(path, ["runner.epochs=2", "network.lease_s=20", "runner.epochs=3", "table_parameters.a.rule=sgd"])
    assert (config.runner.epochs, config.network.lease_s, config.table_parameters["a"].rule) == (3, 20.0, "sgd")


def test_an_override_of_a_whole_part_replaces_it(tmp_path: Path) -> None:
    path = written(tmp_path, "runner:\n  train_data_dir: x\n  epochs: wrong\n")
    assert load(path, ["runner={train_data_dir: y}"]).runner == Runner(train_data_dir="y")


def test_an_override_mends_a_wrong_line(tmp_path: Path) -> None:
    assert load(written(tmp_path, "runner: {train_data_dir: x, epochs: ten}"), ["runner.epochs=4"]).runner.epochs == 4


def test_parts_left_empty_are_at_their_defaults(tmp_path: Path) -> None:
    config = load(
        written(tmp_path, "runner: {train_data_dir: x}\nnetwork:\nevaluation:\ntable_parameters:\nhyper_parameters:\n")
    )
    assert config == Config(runner=Runner(train_data_dir="x"))


def test_anchors_are_yaml_too(tmp_path: Path) -> None:
    config = load(written(tmp_path, "runner: {train_data_dir: &d x, test_data_dir: *d}"))
    assert config.runner.test_data_dir == "x"


@pytest.mark.parametrize("name", ["absent.yaml", "."])
def test_a_file_that_cannot_be_read(name: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="cannot be read"):
        load(tmp_path / name)


def test_a_file_that_is_no_utf8(tmp_path: Path) -> None:
    (tmp_path / "job.yaml").write_bytes(b"runner: {train_data_dir: \xff}")
    with pytest.raises(ConfigError, match="not UTF-8 text"):
        load(tmp_path / "job.yaml")


def test_hyper_parameters_come_back_complete(tmp_path: Path) -> None:
    path = written(tmp_path, "runner: {train_data_dir: x}\nhyper_parameters: {width: 3}")
    config = load(path, schemas={"ncf": Sizes})
    assert config.hyper_parameters == {"class": "a", "width": 3, "layers": [2, 1]}
    assert msgspec.convert(config.hyper_parameters, Sizes) == Sizes(width=3)


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("{}", "hyper_parameters.width: is missing"),
        ("{width: 1, class: c}", "hyper_parameters.class: expected one of a, b, got 'c'"),
        ("{width: 1, kind: a}", "hyper_parameters.kind: there is no such key; did you mean hyper_parameters."),
        ("{width: 1, layers: []}", "hyper_parameters.layers: expected a list that is not empty, each entry an integer"),
        ("{width: 1, layers: [3]}", "hyper_parameters: layers starts with 3; give an even number"),
        ("{width: x, layers: [3]}", "hyper_parameters.width: expected an integer of at least 1, got 'x'"),
    ],
)
def test_hyper_parameters_of_a_built_in_model(text: str, says: str, tmp_path: Path) -> None:
    said = complaint(tmp_path, f"runner: {{train_data_dir: x}}\nhyper_parameters: {text}", schemas={"ncf": Sizes})
    assert says in said
    assert "\n" not in said


@pytest.mark.parametrize("model", ["path/to/model.py:build", "package.module:build"])
def test_hyper_parameters_of_your_own_model_are_yours(model: str, tmp_path: Path) -> None:
    path = written(tmp_path, f"runner: {{train_data_dir: x}}\nmodel: {model}\nhyper_parameters: {{any: [1, {{a: b}}]}}")
    assert load(path, schemas={"ncf": Sizes}).hyper_parameters == {"any": [1, {"a": "b"}]}


@pytest.mark.parametrize("model", ["nfc", "path/to/model.py", "model.py:", ":build", "a:b:c", "a:1"])
def test_a_model_that_nobody_knows(model: str, tmp_path: Path) -> None:
    said = complaint(tmp_path, f"runner: {{train_data_dir: x}}\nmodel: '{model}'", schemas={"ncf": Sizes})
    assert f"model: no model is called '{model}'" in said
    assert "path/to/model.py:build" in said


def test_a_config_survives_json(tmp_path: Path) -> None:
    path = written(tmp_path, "runner: {train_data_dir: x, local_sparse: [a]}\nhyper_parameters: {width: 3}\n")
    config = load(path, ["table_parameters.a.initializer.scale=1"], {"ncf": Sizes})
    assert msgspec.json.decode(msgspec.json.encode(config), type=Config) == config
    assert json.loads(msgspec.json.encode(config))["runner"]["local_sparse"] == ["a"]
