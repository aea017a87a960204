"""The look-up's state machine: whom it asks, when it ends, whom it does not believe."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pt.errors import PtError
from pt.kad.keyspace import K
from pt.kad.lookup import ALPHA, BETA, SLOW, STAGGER, Cost, Limits, Lookup
from pt.kad.messages import KadMessageError, Message, MessageType, PeerInfo, Record
from pt.wire.multiaddr import Multiaddr
from tests.unit.kad.network import US, Dropping, Looping, Network, Refusing
from tests.unit.kad.peers import KEY, address, nearest, peer, peer_id

FIND = Message(MessageType.FIND_NODE, KEY)
GET = Message(MessageType.GET_VALUE, KEY)
PROVIDERS = Message(MessageType.GET_PROVIDERS, KEY)
ROOM = 30


def found(*closer: PeerInfo, request: Message = FIND, **rest) -> Message:
    return Message(request.type, request.key, closer=closer, **rest)


def ask(lookup: Lookup, now: float = 0.0, room: int = ROOM) -> list[PeerInfo]:
    return lookup.to_ask(now, room)


def run(lookup: Lookup, network: Network):
    """All requests at once, the answers in order; what was news."""
    news = []
    while not lookup.done:
        asked = ask(lookup)
        assert asked or lookup.waiting, "nothing to do, and not done"
        for info in asked:
            server = network.servers[info.id]
            if isinstance(server, Refusing):
                lookup.failed(info.id)
                continue
            try:
                news.append(lookup.answered(info.id, server.reply(lookup.request)))
            except PtError:
                lookup.failed(info.id)
    return news


@pytest.fixture(scope="module")
def network() -> Network:
    return Network(200)


def seeds(network: Network, count: int = 3) -> list[PeerInfo]:
    return [server.info for server in list(network.servers.values())[:count]]


def test_it_finds_the_nearest(network: Network) -> None:
    lookup = Lookup(FIND, US, seeds(network))
    run(lookup, network)
    assert lookup.closest() == network.nearest(KEY)
    assert 1 <= lookup.hops <= 4
    assert lookup.cost.requests < 60
    assert lookup.cost.replies == lookup.cost.requests == lookup.answers
    assert lookup.cost.received > 20 * lookup.cost.requests


def test_all_of_the_k_nearest_are_asked_in_the_end(network: Network) -> None:
    before = {each.id: network.servers[each.id].asked for each in network.nearest(KEY)}
    lookup = Lookup(FIND, US, seeds(network))
    asked = []
    while not lookup.done:
        for info in ask(lookup):
            asked.append(info.id)
            lookup.answered(info.id, network.servers[info.id].reply(FIND))
    assert set(before) <= set(asked)
    assert len(asked) == len(set(asked)), "nobody is asked twice"


def test_alpha_at_a_time_the_nearest_first() -> None:
    peers = [peer(number) for number in range(1, 41)]
    lookup = Lookup(FIND, US, peers)
    assert ask(lookup) == nearest(peers)[:ALPHA]
    assert ask(lookup) == []
    lookup.failed(nearest(peers)[0].id)
    assert ask(lookup) == [nearest(peers)[ALPHA]]


def test_no_more_than_there_is_room_for() -> None:
    lookup = Lookup(FIND, US, [peer(number) for number in range(1, 41)])
    assert len(ask(lookup, room=4)) == 4
    assert ask(lookup, room=0) == []
    assert len(ask(lookup, room=20)) == ALPHA - 4


def test_who_is_slow_does_not_hold_up_the_others() -> None:
    lookup = Lookup(FIND, US, [peer(number) for number in range(1, 41)])
    ask(lookup, 100.0)
    assert lookup.next_at(100.5) == 100.0 + STAGGER
    assert ask(lookup, 100.0 + STAGGER - 0.1) == []
    assert len(ask(lookup, 100.0 + STAGGER)) == ALPHA
    assert lookup.waiting == lookup.cost.at_once == 2 * ALPHA
    assert lookup.next_at(100.0 + STAGGER) == 100.0 + SLOW
    assert lookup.next_at(100.0 + STAGGER + SLOW) is None


def test_in_the_second_part_who_is_slow_is_replaced_and_waited_for() -> None:
    peers = nearest([peer(number) for number in range(1, K + 9)])
    lookup = Lookup(FIND, US, peers)
    ask(lookup, 10.0)
    for each in peers[1:ALPHA]:
        lookup.answered(each.id, found())
    assert ask(lookup, 10.5) == peers[ALPHA : 2 * ALPHA - 1], "the nearest may yet answer"
    for each in peers[ALPHA : 2 * ALPHA - 1]:
        lookup.answered(each.id, found())
    assert ask(lookup, 10.0 + SLOW) == peers[2 * ALPHA - 1 : K + 1]
    for each in peers[2 * ALPHA - 1 : K + 1]:
        lookup.answered(each.id, found())
    assert not lookup.done
    lookup.answered(peers[0].id, found())
    assert lookup.done
    assert lookup.closest() == peers[:K]


def test_who_looks_for_servers_to_store_at_does_not_wait_for_slow_ones() -> None:
    peers = nearest([peer(number) for number in range(1, K + 3)])
    lookup = Lookup(FIND, US, peers, patient=False)
    answered = []
    for now in (10.0, 10.0 + SLOW, 10.0 + 2 * SLOW):
        for each in ask(lookup, now):
            if each not in (peers[0], peers[5]):
                lookup.answered(each.id, found())
                answered.append(each)
    assert lookup.done
    assert set(lookup.stalled) == {peers[0].id, peers[5].id}
    assert lookup.closest() == nearest(answered) == [*peers[1:5], *peers[6:]]


def test_it_ends_when_the_nearest_have_answered_and_then_asks_the_rest() -> None:
    peers = [peer(number) for number in range(1, 16)]
    lookup = Lookup(FIND, US, peers)
    ordered = nearest(peers)
    ask(lookup)
    for each in ordered[:BETA]:
        assert not lookup.done
        lookup.answered(each.id, found())
    assert ask(lookup) == ordered[ALPHA:], "the follow-up asks all that are left"
    late = peer(999)
    for each in ordered[BETA:]:
        assert not lookup.done
        lookup.answered(each.id, found(late))
    assert ask(lookup) == [late], "there is room for it among the K"
    lookup.failed(late.id)
    assert lookup.done
    assert lookup.closest() == ordered


def test_the_rest_is_no_more_than_k() -> None:
    peers = nearest([peer(number) for number in range(1, K + 9)])
    lookup = Lookup(FIND, US, peers)
    ask(lookup)
    for each in peers[:ALPHA]:
        lookup.answered(each.id, found())
    assert ask(lookup) == peers[ALPHA:K]
    for each in peers[ALPHA : K - 1]:
        lookup.answered(each.id, found())
    lookup.failed(peers[K - 1].id)
    assert ask(lookup) == [peers[K]], "the next one takes the place of who failed"
    lookup.answered(peers[K].id, found())
    assert lookup.done


def test_unreachable_peers_do_not_count_as_near() -> None:
    peers = nearest([peer(number) for number in range(1, 8)])
    lookup = Lookup(FIND, US, peers)
    ask(lookup)
    for each in peers[:4]:
        lookup.failed(each.id)
    ask(lookup)
    for each in peers[4:]:
        assert not lookup.done
        lookup.answered(each.id, found())
    assert lookup.done
    assert lookup.closest() == peers[4:]
    assert lookup.cost == Cost(7, 3, 4, lookup.cost.sent, 0, ALPHA)


def test_nobody_known() -> None:
    lookup = Lookup(FIND, US, ())
    assert lookup.done
    lookup.add_seeds([peer(1)])
    assert not lookup.done
    assert ask(lookup) == [peer(1)]
    lookup.failed(peer_id(1))
    assert lookup.done
    assert lookup.closest() == []


def test_seeds_help_only_until_somebody_answers() -> None:
    lookup = Lookup(FIND, US, [peer(1)])
    ask(lookup)
    lookup.answered(peer_id(1), found())
    assert lookup.done
    lookup.add_seeds([peer(2)])
    assert lookup.done
    assert lookup.heard == 1


def test_bootstrap_peers_are_asked_out_of_turn_until_somebody_answers() -> None:
    peers = [peer(number) for number in range(1, 31)]
    far = nearest(peers)[-6:]
    lookup = Lookup(FIND, US, nearest(peers)[:-6], far)
    assert ask(lookup)[:4] == far[:4]
    again = Lookup(FIND, US, nearest(peers)[:-6], far)
    one = ask(again, room=1)
    again.answered(one[0].id, found())
    assert ask(again)[0] == nearest(peers)[0]


def test_we_are_not_asked() -> None:
    lookup = Lookup(FIND, US, [PeerInfo(US, (address(1),)), peer(1)])
    assert ask(lookup) == [peer(1)]
    lookup.answered(peer_id(1), found(PeerInfo(US, (address(1),))))
    assert lookup.done


def test_only_public_addresses_are_dialed() -> None:
    lookup = Lookup(FIND, US, [peer(1)])
    ask(lookup)
    mixed = peer(2, "/ip4/192.168.1.1/tcp/22", "/ip4/130.2.0.1/tcp/1", "/ip4/127.0.0.1/tcp/22")
    relayed = peer(3, f"/ip4/130.3.0.1/tcp/1/p2p/{peer_id(9)}/p2p-circuit")
    lookup.answered(peer_id(1), found(mixed, relayed, peer(4, "/ip4/10.0.0.1/tcp/1")))
    assert ask(lookup) == [peer(2, "/ip4/130.2.0.1/tcp/1")]


def test_a_private_dht() -> None:
    lookup = Lookup(FIND, US, [peer(1, "/ip4/10.0.0.1/tcp/1")], public_only=False)
    assert ask(lookup) == [peer(1, "/ip4/10.0.0.1/tcp/1")]


def test_one_owners_crowd_is_not_believed() -> None:
    lookup = Lookup(FIND, US, [peer(1)])
    ask(lookup)
    crowd = [peer(number, f"/ip4/140.1.0.{number}/tcp/1") for number in range(2, 6)]
    lookup.answered(peer_id(1), found(*crowd, peer(9)))
    assert ask(lookup) == [peer(9)]


@pytest.mark.parametrize(
    "reply",
    [
        Message(MessageType.FIND_NODE, KEY),
        Message(99, KEY),
        Message(MessageType.GET_VALUE, KEY, Record(b"/ipns/other", b"v")),
    ],
)
def test_who_lies_once_is_out(reply: Message) -> None:
    lookup = Lookup(GET, US, [peer(1), peer(2)])
    ask(lookup)
    with pytest.raises(KadMessageError):
        lookup.answered(peer_id(1), reply)
    assert lookup.answered(peer_id(1), found(peer(3), request=GET)).value is None
    lookup.answered(peer_id(2), found(request=GET))
    assert lookup.done
    assert lookup.closest() == [peer(2)]


def test_a_peer_whose_value_turns_out_bad_is_out() -> None:
    lookup = Lookup(GET, US, [peer(1), peer(2)])
    ask(lookup)
    assert lookup.answered(peer_id(1), found(request=GET, record=Record(KEY, b"v"))).value == b"v"
    lookup.failed(peer_id(1))
    lookup.answered(peer_id(2), found(request=GET))
    assert lookup.closest() == [peer(2)]


def test_answers_that_nobody_waits_for_are_nothing() -> None:
    lookup = Lookup(GET, US, [peer(1)])
    said = found(peer(5), request=GET, record=Record(KEY, b"v"))
    assert lookup.answered(peer_id(1), said).value is None
    assert lookup.answered(peer_id(7), said).value is None
    lookup.failed(peer_id(7))
    assert lookup.heard == 1
    assert lookup.cost == Cost()


def test_providers_come_once_and_again_with_more_addresses() -> None:
    lookup = Lookup(PROVIDERS, US, [peer(number) for number in (1, 2, 3)])
    ask(lookup)
    bare, full = PeerInfo(peer_id(50)), peer(50)
    first = lookup.answered(
        peer_id(1), found(request=PROVIDERS, providers=(bare, peer(51), PeerInfo(US)))
    )
    assert first.providers == (bare, peer(51), PeerInfo(US)), "we may be one ourselves"
    second = lookup.answered(peer_id(2), found(request=PROVIDERS, providers=(full, peer(51))))
    assert second.providers == (full,)
    more = Multiaddr.parse("/ip4/150.1.0.1/tcp/1")
    third = lookup.answered(
        peer_id(3), found(request=PROVIDERS, providers=(PeerInfo(peer_id(51), (more,)), bare))
    )
    assert third.providers == (PeerInfo(peer_id(51), (address(51), more)),)


def test_providers_are_bounded() -> None:
    lookup = Lookup(PROVIDERS, US, [peer(number) for number in range(1, 11)])
    count = 0
    for turn, info in enumerate([*ask(lookup, 0.0), *ask(lookup, STAGGER)]):
        crowd = tuple(peer(1000 + 40 * turn + number) for number in range(40))
        reply = found(request=PROVIDERS, providers=crowd)
        count += len(lookup.answered(info.id, reply).providers)
    assert count == 256


def test_the_target_is_seen_wherever_it_is() -> None:
    """Also at addresses that are not public, and among others of its network."""
    target = peer(77, "/ip4/192.168.1.1/tcp/1", "/ip4/140.1.0.1/tcp/1")
    find = Message(MessageType.FIND_NODE, target.id.raw)
    lookup = Lookup(find, US, [peer(1), peer(2)])
    ask(lookup)
    crowd = [peer(number, f"/ip4/140.1.0.{number}/tcp/1") for number in range(2, 6)]
    news = lookup.answered(peer_id(1), found(*crowd, target, request=find))
    assert news.target == target
    assert ask(lookup) == [target]
    again = lookup.answered(peer_id(2), found(target, request=find))
    assert again.target is None


def test_stop() -> None:
    lookup = Lookup(FIND, US, [peer(1), peer(2)])
    ask(lookup, room=1)
    lookup.stop()
    assert lookup.done
    assert ask(lookup) == []


def test_peers_that_invent_others_end_at_the_limit(network: Network) -> None:
    network = Network(60)
    network.turn(list(network.servers), Looping)
    limits = Limits(requests=25)
    lookup = Lookup(FIND, US, seeds(network), limits=limits)
    news = 0
    while not lookup.done:
        for info in ask(lookup):
            news += 1
            server = network.servers.get(info.id) or Looping(info)
            lookup.answered(info.id, server.reply(FIND))
    assert news == lookup.cost.requests == 25
    assert len(lookup.closest()) == K


def test_replies_are_bounded_in_bytes(network: Network) -> None:
    lookup = Lookup(FIND, US, seeds(network), limits=Limits(most=5000))
    run(lookup, network)
    assert 5000 <= lookup.cost.bytes < 5000 + ALPHA * 2000
    assert lookup.done
    assert lookup.cut


def reply(*closer: PeerInfo, size: int = 8000, request: Message = FIND, **rest) -> Message:
    return found(*closer, request=request, size=size, **rest)


def test_nobody_is_asked_whose_reply_the_budget_has_no_room_for() -> None:
    peers = nearest([peer(number) for number in range(1, 31)])
    lookup = Lookup(FIND, US, peers, limits=Limits(budget=100_000))
    asked = []
    while not lookup.done:
        for each in ask(lookup):
            asked.append(each)
            lookup.answered(each.id, reply(overhead=1300))
    assert lookup.cut
    assert 100_000 - 9500 < lookup.cost.bytes <= 100_000
    assert len(asked) == 10
    assert peers[K - 1] in asked, "those far away have their turn, too"
    assert peers[K] not in asked


def test_who_is_under_way_has_a_place_in_the_budget_until_it_is_slow() -> None:
    peers = nearest([peer(number) for number in range(1, 31)])
    lookup = Lookup(FIND, US, peers, limits=Limits(budget=8 * 8100))
    for each in ask(lookup):
        lookup.answered(each.id, reply())
    rest = ask(lookup)
    assert len(rest) == 4
    lookup.answered(rest[0].id, reply())
    assert ask(lookup, 0.1) == [], "the other three may answer"
    assert not lookup.done
    assert lookup.next_at(STAGGER) == SLOW
    assert len(ask(lookup, SLOW)) == 3, "which they do not"


def test_a_long_reply_does_not_use_up_the_budget() -> None:
    """Nor do lies; they count for what a look-up may cost at most."""
    peers = nearest([peer(number) for number in range(1, 41)])
    lookup = Lookup(GET, US, peers, limits=Limits(most=3_000_000))
    answers = lies = 0
    while not lookup.done:
        for each in ask(lookup):
            if lies <= answers:
                lies += 1
                with pytest.raises(KadMessageError):
                    lookup.answered(each.id, reply(size=60_000))
            else:
                answers += 1
                lookup.answered(each.id, reply(size=60_000, request=GET))
    assert answers == Limits().budget // Limits().share
    assert lookup.cut


def test_what_lies_cost_is_bounded() -> None:
    peers = nearest([peer(number) for number in range(1, 41)])
    lookup = Lookup(GET, US, peers)
    while not lookup.done:
        for each in ask(lookup):
            with pytest.raises(KadMessageError):
                lookup.answered(each.id, reply(size=60_000))
    assert Limits().most <= lookup.cost.bytes < Limits().most + ALPHA * 60_100


def test_who_wants_to_store_does_not_ask_the_rest(network: Network) -> None:
    lookup = Lookup(FIND, US, seeds(network), patient=False, follow_up=False)
    run(lookup, network)
    assert lookup.closest() == network.nearest(KEY)
    assert lookup.answers < K
    assert not lookup.cut


def test_a_look_up_that_is_cut_waits_for_nobody_who_is_slow() -> None:
    peers = nearest([peer(number) for number in range(1, 31)])
    lookup = Lookup(FIND, US, peers, patient=False, limits=Limits(requests=ALPHA))
    first = ask(lookup)
    for each in first[1:]:
        lookup.answered(each.id, reply())
    assert not lookup.done
    assert ask(lookup, SLOW) == []
    assert lookup.done
    assert first[0] not in lookup.closest()


def test_values_are_found_past_servers_that_drop_them() -> None:
    network = Network(200, seed=3)
    near = network.nearest(KEY)
    for info in near:
        network.servers[info.id].values[KEY] = b"v"
    network.turn([info.id for info in near[:18]], Dropping)
    lookup = Lookup(GET, US, seeds(network))
    values = [news.value for news in run(lookup, network) if news.value is not None]
    assert values == [b"v", b"v"]


def test_half_of_the_servers_gone() -> None:
    network = Network(200, seed=4)
    ids = list(network.servers)
    gone = ids[3:103]
    network.turn(gone, Refusing)
    lookup = Lookup(FIND, US, seeds(network))
    run(lookup, network)
    alive = [each for each in network.nearest(KEY, 200) if each.id not in gone]
    assert len(set(lookup.closest()) & set(alive[:K])) >= K - 2


@given(st.data())
def test_whatever_happens_it_ends_and_keeps_its_bounds(data: st.DataObject) -> None:
    limits = Limits(requests=60)
    lookup = Lookup(GET, US, [peer(number) for number in range(1, 8)], limits=limits)
    now, waiting, asked = 0.0, [], []
    for _ in range(1000):
        if lookup.done:
            break
        room = data.draw(st.integers(1, ROOM), "room") - len(waiting)
        fresh = lookup.to_ask(now, room)
        assert len(fresh) <= max(0, room)
        asked += [info.id for info in fresh]
        waiting += fresh
        assert len(waiting) == lookup.waiting
        assert waiting or lookup.done, "nobody is asked, and it is not over"
        now += data.draw(st.sampled_from([0.0, 0.5, SLOW]), "time")
        if not waiting:
            continue
        info = waiting.pop(data.draw(st.integers(0, len(waiting) - 1), "who"))
        match data.draw(st.sampled_from(["answer", "fail", "lie"]), "what"):
            case "answer":
                told = data.draw(st.lists(st.integers(1, 300), max_size=6), "closer")
                lookup.answered(info.id, found(*map(peer, told), request=GET))
            case "fail":
                lookup.failed(info.id)
            case "lie":
                with pytest.raises(KadMessageError):
                    lookup.answered(info.id, found(request=FIND))
    assert lookup.done
    assert len(asked) == len(set(asked)) == lookup.cost.requests <= limits.requests
    assert US not in asked
    near = lookup.closest()
    assert near == nearest(near)
    assert len(near) <= K
