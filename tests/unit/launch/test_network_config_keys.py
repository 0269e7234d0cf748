"""Every key of the original's network_config is a flag of configs/wide_deep/job.yaml and does what it says, or the run
says that it does nothing."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import pytest
import torch

from flps.config.split_job import SplitJob
from flps.data.criteo_like import Shape, ensure
from flps.errors import ConfigError
from flps.launch.arguments import parse
from flps.launch.kind import OWN, PASSWORDS
from flps.launch.kinds import Split
from flps.launch.plan import Plan, Surroundings
from flps.models.wide_deep.options import INERT, NetworkConfig
from flps.models.wide_deep.parties import PartyOfWideDeep, build
from flps.scripts import load_script
from flps.split.model import FLModel
from flps.split.seat import Seat

ROOT = Path(__file__).resolve().parents[3]
CONFIGS = ROOT / "configs" / "wide_deep"
TINY = ("--vocab_size=20000", "--emb_dim=4", "--deep_layer_dim=[6, 5]", "--batch_size=50")

# What nets and rows of the leader are made of: a key's flag, and what it changes in the leader's part.
SIZES: dict[str, tuple[str, Callable[[PartyOfWideDeep, dict[str, FLModel]], Any], Any]] = {
    "epochs": ("3", lambda part, nets: part.epochs, 3),
    "vocab_size": ("20001", lambda part, nets: table(nets, "deep").shape[0], 20001),
    "emb_dim": ("7", lambda part, nets: table(nets, "deep").shape[1], 7),
    "deep_layer_dim": ("[9]", lambda part, nets: dense(nets, 1).weight.shape[0], 9),
    "deep_layer_act": ("tanh", lambda part, nets: dense(nets, 1).activation, torch.tanh),
    "keep_prob": ("0.5", lambda part, nets: dense(nets, 1).keep_prob, 1.0),  # with dropout_flag, see below
    "weight_bias_init": ("[one, zero]", lambda part, nets: dense(nets, 1).weight.detach().min().item(), 1.0),
    "emb_init": ("one", lambda part, nets: bottom(nets).net.Wide_b.item(), 1.0),
    "l2_coef": ("0.5", lambda part, nets: bottom(nets).l2_coef, 0.5),
    "sparse": ("True", lambda part, nets: bottom(nets).net.deep_embeddinglookup.sparse, True),
    "label_dp": ("True", lambda part, nets: nets["leader_top"].yaml_data.label_dp_eps, 1.0),
}

# What a plan is made of: flags, and what they change there.
PLANS: dict[str, tuple[tuple[str, ...], Callable[[Plan[SplitJob]], Any], Any]] = {
    "device_target": (("--device_target=CPU",), lambda plan: plan.job.local_log, "log_local_cpu.txt"),
    "simu_tee": (("--simu_tee=True",), lambda plan: [Path(net).stem for net in plan.job.config.parties.leader.nets],
                 ["leader_bottom_tee", "leader_tee", "leader_top_tee"]),
    "http_server_address": (("--http_server_address=127.0.0.1:7001",), lambda plan: plan.job.leader,
                            "tcp://127.0.0.1:7001"),
    "remote_server_address": (("--role=follower", "--remote_server_address=127.0.0.1:7002"),
                              lambda plan: plan.job.leader, "tcp://127.0.0.1:7002"),
    "ckpt_path": (("--ckpt_path=x",), lambda plan: plan.notes[-1].partition(" has")[0], "hyper_parameters: ckpt_path"),
}  # fmt: skip
FILES = [key for key in NetworkConfig.__struct_fields__ if key.endswith("_yaml_path") and key not in INERT]
CERTIFICATES = ("enable_ssl", "server_cert_path", "client_cert_path", "ca_cert_path")
INERT_VALUES: dict[str, str] = {"full_batch": "True", "vocab_cache_size": "5", "host_device_mix": "1",
                                "parameter_server": "1", "field_slice": "True", "enable_TEE": "True",
                                "embedding_tee": "True"}  # fmt: skip
TESTED_BELOW = {"data_path", "batch_size", "dropout_flag", "init_args", "field_size", "leader_field_size",
                "follower_field_size", "pre_trained_leader", "pre_trained_follower"}  # fmt: skip


@pytest.fixture(scope="module")
def rows(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return ensure(tmp_path_factory.mktemp("cache"), Shape(rows=300))


def plan_of(*flags: str) -> Plan[SplitJob]:
    around = Surroundings(config_path=CONFIGS / "job.yaml", run_dir=Path("/log/run-1"), private_dir=Path("/run/flps-1"),
                          key_dir=Path("/keys"), token="token", is_mine=lambda host: True)  # fmt: skip
    plan, _ = Split().plan(parse(["-m", str(CONFIGS / "job.yaml"), *flags]), around)
    return plan


def leader_of(rows: Path, *flags: str, number: int = 0) -> tuple[PartyOfWideDeep, dict[str, FLModel]]:
    """A party's part, as its process makes it of the plan."""
    config = plan_of(*TINY, f"--data_path={rows}", *flags).job.config
    values = msgspec.convert(dict(config.hyper_parameters), NetworkConfig)
    part = build(values, Seat(number, ("leader", "follower"), seed=config.chance))
    part.rows(config.data)
    return part, part.nets(config.party("follower" if number else "leader", 0).nets)


