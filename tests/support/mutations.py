"""Messages with something wrong: random bytes, bytes changed here and there, and fields that say what nobody says."""

import numpy as np
from google.protobuf.descriptor import FieldDescriptor as Field
from google.protobuf.message import Message

_WHOLE = [0, 1, 2, 3, 4, 7, 63, 64, 100, 255, 2**31 - 1, 2**31, 2**32 - 1, 2**53, 2**63 - 1, 2**63, 2**64 - 1]
_REAL = [0.0, -0.0, 1.0, -1.0, 0.5, 1e-300, 1e30, 1e300, float("inf"), float("-inf"), float("nan")]
_WORDS = [
    "",
    "x",
    "t",
    "SGD",
    "Zeros",
    "mod",
    "div",
    "float32",
    "int8",
    "lr",
    "lr.0",
    "betas.0",
    "..",
    "a" * 200,
    "\0",
]
_BITS = {
    Field.CPPTYPE_INT32: -32,
    Field.CPPTYPE_INT64: -64,
    Field.CPPTYPE_UINT32: 32,
    Field.CPPTYPE_UINT64: 64,
}


def spoiled(message: Message, rng: np.random.Generator) -> bytes:
    """A message of the same kind that may still be right, or not: as bytes."""
    kind = rng.integers(4)
    if kind == 0:
        return rng.bytes(int(rng.integers(0, 60)))
    changed = type(message)()
    changed.CopyFrom(message)
    for _ in range(int(rng.integers(1, 4))):
        _change_a_field(_some_message(changed, rng), rng)
    data = changed.SerializePartialToString()
    return data if kind < 3 else _change_bytes(data if rng.integers(2) else message.SerializeToString(), rng)


def _change_bytes(data: bytes, rng: np.random.Generator) -> bytes:
    out = bytearray(data)
    for _ in range(int(rng.integers(1, 5))):
        at = int(rng.integers(0, len(out) + 1))
        kind = rng.integers(4)
        if kind == 0 and at < len(out):
            out[at] = int(rng.integers(256))
        elif kind == 1:
            del out[at : at + int(rng.integers(1, 9))]
        elif kind == 2:
            out[at:at] = rng.bytes(int(rng.integers(1, 9)))
        else:
            del out[at:]
    return bytes(out)


def _some_message(message: Message, rng: np.random.Generator) -> Message:
    """The message itself, or one that it holds."""
    inside = [message]
    for at in inside:
        for field, value in at.ListFields():
            if _is_map(field):
                of_messages = field.message_type.fields_by_name["value"].message_type is not None
                inside += list(value.values()) if of_messages else []
            elif field.message_type is not None:
                inside += list(value) if _repeats(field) else [value]
    return inside[int(rng.integers(len(inside)))]


def _change_a_field(message: Message, rng: np.random.Generator) -> None:
    fields = message.DESCRIPTOR.fields
    if not fields:
        return
    field = fields[int(rng.integers(len(fields)))]
    if rng.integers(6) == 0:
        message.ClearField(field.name)
    elif _is_map(field):
        _change_a_map(getattr(message, field.name), field, rng)
    elif _repeats(field):
        values = getattr(message, field.name)
        if len(values) and rng.integers(3) == 0:
            del values[int(rng.integers(len(values)))]
        elif field.message_type is not None:
            if len(values) and rng.integers(2):
                values.add().CopyFrom(
                    values[int(rng.integers(len(values) - 1))] if len(values) > 1 else values[0]
                )
            else:
                values.add()
        else:
            values.append(_value(field, rng, b""))
    elif field.message_type is not None:
        getattr(message, field.name).SetInParent()
    else:
        setattr(message, field.name, _value(field, rng, getattr(message, field.name)))


def _change_a_map(values, field: Field, rng: np.random.Generator) -> None:
    inner = field.message_type.fields_by_name["value"]
    keys = [*values, *_WORDS]
    key = keys[int(rng.integers(len(keys)))]
    if inner.message_type is not None:
        values[key].SetInParent()
    else:
        values[key] = _value(inner, rng, "")


def _value(field: Field, rng: np.random.Generator, now):
    if field.type == Field.TYPE_BYTES:
        return _change_bytes(now, rng) if now and rng.integers(4) else rng.bytes(int(rng.integers(0, 40)))
    if field.type == Field.TYPE_STRING:
        return _WORDS[int(rng.integers(len(_WORDS)))]
    if field.type in (Field.TYPE_DOUBLE, Field.TYPE_FLOAT):
        return _REAL[int(rng.integers(len(_REAL)))]
    if field.type == Field.TYPE_BOOL:
        return bool(rng.integers(2))
    if field.type == Field.TYPE_ENUM:
        return int(rng.integers(0, 9))
    value, bits = _WHOLE[int(rng.integers(len(_WHOLE)))], _BITS[field.cpp_type]
    if bits > 0:
        return value % 2**bits
    half = 2 ** (-bits - 1)
    return (value + half) % (2 * half) - half


def _repeats(field: Field) -> bool:
    return field.is_repeated if hasattr(field, "is_repeated") else field.label == Field.LABEL_REPEATED


def _is_map(field: Field) -> bool:
    return _repeats(field) and field.message_type is not None and field.message_type.GetOptions().map_entry
