"""The leader's and the follower's loops as the original's page of Wide & Deep prints them, over TCP on one machine.

The lines of `Leader` and `Follower` that stand between `printed` and `own` are the page's, word by word, but for their
indentation, which it had lost. Where it has `...`, and before and after, stands what the original's scripts have there.
"""

# mypy: disable-error-code="arg-type, union-attr"
# ruff: noqa: B007
# fmt: off

from __future__ import annotations

import copy
import socket
import threading
from collections import OrderedDict
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import msgspec
import pytest
import torch

from flps.data.criteo_like import Shape
from flps.models.wide_deep import (
    AUCMetric,
    BottomLossNet,
    LeaderTopEvalNet,
    LeaderTopLossNet,
    LeaderTopNet,
    WideDeepModel,
)
from flps.models.wide_deep import construct_local_dataset as construct
from flps.models.wide_deep.cut import Unsplit
from flps.models.wide_deep.options import NetworkConfig, network_config
from flps.split import FLModel, FLYamlData, ServerConfig, VerticalFederatedCommunicator
from flps.split.optimizers import FTRL

CONFIGS = Path(__file__).resolve().parents[2] / "configs" / "wide_deep"
EPOCHS, ROWS, BATCH = 2, 600, 64
DEADLINE_S = 60.0


class Leader:
    """The party with the labels."""

    def __init__(self, config: NetworkConfig) -> None:
        self.config = config
        self.losses: list[float] = []
        # printed: nets
        leader_top_base_net = LeaderTopNet()
        leader_top_train_net = LeaderTopLossNet(leader_top_base_net)
        # own
        leader_top_eval_net = LeaderTopEvalNet(leader_top_base_net)
        self.eval_metric = AUCMetric()
        # printed
        leader_bottom_eval_net = leader_bottom_base_net = WideDeepModel(config, config.leader_field_size)
        leader_bottom_train_net = BottomLossNet(leader_bottom_base_net, config)
        # printed: the nets as split nets
        leader_bottom_yaml_data = FLYamlData(config.leader_bottom_yaml_path)
        leader_top_yaml_data = FLYamlData(config.leader_top_yaml_path)
        # ...
        self.leader_top_fl_model = FLModel(yaml_data=leader_top_yaml_data,
                                           network=leader_top_train_net,
                                           metrics=self.eval_metric,
                                           eval_network=leader_top_eval_net)
        # ...
        self.leader_bottom_fl_model = FLModel(yaml_data=leader_bottom_yaml_data,
                                              network=leader_bottom_train_net,
                                              eval_network=leader_bottom_eval_net)
        # own
        self.nets = leader_bottom_train_net, leader_top_train_net

    def run(self, construct_local_dataset: Callable[[], Any]) -> None:
        config = self.config
        # own: what the yaml files say of both nets
        compress_configs = {**self.leader_top_fl_model.get_compress_configs(),
                            **self.leader_bottom_fl_model.get_compress_configs()}
        # printed
        http_server_config = ServerConfig(server_name='leader', server_address=config.http_server_address)
        remote_server_config = ServerConfig(server_name='follower', server_address=config.remote_server_address)
        self.vertical_communicator = VerticalFederatedCommunicator(http_server_config=http_server_config,
                                                                   remote_server_config=remote_server_config,
                                                                   compress_configs=compress_configs)
        self.vertical_communicator.launch()
        # printed: rows
        ds_train, _ = construct_local_dataset()
        train_iter = ds_train.create_dict_iterator()
        # printed: the loop
        for epoch in range(config.epochs):
            for step, item in enumerate(train_iter):
                leader_embedding = self.leader_bottom_fl_model.forward_one_step(item)
                item.update(leader_embedding)
                follower_embedding = self.vertical_communicator.receive("follower")
                # ...
                leader_out = self.leader_top_fl_model.forward_one_step(item, follower_embedding)
                grad_scale = self.leader_top_fl_model.backward_one_step(item, follower_embedding)
                scale_name = 'loss'
                # ...
                grad_scale_follower = {scale_name: OrderedDict(list(grad_scale[scale_name].items())[2:])}
                self.vertical_communicator.send_tensors("follower", grad_scale_follower)
                grad_scale_leader = {scale_name: OrderedDict(list(grad_scale[scale_name].items())[:2])}
                self.leader_bottom_fl_model.backward_one_step(item, sens=grad_scale_leader)
                # own: the original logs it
                self.losses.append(leader_out["loss"].item())


