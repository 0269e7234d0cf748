"""Plain values to typed parts: known keys, aliases, types and ranges; every complaint is noted, none is raised.

The types themselves are the schema: what a key may hold is read from the annotations of a msgspec struct.
A value that is wrong is left at its default, so that the rest is still checked in the same go.
"""

from __future__ import annotations

import functools
import logging
import reprlib
from collections.abc import Iterator, Mapping
from difflib import get_close_matches
from typing import Any, TypeVar, get_type_hints

import msgspec
from msgspec import inspect

from flps.config.source import KeyPath, Source, dotted

log = logging.getLogger("flps.config")

# Misspellings that are understood because a published document prints them; nothing else is guessed.
ALIASES = {"with_coodinator": "with_coordinator"}

Part = TypeVar("Part", bound=msgspec.Struct)


def typed(source: Source, kind: type[Part], values: object, path: KeyPath = ()) -> Part | None:
    """`values`, written at `path`, as a part of type `kind`; None when it cannot be built.

    Complaints go to the source's list. Nothing (None) is a part of which every key is left out.
    """
    if values is None:
        values = {}
    if not isinstance(values, dict):
        source.complain(path, f"expected keys and values, got {show(values)}")
        return None
    fields = {field.encode_name: field for field in fields_of(kind)}
    hints = get_type_hints(kind, include_extras=True)
    arguments: dict[str, Any] = {}
    named = _known_only(source, values, fields, path)
    for key, field in fields.items():
        if key not in named:
            if field.required:
                source.complain((*path, key), "is missing")
            continue
        if values[named[key]] is None and may_be_null(field.type):
            arguments[field.name] = None
            continue
        value = _value(source, field.type, hints[field.name], values[named[key]], (*path, named[key]))
        if value is not msgspec.UNSET:
            arguments[field.name] = value
    try:
        return kind(**arguments)
    except TypeError:  # a required key is missing or wrong, which is noted already
        return None
    except ValueError as error:  # the struct's own __post_init__
        if not source.complaints.touch(path):
            source.complain(path, str(error))
        return None


@functools.cache
def fields_of(kind: type[msgspec.Struct]) -> tuple[inspect.Field, ...]:
    """The fields of a struct with their types, ranges and descriptions."""
    described = inspect.type_info(kind)
    assert isinstance(described, inspect.StructType)
    return described.fields


def bare(kind: inspect.Type) -> inspect.Type:
    """A type without its description, and without the None that only means `left out`."""
    if isinstance(kind, inspect.Metadata):
        return bare(kind.type)
    if isinstance(kind, inspect.UnionType):
        kinds = [one for one in map(bare, kind.types) if not isinstance(one, inspect.NoneType)]
        return kinds[0] if len(kinds) == 1 else kind
    return kind


def may_be_null(kind: inspect.Type) -> bool:
    """Whether `null` is a value of this key: its description says so by `extra={"null": True}`."""
    return isinstance(kind, inspect.Metadata) and bool((kind.extra or {}).get("null"))


def expected(kind: inspect.Type) -> str:
    """What a value of this type looks like, in words for the user."""
    if may_be_null(kind):
        return f"{expected(bare(kind))}, or null"
    kind = bare(kind)
    if isinstance(kind, inspect.LiteralType):
        return "one of " + ", ".join(str(value) for value in kind.values)
    if isinstance(kind, inspect.BoolType):
        return "true or false"
    if isinstance(kind, (inspect.IntType, inspect.FloatType)):
        return ("an integer" if isinstance(kind, inspect.IntType) else "a number") + _range(kind)
    if isinstance(kind, inspect.StrType):
        return "text that is not empty" if kind.min_length else "text"
    if isinstance(kind, (inspect.VarTupleType, inspect.ListType)):
        least = " that is not empty" if kind.min_length else ""
        return f"a list{least}, each entry {expected(kind.item_type)}"
    if isinstance(kind, inspect.TupleType):
        return f"a list of {len(kind.item_types)}: " + ", ".join(expected(one) for one in kind.item_types)
    if isinstance(kind, inspect.UnionType):
        return " or ".join(expected(one) for one in kind.types if not isinstance(one, inspect.NoneType))
    return "keys and values" if isinstance(kind, (inspect.StructType, inspect.DictType)) else "a value"


