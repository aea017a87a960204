"""Several waits at once, of which none is left behind when another fails."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable
from typing import TypeVar, overload

__all__ = ["together"]

A = TypeVar("A")
B = TypeVar("B")
C = TypeVar("C")


@overload
async def together(one: Awaitable[A], two: Awaitable[B], /) -> tuple[A, B]: ...
@overload
async def together(
    one: Awaitable[A], two: Awaitable[B], three: Awaitable[C], /
) -> tuple[A, B, C]: ...


async def together(*waits: Awaitable[object]) -> tuple[object, ...]:
    """Wait until all have ended; returns what they returned.

    `asyncio.gather` raises as soon as one fails and lets the others run on, with nobody to wait
    for them.

    Raises: what the first of them, in the order given, has raised.
    """
    ended = await asyncio.gather(*waits, return_exceptions=True)
    for each in ended:
        if isinstance(each, BaseException):
            raise each
    return tuple(ended)
