"""Writes docs/configuration.md from the types of flps.config, and the keys of docs/split-yaml.md from flps.split's.

`make docs` runs it; a test holds pages and types together.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import msgspec
from msgspec import inspect

from flps.config.split import Follower, Leader, Psi, SplitConfig, SplitRunner
from flps.config.tables import AccessorParameters, EntryParameters, Initializer, TableParameters
from flps.config.tls import TlsFiles
from flps.config.typed import ALIASES, bare, expected, fields_of
from flps.config.types import TABLE_OF_VARIABLE, Config, Evaluation, Network, Runner
from flps.models.ctr_dnn.hyper import CtrDnnHyperParameters
from flps.models.ncf.hyper import NcfHyperParameters, NcfOptimizer
from flps.models.wide_deep.options import PRESETS, NetworkConfig
from flps.split import yaml_types as split

PAGE = Path(__file__).with_name("configuration.md")
SPLIT_PAGE = Path(__file__).with_name("split-yaml.md")
SPLIT_MARK = "<!-- from here on written by docs/write_configuration.py from flps/split/yaml_types.py -->"

SMALL_PRESET = "`preset: small` has " + ", ".join(
    f"`{key}: {list(value) if isinstance(value, tuple) else value}`"
    for key in NetworkConfig.__struct_fields__
    if (value := getattr(PRESETS["small"], key)) != getattr(PRESETS["full"], key)
)

INTRODUCTION = """\
# Configuration reference

<!-- written by docs/write_configuration.py from the types in flps/config; change those, not this page -->

A job is one yaml file. `flrun -m job.yaml` reads it once, before anything is started, and refuses it with *all* its
faults in one message, each with file and line. A key that nobody knows is an error that names the nearest known one.

- `-o key=value` changes one key from the command line, with a dotted key (`-o runner.epochs=5`). The value is read as
  yaml (`-o runner.local_sparse=[user_embedding]`). Later ones win.
- Relative paths start in the folder of the yaml, except where a key says otherwise.
- Numbers are read as people write them: `1e-5` is a number, `010` is ten, `1:30` is text. `0` and `1` are read as
  false and true where a key wants true or false. A key said twice is an error.
- A key left out has the default below; an empty line (`epochs:`) is an error, an empty part (`network:`) is not.
"""

PARTS: tuple[tuple[str, str, type[msgspec.Struct], str], ...] = (
    ("Top level", "", Config, ""),
    ("runner", "runner", Runner, ""),
    (
        "table_parameters",
        "table_parameters.<table>",
        TableParameters,
        "One part per sparse table, by its name (NCF has `user_embedding` and `item_embedding`). "
        "What is left out is what the model says.",
    ),
    ("initializer", "table_parameters.<table>.initializer", Initializer, ""),
    ("accessor", "table_parameters.<table>.accessor", AccessorParameters, ""),
    ("entry", "table_parameters.<table>.accessor.entry", EntryParameters, ""),
    ("network", "network", Network, "Times are in seconds."),
    ("evaluation", "evaluation", Evaluation, ""),
    ("hyper_parameters of `model: ncf`", "hyper_parameters", NcfHyperParameters, ""),
    ("optimizer", "hyper_parameters.optimizer", NcfOptimizer, "The same of `model: ctr_dnn`."),
    ("hyper_parameters of `model: ctr_dnn`", "hyper_parameters", CtrDnnHyperParameters, ""),
)

SPLIT_INTRODUCTION = """\
# Split jobs

