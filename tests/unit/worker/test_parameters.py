"""Where a model's parameters live, by which rule they move, and what a config may not say about them."""

from __future__ import annotations

from typing import Any, get_args

import msgspec
import pytest
import torch
from torch import nn

from flps.config.tables import RuleName, TableParameters
from flps.config.types import Config
from flps.errors import ConfigError
from flps.models.ncf.hyper import NcfHyperParameters
from flps.nn import Embedding
from flps.table import Adam, Initializer, Sgd
from flps.table.rules import RULES, Adagrad, AdagradV2, make_rule
from flps.worker.parameters import place, rule_of


class Model(nn.Module):
    """Two tables and two dense layers."""

    def __init__(self) -> None:
        super().__init__()
        self.users = Embedding("users", 2, rows=5, feature="user", placement="private")
        self.items = Embedding("items", 2, rows=9, feature="item")
        self.tower = nn.Linear(2, 3)
        self.head = nn.Linear(3, 1)


def config_of(table_parameters: Any = None, hyper_parameters: Any = None, **runner: Any) -> Config:
    """A config as the yaml would say it, without the checks of a whole one."""
    said = {"runner": runner, "hyper_parameters": hyper_parameters or {}, "table_parameters": table_parameters or {}}
    return msgspec.convert(said, Config)


def placements(**runner: Any) -> dict[str, str]:
    return {p.parameter.spec.name: p.placement for p in place(Model(), config_of(**runner))}


def test_the_model_suggests_and_the_config_decides() -> None:
    assert placements() == {"users": "private", "items": "shared", "dense": "shared"}
    assert placements(remote_sparse=["users"], local_sparse=["items"]) == {
        "users": "shared",
        "items": "private",
        "dense": "shared",
    }


def test_dense_parameters_are_divided_by_the_patterns() -> None:
    packs = {
        p.parameter.spec.name: p.parameter.pack.names  # type: ignore[union-attr]
        for p in place(Model(), config_of(private=["head.*", "*.bias"]))[2:]
    }
    assert packs == {"dense": ("tower.weight",), "dense_private": ("tower.bias", "head.weight", "head.bias")}
    assert "dense" not in placements(private=["*"])


def test_what_a_table_is_told_arrives() -> None:
    table = {"rule": "sgd", "learning_rate": 0.5, "dtype": "float64", "initializer": {"kind": "zeros"}}
    users, items, dense = (p.parameter for p in place(Model(), config_of({"items": table})))
    assert (items.spec.rule, items.spec.dtype, items.spec.init.kind) == (Sgd(0.5), "float64", "zeros")
    assert (users.spec.rule, users.spec.dtype, dense.spec.rule) == (Adam(), "float32", Adam())
    assert users.spec.seed != items.spec.seed


@pytest.mark.parametrize(
    ("mode", "said", "update"),
    [("sync", None, "step"), ("async", None, "step"), ("geo", None, "window"), ("geo", "step", "step")],
)
def test_how_a_shared_table_travels(mode: str, said: str | None, update: str) -> None:
    placed = place(Model(), config_of({"items": {"update": said}}, sync_mode=mode))
    assert placed[1].update == update


@pytest.mark.parametrize(
    ("runner", "says"),
    [
        ({"private": ["nothing.*"]}, r"runner.private: 'nothing.\*' matches no dense parameter.*tower.weight"),
        ({"private": ["head.*", "towr.bias"]}, "'towr.bias' matches.*did you mean 'tower.bias'"),
        ({"private": ["users"]}, "'users' matches no dense parameter.*runner.local_sparse"),
        ({"local_sparse": ["dense"]}, "runner.local_sparse: the model has no sparse table 'dense'.*runner.private"),
        ({"remote_sparse": ["dense_private"]}, "runner.remote_sparse: .*'dense_private'.*runner.private"),
        ({"local_sparse": ["user"]}, "no sparse table 'user', it has users, items; did you mean 'users'"),
    ],
)
def test_a_private_thing_that_is_not_there_is_refused(runner: dict[str, Any], says: str) -> None:
    with pytest.raises(ConfigError, match=says):
        place(Model(), config_of(**runner))


