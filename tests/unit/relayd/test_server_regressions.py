"""A relay's end and its numbers: what kept it waiting, or ended it with a traceback."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from pt.errors import UsageError
from pt.relay.registry import STRANGERS
from pt.relayd.config import amount, quotas_from
from tests.unit.relayd.lab import SECRET, lab


def test_draining_ends_when_the_last_granted_circuit_never_came(tmp_path: Path) -> None:
    """It waited for all of its time: that a token had expired was told to nobody."""

    async def main() -> None:
        async with lab(tmp_path, secret=SECRET) as made, made.guest() as one, made.guest() as two:
            await two.prove()
            await two.reserve()
            hop = made.relay._hop
            now = asyncio.get_running_loop().time()
            circuit = made.relay._registry.open(
                one.peer_id,
                made.relay._guests.grade(next(iter(made.relay.node.connections))),
                two.peer_id,
                now,
                host="127.0.0.1",
            )
            hop.tokens.issue(circuit, None, (b"a" * 32, b"b" * 32), now - 14)
            async with asyncio.timeout(8):
                await made.relay.drain(60)
            assert not len(hop.tokens)

    asyncio.run(asyncio.wait_for(main(), 20))


@pytest.mark.parametrize(
    "value",
    [float("inf"), 10**400, "9" * 400, "9" * 400 + "K"],
    ids=["inf", "int", "text", "unit"],
)
def test_numbers_beyond_all_measure_are_said_to_be_none(value: object) -> None:
    with pytest.raises(UsageError, match="not a number of bytes"):
        amount(value, "rate")
    with pytest.raises(UsageError):
        quotas_from({"limit-data": value}, STRANGERS, "strangers")
