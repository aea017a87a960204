from __future__ import annotations

import pytest

from pt.cli.explain import Verdict
from pt.tunnel import events
from tests.unit.cli.samples import PEER, PUBLIC


def connected(path: str) -> events.Connected:
    return events.Connected(peer_id=PEER, path=path, address=PUBLIC, rtt=0.02)


def punched(*, ok: bool, strategy: str = "", detail: str = "") -> events.Punched:
    return events.Punched(ok=ok, strategy=strategy, seconds=0.2, detail=detail)


@pytest.mark.parametrize(
    ("seen", "done", "sentence", "relayed"),
    [
        ([connected("direct/tcp")], True, "direct, over TCP: the other side can be", False),
        ([connected("relay/raw")], False, "relayed: no attempt", True),
        (
            [
                connected("relay/raw"),
                punched(ok=True, strategy="birthday"),
                connected("direct/quic"),
            ],
            True,
            "direct, over QUIC, through both NATs by birthday",
            False,
        ),
        (
            [connected("relay/circuit"), connected("direct/tcp")],
            True,
            "direct, over TCP, after a beginning on a relay",
            False,
        ),
        (
            [connected("relay/raw"), punched(ok=False, detail="both NATs are symmetric")],
            True,
            "relayed: both NATs are symmetric",
            True,
        ),
    ],
)
def test_the_sentence(seen: list[events.Event], done: bool, sentence: str, relayed: bool) -> None:
    verdict = Verdict()
    for event in seen:
        verdict(event)
    assert verdict.done.is_set() is done
    assert verdict.sentence.startswith(sentence)
    facts = verdict.facts
    assert facts["relayed"] is relayed
    assert facts["why"] == verdict.sentence
    assert facts["address"] == PUBLIC
