"""One thread for all work on the models, whose results can be read while it works."""

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from queue import SimpleQueue
from threading import Event
from typing import Generic, NamedTuple, TypeVar

Value = TypeVar("Value")


class Stopped(Exception):
    """Raised inside a piece of work that nobody waits for any more."""


class End(NamedTuple):
    """The end of a piece of work, and the error that ended it, if any."""

    error: BaseException | None = None


class Worker(Generic[Value]):
    """Does pieces of work one after the other, always in the same thread.

    Several requests so never compute at the same time, and PyTorch keeps one pool of threads.
    """

    def __init__(self):
        self.thread = ThreadPoolExecutor(1, "models")

    def stream(self, work: Callable[[Callable[[Value], None]], None]) -> Iterator[Value]:
        """Call ``work(emit)`` and iterate over what it emits, as it does so. Raises what ``work`` raises.

        When the iterator is closed before its end, the next ``emit`` ends the work.
        """
        emitted: SimpleQueue[Value | End] = SimpleQueue()
        closed = Event()

        def emit(value: Value) -> None:
            if closed.is_set():
                raise Stopped
            emitted.put(value)

        def whole_work() -> None:
            try:
                if not closed.is_set():
                    work(emit)
                emitted.put(End())
            except BaseException as error:
                emitted.put(End(error))

        self.thread.submit(whole_work)
        try:
            while not isinstance(value := emitted.get(), End):
                yield value
            if value.error is not None:
                raise value.error
        finally:
            closed.set()

    def call(self, work: Callable[[], Value]) -> Value:
        """The result of ``work()``, computed in the thread."""
        return self.thread.submit(work).result()

    def close(self) -> None:
        """Leave out what has not begun."""
        self.thread.shutdown(wait=False, cancel_futures=True)
