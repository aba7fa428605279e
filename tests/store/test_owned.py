"""Answers that two homes give to one question stay two nodes, and each keeps its own ends."""

from __future__ import annotations

from tests.contract.world import make_world

from trails.schema import RELATIONSHIP
from trails.store.scope import OWNED, owned


def test_two_homes_share_no_node_and_no_end() -> None:
    batch = make_world().analyses()
    one, two = owned(batch, "h" + "1" * 16), owned(batch, "h" + "2" * 16)
    for label in OWNED:
        ids = [set(part.nodes[label]["id"].to_pylist()) for part in (batch, one, two)]
        assert ids[0], label
        assert not ids[0] & ids[1]
        assert not ids[1] & ids[2]
        assert {key.rpartition("@")[0] for key in ids[1]} == ids[0]
    met = 0
    for name, table in one.relationships.items():
        for end, label in (("start", RELATIONSHIP[name].start), ("end", RELATIONSHIP[name].end)):
            if label in OWNED:
                met += len(table)
                assert set(table[end].to_pylist()) <= set(one.nodes[label]["id"].to_pylist())
    assert met
    for label in set(batch.nodes) - set(OWNED):
        assert one.nodes[label].equals(batch.nodes[label])
