"""Which engine runs connections: the native one where it can be loaded, else the one in Python."""

from __future__ import annotations

from pt.errors import UsageError
from pt.quic.engine import EngineFactory

__all__ = ["NAMES", "default", "factories"]

NAMES = ("qh3", "aioquic")
"""The best one first."""


def factories() -> list[EngineFactory]:
    """Those that can be used here."""
    from pt.quic.engine_aioquic import Aioquic  # noqa: PLC0415  # start-up cost

    return [Aioquic()]


def default(name: str | None = None) -> EngineFactory:
    """The one to use; `name` asks for one.

    Raises:
        UsageError: it is not known, or cannot be loaded here.

    """
    found = factories()
    if name is None:
        return found[0]
    for factory in found:
        if factory.name == name:
            return factory
    here = ", ".join(factory.name for factory in found)
    raise UsageError(f"there is no QUIC engine {name!r} here; there is {here}")
