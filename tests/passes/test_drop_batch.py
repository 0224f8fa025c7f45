"""[1, T, …] → [T, …]."""

import pytest
from llmc.passes.drop_batch import drop_batch
from pass_cases import check, check_declined

pytestmark = pytest.mark.fast


def test_shapes_and_permutations_lose_their_first_entry() -> None:
    """Ops that count dimensions from the right stay; ids become i32."""
    check(
        drop_batch,
        """
        graph main: TRACED
        input token_ids: i64[1, T] as token_ids
        const @table: f32[4, 12] = @table:f32
        const @w: f32[6] = @w:f32
        %0: f32[1, T, 12] = embedding(@table, token_ids)    # embed
        %1: f32[1, T, 2, 6] = reshape(%0) {shape=(1, T, 2, 6)}
        %2: f32[1, 2, T, 6] = permute(%1) {dims=(-4, -2, -3, -1)}
        %3: f32[1, 2, T, 6] = mul(%2, @w)
        output %3
        """,
        """
        graph main: TRACED
        input token_ids: i32[T] as token_ids
        const @table: f32[4, 12] = @table:f32
        const @w: f32[6] = @w:f32
        %0: f32[T, 12] = embedding(@table, token_ids)    # embed
        %1: f32[T, 2, 6] = reshape(%0) {shape=(T, 2, 6)}
        %2: f32[2, T, 6] = permute(%1) {dims=(-2, -3, -1)}
        %3: f32[2, T, 6] = mul(%2, @w)
        output %3
        """,
    )


def test_a_unit_that_is_used_is_put_back_around_the_op() -> None:
    """A permutation that moves the unit dimension still needs it."""
    check(
        drop_batch,
        """
        graph main: TRACED
        input token_ids: i64[1, T] as token_ids
        const @table: f32[4, 3] = @table:f32
        %0: f32[1, T, 3] = embedding(@table, token_ids)
        %1: f32[T, 1, 3] = permute(%0) {dims=(-2, -3, -1)}
        output %1
        """,
        """
        graph main: TRACED
        input token_ids: i32[T] as token_ids
        const @table: f32[4, 3] = @table:f32
        %0: f32[T, 3] = embedding(@table, token_ids)
        %1: f32[1, T, 3] = reshape(%0) {shape=(1, T, 3)}
        %2: f32[T, 1, 3] = permute(%1) {dims=(-2, -3, -1)}
        output %2
        """,
    )


def test_a_constant_with_a_leading_unit_broadcasts_away() -> None:
    check(
        drop_batch,
        """
        graph main: TRACED
        input positions: i64[1, T] as positions
        const @freq: f32[1, 1, 4] = @freq:f32
        %0: i64[1, T, 1] = reshape(positions) {shape=(1, T, 1)}
        %1: f32[1, T, 4] = mul(%0, @freq)
        output %1
        """,
        """
        graph main: TRACED
        input positions: i32[T] as positions
        const @freq: f32[1, 1, 4] = @freq:f32
        %0: i32[T, 1] = reshape(positions) {shape=(T, 1)}
        %1: f32[1, T, 4] = mul(%0, @freq)
        %2: f32[T, 4] = reshape(%1) {shape=(T, 4)}
        output %2
        """,
    )


def test_a_graph_without_a_batch_stays() -> None:
    check_declined(
        drop_batch, "graph main: TRACED\ninput token_ids: i32[T] as token_ids\noutput token_ids"
    )
