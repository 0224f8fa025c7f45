"""Which cached blocks and states hold which tokens: a tree whose paths are the beginnings of texts.

A node stands for the tokens of one block, after those of its parents, and names the block of each
cache group that holds their keys and values. Children are found by the tokens themselves, so a hit
is a comparison of tokens and never a matter of hashes that may collide. Texts of different
namespaces (tenants, adapters) have different roots.

A node whose block was given to somebody else stays while it has children: who computes its tokens
again puts a block back, and its children can be found again.

State of a fixed size is after all tokens or none, so it is there only where a *snapshot* of it was
taken. A node keeps those within the next block, by the tokens between: a beginning with state ends
at one of them. Without cache groups nodes are only the way to snapshots.
"""

from collections.abc import Callable, Iterator, Sequence
from itertools import islice

from msgspec import Struct

from ....artifact.manifest import CacheGroup

NO_BLOCK = -1
_CANDIDATES = 16
"""How many of the latest children are looked through for a common beginning."""


class PrefixNode:
    """`tokens`: at most a block of them; fewer only at the end of a text (and for a root, the name
    of its namespace). `blocks`: per group. `snapshots`: at most a block of tokens behind these, by
    those tokens."""

    __slots__ = ("blocks", "children", "parent", "snapshots", "tokens")

    def __init__(self, parent: "PrefixNode | None", tokens: tuple, groups: int) -> None:
        self.parent = parent
        self.tokens = tokens
        self.blocks = [NO_BLOCK] * groups
        self.children: dict[tuple, PrefixNode] = {}
        self.snapshots: dict[tuple[int, ...], Snapshot] | None = None

    @property
    def is_empty(self) -> bool:
        """Whether it leads to no block and no snapshot."""
        if self.children or self.snapshots:
            return False
        return all(block == NO_BLOCK for block in self.blocks)


class Snapshot(Struct, eq=False):
    """State after the tokens of `parent` and then `tokens`, in a slot. `node`: the child of
    `parent` whose blocks, in each group, hold their keys and values; None if there are no groups.
    """

    slot: int
    parent: PrefixNode
    tokens: tuple[int, ...]
    node: PrefixNode | None


class Match(Struct, frozen=True):
    """`nodes`: whole blocks with the first tokens of a text; `last`: a further node of which the
    first `extra` tokens are the text's next ones, to be copied (None: there is none, or no groups).
    `snapshot`: the state after all of these."""

    nodes: list[PrefixNode]
    last: PrefixNode | None = None
    extra: int = 0
    snapshot: Snapshot | None = None