@pytest.mark.parametrize(
    ("tables", "says"),
    [
        ({"itms": {}}, "table_parameters: the model has no table 'itms', .*did you mean 'items'"),
        ({"dense_private": {"learning_rate": 0.1}}, "no table 'dense_private', it has users, items, dense; .*private"),
        ({"dense": {"placement": "private"}}, "table_parameters.dense.placement has no effect: runner.private"),
        ({"dense": {"initializer": {}}}, "table_parameters.dense.initializer has no effect"),
        ({"users": {"update": "step"}}, "table_parameters.users.update has no effect: a private table is not sent"),
        ({"items": {"rule": "sgd", "beta1": 0.5}}, "items.beta1 has no effect: the rule sgd knows learning_rate"),
        ({"items": {"initial_g2sum": 0.5}}, "items.initial_g2sum has no effect: the rule adam knows"),
        ({"items": {"rule": "sum"}}, "table_parameters.items: the rule sum adds .* raw gradients"),
        ({"items": {"rule": "std_adagrad", "initial_g2sum": 0}}, "table_parameters.items: initial_g2sum 0: .*above 0"),
        ({"items": {"rule": "sgd", "weight_bounds": [1, 0]}}, r"items: weight_bounds \[1, 0\]: the first"),
        ({"items": {"initial_range": 1, "initializer": {}}}, "table_parameters.items: initial_range is short"),
        ({"dense": {"initial_range": 1}}, "table_parameters.dense.initial_range has no effect"),
        ({"dense": {"memory_bytes_max": 1}}, "table_parameters.dense.memory_bytes_max has no effect: no disk holds"),
    ],
)
def test_a_setting_without_effect_is_refused(tables: dict[str, Any], says: str) -> None:
    with pytest.raises(ConfigError, match=says):
        place(Model(), config_of(tables))


def test_a_bound_of_memory_is_the_tables_own() -> None:
    placed = {
        one.parameter.spec.name: one.parameter.spec
        for one in place(Model(), config_of({"items": {"memory_bytes_max": 77}}))
    }
    assert {name: spec.memory_bytes_max for name, spec in placed.items()} == {"users": None, "items": 77, "dense": None}


def test_a_window_needs_geo() -> None:
    with pytest.raises(ConfigError, match=r"items.update: window needs sync_mode geo; sync sends each step"):
        place(Model(), config_of({"items": {"update": "window"}}, sync_mode="sync"))


def test_private_dense_parameters_are_not_placed_by_the_table() -> None:
    with pytest.raises(ConfigError, match=r"dense_private.placement has no effect: runner.private"):
        place(Model(), config_of({"dense_private": {"placement": "shared"}}, private=["*"]))


@pytest.mark.parametrize(
    ("optimizer", "says"),
    [
        ("adam", "optimizer: expected keys and values, .* got 'adam'"),
        ({"class": "adm"}, "optimizer.class: expected one of sgd, .*, got 'adm'"),
        ({"class": ["adam"]}, "optimizer.class: expected one of"),
        ({"class": "sum"}, "optimizer.class: the rule sum adds"),
        ({"class": "summary"}, "optimizer.class: the rule summary adds"),
        ({"class": "adam", "learning_rat": 1}, "optimizer.learning_rat: .* no such key, .*mean 'learning_rate'"),
        ({"learning_rate": "fast"}, "optimizer.learning_rate: expected a number of at least 0, got 'fast'"),
        ({"learning_rate": True}, "optimizer.learning_rate: expected a number of at least 0, got True"),
        ({"class": "momentum", "nesterov": 3}, "optimizer.nesterov: expected true or false, got 3"),
        ({"class": "sgd", "weight_bounds": [1]}, r"weight_bounds: expected a list of 2: a number, a number, got \[1\]"),
        ({"class": "ftrl", "learning_rate": 0}, "optimizer.class: ftrl wants a learning_rate above 0"),
    ],
)
def test_an_optimizer_that_is_none_is_refused(optimizer: Any, says: str) -> None:
    with pytest.raises(ConfigError, match=says):
        rule_of(config_of(hyper_parameters={"optimizer": optimizer}), "items")


