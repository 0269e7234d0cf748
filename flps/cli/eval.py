"""`flps eval`: how good saved models are, epoch by epoch."""

from __future__ import annotations

import argparse
import os
import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from flps.errors import ConfigError, DataError

if TYPE_CHECKING:
    from flps.config.types import Config
    from flps.worker.samples import Samples
    from flps.worker.saved import Found

EPILOG = """\
flps eval log/run-20261121-100000            the newest saved epoch of a run
flps eval log/run-20261121-100000 --epoch 3  that one; the model's own folder may be named as well
flps eval -m configs/ncf.yaml                each epoch that the yaml's infer_* keys name, a relative infer_load_path
                                             in the newest run of --log_dir, then beside the yaml
"""


def add_eval(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add the sub-command."""
    text = "rank every client's held-out items with saved models, in one process"
    parser = commands.add_parser(
        "eval", help=text, description=text, epilog=EPILOG, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("run_dir", nargs="?", type=Path, help="a run's folder, a folder of saved models, or one model")
    parser.add_argument("-m", "--config_yaml", "--config-yaml", type=Path, help="measure as this yaml's infer_* say")
    parser.add_argument("-o", dest="overrides", action="append", default=[], metavar="KEY=VALUE", help="with -m")
    parser.add_argument("--log_dir", "--log-dir", type=Path, default=Path("log"), help="with -m; default: %(default)s")
    parser.add_argument("--epoch", type=int, help="saved epoch (epochs done); default: the newest, with -m all")
    parser.add_argument("--full", action="store_true", help="also rank among all items but the user's training items")
    parser.add_argument(
        "--allow_cold", "--allow-cold", action="store_true",
        help="measure clients whose private file is missing with untrained private rows",
    )  # fmt: skip
    parser.add_argument("--json", action="store_true", help="one JSON object a line instead of tables")
    parser.set_defaults(act=eval_)


def eval_(arguments: argparse.Namespace) -> int:
    """Measure the models that are meant and print a table for each."""
    from flps.worker.measure import Measurement

    if arguments.config_yaml is None:
        models, measurement_of = _of_run(arguments)
    else:
        models, measurement_of = _of_yaml(arguments)
    if measurement_of["samples"].config.runner.vertical:
        return _measure_rows(arguments, models, measurement_of["samples"])
    measurement = Measurement(**measurement_of, full=arguments.full, allow_cold=arguments.allow_cold)
    for epoch, folder in models.items():
        began = time.monotonic()
        fields = measurement.of(folder).fields()
        _show(arguments.json, epoch, folder, fields, measurement.k, time.monotonic() - began)
    return 0


def _measure_rows(arguments: argparse.Namespace, models: dict[int, Path], samples: Samples) -> int:
    """A vertical job's models: the held-out rows of both parties, in one process."""
    from flps.worker.rows import measure_saved

    runner = samples.config.runner
    for epoch, folder in models.items():
        began, rows = time.monotonic(), samples.config_dir / runner.train_data_dir
        fields = measure_saved(folder, samples.config_dir, rows, runner.infer_batch_size).fields()
        _show(arguments.json, epoch, folder, fields, 0, time.monotonic() - began)
    return 0


def _of_run(arguments: argparse.Namespace) -> tuple[dict[int, Path], dict[str, Any]]:
    from flps.worker.saved import find, of_run

    if arguments.run_dir is None:
        raise ConfigError("flps eval wants the folder of a run (log/run-<time>), or a yaml by -m")
    found = find(arguments.run_dir)
    epoch = max(found.models) if arguments.epoch is None else arguments.epoch
    return _only(found.models, epoch), {"samples": of_run(found)}


def _of_yaml(arguments: argparse.Namespace) -> tuple[dict[int, Path], dict[str, Any]]:
    from flps.worker.measure import pairs_of
    from flps.worker.saved import chosen, find_for, of_yaml

    path: Path = arguments.config_yaml
    config = _config(path, arguments.overrides)
    found = find_for(config, path.absolute().parent, arguments.run_dir, arguments.log_dir)
    models = chosen(found, config) if arguments.epoch is None else _only(found.models, arguments.epoch)
    samples = of_yaml(found, _with_embedded(config, found), path)
    return models, {"samples": samples, "pairs": pairs_of(config)}


def _config(path: Path, overrides: Sequence[str]) -> Config:
    from flps.config import load
    from flps.models.catalog import schemas

    if not path.is_file():
        raise ConfigError(f"-m {path}: there is no such file")
    return load(path, overrides, schemas())


def _with_embedded(config: Config, found: Found) -> Config:
    from flps.launch.prepare import with_embedded, with_embedded_pairs

    return with_embedded_pairs(with_embedded(config, found.workers, os.environ), os.environ)


def _only(models: dict[int, Path], epoch: int) -> dict[int, Path]:
    if epoch not in models:
        raise DataError(f"epoch {epoch} is not saved; there are {', '.join(map(str, models))}")
    return {epoch: models[epoch]}


def _show(as_json: bool, epoch: int, folder: Path, fields: dict[str, Any], k: int, wall_s: float) -> None:
    if as_json:
        import msgspec

        ranked = {"k": k} if k else {}
        print(msgspec.json.encode({"epoch": epoch, "folder": str(folder), **ranked, **fields}).decode(), flush=True)
        return
    from flps.launch.board import Board
    from flps.launch.live import result_table, split_result_table, terminal

    places = {"epoch": str(epoch), "model": str(folder)}
    if not k:  # rows, not rankings
        terminal().print(split_result_table(Board({}, evaluation=fields), wall_s=wall_s, places=places))
        return
    terminal().print(result_table(Board({}, evaluation=fields), k=k, wall_s=wall_s, places=places))
