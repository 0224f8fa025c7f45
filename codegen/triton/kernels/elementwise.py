"""Scalar functions of generated kernels, with torch's results; each takes and gives tiles.

`expressions.py` says which op calls which; generated modules import those that they call.
Float functions take f32. Triton's own `exp` is a few ulp off for large arguments and it has no
`expm1`, `log1p`, `tanh`, `pow` and exact `fmod`: NVIDIA's libdevice does these, or with `PORTABLE`
plain Triton. Integer arithmetic wraps; division of an integer by 0 gives 0.
"""

import triton
import triton.language as tl
from triton.language.extra import libdevice


@triton.jit
def exp(x, PORTABLE: tl.constexpr):
    return tl.exp(x) if PORTABLE else libdevice.exp(x)


@triton.jit
def expm1(x, PORTABLE: tl.constexpr):
    if PORTABLE:
        # (u - 1) * x / log(u): the rounding error of u = exp(x) cancels (Kahan).
        u = tl.exp(x)
        plain = (u == 1) | (x > 80) | (x < -20)
        safe = tl.where(plain, 2.0, u)
        y = tl.div_rn((safe - 1) * x, tl.log(safe))
        y = tl.where(u == 1, x, tl.where(x > 80, u, tl.where(x < -20, -1.0, y)))
    else:
        y = libdevice.expm1(x)
    return y


@triton.jit
def log1p(x, PORTABLE: tl.constexpr):
    if PORTABLE:
        u = 1 + x
        plain = (u == 1) | (u == float("inf"))
        safe = tl.where(plain, 2.0, u)
        y = tl.where(plain, x, tl.div_rn(tl.log(safe) * x, safe - 1))
    else:
        y = libdevice.log1p(x)
    return y


@triton.jit
def tanh(x, PORTABLE: tl.constexpr):
    if PORTABLE:
        t = expm1(-2 * tl.abs(x), PORTABLE)
        y = tl.div_rn(-t, t + 2)
        y = tl.where(x < 0, -y, y)
    else:
        y = libdevice.tanh(x)
    return y


@triton.jit
def sigmoid(x, PORTABLE: tl.constexpr):
    return tl.div_rn(tl.full([], 1.0, tl.float32), 1 + exp(-x, PORTABLE))


@triton.jit
def silu(x, PORTABLE: tl.constexpr):
    return tl.div_rn(x, 1 + exp(-x, PORTABLE))


@triton.jit
def elu(x, PORTABLE: tl.constexpr):
    return tl.where(x > 0, x, expm1(x, PORTABLE))


@triton.jit
def selu(x, PORTABLE: tl.constexpr):
    return 1.05070098 * tl.where(x > 0, x, 1.67326324 * expm1(x, PORTABLE))


@triton.jit
def softplus(x, PORTABLE: tl.constexpr):
    return tl.where(x > 20, x, log1p(exp(x, PORTABLE), PORTABLE))


@triton.jit
def mish(x, PORTABLE: tl.constexpr):
    return x * tanh(softplus(x, PORTABLE), PORTABLE)


@triton.jit
def gelu(x):
    return 0.5 * x * (1 + tl.erf(x * 0.70710678))


@triton.jit
def gelu_tanh(x, PORTABLE: tl.constexpr):
    return 0.5 * x * (1 + tanh(0.79788456 * (x + 0.044715 * x * x * x), PORTABLE))


@triton.jit
def clip6(x):
    return tl.where(x < 0, 0.0, tl.where(x > 6, 6.0, x))  # NaN stays


@triton.jit
def hardsigmoid(x):
    return tl.div_rn(clip6(x + 3), tl.full([], 6.0, tl.float32))


@triton.jit
def hardswish(x):
    return tl.div_rn(x * clip6(x + 3), tl.full([], 6.0, tl.float32))


@triton.jit
def reciprocal(x):
    return tl.div_rn(tl.full([], 1.0, tl.float32), x)


@triton.jit
def rsqrt(x):
    return reciprocal(tl.sqrt_rn(x))


@triton.jit
def tan(x):
    return tl.div_rn(tl.sin(x), tl.cos(x))


@triton.jit
def relu(x):
    return tl.where(x < 0, tl.zeros_like(x), x)  # NaN stays


@triton.jit
def relu2(x):
    y = relu(x)
    return y * y


@triton.jit
def sign(x):
    return (x > 0).to(x.dtype) - (x < 0).to(x.dtype)


@triton.jit
def trunc(x):
    return tl.where(x < 0, tl.ceil(x), tl.floor(x))


@triton.jit
def round(x):
    """Half to even: above 2**23 a float has no fraction, so adding that rounds it away."""
    away = tl.where(x < 0, -8388608.0, 8388608.0)
    return tl.where(tl.abs(x) < 8388608.0, (x + away) - away, x)


@triton.jit
def maximum(a, b):
    """NaN if either is."""
    return tl.where((a != a) | (a > b), a, b)


@triton.jit
def minimum(a, b):
    return tl.where((a != a) | (a < b), a, b)


