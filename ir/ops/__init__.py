"""The ops of the IR, grouped by what they compute. Importing this registers all of them."""

from .attention import (
    CACHE_BLOCK,
    Attention,
    CacheWrite,
    CausalMask,
    LogitsRows,
    PagedAttention,
    Rotary,
)
from .base import OPS, TORCH_DTYPE, Op
from .body import BodyOp, OpBody
from .call import Call
from .convolution import CausalConv, CausalConvUpdate
from .elementwise import BINARY, UNARY, Binary, Cast, Unary, Where
from .head_linear import HeadLinear
from .key_index import (
    KeyIndex,
    KeyIndexWrite,
    PagedKeyIndex,
    SelectedAttention,
    TopTokens,
)
from .latent import LatentAttention, LatentWrite, PagedLatentAttention
from .linear import CombineExperts, GroupedLinear, Linear, QuantizeRows, RouteTokens
from .norm import Norm
from .recurrence import (
    LinearRecurrence,
    LinearRecurrenceUpdate,
    SelectiveScan,
    SelectiveScanUpdate,
)
from .reduction import CumSum, MatMul, Reduce, Softmax, TopK
from .shape import (
    Concat,
    Embedding,
    Expand,
    Full,
    Gather,
    Iota,
    Permute,
    Reshape,
    Scatter,
    Slice,
    TokenCount,
)
from .slots import LENGTH, SlotAttention, SlotWrite
from .token_recurrence import Recurrence, RecurrenceUpdate

__all__ = [
    "BINARY", "CACHE_BLOCK", "LENGTH", "OPS", "TORCH_DTYPE", "UNARY",
    "Attention", "Binary", "BodyOp", "CacheWrite", "Call", "Cast", "CausalConv",
    "CausalConvUpdate", "CausalMask", "CombineExperts", "Concat", "CumSum", "Embedding", "Expand",
    "Full", "Gather", "GroupedLinear", "HeadLinear", "Iota", "KeyIndex", "KeyIndexWrite",
    "LatentAttention", "LatentWrite", "Linear", "LinearRecurrence", "LinearRecurrenceUpdate",
    "LogitsRows", "MatMul", "Norm", "Op", "OpBody", "PagedAttention", "PagedKeyIndex",
    "PagedLatentAttention", "Permute", "QuantizeRows", "Recurrence", "RecurrenceUpdate", "Reduce",
    "Reshape", "Rotary", "RouteTokens", "Scatter", "SelectedAttention", "SelectiveScan",
    "SelectiveScanUpdate", "Slice", "SlotAttention", "SlotWrite", "Softmax", "TokenCount", "TopK",
    "TopTokens", "Unary", "Where",
]  # fmt: skip