@pytest.mark.parametrize("name", get_args(RuleName))
def test_what_the_yaml_leaves_out_is_the_rules_own_default(name: str) -> None:
    hyper_parameters = msgspec.to_builtins(msgspec.convert({"optimizer": {"class": name}}, NcfHyperParameters))
    assert rule_of(config_of(hyper_parameters=hyper_parameters), "items") == make_rule(name)
    assert rule_of(config_of({"items": {"rule": name}}, hyper_parameters), "items") == make_rule(name)


def test_the_rules_of_the_yaml_are_those_that_there_are() -> None:
    assert set(get_args(RuleName)) == RULES.keys() - {"sum", "summary"}
    settings = {key for name in get_args(RuleName) for key in RULES[name].__struct_fields__}
    assert settings < set(TableParameters.__struct_fields__)


def test_betas_of_the_user_are_used() -> None:
    """The original puts 0.9 and 0.999 in their place."""
    betas = {"beta1": 0.5, "beta2": 0.6, "epsilon": 1e-3}
    assert rule_of(config_of({"items": betas}), "items") == Adam(0.001, 0.5, 0.6, 1e-3)
    assert rule_of(config_of(hyper_parameters={"optimizer": betas}), "items") == Adam(0.001, 0.5, 0.6, 1e-3)


def test_how_rows_begin() -> None:
    """As the config says, else as the model says, else as in the original under its own rules."""
    model = Model()
    model.items = Embedding("items", 2, rows=9, init=Initializer("normal", 0.3))
    said = {"rule": "std_adagrad"}
    users, items = (p.parameter.spec.init for p in place(model, config_of({"users": said, "items": said}))[:2])
    assert (users, items) == (Initializer("uniform", 1e-4), Initializer("normal", 0.3))
    assert place(Model(), config_of())[0].parameter.spec.init == Initializer()
    said = {"initial_range": 0.5}
    users, items = (p.parameter.spec.init for p in place(model, config_of({"users": said, "items": said}))[:2])
    assert users == items == Initializer("uniform", 0.5)


def test_a_rule_takes_its_own_settings_then_those_of_the_optimizer() -> None:
    optimizer = {"class": "adagrad", "learning_rate": 0.2, "epsilon": 1e-3, "initial_g2sum": 0.1}
    tables = {"a": {"epsilon": 1e-5}, "b": {"rule": "adagrad_row"}, "c": {"rule": "adagrad", "learning_rate": 3}}
    config = config_of(tables, {"optimizer": optimizer})
    assert rule_of(config, "a") == Adagrad(0.2, 0.1, 1e-5)
    assert rule_of(config, "b") == AdagradV2(0.2)  # another rule: the step size alone means the same
    assert rule_of(config, "c") == Adagrad(3.0, 0.1, 1e-3)
    assert rule_of(config_of({"a": {"rule": "adam"}}, {"optimizer": {"beta1": 0.5}}), "a") == Adam(beta1=0.5)


def test_a_model_with_persistent_buffers_is_refused() -> None:
    model = Model()
    model.norm = nn.BatchNorm1d(3)
    with pytest.raises(ConfigError, match=r"the model has the buffer norm.running_mean; .*neither exchanged nor saved"):
        place(model, config_of())


def test_buffers_that_are_not_saved_and_tied_weights_are_welcome() -> None:
    model = Model()
    model.register_buffer("mask", torch.ones(3), persistent=False)
    model.again = model.tower
    assert len(place(model, config_of())) == 3
