"""Which cached blocks hold which tokens: a tree whose paths are the beginnings of texts.

A node stands for the tokens of one block, after those of its parents, and names the block of each
cache group that holds their keys and values. Children are found by the tokens themselves, so a hit
is a comparison of tokens and never a matter of hashes that may collide. Texts of different
namespaces (tenants, adapters) have different roots.

A node whose block was given to somebody else stays while it has children: who computes its tokens
again puts a block back, and its children can be found again.
"""

from collections.abc import Sequence
from itertools import islice

from msgspec import Struct

from ....artifact.manifest import CacheGroup

NO_BLOCK = -1
_CANDIDATES = 16
"""How many of the latest children are looked through for a common beginning."""


class PrefixNode:
    """`tokens`: at most a block of them; fewer only at the end of a text (and for a root, the name
    of its namespace). `blocks`: per group."""

    __slots__ = ("blocks", "children", "parent", "tokens")

    def __init__(self, parent: "PrefixNode | None", tokens: tuple, groups: int) -> None:
        self.parent = parent
        self.tokens = tokens
        self.blocks = [NO_BLOCK] * groups
        self.children: dict[tuple, PrefixNode] = {}

    @property
    def is_empty(self) -> bool:
        """Whether it leads to no block."""
        return not self.children and all(block == NO_BLOCK for block in self.blocks)


class Match(Struct, frozen=True):
    """`nodes`: whole blocks with the first tokens of a text; `last`: a further node of which the
    first `extra` tokens are the text's next ones (0: none), to be copied."""

    nodes: list[PrefixNode]
    last: PrefixNode | None = None
    extra: int = 0


class PrefixIndex:
    """The trees of all namespaces, for these cache groups of one block size."""

    def __init__(self, groups: Sequence[CacheGroup], block_size: int) -> None:
        self._windows = [group.window for group in groups]
        self._block_size = block_size
        self._namespaces = PrefixNode(None, (), len(self._windows))

    def root(self, namespace: str) -> PrefixNode:
        """Where the texts of a namespace begin; in the tree once something is added to it."""
        key = (namespace,)
        known = self._namespaces.children.get(key)
        return known or PrefixNode(self._namespaces, key, len(self._windows))

    def match(self, namespace: str, tokens: Sequence[int], limit: int) -> Match:
        """The longest cached beginning of `tokens`, of at most `limit` tokens."""
        root = node = self.root(namespace)
        size, nodes = self._block_size, []
        for start in range(0, limit - size + 1, size):
            node = node.children.get(tuple(tokens[start : start + size]))
            if node is None or not self._has_full_groups(node):
                break
            nodes.append(node)
        while nodes and not self._sees_window(nodes):
            nodes.pop()
        end = nodes[-1] if nodes else root
        rest = tuple(tokens[len(nodes) * size : min(limit, (len(nodes) + 1) * size)])
        last, extra = self._longest_beginning(end, rest)
        return Match(nodes, last, extra)

    def _has_full_groups(self, node: PrefixNode) -> bool:
        return all(
            block != NO_BLOCK or window
            for block, window in zip(node.blocks, self._windows, strict=True)
        )

    def _sees_window(self, nodes: list[PrefixNode]) -> bool:
        """Whether sliding groups have every block that the next token sees."""
        length = len(nodes) * self._block_size
        for group, window in enumerate(self._windows):
            if window:
                first = max(0, length - (window - 1)) // self._block_size
                if any(node.blocks[group] == NO_BLOCK for node in nodes[first:]):
                    return False
        return True

    def _longest_beginning(
        self, parent: PrefixNode, rest: tuple[int, ...]
    ) -> tuple[PrefixNode | None, int]:
        best, extra = None, 0
        for child in islice(reversed(parent.children.values()), _CANDIDATES):
            if NO_BLOCK not in child.blocks:
                common = common_length(child.tokens, rest)
                if common > extra:
                    best, extra = child, common
        return best, extra

    def add(self, parent: PrefixNode, tokens: tuple[int, ...]) -> PrefixNode:
        """The child of `parent` for these tokens, made if it isn't there."""
        parent = self._attached(parent)
        child = parent.children.get(tokens)
        if child is None:
            child = parent.children[tokens] = PrefixNode(parent, tokens, len(self._windows))
        return child

    def _attached(self, node: PrefixNode) -> PrefixNode:
        """The node in the tree that stands for the same beginning as `node`, which may have been
        forgotten meanwhile: it was empty, and so may be its parents, but nothing above those."""
        forgotten = []
        while node.parent is not None and node.parent.children.get(node.tokens) is not node:
            forgotten.append(node)
            node = node.parent
        for below in reversed(forgotten):
            below.parent = node
            node = node.children.setdefault(below.tokens, below)
        return node

    def forget(self, node: PrefixNode, group: int) -> None:
        """The block of a node in one group holds something else now."""
        node.blocks[group] = NO_BLOCK
        while node.parent is not None and node.is_empty:
            if node.parent.children.get(node.tokens) is node:
                del node.parent.children[node.tokens]
            node = node.parent


def common_length(a: tuple[int, ...], b: tuple[int, ...]) -> int:
    """How many tokens the beginnings of both have in common."""
    shorter = min(len(a), len(b))
    if a[:shorter] == b[:shorter]:
        return shorter
    return next(i for i in range(shorter) if a[i] != b[i])
