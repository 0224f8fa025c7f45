"""Which weights an ONNX model expects beside it, read from the model's bytes.

In: a serialized ModelProto. Out: name, element type, shape and place of each initializer whose data
is external. ONNX Runtime copies a weights file that it gets as a whole; tensors it gets one by one
stay where they are, but then somebody has to know them. These few fields of the protobuf format
(field numbers from onnx.proto) are less than another package to depend on.
"""

from collections.abc import Iterator
from typing import NamedTuple

from ...base.errors import LlmcError

_GRAPH, _INITIALIZER = 7, 5
_DIMS, _DATA_TYPE, _NAME, _EXTERNAL_DATA = 1, 2, 8, 13
_KEY, _VALUE = 1, 2
_VARINT, _EIGHT_BYTES, _BYTES, _FOUR_BYTES = 0, 1, 2, 5


class ExternalWeight(NamedTuple):
    """One initializer: `data_type` as in onnx.proto, `offset` and `nbytes` in the weights, which
    the model calls `location`."""

    name: str
    location: str
    data_type: int
    shape: tuple[int, ...]
    offset: int
    nbytes: int


def external_weights(model: bytes | memoryview) -> list[ExternalWeight]:
    """The initializers of a model's main graph whose data is external. E0509 if it is no model."""
    found = []
    try:
        for graph in _parts(memoryview(model), _GRAPH):
            for tensor in _parts(graph, _INITIALIZER):
                weight = _external(tensor)
                if weight is not None:
                    found.append(weight)
    except (IndexError, KeyError, ValueError) as error:
        raise LlmcError("LLMC-E0509", "the program is no ONNX model") from error
    return found


def _external(tensor: memoryview) -> ExternalWeight | None:
    """What a TensorProto says; None if it holds its own data."""
    name, data_type, shape, place = "", 0, [], {}
    for field, value in _fields(tensor):
        if field == _DIMS:
            shape += [value] if isinstance(value, int) else list(_varints(value))
        elif field == _DATA_TYPE and isinstance(value, int):
            data_type = value
        elif field == _NAME and not isinstance(value, int):
            name = str(value, "utf-8")
        elif field == _EXTERNAL_DATA and not isinstance(value, int):
            entry = {f: str(v, "utf-8") for f, v in _fields(value) if not isinstance(v, int)}
            place[entry[_KEY]] = entry[_VALUE]
    if not place:
        return None
    offset, nbytes = int(place.get("offset", "0")), int(place["length"])
    return ExternalWeight(name, place["location"], data_type, tuple(shape), offset, nbytes)


def _parts(message: memoryview, wanted: int) -> Iterator[memoryview]:
    """The embedded messages of one field."""
    for field, value in _fields(message):
        if field == wanted and not isinstance(value, int):
            yield value


def _fields(message: memoryview) -> Iterator[tuple[int, int | memoryview]]:
    """Field numbers and values of a message: integers, or the bytes of anything longer."""
    at = 0
    while at < len(message):
        tag, at = _varint(message, at)
        kind = tag & 7
        if kind == _VARINT:
            value, at = _varint(message, at)
        else:
            if kind == _BYTES:
                size, at = _varint(message, at)
            else:
                size = {_EIGHT_BYTES: 8, _FOUR_BYTES: 4}[kind]
            value = message[at : at + size]
            if len(value) != size:
                raise ValueError("a field is cut off")
            at += size
        yield tag >> 3, value


def _varints(packed: memoryview) -> Iterator[int]:
    at = 0
    while at < len(packed):
        value, at = _varint(packed, at)
        yield value


def _varint(message: memoryview, at: int) -> tuple[int, int]:
    """An integer of seven bits a byte, and where the next byte is."""
    value = shift = 0
    while True:
        byte = message[at]
        at += 1
        value |= (byte & 127) << shift
        if byte < 128:
            return value, at
        shift += 7
        if shift > 63:
            raise ValueError("an integer is too long")
