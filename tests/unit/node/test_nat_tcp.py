"""TCP asked of servers on loopback; filters and NATs are in tests/e2e/test_nat.py."""

from __future__ import annotations

import asyncio

from pt.node.nat_tcp import discover_tcp
from pt.wire.nat_facts import Dependence
from tests.unit.node.test_nat import serving


def test_a_server_that_answers():
    async def main() -> None:
        async with serving() as port:
            found = await discover_tcp(("127.0.0.1", port))
        assert found.facts.works
        assert found.facts.translated is False
        assert found.facts.mapping is Dependence.INDEPENDENT
        assert found.facts.filtering is Dependence.UNKNOWN
        assert found.binding.mapped == found.local

    asyncio.run(main())


def test_nobody_there():
    async def main() -> None:
        async with serving() as port:
            pass
        found = await discover_tcp(("127.0.0.1", port))
        assert found.facts.works is None
        assert "refused" in found.problem
        assert not found.silent

    asyncio.run(main())


def test_silence():
    async def main() -> None:
        async with serving(tcp=False) as port:
            found = await discover_tcp(("127.0.0.1", port), timeout=0.1)
        assert found.silent
        assert found.facts.works is None

    asyncio.run(main())
