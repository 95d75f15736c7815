"""Rules that need answers on the way, written once for threads and for asyncio.

A generator yields what is to be done next; a driver does it, waiting in its own way, and says how it went.
"""

from collections.abc import Callable, Generator
from functools import partial
from typing import Any, TypeAlias, TypeVar

T = TypeVar("T")

Step: TypeAlias = Callable[[], Any]
"""To be called; in the async client what it returns is awaited. Its result, or what it raises, goes back in."""
Steps: TypeAlias = Generator[Step, Any, T]


def drive(steps: Steps[T]) -> T:
    """Carry out `steps` and return what they return, or raise what they raise."""
    resume: Callable[[], Step] = partial(next, steps)
    while True:
        try:
            step = resume()
        except StopIteration as done:
            result: T = done.value
            return result
        try:
            resume = partial(steps.send, step())
        except BaseException as error:
            resume = partial(steps.throw, error)


async def drive_async(steps: Steps[T]) -> T:
    """`drive`, for asyncio."""
    resume: Callable[[], Step] = partial(next, steps)
    while True:
        try:
            step = resume()
        except StopIteration as done:
            result: T = done.value
            return result
        try:
            resume = partial(steps.send, await step())
        except BaseException as error:
            resume = partial(steps.throw, error)