`job: split` chooses the keys from here on; `network` is the same part as above. How the nets are trained stands in each
net's [own yaml](split-yaml.md), how a job is started [there](launching.md#split-jobs).
"""

SPLIT_JOB_PARTS: tuple[tuple[str, str, type[msgspec.Struct], str], ...] = (
    ("Top level of a split job", "", SplitConfig, ""),
    ("leader", "parties.leader", Leader, ""),
    ("followers", "parties.followers[]", Follower, ""),
    ("runner of a split job", "runner", SplitRunner, ""),
    ("psi", "psi", Psi, ""),
    (
        "tls",
        "tls",
        TlsFiles,
        "The same in `parties.leader` and `parties.followers[]`. See [Security](security.md#tls).",
    ),
    (
        "hyper_parameters of `model: wide_deep`",
        "hyper_parameters",
        NetworkConfig,
        "The original's network_config. Each key but `seed` and `resume` is also a flag of `flrun`. The defaults are "
        "those of `preset: full`; " + SMALL_PRESET,
    ),
)

SPLIT_PARTS: tuple[tuple[str, str, type[msgspec.Struct], str], ...] = (
    ("Top level", "", split.Net, ""),
    ("model", "model", split.Model, ""),
    ("train_net", "model.train_net", split.TrainNet, ""),
    ("eval_net", "model.eval_net", split.EvalNet, ""),
    ("inputs", "model.train_net.inputs[]", split.NetInput, "The same in `eval_net`."),
    ("outputs", "model.train_net.outputs[]", split.NetOutput, "The same in `eval_net`."),
    ("opts", "opts[]", split.Optimizer, ""),
    ("grads", "opts[].grads[]", split.Grad, ""),
    ("grad_scalers", "grad_scalers[]", split.GradScaler, ""),
    ("output", "opts[].grads[].output", split.OutputName, "The same in `grad_scalers`."),
    ("Entries that are a name", "opts[].params[]", split.Name, "So are `inputs` and `params` of a gradient."),
    ("loss_scale", "opts[].hyper_parameters.loss_scale", split.LossScale, "A number, or these keys."),
    ("dataset", "dataset", split.Dataset, ""),
    ("hyper_parameters", "hyper_parameters", split.HyperParameters, ""),
    ("privacy", "privacy", split.Privacy, ""),
    ("label_dp", "privacy.label_dp", split.LabelPrivacy, ""),
    ("embedding_dp", "privacy.embedding_dp", split.EmbeddingPrivacy, ""),
    ("cut", "privacy.cut", split.CutPrivacy, ""),
)


def page() -> str:
    """The whole page."""
    federation = [INTRODUCTION, *(section(*part) for part in PARTS), *names()]
    return "\n".join([*federation, SPLIT_INTRODUCTION, *(section(*part) for part in SPLIT_JOB_PARTS)])


def split_page() -> str:
    """docs/split-yaml.md: the text as it stands, and after its mark the keys."""
    text, mark, _ = SPLIT_PAGE.read_text(encoding="utf-8").partition(SPLIT_MARK)
    return "\n".join([text + mark, "", *(section(*part) for part in SPLIT_PARTS)])


def section(title: str, prefix: str, kind: type[msgspec.Struct], words: str) -> str:
    """One part of the configuration as a table of its keys."""
    head = [f"## {title}", "", *([f"Keys: `{prefix}.…`", ""] if prefix else []), *([words, ""] if words else [])]
    return "\n".join([*head, "| key | value | default | meaning |", "|---|---|---|---|", *rows(kind), ""])


def rows(kind: type[msgspec.Struct]) -> Iterator[str]:
    """A line of the table per key."""
    for field in fields_of(kind):
        cells = (f"`{field.encode_name}`", expected(field.type), default(field), description(field.type))
        yield "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |"


def description(kind: inspect.Type) -> str:
    """What the annotation says about a key."""
    assert isinstance(kind, inspect.Metadata), kind
    assert kind.extra_json_schema
    return str(kind.extra_json_schema["description"])


def default(field: inspect.Field) -> str:
    """The default as one would write it in yaml; nothing where it means `left out`."""
    if isinstance(bare(field.type), (inspect.StructType, inspect.DictType)):
        return ""
    value = field.default
    if value in (None, "", msgspec.NODEFAULT):
        return ""
    if isinstance(value, bool):
        return f"`{str(value).lower()}`"
    return f"`[{', '.join(map(str, value))}]`" if isinstance(value, tuple) else f"`{value}`"


def names() -> Iterator[str]:
    """Names of the original that are understood."""
    yield "## Names of the original\n"
    yield "Variable names in `local_sparse` and `remote_sparse`, and a key that a document misspells (it warns):\n"
    yield "| written | means |\n|---|---|"
    for written, meant in {**TABLE_OF_VARIABLE, **ALIASES}.items():
        yield f"| `{written}` | `{meant}` |"
    yield ""


if __name__ == "__main__":
    PAGE.write_text(page(), encoding="utf-8")
    SPLIT_PAGE.write_text(split_page(), encoding="utf-8")