def bottom(nets: dict[str, FLModel]) -> Any:
    return nets["leader_bottom"].network


def table(nets: dict[str, FLModel], which: str) -> torch.Tensor:
    held: torch.Tensor = getattr(bottom(nets).net, f"{which}_embeddinglookup").embedding_table
    return held


def dense(nets: dict[str, FLModel], number: int) -> Any:
    return getattr(bottom(nets).net, f"dense_layer_{number}")


def test_every_key_is_tried_here() -> None:
    tried = {*SIZES, *PLANS, *FILES, *CERTIFICATES, *PASSWORDS, *OWN, *INERT, *TESTED_BELOW}
    assert tried == set(NetworkConfig.__struct_fields__)


def test_keys_of_nets_and_loops(rows: Path) -> None:
    part, nets = leader_of(rows, *(f"--{key}={value}" for key, (value, _, _) in SIZES.items()))
    found = {key: look(part, nets) for key, (_, look, _) in SIZES.items()}
    assert found == {key: meaning for key, (_, _, meaning) in SIZES.items()}


def test_keys_that_belong_to_others(rows: Path) -> None:
    flags = ("--dropout_flag=True", "--keep_prob=0.5", "--weight_bias_init=[uniform, zero]", "--init_args=[2, 3]")
    part, nets = leader_of(rows, *flags)
    assert dense(nets, 1).keep_prob == 0.5
    assert nets["leader_top"].yaml_data.label_dp_eps is None
    weight = dense(nets, 1).weight.detach()
    assert 2 <= weight.min().item() < weight.max().item() <= 3
    train, held_out = part.rows(str(rows))
    assert (train.get_batch_size(), train.get_dataset_size()) == (50, 5)
    assert held_out.get_dataset_size() == 1


@pytest.mark.parametrize("key", PLANS)
def test_a_key_of_the_plan(key: str) -> None:
    flags, look, meaning = PLANS[key]
    assert look(plan_of(*flags)) == meaning


@pytest.mark.parametrize("is_tee", [False, True])
def test_keys_that_name_nets_files(is_tee: bool, tmp_path: Path) -> None:
    flags = [f"--simu_tee={is_tee}"]
    for key in FILES:
        name = f"{key.removesuffix('_yaml_path')}.yaml"
        shutil.copy(CONFIGS / name, tmp_path / f"my_{name}")
        flags.append(f"--{key}={tmp_path}/my_{name}")
    parties = plan_of(*flags).job.config.parties
    mine = {f"{tmp_path}/my_{key.removesuffix('_yaml_path')}.yaml" for key in FILES if ("tee" in key) is is_tee}
    assert {*parties.leader.nets, *parties.followers[0].nets} == mine


def test_keys_that_name_certificates(tmp_path: Path) -> None:
    authority: Any = load_script(ROOT / "tests" / "unit" / "transport" / "tls" / "conftest.py").Authority(tmp_path)
    server, client = authority.issue("leader", "127.0.0.1"), authority.issue("follower")
    files = dict(zip(CERTIFICATES[1:], (server, client, authority.ca), strict=True))
    assert list(files) == ["server_cert_path", "client_cert_path", "ca_cert_path"]
    said = [f"--{key}={path}" for key, path in files.items()]
    plan = plan_of("--enable_ssl=True", "--http_server_address=127.0.0.1:7001", *said)
    assert (plan.job.security, plan.job.leader) == ("tls", "tls://127.0.0.1:7001")
    shown = {name: (one.certificate, one.ca) for name, one in plan.job.tls.items()}
    assert shown == {"leader": (str(server), str(authority.ca)), "follower": (str(client), str(authority.ca))}


