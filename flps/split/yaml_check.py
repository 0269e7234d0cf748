"""What binds several keys of a net's yaml together: names that must exist, places, settings without effect.

Law 1: the values are checked as they were written, so that one wrong line hides none of the other complaints.
Law 2: what the types have complained of already is not complained of again.
"""

from __future__ import annotations

from collections.abc import Iterator
from difflib import get_close_matches
from typing import Any

from flps.config.source import KeyPath, Source, dotted
from flps.config.typed import show, typed
from flps.split.yaml_types import BITS, LossScale

Entries = Iterator[tuple[KeyPath, dict[str, Any]]]


def check(source: Source) -> None:
    """Note everything that does not fit together; the types are checked before."""
    train, evaluation = ("model", "train_net"), ("model", "eval_net")
    for net in (train, evaluation):
        for side in ("inputs", "outputs"):
            _check_tensors(source, (*net, side))
    _check_one_packing(source, [(*net, side) for net in (train, evaluation) for side in ("inputs", "outputs")])
    inputs, outputs = _names(source, (*train, "inputs")), _names(source, (*train, "outputs"))
    for path, opt in _entries(source, ("opts",)):
        for here, _ in _entries(source, (*path, "grads")):
            _check_gradient(source, here, inputs, outputs)
            _check_unique(source, (*here, "params"))
        _check_unique(source, (*path, "params"))
        _check_twice(source, (*path, "grads"))
        _check_hyper_parameters(source, (*path, "hyper_parameters"), opt.get("hyper_parameters"))
    for path, _ in _entries(source, ("grad_scalers",)):
        _check_gradient(source, path, inputs, outputs)
    _check_labels(source)
    for key in ("features", "labels"):
        _check_unique(source, ("dataset", key))
    _check_micro_batches(source)


def _at(source: Source, path: KeyPath) -> Any:
    """The value as it was written, or None where there is none."""
    value: Any = source.values
    for step in path:
        if isinstance(step, int) and isinstance(value, list):
            value = value[step]
        else:
            value = value.get(step) if isinstance(value, dict) else None
    return value


def _entries(source: Source, path: KeyPath) -> Entries:
    """The entries of a list that are keys and values, each with its path."""
    values = _at(source, path)
    for index, value in enumerate(values if isinstance(values, list) else ()):
        if isinstance(value, dict):
            yield (*path, index), value


def _names(source: Source, path: KeyPath) -> list[str] | None:
    """The names in a list of tensors in their order; None where they are not all known, since a line is wrong."""
    values = _at(source, path)
    if not isinstance(values, list) or not values:
        return None
    names = [entry.get("name") if isinstance(entry, dict) else None for entry in values]
    known = [name for name in names if isinstance(name, str) and name]
    return known if len(known) == len(names) else None


def _check_unique(source: Source, path: KeyPath) -> None:
    """A name stands once in its list."""
    first: dict[str, KeyPath] = {}
    values = _at(source, path)
    for index, value in enumerate(values if isinstance(values, list) else ()):
        name, here = (value.get("name"), (*path, index, "name")) if isinstance(value, dict) else (value, (*path, index))
        if isinstance(name, str) and first.setdefault(name, here) != here:
            source.complain(here, f"{name} stands twice in this list, first at {source.origin(first[name])}")


def _check_tensors(source: Source, path: KeyPath) -> None:
    """The list of inputs or outputs of one net."""
    _check_unique(source, path)
    for here, tensor in _entries(source, path):
        _check_packing(source, here, tensor)


def _check_packing(source: Source, path: KeyPath, tensor: dict[str, Any]) -> None:
    """A setting that nothing reads is an error, not a silence."""
    kind = _word(tensor, "compress_type")
    back = _word(tensor, "grad_compress_type") or kind
    if "bit_num" in tensor and not {kind, back} & {*BITS, "no_compress"}:
        _idle(source, (*path, "bit_num"), "belongs to compress_type min_max or bit_pack", kind)
    if "grad_bit_num" in tensor and back not in (*BITS, "no_compress"):
        _idle(source, (*path, "grad_bit_num"), "belongs to grad_compress_type min_max or bit_pack", back)
    if "top_k" in tensor and "topk" not in (kind, back):
        _idle(source, (*path, "top_k"), "belongs to compress_type topk", kind)
    if "grad_top_k" in tensor and back != "topk":
        _idle(source, (*path, "grad_top_k"), "belongs to grad_compress_type topk", back)
    if tensor.get("error_feedback") is True and back in (None, "no_compress", "bit_pack"):
        _idle(source, (*path, "error_feedback"), "belongs to a grad_compress_type that loses something", back)


def _word(part: dict[str, Any], key: str) -> str | None:
    return value if isinstance(value := part.get(key), str) else None


