"""Which engine runs connections: the native one where it can be loaded, else the one in Python."""

from __future__ import annotations

from typing import Final

from pt.errors import UsageError
from pt.quic.engine import EngineFactory

__all__ = ["NAMES", "default", "factories"]

NAMES: Final = ("qh3", "aioquic")
"""The best one first."""

TESTED: Final = "2.1."
"""Releases of qh3 whose native core the engine knows; another is left alone."""


def factories() -> list[EngineFactory]:
    """Those that can be used here."""
    from pt.quic.engine_aioquic import AioquicEngine  # noqa: PLC0415  # start-up cost

    found: list[EngineFactory] = [AioquicEngine]
    try:
        import qh3  # noqa: PLC0415  # may be missing

        from pt.quic.engine_qh3 import Qh3Engine  # noqa: PLC0415  # same
    except ImportError:  # no wheel for this platform
        return found
    if qh3.__version__.startswith(TESTED):
        found.insert(0, Qh3Engine)
    return found


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