def show(value: object) -> str:
    """A value for a message, cut to a readable length."""
    return "nothing" if value is None else reprlib.repr(value)


def _range(kind: inspect.IntType | inspect.FloatType) -> str:
    """The bounds of a number in words; those that only keep it within its machine type are left out."""
    bounds = {"of at least": kind.ge, "above": kind.gt, "of at most": kind.le, "below": kind.lt}
    said = [f"{word} {bound}" for word, bound in bounds.items() if bound is not None and abs(bound) < 1e9]
    return " " + " and ".join(said) if said else ""


def _known_only(
    source: Source, values: dict[str, Any], fields: Mapping[str, inspect.Field], path: KeyPath
) -> dict[str, str]:
    """Known key -> the key as it was written; complains about the others."""
    named: dict[str, str] = {}
    for written in values:
        here, key = (*path, written), ALIASES.get(written, written)
        if key not in fields:
            source.complain(here, f"there is no such key{_nearest(written, fields, path)}")
        elif key in named:
            source.complain(here, f"means the same as {dotted((*path, named[key]))}; say it once")
        else:
            named[key] = written
            if key != written:
                log.warning("%s: %s is read as %s", source.origin(here), dotted(here), dotted((*path, key)))
    return named


def _nearest(key: str, fields: Mapping[str, inspect.Field], path: KeyPath) -> str:
    """`; did you mean runner.epochs?`, looking in this part and in the parts below it."""
    places: dict[str, str] = {}
    for name, field in fields.items():
        inner = bare(field.type)
        if isinstance(inner, inspect.StructType):
            places |= {below.encode_name: dotted((*path, name, below.encode_name)) for below in inner.fields}
    places |= {name: dotted((*path, name)) for name in fields}
    nearest = places[get_close_matches(key, places, n=1, cutoff=0.0)[0]]
    return f"; did you mean {nearest}?"


def _value(source: Source, described: inspect.Type, hint: Any, value: Any, path: KeyPath) -> Any:
    """The value of one key as the type `hint`, which `described` describes; UNSET when it is wrong, and noted."""
    kind = bare(described)
    if isinstance(kind, inspect.StructType):
        part = typed(source, kind.cls, value, path)
        return msgspec.UNSET if part is None else part
    if isinstance(kind, inspect.DictType):
        return _entries(source, bare(kind.value_type), value, path)
    if isinstance(kind, inspect.VarTupleType) and isinstance(value, list):
        part = bare(kind.item_type)
        if isinstance(part, inspect.StructType) and len(value) >= (kind.min_length or 0):
            return tuple(_parts(source, part.cls, value, path))
    if source.complaints.touch(path):
        return msgspec.UNSET
    if isinstance(kind, inspect.BoolType) and value in (0, 1):
        return bool(value)
    if isinstance(kind, inspect.LiteralType) and value is False and "off" in kind.values:
        value = "off"  # yaml reads the word as false
    try:
        if value is not None:
            return msgspec.convert(value, hint)
        source.complain(path, f"has no value; give {expected(described)}, or remove the line")
    except msgspec.ValidationError:
        source.complain(path, f"expected {expected(described)}, got {show(value)}")
    return msgspec.UNSET


def _parts(source: Source, kind: type[Part], values: list[Any], path: KeyPath) -> Iterator[Part]:
    """The entries of a list that are parts; those that are wrong are noted and left out."""
    for index, value in enumerate(values):
        here = (*path, index)
        if value is None:
            source.complain(here, "has no value; give keys and values, or remove the line")
        elif (part := typed(source, kind, value, here)) is not None:
            yield part


def _entries(source: Source, kind: inspect.Type, values: Any, path: KeyPath) -> Any:
    """A mapping whose keys the user chooses; its values are parts, or anything."""
    if values is None:
        return {}
    if not isinstance(values, dict):
        source.complain(path, f"expected keys and values, got {show(values)}")
        return msgspec.UNSET
    if not isinstance(kind, inspect.StructType):
        return values
    parts = {key: typed(source, kind.cls, value, (*path, key)) for key, value in values.items()}
    return {key: part for key, part in parts.items() if part is not None}
