"""Coroutines from synchronous code, and calls in threads that may never come back."""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections.abc import Callable, Coroutine
from concurrent.futures import ThreadPoolExecutor, wait
from queue import SimpleQueue
from typing import Any, TypeVar

T = TypeVar("T")


def run_async(work: Coroutine[Any, Any, T]) -> T:
    """The result of a coroutine, from synchronous code; in a notebook from a thread of its own."""
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return asyncio.run(work)
    return _run_beside_a_loop(work)


def _run_beside_a_loop(work: Coroutine[Any, Any, T]) -> T:
    """The result of a coroutine from a thread of its own: this thread's loop runs already."""
    loop = asyncio.new_event_loop()
    task = loop.create_task(work)
    with ThreadPoolExecutor(1) as thread, contextlib.closing(loop):
        done = thread.submit(loop.run_until_complete, task)
        try:
            return done.result()
        except BaseException:  # Ctrl-C reaches this thread only
            loop.call_soon_threadsafe(task.cancel)
            wait([done])
            raise


async def in_thread(call: Callable[[], T], seconds: float | None = None) -> T:
    """`call()` in a thread of its own, which is abandoned after `seconds`.

    The thread is a daemon: one that hangs does not keep the process from ending, as those of
    `asyncio.to_thread` would.

    Raises:
        TimeoutError: it took longer.
    """

    def start(run: Callable[[], None]) -> None:
        threading.Thread(target=run, name="aem-gym-call", daemon=True).start()

    return await asyncio.wait_for(_elsewhere(call, start), seconds)


class Turns:
    """Calls of coroutines, one after the other, in the thread that does the `work`."""

    def __init__(self) -> None:
        self._waiting: SimpleQueue[Callable[[], None] | None] = SimpleQueue()

    async def call(self, call: Callable[[], T]) -> T:
        """`call()`, when its turn comes."""
        return await _elsewhere(call, self._waiting.put)

    def work(self) -> None:
        """Do what is asked for until `stop`."""
        while run := self._waiting.get():
            run()

    def stop(self) -> None:
        """Make `work` return. Any thread may call it."""
        self._waiting.put(None)


def _elsewhere(
    call: Callable[[], T], start: Callable[[Callable[[], None]], None]
) -> asyncio.Future[T]:
    """The result of `call()`, which `start` lets run in another thread."""
    loop = asyncio.get_running_loop()
    answer: asyncio.Future[T] = loop.create_future()

    def run() -> None:
        try:
            result = call()
        except BaseException as error:
            report(answer.set_exception, error)
            if isinstance(error, KeyboardInterrupt):
                raise  # it is for the thread
        else:
            report(answer.set_result, result)

    def report(settle: Callable[[Any], None], value: object) -> None:
        with contextlib.suppress(RuntimeError):  # the loop is closed: nobody waits any more
            loop.call_soon_threadsafe(_unless_done, answer, settle, value)

    start(run)
    return answer


def _unless_done(answer: asyncio.Future[Any], settle: Callable[[Any], None], value: object) -> None:
    if not answer.done():
        settle(value)
