from __future__ import annotations

from dataclasses import replace

from pt.punch import Side, Strategy
from pt.punch.commands import PRESAMPLED, CloseSocket, Ended, Send, StartTcp, Won
from pt.punch.machine import LINGER, Puncher
from pt.punch.messages import Offer, Sample
from pt.punch.packets import Packet, PacketType, Sealer
from pt.punch.paths import MAX_LEARNED
from tests.unit.punch.classes import side

SECRET = b"s" * 32
RTT = 0.05
HIM = ("11.1.0.2", 4002)
NONCES = (b"1" * 16, b"2" * 16)


def puncher(
    one: str = "eim-apdf", other: str = "eim-apdf", *, tcp: str | None = None, **how: object
) -> Puncher:
    """The controlling one, begun at 0; its peer is `peer()`."""
    ours = Offer(attempt=1, nonce=NONCES[0], side=side(one, 1, tcp=tcp), **how)  # type: ignore[arg-type]
    theirs = Offer(attempt=1, nonce=NONCES[1], side=side(other, 2, tcp=tcp))
    machine = Puncher(ours, theirs, SECRET, controlling=True, seed=b"x" * 32, rtt=RTT)
    machine.begin(0.0)
    return machine


def peer() -> Sealer:
    return Sealer(SECRET, NONCES, controlling=False)


def sent(machine: Puncher) -> list[tuple[Packet, Send]]:
    found = []
    for command in machine.commands():
        if isinstance(command, Send):
            packet = peer().open(command.data)
            assert packet is not None
            found.append((packet, command))
    return found


def ping(counter: int) -> bytes:
    return peer().seal(Packet(type=PacketType.PING, counter=counter, clock=5, path=6))


def test_a_ping_is_answered_once_with_as_many_bytes_and_asked_back() -> None:
    machine = puncher()
    machine.commands()
    data = ping(1)
    assert machine.receive(0.02, 0, data, ("11.1.0.2", 9999))
    (pong, answer), (back, question) = sent(machine)
    assert (pong.type, pong.echo, pong.clock, pong.path) == (PacketType.PONG, 1, 5, 6)
    assert pong.observed == ("11.1.0.2", 9999)
    assert len(answer.data) == len(data)
    assert answer.addr == question.addr == ("11.1.0.2", 9999)
    assert back.type is PacketType.PING


def test_a_replayed_packet_does_nothing() -> None:
    machine = puncher()
    machine.receive(0.02, 0, ping(1), HIM)
    machine.commands()
    assert machine.receive(0.021, 0, ping(1), ("11.66.0.1", 53))
    assert machine.commands() == []


def test_foreign_datagrams_are_left_to_others() -> None:
    machine = puncher()
    for data in (b"", b"\x40" * 62, bytes(62), ping(1)[:-1]):
        assert not machine.receive(0.02, 0, data, HIM)


def test_learned_paths_are_bounded() -> None:
    machine = puncher()
    machine.commands()
    asked = set()
    for number in range(200):
        machine.receive(0.02 + number / 1000, 0, ping(number + 1), ("11.1.0.2", 10000 + number))
        asked |= {each.addr for packet, each in sent(machine) if packet.type is PacketType.PING}
    assert len(asked) == MAX_LEARNED


def test_answers_are_bounded_in_time() -> None:
    machine = puncher()
    machine.commands()
    answers = 0
    for number in range(5000):
        machine.receive(0.02, 0, ping(number + 1), ("11.1.0.2", 10000 + number))
        answers += sum(1 for packet, _ in sent(machine) if packet.type is PacketType.PONG)
    assert 60 <= answers <= 200


def test_of_many_questions_of_one_address_a_few_are_answered() -> None:
    machine = puncher()
    machine.commands()
    answered = []
    for number in range(100):
        machine.receive(0.02 + number / 1000, 0, ping(number + 1), ("11.1.0.2", 9999))
        answered += [packet.echo for packet, _ in sent(machine) if packet.type is PacketType.PONG]
    assert answered == [1, 31, 61, 91]


def test_an_answer_counts_only_from_where_the_question_went() -> None:
    machine = puncher()
    question, command = next(each for each in sent(machine) if each[1].addr == HIM)
    assert command.addr == HIM

    def pong(counter: int, echo: int, path: int) -> bytes:
        return peer().seal(
            Packet(type=PacketType.PONG, counter=counter, clock=0, path=path, echo=echo)
        )

    machine.receive(0.05, 0, pong(1, question.counter, question.path), ("11.66.0.1", 53))
    assert machine.winner is None
    machine.receive(0.05, 0, pong(2, 10_000, question.path), HIM)
    assert machine.winner is None
    machine.receive(0.05, 0, pong(3, question.counter, question.path ^ 1), HIM)
    assert machine.winner is None
    machine.receive(0.05, 0, pong(4, question.counter, question.path), HIM)
    assert machine.winner is not None
    assert machine.winner.addr == HIM
    assert machine.winner.rtt is not None
    assert abs(machine.winner.rtt - 0.05) < 0.001


