"""What an artifact's memory plan says of state that doesn't grow with tokens."""

import msgspec
import pytest
from llmc.artifact.inspection import _costs, _memory
from llmc.artifact.manifest import make_state_slots

pytestmark = pytest.mark.fast


def test_a_sequence_costs_its_slot_and_a_token_its_keys(make_variant, tiny_manifest) -> None:
    state = make_state_slots(
        [(0, "rows", (2, 100)), (1, "rows", (2, 100)), (1, "matrix", (4, 8, 8))]
    )
    assert state.bytes_per_slot == 64 + 2 * 832 + 1024
    variant = make_variant(state=state)
    assert _costs(variant) == {
        "bytes_per_token": 2 * 128,
        "bytes_per_sequence": state.bytes_per_slot,
    }
    text = _memory(variant, msgspec.structs.replace(tiny_manifest(0, 4), variants=[variant]))
    assert "  state: 2 layers, f32, 2.8 kB a sequence, whatever its length" in text
    assert "state:" not in _memory(make_variant(), tiny_manifest(0, 4))
