"""What a party tells the others about its nets before training, and whether the parties fit together.

Law 1: pure functions over what was told; the same list of parties gives the same complaints in whatever order it comes.
Law 2: names and settings are told, never a path, a weight's name or a privacy setting.
Law 3: a tensor between two nets of one party stays there, whatever `source` and `destination` say.
Law 4: the leader exchanges with each follower; followers exchange nothing with each other.

Only train_net counts: what the eval_net takes is a part of it, or the party's own.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from difflib import get_close_matches
from pathlib import Path

import msgspec

from flps.config.source import KeyPath
from flps.errors import ConfigError
from flps.split.schema import FLYamlData
from flps.split.yaml_types import Grad, GradScaler, Travelling

SHARED = ("epochs", "batch_size", "micro_batches", "is_eval")  # of hyper_parameters: equal for all


class Travel(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A tensor that a party gives to others or takes from one."""

    origin: str  # file:line, the file without its folder
    packed: tuple[str, int]  # compress type and bits of the tensor
    grad_packed: tuple[str, int]  # those of its gradient
    says_packed: bool  # whether the file says it, or it is the default
    says_grad_packed: bool


class Label(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A label that gradients are sent or awaited under, and the tensors they belong to."""

    label: str
    tensors: tuple[str, ...]
    origin: str


class ToldNet(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What one net takes and gives, by names."""

    file: str  # its yaml without folder and ending
    name: str
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    remote: tuple[str, ...]  # of the outputs those that may leave the party
    gradients: tuple[str, ...]  # of the inputs those whose gradient it works out for the nets before it
    own: tuple[str, ...] = ()  # of the inputs those with source: local


class ToldScale(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A loss scale of one entry of `opts`."""

    said: str  # in words that are equal where the scales are
    origin: str


class NetTerms(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """All nets of one party, as far as another party must know them."""

    party: str
    role: str
    nets: tuple[ToldNet, ...]
    gives: dict[str, Travel]
    takes: dict[str, Travel]
    sends_back: tuple[Label, ...]  # grad_scalers: label and the inputs whose gradients it carries
    awaits: tuple[Label, ...]  # a text as `sens`: label and the output that the gradient is for
    shared: dict[str, int]  # epochs, batch_size, micro_batches, is_eval
    origins: dict[str, str]  # where each of `shared` and `role` is said
    eval_nets: tuple[ToldNet, ...] = ()  # the same for what is evaluated
    loss_scales: tuple[ToldScale, ...] = ()  # the different ones; none: nothing of this party is looked at
    trains: bool = True  # whether it has anything that a loss scale is about


def terms(party: str, files: Sequence[FLYamlData]) -> NetTerms:
    """What `party`, whose nets are described by `files`, tells the others.

    Raises ConfigError with every point in which the party's own files contradict each other.
    """
    lead = next((file for file in files if file.role == "leader"), files[0])
    said = {key: _said(key, files) for key in SHARED}
    complaints = [line for key, places in said.items() for line in _own_contradictions(key, places)]
    outputs = [(file, index, tensor) for file in files for index, tensor in enumerate(file.net.model.train_net.outputs)]
    complaints += _made_twice(outputs)
    if complaints:
        raise ConfigError("\n  ".join([f"the files of {party} do not fit together:", *complaints]))
    at_home = {tensor.name for file, _, tensor in outputs if _makes(file, tensor)}
    at_home |= {one.name for file in files for one in file.net.model.train_net.inputs if one.source == "local"}
    return NetTerms(
        party=party,
        role=lead.role,
        nets=tuple(map(_told, files)),
        gives={one.name: _travel(file, "outputs", i, one) for file, i, one in outputs if one.destination == "remote"},
        takes={
            one.name: _travel(file, "inputs", i, one)
            for file in files
            for i, one in enumerate(file.net.model.train_net.inputs)
            if one.source == "remote" and one.name not in at_home
        },
        sends_back=tuple(label for file in files for label in _sends_back(file)),
        awaits=tuple(label for file in files for label in _awaits(file)),
        shared={key: places[0][0] for key, places in said.items()},
        origins={"role": _place(lead, ("role",))} | {key: places[0][1] for key, places in said.items()},
        eval_nets=tuple(map(_told_eval, files)),
        loss_scales=tuple({one.said: one for file in reversed(files) for one in _loss_scales(file)}.values())[::-1],
        trains=any(file.opts for file in files),
    )


def crossing(sender: NetTerms, receiver: NetTerms) -> tuple[str, ...]:
    """The tensors that `sender` sends to `receiver` in a step, in the order of the sender's outputs."""
    return tuple(name for name in sender.gives if name in receiver.takes)


def disagreements(parties: Sequence[NetTerms]) -> list[str]:
    """In what the parties of one job do not fit together, with the file and line of either; empty when they do.

    parties: every party of the job. The leader, who hears all of them, asks this and tells its answer to all.
    """
    parties = sorted(parties, key=lambda terms: terms.party)
    found = [*_roles(parties), *_shared(parties), *_scales(parties)]
    for receiver in parties:
        others = _linked(receiver, parties)
        for name, taken in receiver.takes.items():
            found += _travels(name, taken, receiver, others)
    return [*found, *_labels(parties)]


def _place(file: FLYamlData, path: KeyPath) -> str:
    """`file:line` without the folder, which is nobody else's business."""
    name, _, line = file.where(path).rpartition(":")
    return f"{Path(name).name}:{line}"


def _said(key: str, files: Sequence[FLYamlData]) -> list[tuple[int, str]]:
    """(value, origin) of a shared key in each file that says it; else the default, at the first file."""
    said = [(int(getattr(file, key)), _place(file, ("hyper_parameters", key))) for file in files if file.says(key)]
    return said or [(int(getattr(files[0], key)), f"{Path(files[0].path).name}, by default")]


def _own_contradictions(key: str, places: list[tuple[int, str]]) -> Iterator[str]:
    value, origin = places[0]
    for other, here in places:
        if other != value:
            yield f"hyper_parameters.{key}: {here} says {other}, but {origin} says {value}"


def _makes(file: FLYamlData, output: Travelling) -> bool:
    """Whether a net makes an output itself, and does not only pass an input on."""
    return output.name not in file.train_net_in_names


def _made_twice(outputs: Sequence[tuple[FLYamlData, int, Travelling]]) -> Iterator[str]:
    """Two nets of a party that call what they make by one name."""
    makers: dict[str, str] = {}
    for file, index, tensor in outputs:
        here = file.where(("model", "train_net", "outputs", index))
        if _makes(file, tensor) and makers.setdefault(tensor.name, here) != here:
            yield f"{here}: {tensor.name} is an output of another net already, at {makers[tensor.name]}"


def _travel(file: FLYamlData, side: str, index: int, tensor: Travelling) -> Travel:
    return Travel(
        origin=_place(file, ("model", "train_net", side, index)),
        packed=tensor.packed,
        grad_packed=tensor.grad_packed,
        says_packed=tensor.compress_type is not None,
        says_grad_packed=tensor.grad_compress_type is not None or tensor.grad_bit_num is not None,
    )


def _told(file: FLYamlData) -> ToldNet:
    behind = {one.name for scaler in file.net.grad_scalers for one in scaler.inputs}
    return ToldNet(
        file=Path(file.path).stem,
        name=file.net.model.train_net.name,
        inputs=tuple(file.train_net_in_names),
        outputs=tuple(file.train_net_out_names),
        remote=tuple(one.name for one in file.net.model.train_net.outputs if one.destination == "remote"),
        gradients=tuple(name for name in file.train_net_in_names if name in behind),
        own=tuple(one.name for one in file.net.model.train_net.inputs if one.source == "local"),
    )


def _told_eval(file: FLYamlData) -> ToldNet:
    return ToldNet(
        file=Path(file.path).stem,
        name=file.net.model.eval_net.name or "",
        inputs=tuple(file.eval_net_in_names),
        outputs=tuple(file.eval_net_out_names),
        remote=tuple(one.name for one in file.net.model.eval_net.outputs if one.destination == "remote"),
        gradients=(),
        own=tuple(one.name for one in file.net.model.eval_net.inputs if one.source == "local"),
    )


def _sends_back(file: FLYamlData) -> Iterator[Label]:
    for index, scaler in enumerate(file.net.grad_scalers):
        names = tuple(one.name for one in scaler.inputs)
        yield Label(label=scaler.output.name, tensors=names, origin=_place(file, ("grad_scalers", index)))


def _awaits(file: FLYamlData) -> Iterator[Label]:
    found: list[tuple[KeyPath, Grad | GradScaler]] = []
    for i, opt in enumerate(file.net.opts):
        found += [(("opts", i, "grads", j), grad) for j, grad in enumerate(opt.grads)]
    found += [(("grad_scalers", i), scaler) for i, scaler in enumerate(file.net.grad_scalers)]
    for path, one in found:
        if isinstance(one.sens, str):
            yield Label(label=one.sens, tensors=(one.output.name,), origin=_place(file, (*path, "sens")))


def _loss_scales(file: FLYamlData) -> Iterator[ToldScale]:
    for index, opt in enumerate(file.opts):
        scale = opt["hyper_parameters"].get("loss_scale")
        if scale is not None:
            parts = scale if isinstance(scale, dict) else {"": scale}
            said = ", ".join(f"{key} {float(value):g}".lstrip() for key, value in sorted(parts.items()))
            yield ToldScale(said=said, origin=_place(file, ("opts", index, "hyper_parameters", "loss_scale")))


def _roles(parties: Sequence[NetTerms]) -> Iterator[str]:
    leaders = [terms for terms in parties if terms.role == "leader"]
    if len(leaders) != 1:
        who = ", ".join(f"{terms.party} ({terms.origins['role']}) is {terms.role}" for terms in parties)
        yield f"role: one party is the leader, here are {len(leaders)}: {who}"


def _shared(parties: Sequence[NetTerms]) -> Iterator[str]:
    for key in SHARED:
        if len({terms.shared[key] for terms in parties}) > 1:
            who = ", ".join(f"{terms.party} ({terms.origins[key]}) says {_value(key, terms)}" for terms in parties)
            yield f"hyper_parameters.{key}: must be equal for all, but {who}"


def _value(key: str, terms: NetTerms) -> str:
    value = terms.shared[key]
    return str(bool(value)).lower() if key == "is_eval" else str(value)


def _scales(parties: Sequence[NetTerms]) -> Iterator[str]:
    """Whether all parties scale the loss alike: one gets gradients that another has scaled, and they skip together."""
    trained = [terms for terms in parties if terms.trains]
    if len({frozenset(one.said for one in terms.loss_scales) - {"1"} for terms in trained}) > 1:
        who = ", ".join(f"{terms.party} ({_scales_of(terms)})" for terms in trained)
        yield f"loss_scale: must be equal for all, but {who}"


def _scales_of(terms: NetTerms) -> str:
    return ", ".join(f"{one.origin} says {one.said}" for one in terms.loss_scales) or "it says none"


def _linked(receiver: NetTerms, parties: Sequence[NetTerms]) -> list[NetTerms]:
    """Whom a party takes tensors from: the leader from all, a follower from the leader."""
    others = [other for other in parties if other is not receiver]
    return others if receiver.role == "leader" else [other for other in others if other.role == "leader"]


def _travels(name: str, taken: Travel, receiver: NetTerms, others: Sequence[NetTerms]) -> Iterator[str]:
    """Who gives the tensor that `receiver` takes, and whether both say the same of how it is packed."""
    here = f"{receiver.party} ({taken.origin})"
    passing = [other for other in others if name in other.gives]
    givers = [other for other in passing if name not in other.takes] or passing
    if len(givers) > 1:
        who = " and ".join(f"{giver.party} ({giver.gives[name].origin})" for giver in givers)
        yield f"{name}: {here} takes it from one party, but {who} give it; give the outputs different names"
    elif not givers:
        offered = {given: f"{given} of {other.party}" for other in others for given in other.gives}
        near = get_close_matches(name, offered, n=1, cutoff=0.5)
        hint = f"; did you mean {offered[near[0]]}?" if near else ""
        yield f"{name}: {here} takes it from another party, but none has such an output with destination: remote{hint}"
    else:
        given = givers[0].gives[name]
        there = f"{givers[0].party} ({given.origin})"
        if taken.says_packed and taken.packed != given.packed:
            yield f"{name}: {_packing('compress_type', here, taken.packed, there, given.packed)}"
        if given.says_grad_packed and given.grad_packed != taken.grad_packed:
            yield f"{name}: {_packing('grad_compress_type', there, given.grad_packed, here, taken.grad_packed)}"


def _packing(key: str, says: str, said: tuple[str, int], sends: str, sent: tuple[str, int]) -> str:
    return f"{says} says {key} {_words(said)}, but {sends} sends it and has {_words(sent)}; the sender's file decides"


def _words(packed: tuple[str, int]) -> str:
    return f"{packed[0]} with {packed[1]} bits" if packed[1] else packed[0]


def _labels(parties: Sequence[NetTerms]) -> Iterator[str]:
    """Every gradient that a net waits for is sent by some net under that label."""
    sent = {(one.label, tensor) for terms in parties for one in terms.sends_back for tensor in one.tensors}
    for terms in parties:
        for one in terms.awaits:
            tensor = one.tensors[0]
            if (one.label, tensor) in sent:
                continue
            known = sorted({label for label, of in sent if of == tensor})
            hint = f"it is sent as {', '.join(known)}" if known else "no grad_scalers has it among its inputs"
            yield f"{terms.party} ({one.origin}): no gradient of {tensor} comes with the label {one.label}; {hint}"