@pytest.mark.parametrize("key", PASSWORDS)
def test_passwords_have_a_better_place(key: str) -> None:
    with pytest.raises(ConfigError, match=f"put the password into the variable FLPS_{key.upper()}"):
        plan_of(f"--{key}=secret")


def test_keys_of_the_originals_machinery_are_noted() -> None:
    (note,) = plan_of(*(f"--{key}={INERT_VALUES.get(key, 'x')}" for key in INERT)).notes
    assert note == f"hyper_parameters: {', '.join(INERT)}: without effect, of the original's machinery"


def test_an_address_of_nobody_is_noted() -> None:
    (note,) = plan_of("--remote_server_address=127.0.0.1:7002").notes
    assert note.startswith("--remote_server_address has no effect: it is for a party that starts alone")


@pytest.mark.parametrize(
    ("flag", "says"),
    [
        ("--field_size=38", "leader_field_size 20 . follower_field_size 19 is more than field_size 38"),
        ("--leader_field_size=19", "party 0 has 20 columns, but leader_field_size is 19"),
        ("--vocab_size=10", "ids, but vocab_size is 10"),
    ],
)
def test_sizes_that_do_not_fit(flag: str, says: str, rows: Path) -> None:
    with pytest.raises(ConfigError, match=says):
        leader_of(rows, flag)


def test_the_followers_size_is_the_followers_affair(rows: Path) -> None:
    with pytest.raises(ConfigError, match="party 1 has 19 columns, but follower_field_size is 18"):
        leader_of(rows, "--follower_field_size=18", number=1)


def test_flruns_own_words() -> None:
    config = plan_of("--seed=5", "--resume=False").job.config
    assert (config.chance, config.hyper_parameters["seed"], config.hyper_parameters["resume"]) == (5, 5, False)
    assert parse(["-m", "x", "--resume=True"]).resume == ""


@pytest.mark.parametrize(("key", "number"), [("pre_trained_leader", 0), ("pre_trained_follower", 1)])
def test_a_party_starts_from_weights_of_before(key: str, number: int, rows: Path, tmp_path: Path) -> None:
    _, nets = leader_of(rows, "--seed=8", number=number)
    for model in nets.values():
        model.save_ckpt(tmp_path / "before")
    _, anew = leader_of(rows, number=number)
    _, after = leader_of(rows, f"--{key}={tmp_path / 'before'}", number=number)
    for name, model in nets.items():
        want = model.network.state_dict()
        assert all(torch.equal(held, want[part]) for part, held in after[name].network.state_dict().items())
        assert not all(torch.equal(held, want[part]) for part, held in anew[name].network.state_dict().items())
        assert after[name].global_step == 0
    with pytest.raises(ConfigError, match=f"hyper_parameters.{key}: there is no folder"):
        plan_of(f"--{key}={tmp_path / 'nowhere'}")


def test_label_dp_of_the_yaml_is_not_changed(rows: Path, tmp_path: Path) -> None:
    mine = tmp_path / "top.yaml"
    mine.write_text((CONFIGS / "leader_top.yaml").read_text() + "privacy: {label_dp: {eps: 3.0}}\n")
    for flag in ("True", "False"):
        _, nets = leader_of(rows, f"--leader_top_yaml_path={mine}", f"--label_dp={flag}")
        assert nets["top"].yaml_data.label_dp_eps == 3.0


def test_sparse_gradients_train(rows: Path) -> None:
    part, nets = leader_of(rows, "--sparse=True")
    before = table(nets, "deep").clone(), table(nets, "wide").clone()
    batch = next(part.rows(str(rows))[0].batches())
    out = nets["leader_bottom"].forward_one_step(batch)
    sens = {"loss": {name: torch.ones_like(held) for name, held in out.items() if held.dim()}}
    nets["leader_bottom"].backward_one_step(batch, sens=sens)
    assert not torch.equal(table(nets, "deep"), before[0])
    assert not torch.equal(table(nets, "wide"), before[1])
