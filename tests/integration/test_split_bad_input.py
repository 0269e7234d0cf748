"""What one party of a split job brings wrong ends the job at all of them: same words, same exit code."""

from __future__ import annotations

import shutil
import socket
import threading
from collections import OrderedDict
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from torch import Tensor

from flps.data.criteo_like import Shape, ensure
from flps.errors import FlpsError
from flps.models.wide_deep.options import NetworkConfig, network_config
from flps.models.wide_deep.parties import build
from flps.party.loop import Party, Settings
from flps.split.communicator import VerticalFederatedCommunicator, in_process
from flps.split.model import FLModel
from flps.split.seat import Seat

CONFIGS = Path(__file__).resolve().parents[2] / "configs" / "wide_deep"
SMALL = {"emb_dim": 4, "deep_layer_dim": [8, 4], "batch_size": 256, "epochs": 1}
NETS = {"leader": ("leader_bottom.yaml", "leader_top.yaml"), "follower": ("follower_bottom.yaml",)}
WIDE, DEEP = "follower_wide_embedding", "follower_deep_embedding"
WAIT_S = 30.0
Spoil = Callable[[dict[str, Any]], Mapping[str, Any]]


@pytest.fixture(scope="module")
def rows(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return ensure(tmp_path_factory.mktemp("rows"), Shape(rows=1500))


class Table:
    """Leader and follower as threads; one of them may bring something of its own."""

    def __init__(self, rows: Path, yamls: Path = CONFIGS) -> None:
        torch.set_num_threads(1)
        self.links = dict(zip(NETS, in_process(threads=True, timeout_s=WAIT_S), strict=True))
        self.rows = dict.fromkeys(NETS, rows)
        self.seeds = dict.fromkeys(NETS, 0)
        self.configs: dict[str, NetworkConfig] = dict.fromkeys(NETS, network_config(SMALL, "small"))
        self.yamls = {party: [yamls / name for name in names] for party, names in NETS.items()}
        self.models: dict[str, FLModel] = {}  # once `sit` was called
        self.parties: dict[str, Party] = {}

    def sit(self) -> None:
        """Build what all bring."""
        for number, party in enumerate(NETS):
            brought = build(self.configs[party], Seat(number, tuple(NETS), (), self.seeds[party]))
            train, held_out = brought.rows(str(self.rows[party]))
            nets = brought.nets(self.yamls[party])
            self.models |= nets
            settings = Settings(self.configs[party].epochs)
            self.parties[party] = Party(party, nets, self.links[party], train, held_out, settings)

    def spoil_output(self, net: str, spoil: Spoil, at_step: int = 0) -> None:
        """That net gives something else from a step on."""
        model = self.models[net]
        forward = model.forward_one_step

        def forward_one_step(*batches: Any) -> Any:
            given = forward(*batches)
            return OrderedDict(spoil(dict(given))) if model.global_step >= at_step else given

        model.forward_one_step = forward_one_step  # type: ignore[method-assign,assignment]

    def spoil_message(self, party: str, spoil: Spoil) -> None:
        """What a party sends is something else."""
        links: VerticalFederatedCommunicator = self.links[party]
        send = links.send_tensors
        links.send_tensors = lambda to, tensors, **how: send(to, spoil(dict(tensors)), **how)  # type: ignore[method-assign]

    def play(self) -> dict[str, FlpsError]:
        """How each party ended."""
        if not self.parties:
            self.sit()
        ends: dict[str, FlpsError] = {}

        def run(party: str) -> None:
            try:
                with self.links[party]:
                    self.parties[party].run()
            except FlpsError as error:
                ends[party] = error

        threads = [threading.Thread(target=run, args=(party,)) for party in NETS]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(WAIT_S)
        assert not any(thread.is_alive() for thread in threads)
        return ends


@pytest.fixture
def table(rows: Path) -> Table:
    return Table(rows)


def expect_same_words(ends: Mapping[str, FlpsError], exit_code: int, *says: str) -> None:
    assert sorted(ends) == ["follower", "leader"], ends
    leader, follower = ends["leader"], ends["follower"]
    assert str(leader) == str(follower)
    assert (type(leader), leader.exit_code) == (type(follower), exit_code)
    for words in says:
        assert words in str(leader), str(leader)


def edited(folder: Path, file: str, old: str, new: str) -> Path:
    """The yaml files with one of them changed."""
    shutil.copytree(CONFIGS, folder, dirs_exist_ok=True)
    text = (folder / file).read_text()
    assert old in text
    (folder / file).write_text(text.replace(old, new))
    return folder


# --- before the first step --------------------------------------------------------------------------------------------


def test_other_rows(table: Table, tmp_path: Path) -> None:
    table.rows["follower"] = ensure(tmp_path, Shape(rows=1499))
    expect_same_words(table.play(), 2, "rows to train on: rows: leader has 1286, follower has 1285")


def test_another_order_of_the_rows(table: Table) -> None:
    table.seeds["follower"] = 5
    expect_same_words(table.play(), 2, "rows to train on: seed of their order: leader has 0, follower has 5")


def test_another_batch(table: Table) -> None:
    table.configs["follower"] = network_config({**SMALL, "batch_size": 128}, "small")
    expect_same_words(table.play(), 2, "rows of a batch: leader has 256, follower has 128")


@pytest.mark.parametrize(
    ("file", "old", "new", "says"),
    [
        ("follower_bottom.yaml", WIDE, "follower_wide", f"{WIDE}: leader (leader_top.yaml:11) takes it from another"),
        (
            "leader_top.yaml",
            "        # compress_type: min_max\n        # bit_num: 6",
            "        compress_type: min_max\n        bit_num: 4",
            "leader (leader_top.yaml:11) says compress_type min_max with 4 bits, but follower "
            "(follower_bottom.yaml:13) sends it and has no_compress; the sender's file decides",
        ),
        ("leader_top.yaml", "batch_size: 16000", "batch_size: 8000", "leader_top.yaml"),
    ],
)
def test_another_yaml(rows: Path, tmp_path: Path, file: str, old: str, new: str, says: str) -> None:
    table = Table(rows, edited(tmp_path, file, old, new))
    expect_same_words(table.play(), 2, says)


# --- in the middle ----------------------------------------------------------------------------------------------------


def test_a_missing_tensor(table: Table) -> None:
    table.spoil_message("follower", lambda tensors: {name: held for name, held in tensors.items() if name != DEEP})
    expect_same_words(table.play(), 1, f"follower was to send the activations {DEEP}, {WIDE}, it sent {WIDE}: are")


def test_a_net_that_gives_too_little(table: Table) -> None:
    table.sit()
    bottom = table.models["follower_bottom"].network
    bottom.register_forward_hook(lambda module, inputs, outputs: outputs[:2])
    expect_same_words(table.play(), 2, "follower_bottom_loss_net has 2 outputs, its yaml names 3")


@pytest.mark.parametrize(
    ("spoil", "code", "says"),
    [
        (lambda held: held[:-1], 1, f"follower sent the activation {WIDE} of shape [255, 1], expected 256 rows"),
        (lambda held: held.long(), 1, f"follower sent the activation {WIDE} as int64, expected a floating type"),
        (lambda held: held.expand(-1, 3), 1, "the net failed on its inputs"),
        (lambda held: held / 0.0, 1, f"leader was to get the activation {WIDE} of shape [256, 1], but 256 of its 256"),
    ],
)  # fmt: skip
@pytest.mark.parametrize("at_step", [0, pytest.param(2, marks=pytest.mark.slow)])
def test_a_wrong_activation(
    table: Table, spoil: Callable[[Tensor], Tensor], code: int, says: str, at_step: int
) -> None:
    table.sit()
    table.spoil_output("follower_bottom", lambda given: {**given, WIDE: spoil(given[WIDE])}, at_step)
    expect_same_words(table.play(), code, says)


def test_another_type_from_a_step_on(table: Table) -> None:
    table.sit()
    table.spoil_output("follower_bottom", lambda given: {**given, WIDE: given[WIDE].double()}, 2)
    expect_same_words(table.play(), 1, WIDE, "torch.float64", "so far as 2 of torch.float32")


@pytest.mark.parametrize(
    ("spoil", "says"),
    [
        (lambda held: held[:-1], "as float32 of shape [255, 1], expected float32 of shape [256, 1]"),
        (lambda held: held.double(), "as float64 of shape [256, 1], expected float32 of shape [256, 1]"),
        (lambda held: held.sum(), "as float32 of shape [], expected float32 of shape [256, 1]"),
    ],
)
def test_a_wrong_gradient(table: Table, spoil: Callable[[Tensor], Tensor], says: str) -> None:
    def spoilt(tensors: dict[str, Any]) -> Mapping[str, Any]:
        if "loss" not in tensors:  # what both tell of overflows
            return tensors
        return {label: {**held, WIDE: spoil(held[WIDE])} for label, held in tensors.items()}

    table.spoil_message("leader", spoilt)
    expect_same_words(table.play(), 1, f"leader sent the gradient of {WIDE} {says}")


# --- real processes ---------------------------------------------------------------------------------------------------

NAN_FROM_STEP_2 = """
import torch
from flps.models.wide_deep.options import network_config
from flps.models.wide_deep.parties import build as build_wide_deep

def build(hyper_parameters, seat):
    brought = build_wide_deep(network_config(hyper_parameters, "small"), seat)
    nets = brought.nets
    def spoilt(files):
        made = nets(files)
        for model in made.values():
            if seat.number == 1:
                model.network.register_forward_hook(
                    lambda net, given, outputs: (outputs[0] / (model.global_step < 2), *outputs[1:])
                )
        return made
    brought.nets = spoilt
    return brought
"""


def write_job(folder: Path, rows: Path, **parts: Any) -> None:
    shutil.copytree(CONFIGS, folder, dirs_exist_ok=True)
    job = yaml.safe_load((CONFIGS / "job.yaml").read_text())
    job |= {"preset": "small", "data": str(rows), "network": {"heartbeat_s": 0.2, "lease_s": 5.0}, **parts}
    job["hyper_parameters"] |= SMALL | {"data_path": str(rows)}
    (folder / "job.yaml").write_text(yaml.safe_dump(job))


def last_error(log: str) -> str:
    """The words of the last error in a role's log."""
    _, found, words = log.rpartition(" ERROR ")
    assert found, log
    return words.partition("\nTraceback")[0].strip()


@pytest.mark.slow
@pytest.mark.parametrize(
    ("what", "code", "says"),
    [
        ("rows", 2, "rows to train on: rows: leader has 1286, follower has 1284"),
        ("nan", 4, f"leader was to get the activation {WIDE} of shape [256, 1], but 256 of its 256 numbers are NaN"),
    ],
)
def test_both_logs_of_a_job_end_with_the_same_words(
    flrun: Any, rows: Path, tmp_path: Path, what: str, code: int, says: str
) -> None:
    write_job(flrun.folder, rows)
    flags = []
    if what == "rows":
        own = ensure(tmp_path, Shape(rows=1498))
        follower = f"{{name: follower, data: {own}/follower}}"
        flags = [f"-oparties.leader.data={rows}/leader", "-oparties.leader.columns=''"]
        flags += [f"-oparties.followers=[{follower}]"]
    else:
        (flrun.folder / "spoilt.py").write_text(NAN_FROM_STEP_2)
        flags = ["-omodel=spoilt.py:build", "-oparties.leader.nets=[leader_bottom.yaml, leader_top.yaml]"]
        follower = "{name: follower, columns: '7-12,26-38', nets: [follower_bottom.yaml]}"
        flags += [f"-oparties.followers=[{follower}]"]
    ended, out, err = flrun.finish(flrun.start(*flags, yaml_file="job.yaml"))
    assert ended == code, out + err
    logs = flrun.logs()
    words = {last_error(logs[name]) for name in ("leaderlog.0", "followerlog.0")}
    assert len(words) == 1, words
    assert says in words.pop()
    assert says in out
    assert flrun.is_clean()


@pytest.mark.slow
def test_parties_that_were_started_one_by_one(flrun: Any, rows: Path) -> None:
    """Another yaml and another seed at the follower: each launcher says the same and has the same exit code."""
    write_job(flrun.folder, rows)
    edited(flrun.folder / "other", "follower_bottom.yaml", DEEP, "follower_depth")
    port = free_port()
    commands = {
        "leader": ["--role", "leader"],
        "follower": [
            *("--role", "follower", "--seed=9"),
            "--follower_bottom_yaml_path=other/follower_bottom.yaml",
        ],
    }
    started = {
        party: flrun.start(*flags, f"--leader=127.0.0.1:{port}", f"--log_dir={party}", yaml_file="job.yaml")
        for party, flags in commands.items()
    }
    for party, process in started.items():
        code, out, err = flrun.finish(process)
        assert code == 2, out + err
        assert f"{DEEP}: leader (leader_top.yaml:15) takes it from another party, but none has such an output" in out
        assert "seed of their order: leader has 0, follower has 9" in out
        assert f"{party}.0" in err
    shutil.rmtree(next(flrun.runtime.iterdir()))  # keys that both launchers shared


@pytest.mark.slow
@pytest.mark.parametrize(("party", "other"), [("leader", "follower"), ("follower", "leader")])
def test_a_party_whose_other_never_comes_up(flrun: Any, rows: Path, party: str, other: str) -> None:
    write_job(flrun.folder, rows, network={"start_timeout_s": 8})
    flags = ["--role", party, f"--leader=127.0.0.1:{free_port()}"]
    code, out, err = flrun.finish(flrun.start(*flags, yaml_file="job.yaml"))
    assert code == 5, out + err
    assert f"{other} did not come up within 8 s; {party} waits for it to agree on a step" in out
    shutil.rmtree(next(flrun.runtime.iterdir()))


@pytest.mark.slow
def test_a_follower_of_another_run(flrun: Any, rows: Path) -> None:
    """It is a stranger, so it gets no answer; both wait in vain for as long as a party may take to start."""
    write_job(flrun.folder, rows, network={"start_timeout_s": 8})
    at = f"--leader=127.0.0.1:{free_port()}"
    leader = flrun.start("--role", "leader", at, "--run_id=one", "--log_dir=l", yaml_file="job.yaml")
    follower = flrun.start("--role", "follower", at, "--run_id=two", "--log_dir=f", yaml_file="job.yaml")
    for process, words in (
        (follower, "leader did not come up within 8 s; follower waits for it to agree on a step"),
        (leader, "a message of run 'two' came to run one"),
    ):
        ended, out, err = flrun.finish(process)
        assert ended == 5, out + err
        assert words in "".join(path.read_text() for path in flrun.folder.glob("[fl]/*log.0")), out + err
    shutil.rmtree(next(flrun.runtime.iterdir()))


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
