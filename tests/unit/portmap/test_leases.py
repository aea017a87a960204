from hypothesis import given
from hypothesis import strategies as st

from pt.portmap.leases import AGAIN, LAST_RETRY, MAX_FAILURES, MAX_WANTED, SOONEST, Leases
from pt.portmap.mapping import Mapping, Service, Wanted
from pt.wire.nat_facts import Protocol

UDP = Wanted(Protocol.UDP, 4001)
TCP = Wanted(Protocol.TCP, 4001)


def mapping(wanted=UDP, lifetime=3600.0, port=4001):
    return Mapping(
        service=Service.PCP,
        wanted=wanted,
        internal=("192.168.1.2", wanted.port),
        external=("11.5.0.2", port),
        lifetime=lifetime,
    )


def leases(*wanted, now=0.0):
    made = Leases(lambda: 0.0)
    made.want(wanted or (UDP,), now)
    return made


def test_what_is_wanted_is_due_at_once():
    assert leases(UDP, TCP).due(0.0) == [UDP, TCP]


def test_a_mapping_is_renewed_at_half_its_life():
    made = leases()
    assert made.granted(mapping(), 0.0)
    assert made.due(1799.0) == []
    assert made.due(1800.0) == [UDP]
    assert not made.granted(mapping(), 1800.0)
    assert made.next_due() == 3600.0


def test_what_is_past_half_its_life_is_renewed_together():
    chance = iter([1.0, 0.0])
    made = Leases(lambda: next(chance))
    made.want((UDP, TCP), 0.0)
    made.granted(mapping(), 0.0)
    made.granted(mapping(TCP), 0.0)
    assert made.due(1799.0) == []
    assert made.due(1800.0) == [UDP, TCP]  # though UDP alone would have had time until 2250
    made.failed(TCP, 1800.0)
    assert made.due(2250.0) == [UDP, TCP]


def test_one_that_has_failed_waits_its_time():
    made = leases(UDP, TCP)
    made.granted(mapping(), 0.0)
    made.failed(TCP, 1790.0)
    assert made.due(1800.0) == [UDP]


def test_another_external_address_is_news():
    made = leases()
    made.granted(mapping(), 0.0)
    assert made.granted(mapping(port=4002), 1800.0)


def test_failed_renewals_come_sooner_and_sooner_until_it_ends():
    made = leases()
    made.granted(mapping(), 0.0)
    now, gaps = 1800.0, []
    while made.mappings:
        made.due(now)
        made.failed(UDP, now)
        gaps.append(made.next_due() - now)
        now = made.next_due()
        made.due(now)
    assert now == 3600.0
    assert gaps == sorted(gaps, reverse=True)[: len(gaps)]
    assert min(gaps[:-1]) >= SOONEST


def test_refusals_are_tried_again_ever_more_seldom():
    made = leases()
    now, gaps = 0.0, []
    for _ in range(12):
        made.failed(UDP, now)
        gaps.append(made.next_due() - now)
        now = made.next_due()
    assert gaps[:3] == [30.0, 60.0, 120.0]
    assert gaps[-1] == LAST_RETRY


def test_a_gateway_may_ask_for_patience_within_bounds():
    made = leases()
    made.failed(UDP, 0.0, retry_after=600.0)
    assert made.next_due() == 600.0
    made.failed(UDP, 600.0, retry_after=2.0**32)
    assert made.next_due() == 600.0 + LAST_RETRY
    made = leases()
    made.failed(UDP, 0.0, retry_after=0.0)
    assert made.next_due() == 30.0


def test_a_reboot_makes_all_due_once():
    made = leases(UDP, TCP)
    made.granted(mapping(), 0.0)
    made.granted(mapping(TCP), 0.0)
    made.lost(100.0)
    assert made.mappings == ()
    assert made.due(100.0) == [UDP, TCP]


def test_what_may_be_there_still_is_owed():
    made = leases(UDP, TCP)
    made.granted(mapping(), 0.0)
    made.lost(1.0)
    assert made.mappings == ()
    assert made.owed == (mapping(),), "the gateway's clock may have lied"
    made.due(3600.0)
    assert made.owed == (), "it has ended"


def test_what_is_owed_of_a_port_that_is_not_wanted_any_more():
    made = leases(UDP, TCP)
    made.granted(mapping(), 0.0)
    made.lost(1.0)
    assert made.wants(UDP)
    assert made.want([TCP], 2.0) == [mapping()]
    assert not made.wants(UDP)


def test_a_gateway_that_reboots_in_every_answer_is_asked_now_and_then():
    made = leases()
    now, asked = 0.0, 0
    while now < 3600.0:
        if made.due(now):
            asked += 1
            made.granted(mapping(), now)
            made.lost(now)
        now = max(made.next_due(), now + 0.001)
    assert asked <= 3600.0 / AGAIN + 2


def test_permanent_ones_are_asked_for_again_and_end_by_silence():
    made = leases()
    made.granted(mapping(lifetime=0), 0.0)
    assert made.next_due() == 1800.0
    for _ in range(MAX_FAILURES):
        assert made.mappings
        made.failed(UDP, 1800.0)
    assert not made.mappings


def test_lives_that_are_not_believed():
    made = leases()
    made.granted(mapping(lifetime=2.0**32 - 1), 0.0)
    assert made.next_due() == 43200.0


def test_ports_come_and_go():
    made = leases(UDP)
    made.granted(mapping(), 0.0)
    assert made.want([TCP], 1.0) == [mapping()]
    assert made.due(1.0) == [TCP]
    assert not made.granted(mapping(UDP), 1.0)
    made.want([Wanted(Protocol.UDP, port) for port in range(100)], 1.0)
    assert len(made.due(1.0)) == MAX_WANTED


@given(
    st.lists(
        st.tuples(
            st.sampled_from(["grant", "fail", "lost"]),
            st.floats(0, 2.0**32),
            st.floats(0.0, 10_000.0),
        ),
        max_size=40,
    )
)
def test_nothing_is_asked_all_the_time(steps):
    made, now = leases(), 0.0
    for kind, number, pause in steps:
        now += pause
        made.due(now)
        match kind:
            case "grant":
                made.granted(mapping(lifetime=number), now)
            case "fail":
                made.failed(UDP, now, number)
            case _:
                made.lost(now)
                continue
        ended = [each for each in made.mappings if each.lifetime]
        assert made.next_due() >= now + (0.0 if ended else SOONEST)
