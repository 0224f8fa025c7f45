"""Cache pages for tests, written from the layout's description: logical keys and values <-> bytes.

A page is one block of one kv head: keys [dk/P, 64, P], values [64/P, dv, P] (head sizes rounded up
to multiples of 16, P elements in 32 bits), for int8 then f32 scales of the keys and of the values.
"""

import numpy as np
from row_kernels import from_bf16, to_bf16

BLOCK = 64
PER_WORD = {"f32": 1, "bf16": 2, "i8": 4}
DTYPE = {"f32": np.dtype(np.float32), "bf16": np.dtype(np.uint16), "i8": np.dtype(np.uint8)}


def padded(size: int) -> int:
    return -(-size // 16) * 16


def page_bytes(kv: str, dk: int, dv: int) -> int:
    element = BLOCK * (padded(dk) + padded(dv)) * DTYPE[kv].itemsize
    return element + (2 * 4 * BLOCK if kv == "i8" else 0)


def hadamard(size: int) -> np.ndarray:
    """Sylvester's matrix for the largest power of two that divides `size`, in blocks."""
    matrix = np.ones((1, 1))
    while size % (2 * len(matrix)) == 0:
        matrix = np.block([[matrix, matrix], [matrix, -matrix]])
    return np.kron(np.eye(size // len(matrix)), matrix)


def rotated(x: np.ndarray) -> np.ndarray:
    """x [..., d] -> [..., d rounded up to 16], times the Hadamard matrix, in float64."""
    wide = np.zeros((*x.shape[:-1], padded(x.shape[-1])))
    wide[..., : x.shape[-1]] = x
    return wide @ hadamard(wide.shape[-1])


def code_keys(x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """x [..., dk] -> whole-numbered codes [..., padded dk], scales [...] of the rotated keys."""
    wide = rotated(x)
    scale = np.abs(wide).max(-1) / 127
    codes = np.round(wide / np.where(scale > 0, scale, 1)[..., None])
    size = wide.shape[-1] & -wide.shape[-1]
    return codes, (scale / size).astype(np.float32)


def code_values(x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """x [..., dv] -> codes [..., padded dv], scales [...] (powers of two) of the rotated values."""
    wide = rotated(x)
    scale = 2.0 ** np.ceil(np.log2(np.maximum(np.abs(wide).max(-1) / np.float32(127), 2.0**-60)))
    return np.round(wide / scale[..., None]), scale.astype(np.float32)


def as_cached(kv: str, x: np.ndarray, keys: bool) -> np.ndarray:
    """What reading x [..., d] back from the cache gives (rotated back), as float32."""
    if kv == "f32":
        return x
    if kv == "bf16":
        return from_bf16(to_bf16(x))
    codes, scale = code_keys(x) if keys else code_values(x)
    if not keys:
        scale = scale / (codes.shape[-1] & -codes.shape[-1])
    back = (codes * scale[..., None]) @ hadamard(codes.shape[-1]).T
    return back[..., : x.shape[-1]].astype(np.float32)


def interleave_keys(x: np.ndarray, per_word: int) -> np.ndarray:
    """[..., 64, dk] -> [..., dk / P, 64, P]."""
    grouped = x.reshape(*x.shape[:-1], x.shape[-1] // per_word, per_word)
    return np.swapaxes(grouped, -3, -2)


def interleave_values(x: np.ndarray, per_word: int) -> np.ndarray:
    """[..., 64, dv] -> [..., 64 / P, dv, P]."""
    grouped = x.reshape(*x.shape[:-2], x.shape[-2] // per_word, per_word, x.shape[-1])
    return np.swapaxes(grouped, -2, -1)


class Pages:
    """One site's blocks as bytes [blocks, hkv, page]; `gap` bytes of other sites after a block."""

    def __init__(self, kv: str, blocks: int, hkv: int, dk: int, dv: int, gap: int = 0):
        self.kv, self.hkv, self.dk, self.dv = kv, hkv, padded(dk), padded(dv)
        self.size = page_bytes(kv, dk, dv)
        self.block_bytes = hkv * self.size + gap
        raw = np.full(blocks * self.block_bytes + 64, 0xAA, np.uint8)
        start = -raw.ctypes.data % 64
        self.bytes = raw[start : start + blocks * self.block_bytes].reshape(blocks, -1)

    def _part(self, start: int, dtype: np.dtype, shape: tuple[int, ...]) -> np.ndarray:
        """A view [blocks, hkv, *shape] of every page's bytes from `start` on."""
        strides = (self.block_bytes, self.size, *np.empty(shape, dtype).strides)
        whole = (len(self.bytes), self.hkv, *shape)
        return np.ndarray(whole, dtype, self.bytes.data, start, strides)

    @property
    def keys(self) -> np.ndarray:
        """[blocks, hkv, dk / P, 64, P]."""
        p = PER_WORD[self.kv]
        return self._part(0, DTYPE[self.kv], (self.dk // p, BLOCK, p))

    @property
    def values(self) -> np.ndarray:
        """[blocks, hkv, 64 / P, dv, P]."""
        p, start = PER_WORD[self.kv], BLOCK * self.dk * DTYPE[self.kv].itemsize
        return self._part(start, DTYPE[self.kv], (BLOCK // p, self.dv, p))

    @property
    def scales(self) -> np.ndarray:
        """[blocks, hkv, 2, 64]: of keys, of values."""
        return self._part(self.size - 2 * 4 * BLOCK, np.dtype(np.float32), (2, BLOCK))

    def put(self, block: int, place: int, k: np.ndarray, v: np.ndarray) -> None:
        """One token's k [hkv, dk], v [hkv, dv]."""
        p = PER_WORD[self.kv]
        if self.kv == "i8":
            k, self.scales[block, :, 0, place] = code_keys(k)
            v, self.scales[block, :, 1, place] = code_values(v)
            k, v = (k + 128).astype(np.uint8), v.astype(np.int8).view(np.uint8)
        elif self.kv == "bf16":
            k, v = to_bf16(k), to_bf16(v)
        wide = np.zeros((self.hkv, self.dk), DTYPE[self.kv])
        wide[:, : k.shape[1]] = k
        self.keys[block, :, :, place] = wide.reshape(self.hkv, -1, p)
        self.values[block, :, place // p, : v.shape[1], place % p] = v
        self.values[block, :, place // p, v.shape[1] :, place % p] = 0

    def clear_after(self, block: int, place: int) -> None:
        """What a writer does behind a step's last token: the rest of its group of P is 0."""
        p = PER_WORD[self.kv]
        if self.kv == "bf16":
            self.values[block, :, place // p, :, place % p + 1 :] = 0