class Follower:
    """The party without labels."""

    def __init__(self, config: NetworkConfig) -> None:
        self.config = config
        # printed: nets
        follower_bottom_eval_net = follower_base_net = WideDeepModel(config, config.follower_field_size)
        follower_bottom_train_net = BottomLossNet(follower_base_net, config)
        # printed: the net as a split net
        follower_bottom_yaml_data = FLYamlData(config.follower_bottom_yaml_path)
        # ...
        self.follower_bottom_fl_model = FLModel(yaml_data=follower_bottom_yaml_data,
                                                network=follower_bottom_train_net,
                                                eval_network=follower_bottom_eval_net)
        # own
        self.net = follower_bottom_train_net

    def run(self, construct_local_dataset: Callable[[], Any]) -> None:
        config = self.config
        # own
        compress_configs = self.follower_bottom_fl_model.get_compress_configs()
        # printed
        http_server_config = ServerConfig(server_name='follower', server_address=config.http_server_address)
        remote_server_config = ServerConfig(server_name='leader', server_address=config.remote_server_address)
        self.vertical_communicator = VerticalFederatedCommunicator(http_server_config=http_server_config,
                                                                   remote_server_config=remote_server_config,
                                                                   compress_configs=compress_configs)
        self.vertical_communicator.launch()
        # printed: rows
        ds_train, _ = construct_local_dataset()
        train_iter = ds_train.create_dict_iterator()
        # printed: the loop
        for _ in range(config.epochs):
            for _, item in enumerate(train_iter):
                follower_embedding = self.follower_bottom_fl_model.forward_one_step(item)
                self.vertical_communicator.send_tensors("leader", follower_embedding)
                scale = self.vertical_communicator.receive("leader")
                self.follower_bottom_fl_model.backward_one_step(item, sens=scale)


# fmt: on


def play(parties: list[Leader | Follower], construct_local_dataset: Callable[[], Any]) -> None:
    """Each party in a thread of its own; raises what the first that failed raised."""
    failures: list[BaseException] = []

    def run(party: Leader | Follower) -> None:
        try:
            party.run(construct_local_dataset)
        except BaseException as error:
            failures.append(error)
        finally:
            party.vertical_communicator.close()

    threads = [threading.Thread(target=run, args=(party,), daemon=True) for party in parties]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(DEADLINE_S)
    if failures:
        raise failures[0]
    assert not any(thread.is_alive() for thread in threads)


def unsplit_losses(model: Unsplit, construct_local_dataset: Callable[[], Any]) -> list[float]:
    """What the same nets lose in one process, with one backward."""
    wide = FTRL(model.parameters_of("wide"), lr=5e-2, l1=1e-8, l2=1e-8, initial_accum=1.0)
    optimizers: list[torch.optim.Optimizer] = [wide]
    optimizers.append(torch.optim.Adam(model.parameters_of("deep", "dense"), lr=3.5e-4, eps=1e-8))
    losses = []
    train_iter = construct_local_dataset()[0].create_dict_iterator()
    for _ in range(EPOCHS):
        for item in train_iter:
            columns = [(item["id_hldr"], item["wt_hldr"]), (item["id_hldr0"], item["wt_hldr0"])]
            outcome = model(columns, item["label"])
            model.zero_grad()
            (outcome.loss + outcome.l2_regu).backward()
            for optimizer in optimizers:
                optimizer.step()
            losses.append(outcome.loss.item())
    return losses


def free_addresses() -> list[str]:
    with socket.create_server(("127.0.0.1", 0)) as one, socket.create_server(("127.0.0.1", 0)) as other:
        return [f"127.0.0.1:{free.getsockname()[1]}" for free in (one, other)]


def test_the_loops_train_what_the_unsplit_model_trains(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    keys = tmp_path / "keys"  # of CURVE, which a machine's parties share
    keys.mkdir()
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(keys))
    names = ("leader_top", "leader_bottom", "follower_bottom")
    files = {f"{name}_yaml_path": str(CONFIGS / f"{name}.yaml") for name in names}
    config = network_config({"batch_size": BATCH, "epochs": EPOCHS, **files}, "small")
    leaders, followers = free_addresses()
    at_leader = {"http_server_address": leaders, "remote_server_address": followers}
    at_follower = {"http_server_address": followers, "remote_server_address": leaders}
    torch.manual_seed(5)
    leader = Leader(msgspec.structs.replace(config, **at_leader))
    follower = Follower(msgspec.structs.replace(config, **at_follower))
    bottom, top = leader.nets
    whole = copy.deepcopy(Unsplit([bottom, follower.net], top))
    construct_local_dataset = partial(construct, config, cache_dir=tmp_path / "rows", shape=Shape(rows=ROWS))
    expected = unsplit_losses(whole, construct_local_dataset)

    play([follower, leader], construct_local_dataset)

    assert len(expected) == EPOCHS * (ROWS * 6 // 7 // BATCH)
    assert leader.losses == pytest.approx(expected, abs=1e-5)
    assert expected[-1] < expected[0]
    trained = Unsplit([bottom, follower.net], top).state_dict()
    for name, want in whole.state_dict().items():
        torch.testing.assert_close(trained[name], want, atol=1e-5, rtol=1e-5)
