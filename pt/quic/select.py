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


def _load(name: str) -> EngineFactory | None:
    """The engine, unless it cannot be used here; what others need is not loaded."""
    if name == "aioquic":
        from pt.quic.engine_aioquic import AioquicEngine  # noqa: PLC0415  # start-up cost

        return AioquicEngine
    try:
        import qh3  # noqa: PLC0415  # may be missing

        from pt.quic.engine_qh3 import Qh3Engine  # noqa: PLC0415  # same
    except ImportError:  # no wheel for this platform
        return None
    return Qh3Engine if qh3.__version__.startswith(TESTED) else None


def factories() -> list[EngineFactory]:
    """Those that can be used here, the best one first."""
    return [found for found in map(_load, NAMES) if found is not None]


def default(name: str | None = None) -> EngineFactory:
    """The one to use; `name` asks for one.

    Raises:
        UsageError: it is not known, or cannot be loaded here.

    """
    for each in NAMES:
        if name in (None, each) and (found := _load(each)) is not None:
            return found
    here = " or ".join(factory.name for factory in factories())
    raise UsageError(f"there is no QUIC engine {name!r} here: use {here}")
