"""Slots of state: each has one owner, and a sequence goes on only from a state that is its own."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule
from llmc.artifact.manifest import CacheGroup
from llmc.runtime.engine.cache.block_pool import FREED
from llmc.runtime.engine.cache.manager import CacheManager
from llmc.runtime.engine.cache.prefix_tree import NO_BLOCK, PrefixNode, Snapshot
from llmc.runtime.engine.cache.snapshot_places import SnapshotPlaces
from llmc.runtime.engine.cache.state_pool import StatePool

pytestmark = pytest.mark.fast

SIZE, MAX_QUERY, TURN = 4, 10, 9
PLACES = SnapshotPlaces(frozenset({TURN}), least=3, interval=8, near=2, lasting=12)


def group(window: int) -> CacheGroup:
    return CacheGroup(
        name=f"w{window}",
        kind="sliding" if window else "full",
        window=window,
        layers=1,
        kv_heads=1,
        key_dim=1,
        value_dim=1,
        dtype="f32",
        block_size=SIZE,
        bytes_per_block=256,
    )


@given(st.lists(st.integers(0, 99), max_size=120))
def test_a_slot_is_free_used_or_a_snapshot(actions):
    forgotten: list[Snapshot] = []
    pool, held = StatePool(6, forgotten.append), []
    kept: list[Snapshot] = []
    for action in actions:
        if action % 4 == 0 and pool.available:
            held.append(pool.allocate())
        elif action % 4 == 1 and held:
            pool.release(held.pop(action % len(held)))
        elif action % 4 == 2 and held:
            slot = held.pop(action % len(held))
            kept.append(Snapshot(slot, PrefixNode(None, (), 0), (), None))
            pool.keep(slot, kept[-1], first_to_go=action % 8 == 2)
        elif kept and action % 8 == 3:
            held.append(pool.allocate_from(kept[action % len(kept)]))
        elif kept:
            pool.drop(kept.pop(action % len(kept)))
        kept = [snapshot for snapshot in kept if snapshot not in forgotten]
        slots = [*held, *(snapshot.slot for snapshot in kept)]
        assert len(set(slots)) == len(slots)
        assert (pool.used, pool.kept) == (len(held), len(kept))
        assert pool.available == 6 - len(held)
    for slot in held:
        pool.release(slot)
    assert sorted(pool.allocate() for _ in range(6)) == list(range(6))
    assert pool.kept == 0


def test_snapshots_are_given_up_by_use():
    forgotten: list[Snapshot] = []
    pool = StatePool(3, forgotten.append)
    snapshots = [Snapshot(pool.allocate(), PrefixNode(None, (), 0), (), None) for _ in range(3)]
    for snapshot in snapshots[:2]:
        pool.keep(snapshot.slot, snapshot)
    pool.keep(2, snapshots[2], first_to_go=True)
    assert pool.allocate_from(snapshots[0]) == 2  # the first to go, and a copy of what was asked
    assert pool.copies == [(0, 2)]
    assert pool.allocate() == 1
    assert pool.allocate_from(snapshots[0]) == 0  # nothing else is left: it is taken over
    assert pool.copies == [(0, 2)]
    assert forgotten == [snapshots[2], snapshots[1], snapshots[0]]
    assert (pool.counts.taken, pool.counts.used, pool.counts.evicted) == (3, 2, 3)


def places_of(length: int, turns: list[int], computed: int = 0, **changes: int) -> list[int]:
    """Where snapshots are taken of a prompt in which turns end at these positions."""
    tokens = [TURN if place in turns else 0 for place in range(1, length + 1)]
    return SnapshotPlaces(frozenset({TURN}), **changes).of(tokens, computed)


def test_chunks_end_where_later_texts_part_from_this_one():
    assert places_of(500, [100, 200, 300, 400, 496]) == [100, 400, 496]
    assert places_of(500, [100]) == [100, 499]
    assert places_of(500, [30, 100]) == [100, 499]  # what is short is computed again
    assert places_of(70, []) == [70]  # a step of its own would be a large part of so few
    assert places_of(40, [20]) == []
    assert places_of(3000, []) == [1024, 2048, 2999]
    assert places_of(3000, [1000]) == [1000, 2048, 2999]
    assert places_of(3000, [1000], computed=2048) == [2999]


def test_what_was_just_gone_on_from_is_not_taken_again():
    """A second turn goes on from the end of the first, one token before its turn ends."""
    assert places_of(8300, [300, 8200, 8296], computed=8199) == [8296]


@given(st.sets(st.integers(1, 4000), max_size=6), st.integers(64, 4000), st.integers(0, 3999))
def test_of_a_beginning_that_ends_at_a_turn_hardly_anything_is_computed_again(turns, length, start):
    ends = sorted(place for place in turns if 64 <= place < length)
    places = places_of(length, sorted(turns), computed=start)
    assert places == sorted(set(places))
    assert all(start < place <= length for place in places)
    for turn in {*ends[:1], *ends[-2:]}:
        reused = max((place for place in (start, *places) if place <= turn), default=0)
        assert turn <= start or turn - reused <= min(16, turn // 20)


def manager(*windows: int, blocks: int = 20, slots: int = 8) -> CacheManager:
    groups = tuple(group(window) for window in windows)
    sizes = (blocks,) * len(groups)
    return CacheManager(groups, sizes, MAX_QUERY, block_size=SIZE, slots=slots, places=PLACES)


def begin(cache: CacheManager, tokens: list[int]):
    granted = cache.admit(tokens)
    assert granted is not None
    return granted


def compute(cache: CacheManager, hold, tokens: list[int], start: int, end: int) -> None:
    """Steps of at most `MAX_QUERY` tokens, and what comes after each."""
    for position in range(start, end, MAX_QUERY):
        until = min(position + MAX_QUERY, end)
        assert cache.grow(hold, position, until)
        cache.take_copies()
        cache.record(hold, tokens, until)


def run(cache: CacheManager, tokens: list[int]) -> int:
    """A sequence from its admission to its end. Returns how much of it was there."""
    hold, cached = begin(cache, tokens)
    compute(cache, hold, tokens, cached, len(tokens))
    cache.release(hold, tokens, len(tokens))
    return cached


KINDS = pytest.mark.parametrize("windows", [(), (0,), (6,), (0, 5)])


@KINDS
def test_a_text_goes_on_from_the_deepest_snapshot_and_nowhere_else(windows):
    cache, text = manager(*windows), list(range(10, 32))
    hold, _ = begin(cache, text)
    for start, end in ((0, 6), (6, 13), (13, 16)):
        compute(cache, hold, text, start, end)
        cache.snapshot(hold, text, end)
    compute(cache, hold, text, 16, 22)
    for length, found in ((6, 0), (7, 6), (13, 6), (14, 13), (16, 13), (17, 16), (22, 16)):
        other, cached = begin(cache, text[:length])
        assert cached == found
        snapshot = cache.index.match_snapshot("", text[:length], length - 1).snapshot
        copies = () if snapshot is None else ((snapshot.slot, other.slot),)
        assert cache.take_copies().slots == copies
        cache.release(other, text, 0)
    cache.release(hold, text, 22)  # the slot itself is a snapshot now
    assert begin(cache, [*text, 1])[1] == 22
    assert begin(cache, text)[1] == 16
    assert begin(cache, [*text[:8], 1, 2])[1] == 6


@pytest.mark.parametrize("windows", [(0,), (6,), (0, 5)])
def test_a_snapshot_in_a_block_outlives_its_filling(windows):
    cache, text = manager(*windows), list(range(10, 30))
    hold, _ = begin(cache, text)
    compute(cache, hold, text, 0, 6)
    cache.snapshot(hold, text, 6)
    assert cache.index.match_snapshot("", text, 19).extra == 2
    compute(cache, hold, text, 6, 7)
    cache.snapshot(hold, text, 7)
    compute(cache, hold, text, 7, 8)
    cache.release(hold, text, 8)
    assert begin(cache, [*text[:6], 1])[1] == 6
    assert begin(cache, [*text[:7], 1])[1] == 7
    assert begin(cache, [*text[:8], 1])[1] == 8


def test_many_texts_that_part_within_a_block_find_the_snapshot_before():
    """However many children came later: it is found by its own tokens."""
    for windows in ((), (0,), (0, 6)):
        cache, system = manager(*windows, blocks=300, slots=40), [1, 2, 3, 4, 5, 6]
        hold, _ = begin(cache, [*system, 99, 99])
        compute(cache, hold, [*system, 99, 99], 0, 6)
        cache.snapshot(hold, system, 6)
        cache.release(hold, [*system, 99, 99], 6)
        assert [run(cache, [*system, n, n]) for n in range(100, 130)] == [6] * 30


def test_windows_are_looked_at_again():
    """A snapshot stays as long as its own block; what a window sees before may be gone."""
    cache, text = manager(0, 9, blocks=12), list(range(10, 34))
    hold, _ = begin(cache, text)
    compute(cache, hold, text, 0, 12)
    cache.snapshot(hold, text, 12)
    compute(cache, hold, text, 12, 24)
    assert cache.index.match_snapshot("", text, 23).snapshot is not None
    cache.index.forget(cache.index.match("", text, 12).nodes[1], 1)  # as if it were given away
    assert begin(cache, text)[1] == 0
    whole = cache.index.match_snapshot("", text[:12], 12)
    assert whole.snapshot is None


def test_a_snapshot_goes_with_the_block_that_it_is_in():
    cache, text = manager(0, blocks=6, slots=4), list(range(10, 24))
    run(cache, text)
    assert cache.state is not None
    assert cache.state.kept == 1
    run(cache, list(range(50, 74)))  # takes all blocks
    assert cache.state.kept == 1
    assert begin(cache, [*text, 1])[1] == 0


def test_without_blocks_a_way_that_was_forgotten_is_made_again():
    cache, text = manager(slots=2), list(range(10, 40))
    hold, _ = begin(cache, text)
    compute(cache, hold, text, 0, 18)
    cache.snapshot(hold, text, 18)
    other, _ = begin(cache, [1] * 5)  # takes the snapshot's slot
    assert not cache.index._namespaces.children
    cache.release(other, [1] * 5, 0)
    compute(cache, hold, text, 18, 22)
    cache.snapshot(hold, text, 22)
    assert cache.index.match_snapshot("", text, 29).extra == 2
    cache.release(hold, text, 22)
    assert cache.state is not None
    assert (cache.state.used, cache.state.kept) == (0, 1)


def test_two_sequences_that_stand_at_the_same_place_take_one_snapshot():
    """Also where the way there was forgotten, and another sequence has made it again."""
    cache, text = manager(slots=3), list(range(10, 40))
    first, second = begin(cache, text)[0], begin(cache, text)[0]
    for hold in (first, second):
        compute(cache, hold, text, 0, 18)
        cache.snapshot(hold, text, 18)
    assert cache.state is not None
    assert (cache.state.kept, cache.state.counts.taken) == (1, 1)
    other, _ = begin(cache, [1] * 5)
    cache.release(other, [1] * 5, 0)
    for hold in (second, first):
        compute(cache, hold, text, 18, 19)
        cache.snapshot(hold, text, 19)
    assert (cache.state.kept, cache.state.counts.taken) == (1, 2)
    cache.release(first, text, 19)
    cache.release(second, text, 19)
    assert (cache.state.kept, cache.state.available) == (1, 3)


def test_the_last_slot_is_taken_over_with_its_state():
    cache, text = manager(slots=1), list(range(10, 30))
    run(cache, text)
    hold, cached = begin(cache, [*text, 1, 2])
    assert (cached, cache.take_copies().slots) == (20, ())
    assert cache.admit([1]) is None
    cache.release(hold, [*text, 1, 2], 20)
    assert run(cache, [*text, 1, 2]) == 20


def test_forks_share_blocks_and_have_states_of_their_own():
    cache, text = manager(0, blocks=8, slots=3), list(range(10))
    hold, _ = begin(cache, text)
    compute(cache, hold, text, 0, 10)
    forked = cache.fork(hold, 10)
    assert forked is not None
    assert forked.tables[0][:2] == hold.tables[0][:2]
    copies = cache.take_copies()
    assert copies.blocks == ((0, hold.tables[0][2], forked.tables[0][2]),)
    assert copies.slots == ((hold.slot, forked.slot),)
    assert cache.fork(hold, 10, reserve=4) is None
    assert cache.fork(hold, 10) is not None
    assert cache.fork(hold, 10) is None  # no slot is left


class State(RuleBasedStateMachine):
    """Sequences over few tokens, so that beginnings are often equal. `content` is what a program
    would have written, `state` which text each slot stands for; copies come late, as with a step.
    """

    @initialize(
        windows=st.sampled_from([(), (0,), (0, 5), (6,), (0, 1, 9)]),
        blocks=st.integers(5, 12),
        slots=st.integers(1, 7),
    )
    def begin(self, windows, blocks, slots):
        self.groups = tuple(group(window) for window in windows)
        self.cache = CacheManager(
            self.groups,
            (blocks,) * len(windows),
            MAX_QUERY,
            block_size=SIZE,
            slots=slots,
            places=PLACES,
        )
        self.content = [[[None] * SIZE for _ in range(blocks)] for _ in windows]
        self.state = [None] * slots
        self.running, self.texts = [], [[0]]

    def _copies(self):
        """Content and state as they will be once the copies are made that are asked for."""
        content = [[list(block) for block in blocks] for blocks in self.content]
        state = list(self.state)
        for g, source, target in self.cache._blocks.copies:
            content[g][target] = list(content[g][source])
        assert self.cache.state is not None
        for source, target in self.cache.state.copies:
            state[target] = state[source]
        assert self.cache.copying or (content, state) == (self.content, self.state)
        return content, state

    def _step(self):
        self.content, self.state = self._copies()
        self.cache.take_copies()

    @rule(
        data=st.data(),
        more=st.lists(st.sampled_from([0, 1, TURN]), min_size=1, max_size=9),
        namespace=st.sampled_from(["", "", "", "x"]),
        reserve=st.integers(0, 1),
        reuse=st.sampled_from([True, True, True, False]),
    )
    def admit(self, data, more, namespace, reserve, reuse):
        """A text that begins as one before, mostly."""
        known = data.draw(st.sampled_from(self.texts))
        tokens = [*known[: data.draw(st.integers(0, len(known)))], *more]
        granted = self.cache.admit(tokens, namespace=namespace, reserve=reserve, reuse=reuse)
        if granted is not None:
            hold, cached = granted
            assert cached < len(tokens)
            assert reuse or not cached
            cuts = self.cache.cuts(tokens, cached)
            self.running.append([hold, list(tokens), cached, namespace, cuts])
            self.texts = [*self.texts[-7:], self.running[-1][1]]
        else:
            assert self.running or not self.cache.can_ever_admit(len(tokens) + reserve * SIZE)

    @precondition(lambda self: self.running)
    @rule(data=st.data(), count=st.integers(1, MAX_QUERY), new=st.sampled_from([0, 1, TURN]))
    def compute(self, data, count, new):
        sequence = data.draw(st.sampled_from(self.running))
        hold, tokens, done, namespace, cuts = sequence
        if done == len(tokens):
            tokens.append(new)
        end = min(done + count, len(tokens), *cuts[:1])
        if not self.cache.grow(hold, done, end):
            return
        self._step()
        assert not done or self.state[hold.slot] == (namespace, *tokens[:done])
        for position in range(done, end):
            for g in range(len(self.groups)):
                block = hold.tables[g][position // SIZE]
                self.content[g][block][position % SIZE] = (namespace, *tokens[: position + 1])
        self.state[hold.slot] = (namespace, *tokens[:end])
        self._check_visible(sequence, end)
        sequence[2] = end
        self.cache.record(hold, tokens, end)
        if cuts and cuts[0] == end:
            del cuts[0]
            self.cache.snapshot(hold, tokens, end)

    def _check_visible(self, sequence, end):
        hold, tokens, done, namespace, _ = sequence
        for g, one in enumerate(self.groups):
            first = max(0, done - one.window + 1) if one.window else 0
            for position in range(first, end):
                block = hold.tables[g][position // SIZE]
                assert block != FREED
                wanted = (namespace, *tokens[: position + 1])
                assert self.content[g][block][position % SIZE] == wanted, "not what was written"

    @precondition(lambda self: any(sequence[2] for sequence in self.running))
    @rule(data=st.data())
    def snapshot(self, data):
        sequence = data.draw(st.sampled_from([one for one in self.running if one[2]]))
        self.cache.snapshot(*sequence[:3])

    @precondition(lambda self: any(sequence[2] for sequence in self.running))
    @rule(data=st.data(), more=st.sampled_from([0, 1, TURN]), reserve=st.integers(0, 1))
    def fork(self, data, more, reserve):
        sequence = data.draw(st.sampled_from([one for one in self.running if one[2]]))
        hold, tokens, done, namespace, _ = sequence
        forked = self.cache.fork(hold, done, reserve=reserve)
        if forked is not None:
            self.running.append([forked, [*tokens[:done], more], done, namespace, []])

    @precondition(lambda self: self.running)
    @rule(data=st.data())
    def share(self, data):
        hold, tokens, done, *_ = data.draw(st.sampled_from(self.running))
        self.cache.record_end(hold, tokens, done)

    @precondition(lambda self: self.running)
    @rule(data=st.data())
    def leave(self, data):
        sequence = data.draw(st.sampled_from(self.running))
        self.running.remove(sequence)
        self.cache.release(*sequence[:3])

    @invariant()
    def every_slot_has_one_owner(self):
        if self.running is None:
            return
        pool = self.cache.state
        assert pool is not None
        used = [hold.slot for hold, *_ in self.running]
        assert len(set(used)) == len(used)
        assert pool._used == set(used)
        assert not pool._used & {*pool._kept, *pool._free}
        assert pool.available == len(pool._free) + pool.kept == pool.size - len(used)
        snapshots = [one for node, _ in self._nodes() for one in (node.snapshots or {}).values()]
        assert {one.slot: one for one in snapshots} == dict(pool._kept)
        assert len(snapshots) == pool.kept

    @invariant()
    def snapshots_are_of_the_texts_that_the_tree_says(self):
        if self.running is None:
            return
        content, state = self._copies()
        for node, text in self._nodes():
            for tokens, snapshot in (node.snapshots or {}).items():
                assert snapshot.parent is node
                assert snapshot.tokens == tokens
                assert 0 < len(tokens) <= SIZE
                assert state[snapshot.slot] == (*text, *tokens)
                below = snapshot.node
                assert (below is None) == (not self.groups)
                if below is not None:
                    assert NO_BLOCK not in below.blocks
                    assert below.parent is node
                    assert below.tokens[: len(tokens)] == tokens
            for g, block in enumerate(node.blocks):
                if block != NO_BLOCK:
                    for place, length in enumerate(
                        range(len(text) - len(node.tokens) + 1, len(text) + 1)
                    ):
                        assert content[g][block][place] == text[:length]

    @invariant()
    def no_node_leads_nowhere(self):
        for node, _ in self._nodes() if self.running is not None else ():
            assert not node.is_empty

    def _nodes(self):
        """Every node with its text: the namespace, and tokens."""

        def walk(node, text):
            for child in node.children.values():
                assert child.parent is node
                longer = (*text, *child.tokens)
                yield child, longer
                yield from walk(child, longer)

        return walk(self.cache.index._namespaces, ())

    def teardown(self):
        if getattr(self, "running", None) is not None:
            for sequence in self.running:
                self.cache.release(*sequence[:3])
            self.running = []
            self.every_slot_has_one_owner()
            assert [p.used for p in self.cache.pools] == [0] * len(self.groups)
            assert self.cache._blocks.promised == [0] * len(self.groups)


State.TestCase.settings = settings(deadline=None, max_examples=60, stateful_step_count=50)
TestState = State.TestCase