def win(machine: Puncher) -> None:
    question, _ = next(each for each in sent(machine) if each[1].addr == HIM)
    machine.receive(
        0.05,
        0,
        peer().seal(
            Packet(
                type=PacketType.PONG, counter=1, clock=0, path=question.path, echo=question.counter
            )
        ),
        HIM,
    )


def test_once_there_is_a_path_nothing_is_answered_beside_it() -> None:
    machine = puncher()
    win(machine)
    assert machine.verified == 0.05
    machine.commands()
    machine.receive(0.06, 0, ping(2), ("11.1.0.2", 9999))
    assert sent(machine) == []
    machine.receive(0.06, 0, ping(3), HIM)
    assert [packet.type for packet, _ in sent(machine)] == [PacketType.PONG]


def test_the_nomination_is_repeated_until_it_is_accepted() -> None:
    machine = puncher()
    win(machine)
    nominations = [packet for packet, _ in sent(machine) if packet.type is PacketType.NOMINATE]
    assert len(nominations) == 1
    due = machine.deadline()
    assert due is not None
    machine.tick(due)
    (again, _), *rest = sent(machine)
    assert again.type is PacketType.NOMINATE
    assert not rest
    accept = Packet(type=PacketType.ACCEPT, counter=2, path=again.path, echo=again.counter)
    machine.receive(due + 0.05, 0, peer().seal(accept), HIM)
    ends = machine.deadline()
    assert ends is not None
    assert ends >= 0.05 + LINGER
    machine.tick(ends)
    assert machine.over
    assert machine.deadline() is None


def test_the_controlling_side_is_not_told_what_to_use() -> None:
    machine = puncher()
    machine.receive(
        0.05, 0, peer().seal(Packet(type=PacketType.NOMINATE, counter=1)), ("11.66.0.1", 53)
    )
    assert machine.winner is None


def test_stopping_tells_why_and_closes_sockets() -> None:
    machine = puncher("apdm-random-apdf")
    for number in range(10):
        machine.tick(0.01 * number)
    machine.commands()
    machine.stop(0.2, "the session ended")
    commands = machine.commands()
    assert commands[-1] == Ended("the session ended")
    assert sum(isinstance(each, CloseSocket) for each in commands) > 100
    assert machine.deadline() is None
    machine.stop(0.3, "again")
    assert machine.commands() == []


def test_a_presampled_socket_is_not_left_open() -> None:
    machine = puncher(sample=("11.1.0.1", 5000))
    win(machine)
    assert CloseSocket(PRESAMPLED) in machine.commands()
    machine = puncher(sample=("11.1.0.1", 5000))
    machine.commands()
    machine.stop(0.1, "over")
    assert CloseSocket(PRESAMPLED) in machine.commands()


def test_a_sample_of_another_attempt_or_of_a_strangers_address_is_ignored() -> None:
    machine = puncher("eim-apdf", "apdm-seq-apdf")
    machine.commands()
    machine.told(0.02, Sample(attempt=2, number=1, address=("11.1.0.2", 5000)))
    machine.told(0.02, Sample(attempt=1, number=1, address=("11.66.0.1", 5000)))
    assert sent(machine) == []
    machine.told(0.02, Sample(attempt=1, number=1, address=("11.1.0.2", 5000)))
    assert {each.addr[0] for _, each in sent(machine)} == {"11.1.0.2"}


def test_samples_are_bounded() -> None:
    machine = puncher("eim-apdf", "apdm-seq-apdf")
    for number in range(1, 200):
        machine.told(0.001 * number, Sample(attempt=1, number=number, address=("11.1.0.2", 5000)))
    assert len(sent(machine)) <= machine.plan.packets


def test_tcp_is_left_to_the_shell() -> None:
    machine = puncher("blocked", tcp="eim-apdf")
    steps = [each.step for each in machine.commands() if isinstance(each, StartTcp)]
    assert [step.strategy for step in steps] == [Strategy.TCP_SIMULTANEOUS_OPEN]
    machine.tcp_won(0.1, ("11.1.0.2", 4002), 0.05)
    won = [each for each in machine.commands() if isinstance(each, Won)]
    assert won[0].strategy is Strategy.TCP_SIMULTANEOUS_OPEN
    assert machine.over


def test_without_any_candidate_it_ends() -> None:
    ours = Offer(attempt=1, nonce=NONCES[0], side=replace(side("eim-apdf", 1), candidates=()))
    theirs = Offer(attempt=1, nonce=NONCES[1], side=Side())
    machine = Puncher(ours, theirs, SECRET, controlling=True, seed=b"x" * 32, rtt=RTT)
    machine.begin(0.0)
    while (due := machine.deadline()) is not None:
        machine.tick(due)
    assert any(isinstance(each, Ended) for each in machine.commands())