@triton.jit
def product(a, b):
    return a * b


@triton.jit
def fmod(a, b, PORTABLE: tl.constexpr):
    """The sign of a; exact."""
    return a % b if PORTABLE else libdevice.fmod(a, b)


@triton.jit
def remainder(a, b, PORTABLE: tl.constexpr):
    """The sign of b."""
    r = fmod(a, b, PORTABLE)
    return tl.where((r != 0) & ((r < 0) != (b < 0)), r + b, r)


@triton.jit
def floor_divide(a, b, PORTABLE: tl.constexpr):
    """Through the remainder: exact where a / b would round up to a whole number."""
    r = fmod(a, b, PORTABLE)
    q = tl.div_rn(a - r, b)
    q = tl.where((r != 0) & ((r < 0) != (b < 0)), q - 1, q)
    whole = tl.floor(q)
    whole = tl.where(q - whole > 0.5, whole + 1, whole)
    return tl.where(b == 0, tl.div_rn(a, b), whole)


@triton.jit
def pow(a, b, PORTABLE: tl.constexpr):
    if PORTABLE:
        x, n = tl.abs(a).to(tl.float64), b.to(tl.float64)
        y = tl.exp2(n * tl.log2(x))
        half = tl.floor(n * 0.5) * 2
        is_whole = tl.floor(n) == n
        y = tl.where(
            (a < 0) & (x < float("inf")) & (tl.abs(n) < float("inf")) & ~is_whole, float("nan"), y
        )
        y = tl.where((a < 0) & is_whole & (n - half == 1), -y, y)
        y = tl.where((n == 0) | (a == 1) | ((x == 1) & (tl.abs(n) == float("inf"))), 1.0, y)
        y = y.to(tl.float32)
    else:
        y = libdevice.pow(a, b)
    return y


@triton.jit
def atan2(y, x):
    """atan of the smaller over the larger, halved three times so that few terms do it."""
    a, b = tl.abs(y), tl.abs(x)
    small, large = tl.minimum(a, b), tl.maximum(a, b)
    one = tl.full([], 1.0, tl.float32)
    both = (large == float("inf")) & (small == large)
    t = tl.div_rn(small, tl.where((large == 0) | both, one, large))
    t = tl.where(both, one, t)
    for _ in range(3):
        t = tl.div_rn(t, 1 + tl.sqrt_rn(1 + t * t))
    s = t * t
    t = 8 * t * (1 - s * (0.33333333 - s * (0.2 - s * (0.14285714 - s * 0.11111111))))
    t = tl.where(a > b, 1.57079633 - t, t)
    t = tl.where(x < 0, 3.14159265 - t, t)
    t = tl.where(y < 0, -t, t)
    return tl.where((x != x) | (y != y), x + y, t)


@triton.jit
def int_fmod(a, b):
    none = b == 0
    return tl.where(none, tl.zeros_like(a), a % tl.where(none, tl.full([], 1, b.dtype), b))


@triton.jit
def int_remainder(a, b):
    r = int_fmod(a, b)
    return tl.where((r != 0) & ((r < 0) != (b < 0)), r + b, r)


@triton.jit
def int_floor_divide(a, b):
    none = b == 0
    safe = tl.where(none, tl.full([], 1, b.dtype), b)
    q = a // safe
    q = tl.where((a % safe != 0) & ((a < 0) != (safe < 0)), q - 1, q)
    return tl.where(none, tl.zeros_like(q), q)


@triton.jit
def int_pow(a, b, WIDTH: tl.constexpr):
    """By squaring; negative exponents leave 1 and -1 only."""
    one = tl.full([], 1, a.dtype)
    y = tl.where(a == a, one, a)
    base, n = a, b
    for _ in range(WIDTH):
        y = tl.where((n & 1) != 0, y * base, y)
        base = base * base
        n = tl.where(n < 0, n, n >> 1)
    negative = tl.where(a == 1, one, tl.where(a == -1, 1 - 2 * (b & 1), tl.zeros_like(a)))
    return tl.where(b < 0, negative, y)


@triton.jit
def shift_left(a, b, WIDTH: tl.constexpr):
    past = (b < 0) | (b >= WIDTH)
    return tl.where(past, tl.zeros_like(a), a << tl.where(past, tl.zeros_like(b), b))


@triton.jit
def shift_right(a, b, WIDTH: tl.constexpr):
    """Arithmetic; shifts past the width leave the sign."""
    past = (b < 0) | (b >= WIDTH)
    return a >> tl.where(past, tl.full([], WIDTH - 1, b.dtype), b)


@triton.jit
def order_of_float(x):
    """An i32 that orders as top-k does: NaN above all numbers, both zeros alike."""
    bits = tl.where(x == 0, tl.zeros_like(x), x).to(tl.int32, bitcast=True)
    order = tl.where(bits < 0, bits ^ 0x7FFFFFFF, bits)
    return tl.where(x != x, tl.full([], 0x7FFFFFFF, tl.int32), order)