class PrefixIndex:
    """The trees of all namespaces, for these cache groups of one block size. `drop(snapshot)` is
    told of snapshots that are good for nothing any more."""

    def __init__(
        self,
        groups: Sequence[CacheGroup],
        block_size: int,
        drop: Callable[[Snapshot], None] | None = None,
    ) -> None:
        self._windows = [group.window for group in groups]
        self._block_size = block_size
        self._drop = drop
        self._namespaces = PrefixNode(None, (), len(self._windows))

    def root(self, namespace: str) -> PrefixNode:
        """Where the texts of a namespace begin; in the tree once something is added to it."""
        key = (namespace,)
        known = self._namespaces.children.get(key)
        return known or PrefixNode(self._namespaces, key, len(self._windows))

    def match(self, namespace: str, tokens: Sequence[int], limit: int) -> Match:
        """The longest cached beginning of `tokens`, of at most `limit` tokens."""
        root, size = self.root(namespace), self._block_size
        nodes = self._whole_blocks(root, tokens, limit)
        while nodes and not self._sees_window(nodes, len(nodes) * size):
            nodes.pop()
        end = nodes[-1] if nodes else root
        rest = tuple(tokens[len(nodes) * size : min(limit, (len(nodes) + 1) * size)])
        last, extra = self._longest_beginning(end, rest)
        return Match(nodes, last, extra)

    def match_snapshot(self, namespace: str, tokens: Sequence[int], limit: int) -> Match:
        """The longest beginning of `tokens`, of at most `limit` tokens, after which there is a
        snapshot, and all keys that the next token sees."""
        root, size = self.root(namespace), self._block_size
        nodes = self._whole_blocks(root, tokens, limit)
        for depth in range(len(nodes), -1, -1):
            parent = nodes[depth - 1] if depth else root
            if parent.snapshots:
                rest = tuple(tokens[depth * size : min(limit, (depth + 1) * size)])
                for found in _deepest_first(parent.snapshots, rest):
                    extra, last = len(found.tokens), found.node
                    path = nodes[:depth]
                    if last is None:
                        return Match(path, None, extra, found)
                    if self._sees_window([*path, last], depth * size + extra):
                        if extra == size:
                            return Match([*path, last], None, 0, found)
                        return Match(path, last, extra, found)
        return Match([])

    def _whole_blocks(
        self, node: PrefixNode, tokens: Sequence[int], limit: int
    ) -> list[PrefixNode]:
        """The nodes below this one of as many whole blocks as groups without a window have."""
        size, nodes = self._block_size, []
        for start in range(0, limit - size + 1, size):
            child = node.children.get(tuple(tokens[start : start + size]))
            if child is None or not self._has_full_groups(child):
                break
            nodes.append(child)
            node = child
        return nodes

    def _has_full_groups(self, node: PrefixNode) -> bool:
        return all(
            block != NO_BLOCK or window
            for block, window in zip(node.blocks, self._windows, strict=True)
        )

    def _sees_window(self, nodes: list[PrefixNode], length: int) -> bool:
        """Whether sliding groups have every block that the token after `length` others sees."""
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
        parent = self.attached(parent)
        child = parent.children.get(tokens)
        if child is None:
            child = parent.children[tokens] = PrefixNode(parent, tokens, len(self._windows))
        return child

    def attached(self, node: PrefixNode) -> PrefixNode:
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

    def place(
        self, parent: PrefixNode, tokens: tuple[int, ...], node: PrefixNode | None, slot: int
    ) -> Snapshot:
        """Notes a snapshot where there is none yet."""
        parent = self.attached(parent)
        snapshot = Snapshot(slot, parent, tokens, node)
        if parent.snapshots is None:
            parent.snapshots = {}
        parent.snapshots[tokens] = snapshot
        return snapshot

    def inherit(self, node: PrefixNode) -> None:
        """Gives a node, whose tokens are now known to be in blocks, the snapshots that were in
        shorter ones with the same beginning."""
        assert node.parent is not None
        for snapshot in (node.parent.snapshots or {}).values():
            old = snapshot.node
            assert old is not None
            shorter = len(old.tokens) < len(node.tokens)
            if shorter and node.tokens[: len(old.tokens)] == old.tokens:
                snapshot.node = node

    def remove(self, snapshot: Snapshot) -> None:
        """Forgets a snapshot."""
        assert snapshot.parent.snapshots is not None
        del snapshot.parent.snapshots[snapshot.tokens]
        self._prune(snapshot.parent)

    def forget(self, node: PrefixNode, group: int) -> None:
        """The block of a node in one group holds something else now. (Snapshots within it are of no
        use without.)"""
        node.blocks[group] = NO_BLOCK
        parent = node.parent
        if parent is not None and parent.snapshots and self._drop is not None:
            for snapshot in [one for one in parent.snapshots.values() if one.node is node]:
                del parent.snapshots[snapshot.tokens]
                self._drop(snapshot)
        self._prune(node)

    def _prune(self, node: PrefixNode) -> None:
        while node.parent is not None and node.is_empty:
            if node.parent.children.get(node.tokens) is node:
                del node.parent.children[node.tokens]
            node = node.parent


def _deepest_first(
    snapshots: dict[tuple[int, ...], Snapshot], rest: tuple[int, ...]
) -> Iterator[Snapshot]:
    """Those whose tokens are the first of `rest`."""
    for length in range(len(rest), 0, -1):
        found = snapshots.get(rest[:length])
        if found is not None:
            yield found


def common_length(a: tuple[int, ...], b: tuple[int, ...]) -> int:
    """How many tokens the beginnings of both have in common."""
    shorter = min(len(a), len(b))
    if a[:shorter] == b[:shorter]:
        return shorter
    return next(i for i in range(shorter) if a[i] != b[i])
