"""The paged cache: blocks have the users they should, and a prefix is found only where the tokens
are equal and their keys and values are really there."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule
from llmc.artifact.manifest import CacheGroup
from llmc.runtime.engine.cache.block_pool import FREED, BlockPool, blocks_needed
from llmc.runtime.engine.cache.manager import CacheManager
from llmc.runtime.engine.cache.prefix_tree import NO_BLOCK, PrefixNode, common_length

pytestmark = pytest.mark.fast

SIZE, MAX_QUERY = 4, 10


def group(window: int, block_size: int = SIZE) -> CacheGroup:
    return CacheGroup(
        name=f"w{window}",
        kind="sliding" if window else "full",
        window=window,
        layers=1,
        kv_heads=1,
        key_dim=1,
        value_dim=1,
        dtype="f32",
        block_size=block_size,
        bytes_per_block=256,
    )


@given(st.lists(st.integers(0, 60), max_size=80))
def test_a_block_is_free_used_or_kept(actions):
    forgotten = []
    pool, held, kept = BlockPool(8, forgotten.append), [], []
    for action in actions:
        if action % 3 == 0 and pool.available:
            held.append(pool.allocate())
        elif action % 3 == 1 and held:
            block = held.pop(action % len(held))
            if action % 2 and block not in kept:
                pool.describe(block, PrefixNode(None, (), 1))
            pool.release(block)
        elif held:
            pool.share(held[action % len(held)])
            held.append(held[action % len(held)])
        assert pool.used == len(set(held))
        assert pool.available == 8 - len(set(held))
        assert all(pool.is_used(block) for block in held)
    for block in held:
        pool.release(block)
    assert sorted(pool.allocate() for _ in range(8)) == list(range(8))
    assert pool.kept == 0


def test_kept_blocks_are_given_out_last_and_the_oldest_first():
    forgotten = []
    pool = BlockPool(3, forgotten.append)
    nodes = [PrefixNode(None, (n,), 1) for n in range(3)]
    blocks = [pool.allocate() for _ in range(3)]
    for block in (0, 1):
        pool.describe(blocks[block], nodes[block])
    for block in blocks:
        pool.release(block)
    assert pool.allocate() == 2
    pool.touch(0)
    assert pool.allocate() == 1
    assert forgotten == [nodes[1]]
    assert pool.allocate() == 0
    with pytest.raises(KeyError):
        pool.allocate()
    pool.release(0)
    with pytest.raises(ValueError, match="twice"):
        pool.release(0)


@given(
    window=st.sampled_from([0, 1, 2, 31, 32, 33, 100]),
    length=st.integers(1, 400),
    chunks=st.lists(st.integers(1, 70), min_size=1, max_size=30),
)
def test_a_growing_sequence_never_needs_more_than_was_said(window, length, chunks):
    cache = CacheManager((group(window, 32),), (64,), max_query=70, prefixes=False)
    granted = cache.admit([1] * length)
    assert granted is not None
    hold, computed = granted
    while computed < length:
        count = min(chunks[computed % len(chunks)], length - computed)
        assert cache.grow(hold, computed, computed + count)
        table = hold.tables[0]
        oldest = max(0, computed - window + 1) if window else 0
        visible = {p // 32 for p in range(oldest, computed + count)}
        assert all(table[column] != FREED for column in visible)
        live = [block for block in table if block != FREED]
        assert len(live) == len(set(live)) == cache.pools[0].used
        assert len(live) <= blocks_needed(group(window, 32), length, 70)
        computed += count
    cache.release(hold, [1] * length, computed)
    assert cache.pools[0].available == 64
    assert cache.pools[0].kept == 0


def test_too_few_blocks_change_nothing():
    cache = CacheManager((group(0), group(0)), (4, 2), MAX_QUERY)
    granted = cache.admit([1] * 5)
    assert granted is not None
    assert not cache.grow(granted[0], 0, 3 * SIZE)
    assert [pool.used for pool in cache.pools] == [0, 0]
    assert cache.admit([2] * 3 * SIZE) is None
    assert not cache.can_ever_admit(3 * SIZE)


def test_spare_blocks_are_those_that_nobody_was_promised_and_come_back():
    cache = CacheManager((group(0), group(0)), (6, 9), MAX_QUERY)
    hold, _ = computed(cache, [1] * SIZE)
    assert cache.admit([2] * 3 * SIZE) is not None
    assert cache.grow_spare(hold, SIZE) == SIZE
    assert cache.grow_spare(hold, 3 * SIZE - 1) == 3 * SIZE - 1
    assert cache.grow_spare(hold, 9 * SIZE) == 3 * SIZE  # 6 blocks less 1 used, 3 promised
    assert [pool.used for pool in cache.pools] == [3, 3]
    cache.trim(hold, SIZE + 1)
    assert [pool.used for pool in cache.pools] == [2, 2]
    assert cache.grow_spare(hold, 2 * SIZE) == 2 * SIZE
    assert [pool.used for pool in cache.pools] == [2, 2]


def test_admitted_prompts_are_not_promised_the_same_blocks():
    cache = CacheManager((group(0),), (4,), MAX_QUERY)
    assert cache.admit([1] * 3 * SIZE) is not None
    assert cache.admit([2] * 2 * SIZE) is None
    assert cache.admit([2] * SIZE) is not None


def computed(cache: CacheManager, tokens: list[int], **options):
    """A sequence that is admitted and computed at once."""
    granted = cache.admit(tokens, **options)
    assert granted is not None
    hold, cached = granted
    assert cache.grow(hold, cached, len(tokens))
    cache.record(hold, tokens, len(tokens))
    return hold, cached


def test_a_second_text_finds_the_beginning_of_the_first():
    cache = CacheManager((group(0),), (20,), MAX_QUERY)
    text = list(range(11))
    hold, cached = computed(cache, text)
    assert cached == 0
    again, cached = computed(cache, [*text[:8], 50, 51])
    assert cached == 8
    assert again.tables[0][:2] == hold.tables[0][:2]
    cache.release(hold, text, 11)
    _, cached = computed(cache, [*text, 60])
    assert cached == 11  # the last block isn't full: it is copied
    assert len(cache.take_copies().blocks) == 1
    _, cached = computed(cache, text)
    assert cached == 10  # one token must be computed


def test_a_namespace_is_apart():
    cache = CacheManager((group(0),), (20,), MAX_QUERY)
    hold, _ = computed(cache, [1] * 9, namespace="a")
    cache.release(hold, [1] * 9, 9)
    assert computed(cache, [1] * 9, namespace="b")[1] == 0
    assert computed(cache, [1] * 9, namespace="a")[1] == 8


def test_namespaces_without_blocks_leave_nothing_behind():
    cache = CacheManager((group(0),), (4,), MAX_QUERY)
    for number in range(100):
        hold, _ = computed(cache, [1] * 9, namespace=str(number))
        cache.release(hold, [1] * 9, 9)
    assert len(cache.index._namespaces.children) <= 4


def test_a_forgotten_beginning_is_found_again_once_it_is_computed_again():
    cache = CacheManager((group(0),), (4,), MAX_QUERY)
    text = list(range(9))
    first, _ = computed(cache, text)
    cache.release(first, text, 9)
    other, _ = computed(cache, [100] * 13)  # needs all blocks
    assert cache.admit(text) is None
    cache.release(other, [100] * 13, 13)
    hold, cached = computed(cache, text)
    assert cached == 0
    cache.release(hold, text, 9)
    assert computed(cache, text)[1] == 8


@given(st.lists(st.integers(0, 2)), st.lists(st.integers(0, 2)))
def test_common_length(a, b):
    length = common_length(tuple(a), tuple(b))
    assert a[:length] == b[:length]
    assert length == min(len(a), len(b)) or a[length] != b[length]


class Cache(RuleBasedStateMachine):
    """Sequences over few tokens, so that beginnings are often equal. `content` is what a program
    would have written: per group and block, the text up to and including each position."""

    @initialize(windows=st.sampled_from([(0,), (0, 5), (6,), (0, 1, 9)]), blocks=st.integers(6, 16))
    def begin(self, windows, blocks):
        self.groups = tuple(group(window) for window in windows)
        self.cache = CacheManager(self.groups, (blocks,) * len(windows), MAX_QUERY)
        self.content = [[[()] * SIZE for _ in range(blocks)] for _ in windows]
        self.running = []

    @rule(
        tokens=st.lists(st.integers(0, 1), min_size=1, max_size=30),
        namespace=st.sampled_from(["", "x"]),
        reserve=st.integers(0, 2),
    )
    def admit(self, tokens, namespace, reserve):
        granted = self.cache.admit(tokens, namespace=namespace, reserve=reserve)
        if granted is not None:
            hold, cached = granted
            assert cached < len(tokens)
            for g, source, target in self.cache.take_copies().blocks:
                self.content[g][target] = list(self.content[g][source])
            self.running.append([hold, list(tokens), cached, namespace])

    @precondition(lambda self: self.running)
    @rule(data=st.data(), count=st.integers(1, MAX_QUERY), new=st.integers(0, 1))
    def compute(self, data, count, new):
        sequence = data.draw(st.sampled_from(self.running))
        hold, tokens, done, namespace = sequence
        if done == len(tokens):
            tokens.append(new)
        end = min(done + count, len(tokens))
        if not self.cache.grow(hold, done, end):
            return
        for position in range(done, end):
            for g in range(len(self.groups)):
                block = hold.tables[g][position // SIZE]
                self.content[g][block][position % SIZE] = self._text(namespace, tokens, position)
        self._check_visible(sequence, end)
        sequence[2] = end
        self.cache.record(hold, tokens, end)

    @precondition(lambda self: self.running)
    @rule(
        data=st.data(),
        drafts=st.lists(st.integers(0, 1), min_size=1, max_size=MAX_QUERY - 1),
        right=st.integers(0, MAX_QUERY),
    )
    def guess(self, data, drafts, right):
        """A decoding step with drafts, the first `right` of which turn out to be right."""
        sequence = data.draw(st.sampled_from(self.running))
        hold, tokens, done, namespace = sequence
        if done != len(tokens) or not self.cache.grow(hold, done, done + 1):
            return
        tokens.append(0)
        before = [pool.available for pool in self.cache.pools]
        room = self.cache.grow_spare(hold, done + 1 + len(drafts)) - done - 1
        assert 0 <= room <= len(drafts)
        for pool, promised, free in zip(
            self.cache.pools, self.cache._blocks.promised, before, strict=True
        ):
            assert pool.available == free or pool.available >= promised
        written = [*tokens, *drafts[:room]]
        for position in range(done, len(written)):
            for g in range(len(self.groups)):
                block = hold.tables[g][position // SIZE]
                self.content[g][block][position % SIZE] = self._text(namespace, written, position)
        tokens += drafts[: min(right, room)]
        sequence[2] = len(tokens)
        self.cache.record(hold, tokens, len(tokens))
        self.cache.trim(hold, len(tokens))
        assert {len(table) for table in hold.tables} == {-(-len(tokens) // SIZE)}

    @staticmethod
    def _text(namespace, tokens, position):
        return (namespace, *tokens[: position + 1])

    def _check_visible(self, sequence, end):
        hold, tokens, done, namespace = sequence
        for g, one in enumerate(self.groups):
            first = max(0, done - one.window + 1) if one.window else 0
            for position in range(first, end):
                block = hold.tables[g][position // SIZE]
                assert block != FREED
                seen = self.content[g][block][position % SIZE]
                assert seen == self._text(namespace, tokens, position), "not what was written"

    @precondition(lambda self: self.running)
    @rule(data=st.data())
    def share(self, data):
        hold, tokens, done, _ = data.draw(st.sampled_from(self.running))
        self.cache.record_end(hold, tokens, done)

    @precondition(lambda self: self.running)
    @rule(data=st.data())
    def leave(self, data):
        sequence = data.draw(st.sampled_from(self.running))
        self.running.remove(sequence)
        self.cache.release(*sequence[:3])

    @invariant()
    def blocks_have_their_users(self):
        for g, pool in enumerate(self.cache.pools if self.running is not None else ()):
            used = {b for hold, *_ in self.running for b in hold.tables[g] if b != FREED}
            assert pool.used == len(used)
            assert all(pool.is_used(block) for block in used)
            for block, node in enumerate(pool._nodes):
                if node is not None:
                    assert node.blocks[g] == block

    @invariant()
    def indexed_blocks_hold_what_the_index_says(self):
        def walk(node, text):
            for child in node.children.values():
                assert child.parent is node
                longer = text + list(child.tokens)
                for g, block in enumerate(child.blocks):
                    if block != NO_BLOCK:
                        for place in range(len(child.tokens)):
                            assert self.content[g][block][place] == tuple(
                                longer[: len(text) + place + 1]
                            )
                walk(child, longer)

        walk(self.cache.index._namespaces, [])

    def teardown(self):
        if getattr(self, "running", None) is not None:
            for sequence in self.running:
                self.cache.release(*sequence[:3])
            assert [p.used for p in self.cache.pools] == [0] * len(self.groups)
            assert self.cache._blocks.promised == [0] * len(self.groups)


Cache.TestCase.settings = settings(deadline=None, max_examples=120, stateful_step_count=40)
TestCache = Cache.TestCase