def _idle(source: Source, path: KeyPath, why: str, kind: object) -> None:
    if not any(source.complaints.touch((*path[:-1], key)) for key in (path[-1], "compress_type", "grad_compress_type")):
        source.complain(path, f"has no effect here: it {why}, and that is {'left out' if kind is None else kind}")


def _check_one_packing(source: Source, lists: list[KeyPath]) -> None:
    """Packing goes by a tensor's name, so a name that stands in several lists is packed one way."""
    keys = ("compress_type", "bit_num", "grad_compress_type", "grad_bit_num", "top_k", "grad_top_k", "error_feedback")
    first: dict[tuple[str, str], tuple[Any, KeyPath]] = {}
    for path in lists:
        for here, tensor in _entries(source, path):
            for key in keys:
                name, value = tensor.get("name"), tensor.get(key)
                if value is None or not isinstance(name, str) or source.complaints.touch((*here, key)):
                    continue
                said, where = first.setdefault((name, key), (value, (*here, key)))
                if said != value:
                    source.complain(
                        (*here, key),
                        f"{value}, but {name} has {said} at {source.origin(where)}; a tensor is packed one way",
                    )


def _check_gradient(source: Source, path: KeyPath, inputs: list[str] | None, outputs: list[str] | None) -> None:
    """One entry of `grads` or `grad_scalers`: its inputs and its output are those of train_net."""
    _check_unique(source, (*path, "inputs"))
    for here, entry in _entries(source, (*path, "inputs")):
        _check_known(source, (*here, "name"), entry.get("name"), inputs, "input")
    output = _at(source, (*path, "output"))
    if not isinstance(output, dict):
        return
    name = output.get("name")
    _check_known(source, (*path, "output", "name"), name, outputs, "output")
    for key in ("index", "output_index"):
        place = output.get(key)
        if isinstance(place, int) and outputs and name in outputs and place != outputs.index(name):
            source.complain((*path, "output", key), f"{name} is output {outputs.index(name)} of train_net, not {place}")


def _check_known(source: Source, path: KeyPath, name: object, known: list[str] | None, side: str) -> None:
    if known is None or not isinstance(name, str) or name in known or not name:
        return
    nearest = get_close_matches(name, known, n=1, cutoff=0.0)[0]
    source.complain(path, f"train_net has no {side} {name}; did you mean {nearest}?")


def _check_twice(source: Source, path: KeyPath) -> None:
    """The same gradient twice would be added twice: nearly always a line that was copied."""
    first: dict[str, KeyPath] = {}
    for here, grad in _entries(source, path):
        output = grad.get("output")
        if isinstance(output, dict) and "name" in output:
            key = repr((output["name"], grad.get("sens"), grad.get("params")))
            if (same := first.setdefault(key, here)) != here:
                source.complain(here, f"is the same gradient as {dotted(same)}; it would count twice")


def _check_labels(source: Source) -> None:
    """What goes back is found by the output's name, so an output has one grad_scaler."""
    first: dict[str, KeyPath] = {}
    for path, scaler in _entries(source, ("grad_scalers",)):
        output = scaler.get("output")
        name, here = output.get("name") if isinstance(output, dict) else None, (*path, "output", "name")
        if isinstance(name, str) and (same := first.setdefault(name, here)) != here:
            source.complain(
                here,
                f"{name} has a grad_scaler at {source.origin(same)} already, and both would be sent under its name; "
                "name all inputs there",
            )


def _check_hyper_parameters(source: Source, path: KeyPath, values: object) -> None:
    """The arguments of an optimizer, as far as they are known without the optimizer."""
    for key, value in values.items() if isinstance(values, dict) else ():
        here = (*path, key)
        if value is None and not source.complaints.touch(here):
            source.complain(here, "has no value; give one, or remove the line")
        elif key == "loss_scale" and isinstance(value, dict):
            typed(source, LossScale, value, here)
        elif key in ("loss_scale", "learning_rate") and not source.complaints.touch(here):
            _check_number(source, here, value)


def _check_number(source: Source, path: KeyPath, value: Any) -> None:
    is_scale = path[-1] == "loss_scale"
    is_number = isinstance(value, (int, float)) and not isinstance(value, bool)
    if is_number and (value > 0 or (value == 0 and not is_scale)):
        return
    wanted = "a number above 0, or the keys init, factor and window" if is_scale else "a number of at least 0"
    source.complain(path, f"expected {wanted}, got {show(value)}")


def _check_micro_batches(source: Source) -> None:
    part = _at(source, ("hyper_parameters",))
    sizes = [part.get("batch_size", 1), part.get("micro_batches", 1)] if isinstance(part, dict) else []
    if sizes and all(type(size) is int for size in sizes) and sizes[0] < sizes[1]:
        source.complain(
            ("hyper_parameters", "micro_batches"), f"a batch of {sizes[0]} cannot be cut into {sizes[1]} parts"
        )
