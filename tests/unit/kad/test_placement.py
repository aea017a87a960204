"""Where a store goes: whom it asks, who is replaced, and when it is over."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from pt.kad.lookup import SLOW
from pt.kad.placement import COPIES, GRACE, MOST, Placement, reserve
from tests.unit.kad.peers import peer, peer_id

PEERS = [peer(number) for number in range(1, 61)]
IDS = [info.id for info in PEERS]
ROOM = 100


def test_the_nearest_have_it_all_at_once() -> None:
    placement = Placement(PEERS)
    assert placement.to_ask(0.0, ROOM) == PEERS[:COPIES]
    assert placement.to_ask(0.0, ROOM) == []
    for each in reversed(IDS[:COPIES]):
        assert not placement.done
        placement.acknowledge(each, 1.0)
    assert placement.done
    assert placement.acknowledged == tuple(IDS[:COPIES])
    assert placement.wanted == COPIES


def test_no_more_at_once_than_there_is_room_for() -> None:
    placement = Placement(PEERS)
    assert placement.to_ask(0.0, 3) == PEERS[:3]
    assert placement.to_ask(0.0, 0) == []
    assert not placement.done
    assert placement.to_ask(0.0, ROOM) == PEERS[3:COPIES]


def test_the_next_one_takes_the_place_of_who_is_not_reached() -> None:
    placement = Placement(PEERS)
    placement.to_ask(0.0, ROOM)
    placement.fail(IDS[0])
    placement.fail(IDS[7])
    assert placement.to_ask(0.1, ROOM) == PEERS[COPIES : COPIES + 2]
    assert placement.wanted == COPIES


def test_nobody_takes_the_place_of_who_refuses() -> None:
    placement = Placement(PEERS)
    placement.to_ask(0.0, ROOM)
    for each in IDS[:COPIES]:
        placement.refuse(each, 0.5)
    assert placement.done
    assert placement.acknowledged == ()
    assert placement.to_ask(1.0, ROOM) == []


def test_who_is_slow_is_replaced_and_may_yet_answer() -> None:
    placement = Placement(PEERS)
    placement.to_ask(10.0, ROOM)
    for each in IDS[1:COPIES]:
        placement.acknowledge(each, 10.1)
    assert placement.next_at(10.5) == 10.0 + SLOW
    assert placement.to_ask(10.0 + SLOW, ROOM) == [PEERS[COPIES]]
    assert not placement.done
    placement.acknowledge(IDS[0], 12.5)
    assert placement.done
    assert placement.acknowledged == tuple(IDS[:COPIES])


def test_half_of_the_copies_and_nothing_for_a_while_is_the_end() -> None:
    placement = Placement(PEERS[:COPIES])
    placement.to_ask(0.0, ROOM)
    for each in IDS[: COPIES // 2 - 1]:
        placement.acknowledge(each, 1.0)
    placement.to_ask(1.0 + GRACE, ROOM)
    assert not placement.done, "less than half"
    assert placement.next_at(1.0 + GRACE) is None
    placement.acknowledge(IDS[COPIES - 1], 5.0)
    assert placement.next_at(5.0) == 5.0 + GRACE
    assert not placement.done
    placement.to_ask(5.0 + GRACE, ROOM)
    assert placement.done


def test_few_servers_are_enough_if_there_are_no_more() -> None:
    placement = Placement(PEERS[:3])
    assert placement.to_ask(0.0, ROOM) == PEERS[:3]
    placement.acknowledge(IDS[0], 0.1)
    placement.fail(IDS[1])
    assert not placement.done
    placement.fail(IDS[2])
    assert placement.done
    assert placement.wanted == 3


def test_nobody_to_store_at() -> None:
    assert Placement(()).done


def test_who_was_not_asked_has_acknowledged_nothing() -> None:
    placement = Placement(PEERS)
    placement.acknowledge(IDS[0], 0.0)
    placement.acknowledge(peer_id(999), 0.0)
    placement.refuse(IDS[1], 0.0)
    assert placement.acknowledged == ()


def test_a_store_takes_what_it_sends_and_gets_back() -> None:
    assert reserve(1300) == COPIES * 3600


@given(st.data())
def test_whatever_happens_it_ends_and_keeps_its_bounds(data: st.DataObject) -> None:
    placement = Placement(PEERS[: data.draw(st.integers(0, 60), "known")])
    now, waiting, asked = 0.0, [], []
    for _ in range(500):
        fresh = placement.to_ask(now, data.draw(st.integers(1, 30), "room"))
        asked += fresh
        waiting += fresh
        if placement.done:
            break
        assert waiting, "nobody is asked, and it is not over"
        now += data.draw(st.sampled_from([0.0, 0.5, SLOW]), "time")
        each = waiting.pop(data.draw(st.integers(0, len(waiting) - 1), "who"))
        match data.draw(st.sampled_from(["acknowledge", "refuse", "fail"]), "what"):
            case "acknowledge":
                placement.acknowledge(each.id, now)
            case "refuse":
                placement.refuse(each.id, now)
            case "fail":
                placement.fail(each.id)
    assert placement.done
    assert asked == PEERS[: len(asked)]
    assert len(asked) <= MOST
    assert set(placement.acknowledged) <= {info.id for info in asked}
