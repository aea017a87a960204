"""What the environment may change of the data path, for experiments and benchmarks.

`PT_SUITE`: `auto` (AES-GCM between two `pt`s), or `chachapoly` (libp2p's own suite everywhere).
`PT_CONGESTION`: `auto` (BBR where the path is long and the kernel has it), `kernel` (leave the
default), or an algorithm's name.
"""

from __future__ import annotations

import os

from pt.errors import UsageError
from pt.node.upgrade import PT_SECURITY, SECURITY

__all__ = ["congestion", "security"]


def security() -> tuple[str, ...]:
    """Security protocols to offer and take between two `pt`s, best first.

    Raises:
        UsageError: PT_SUITE names none.

    """
    suite = os.environ.get("PT_SUITE", "auto").lower()
    if suite == "chachapoly":
        return (SECURITY,)
    if suite in ("auto", "", "aesgcm"):
        return (PT_SECURITY, SECURITY)
    raise UsageError(f"PT_SUITE={suite!r} is not known: use auto, aesgcm or chachapoly")


def congestion() -> str:
    """The congestion control to ask for; see `pt.node.node.Node`."""
    value = os.environ.get("PT_CONGESTION", "auto")
    return "" if value == "kernel" else value
