"""What binds several keys together: each check says one thing and names the keys it read."""

from __future__ import annotations

from collections.abc import Iterator
from fnmatch import fnmatchcase

from flps.config.source import KeyPath
from flps.config.types import EMBEDDED, EMBEDDED_PAIRED, Config, Network, table_name

Contradiction = tuple[tuple[KeyPath, ...], str]


def contradictions(config: Config) -> Iterator[Contradiction]:
    """What in a configuration does not fit together: the keys concerned, the one to change first, and the reason.

    A caller that knows one of the keys to be wrong already should drop the contradiction.
    """
    yield from _kind(config)
    yield from _training(config)
    yield from _vertical(config)
    yield from _accessors(config)
    yield from _inference(config)
    yield from _dumps(config)
    yield from _placements(config)
    yield from deadlines(config.network)


def _runner(*keys: str) -> tuple[KeyPath, ...]:
    return tuple(("runner", key) for key in keys)


def _kind(config: Config) -> Iterator[Contradiction]:
    if config.job == "split":
        yield (("job",),), "a split job has keys of its own; `flps.config.load_split` reads it"
    elif config.job != "federation":
        yield (("job",),), f"jobs of the kind {config.job!r} are not built yet; this version runs federation and split"


def _training(config: Config) -> Iterator[Contradiction]:
    runner = config.runner
    if not runner.train_data_dir:
        default = EMBEDDED_PAIRED if runner.vertical else EMBEDDED
        yield _runner("train_data_dir"), f"is missing: name the folder of the training files, or {default}"
    yield from _reader(config, "reader_type", runner.reader_type, "train_reader_path")
    if runner.negatives == "fresh" and runner.reader_type != "columnar":
        yield (
            _runner("negatives", "reader_type"),
            f"fresh negatives are drawn with the columnar reader only; reader_type is {runner.reader_type}",
        )
    for name, parameters in config.table_parameters.items():
        if parameters.update == "window" and runner.sync_mode != "geo":
            paths = (("table_parameters", name, "update"), *_runner("sync_mode"))
            yield paths, f"windows exist in geo only; sync_mode is {runner.sync_mode}"


def _vertical(config: Config) -> Iterator[Contradiction]:
    """What of a horizontal federation the vertical form does not have, and the other way round."""
    runner = config.runner
    default = EMBEDDED_PAIRED if runner.vertical else EMBEDDED
    if runner.train_data_dir == (EMBEDDED if runner.vertical else EMBEDDED_PAIRED):
        yield _runner("train_data_dir", "vertical"), f"rows of that shape do not fit; the generated ones are {default}"
    if not runner.vertical:
        if config.model == "ctr_dnn":
            yield (("model",), *_runner("vertical")), "ctr_dnn is cut between two parties: set runner.vertical"
        return
    if runner.sync_mode == "geo":
        yield _runner("sync_mode", "vertical"), "geo has no vertical form: expected sync or async"
    for key, instead in _NOT_VERTICAL.items():
        if getattr(runner, key):
            yield _runner(key, "vertical"), f"has no vertical form: {instead}"
    if runner.reader_type != "columnar":
        yield _runner("reader_type", "vertical"), "has no vertical form: rows are those that datasets/criteo.py writes"


_NOT_VERTICAL = {
    "private": "what a party trains lies in tables of its own at the servers",
    "local_sparse": "what a party trains lies in tables of its own at the servers",
    "test_data_dir": "the folder of train_data_dir holds the rows to measure with",
    "need_dump": "a party's columns are not written to text files",
    "pure_bf16": "what crosses the cut is float32",
    "use_gpu": "both parties compute on the CPU",
}


def _accessors(config: Config) -> Iterator[Contradiction]:
    runner = config.runner
    if any(parameters.accessor is not None for parameters in config.table_parameters.values()):
        return
    for key, is_said in (("save_mode", runner.saves != "all"), ("shrink_interval", runner.shrink_interval > 0)):
        if is_said:
            yield _runner(key), "has no effect: no table has an accessor (table_parameters.<table>.accessor)"


def _reader(config: Config, key: str, kind: str | None, path_key: str) -> Iterator[Contradiction]:
    runner = config.runner
    if kind == "QueueDataset" and not runner.pipe_command:
        yield _runner(key, "pipe_command"), "QueueDataset needs runner.pipe_command, the command that reads the files"
    if kind in ("DataLoader", "RecDataset") and not (getattr(runner, path_key) or runner.train_reader_path):
        yield _runner(key, path_key), f"{kind} needs runner.{path_key}, the module of the reader"


def _inference(config: Config) -> Iterator[Contradiction]:
    runner = config.runner
    yield from _reader(config, "infer_reader_type", runner.infer_reader_type, "infer_reader_path")
    if runner.infer_end_epoch is not None and runner.infer_start_epoch > runner.infer_end_epoch:
        yield (
            _runner("infer_start_epoch", "infer_end_epoch"),
            f"{runner.infer_start_epoch} lies behind infer_end_epoch {runner.infer_end_epoch}",
        )


def _dumps(config: Config) -> Iterator[Contradiction]:
    runner = config.runner
    if runner.need_dump and not (runner.dump_fields or runner.dump_param):
        yield (
            _runner("need_dump", "dump_fields", "dump_param"),
            "there is nothing to dump: name dump_fields or dump_param, or turn need_dump off",
        )
    patterns = (*runner.private, *runner.local_sparse, *map(table_name, runner.local_sparse))
    for name in runner.dump_param:
        if any(fnmatchcase(table_name(name), pattern) for pattern in patterns):
            yield _runner("dump_param", "private", "local_sparse"), f"{name} is private and is not written to a dump"


def _placements(config: Config) -> Iterator[Contradiction]:
    runner = config.runner
    local = {table_name(name): name for name in runner.local_sparse}
    remote = {table_name(name): name for name in runner.remote_sparse}
    for table in sorted(local.keys() & remote.keys()):
        yield (
            _runner("local_sparse", "remote_sparse"),
            f"the table {table} cannot be private ({local[table]}) and shared (remote_sparse: {remote[table]})",
        )
    for name, parameters in config.table_parameters.items():
        listed = config.placement(name)
        if parameters.placement and parameters.placement != listed:
            paths = (("table_parameters", name, "placement"), *_runner("local_sparse", "remote_sparse"))
            yield paths, f"{parameters.placement}, but the runner's lists make the table {listed}"


def deadlines(network: Network) -> Iterator[Contradiction]:
    """Times that leave no room for one another."""
    if network.lease_s <= network.heartbeat_s:
        yield (
            (("network", "lease_s"), ("network", "heartbeat_s")),
            f"a lease of {network.lease_s:g} s ends before the next heartbeat ({network.heartbeat_s:g} s)",
        )
    if network.request_timeout_s < network.retry_s:
        yield (
            (("network", "request_timeout_s"), ("network", "retry_s")),
            f"{network.request_timeout_s:g} s leave no time for a first retry after {network.retry_s:g} s",
        )
