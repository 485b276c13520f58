"""What was used least recently is forgotten first."""

from __future__ import annotations

from services.core.batching.recent import Recent


def test_the_least_recently_used_is_forgotten() -> None:
    recent: Recent[str, object] = Recent(2)
    value = object()
    recent.put("a", value)
    recent.put("b", object())
    assert recent.get("a") is value
    recent.put("c", object())
    assert recent.get("b") is None
    assert recent.get("a") is value
    assert len(recent) == 2


def test_a_value_that_is_put_again_is_replaced_and_counts_as_used() -> None:
    recent: Recent[str, int] = Recent(2)
    for key, value in (("a", 1), ("b", 2), ("a", 3), ("c", 4)):
        recent.put(key, value)
    assert (recent.get("a"), recent.get("b"), recent.get("c")) == (3, None, 4)


def test_without_room_nothing_is_kept() -> None:
    nothing: Recent[str, int] = Recent(0)
    nothing.put("a", 1)
    assert nothing.get("a") is None
    assert len(nothing) == 0
