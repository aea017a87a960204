"""A bounded set of background tasks with one owner.

`asyncio.TaskGroup` of Python 3.11 and 3.12 can lose a cancellation when a child raises during its
clean-up, and has neither a limit nor a way to end.  A node needs something smaller: tasks that may
fail one by one without harming the others, counted, and all ended when the owner closes.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine

from pt.errors import LimitError, PtError

__all__ = ["Scope"]


class Scope:
    """Background tasks; at most `limit` at a time.

    A `PtError`, `OSError` or `TimeoutError` in a task ends that task alone.  Anything else is a bug
    and goes to `on_crash` (by default the loop's exception handler).
    """

    def __init__(
        self, *, limit: int = 1024, on_crash: Callable[[BaseException], None] | None = None
    ) -> None:
        self._limit = limit
        self._tasks: set[asyncio.Task[None]] = set()
        self._on_crash = on_crash
        self._closed = False

    def __len__(self) -> int:
        return len(self._tasks)

    @property
    def full(self) -> bool:
        """Whether `start` would refuse now."""
        return self._closed or len(self._tasks) >= self._limit

    def start(self, coro: Coroutine[object, object, None]) -> asyncio.Task[None]:
        """Run `coro` in the background.

        Raises:
            LimitError: the scope is full or closed; the coroutine is closed unstarted.

        """
        if self.full:
            coro.close()
            raise LimitError(f"no more than {self._limit} background tasks at a time")
        task = asyncio.get_running_loop().create_task(coro)
        self._tasks.add(task)
        task.add_done_callback(self._done)
        return task

    def _done(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        if task.cancelled():
            return
        error = task.exception()
        if error is None or isinstance(error, PtError | OSError | TimeoutError):
            return
        if self._on_crash is not None:
            self._on_crash(error)
        else:
            task.get_loop().call_exception_handler(
                {"message": "a background task crashed", "exception": error, "task": task}
            )

    async def aclose(self) -> None:
        """Cancel every task and wait until all have ended."""
        self._closed = True
        current = asyncio.current_task()
        tasks = [task for task in self._tasks if task is not current]
        for task in tasks:
            task.cancel()
        if tasks:
            await asyncio.wait(tasks)
