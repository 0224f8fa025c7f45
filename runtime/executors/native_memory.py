"""Memory for native code: anonymous mappings, and the addresses of Python buffers.

Plain ctypes: importing numpy takes longer than everything else that loading a model does.
"""

import ctypes
import mmap
from contextlib import suppress

from ...base.errors import LlmcError


class _Buffer(ctypes.Structure):
    """`Py_buffer`, part of Python's stable interface."""

    _fields_ = (
        ("address", ctypes.c_void_p),
        ("owner", ctypes.py_object),
        ("nbytes", ctypes.c_ssize_t),
        ("itemsize", ctypes.c_ssize_t),
        ("readonly", ctypes.c_int),
        ("ndim", ctypes.c_int),
        ("format", ctypes.c_char_p),
        ("shape", ctypes.c_void_p),
        ("strides", ctypes.c_void_p),
        ("suboffsets", ctypes.c_void_p),
        ("internal", ctypes.c_void_p),
    )


_get_buffer = ctypes.pythonapi.PyObject_GetBuffer
_get_buffer.argtypes = (ctypes.py_object, ctypes.c_void_p, ctypes.c_int)
_release_buffer = ctypes.pythonapi.PyBuffer_Release
_release_buffer.argtypes = (ctypes.c_void_p,)
_release_buffer.restype = None


def address_of(buffer: memoryview) -> int:
    """Where the bytes of a contiguous buffer lie; valid as long as the buffer's owner is kept."""
    view = _Buffer()
    _get_buffer(buffer, ctypes.byref(view), 0)
    try:
        return view.address or 0
    finally:
        _release_buffer(ctypes.byref(view))


def allocate(nbytes: int, *, huge_pages: bool = False) -> memoryview:
    """Page-aligned zeros that take memory only where they are touched. E0601 if there are none.

    Huge pages suit the arena, all of which a long step uses, the logits, of which a panel's rows
    lie far apart, and the cache, whose blocks hold all layers and are given out from the lowest on:
    at most one page is used in part.
    """
    flags = mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS  # the default is shared memory
    try:
        mapping = mmap.mmap(-1, max(nbytes, 1), flags=flags)
    except (OSError, ValueError, OverflowError) as error:
        raise LlmcError("LLMC-E0601", f"cannot allocate {nbytes >> 20} MiB") from error
    if huge_pages and hasattr(mmap, "MADV_HUGEPAGE"):
        with suppress(OSError):  # a kernel without them
            mapping.madvise(mmap.MADV_HUGEPAGE)
    return memoryview(mapping)[:nbytes]
