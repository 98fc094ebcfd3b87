"""One thread for all work on the models, whose results can be read while it works."""

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from queue import SimpleQueue
from threading import Event
from typing import Generic, NamedTuple, TypeVar
from weakref import WeakSet

Value = TypeVar("Value")


class Stopped(Exception):
    """Raised inside a piece of work that nobody waits for any more."""


class End(NamedTuple):
    """The end of a piece of work, and the error that ended it, if any."""

    error: BaseException | None = None


class Stream(Iterator[Value]):
    """An iterator over what a piece of work emits, as it does so; raises what the work raises.

    ``work``: a function of ``emit(value)``. After ``close()``, which any thread may call, the next ``emit`` ends the
    work and with it the iterator.
    """

    def __init__(self, work: Callable[[Callable[[Value], None]], None]):
        self.work = work
        self.emitted: SimpleQueue[Value | End] = SimpleQueue()
        self.closed = Event()

    def run(self) -> None:
        """Do the work."""
        try:
            if not self.closed.is_set():
                self.work(self.emit)
            end = End()
        except Stopped:
            end = End()
        except BaseException as error:
            end = End(error)
        self.emitted.put(end)

    def emit(self, value: Value) -> None:
        """Pass a value on. Raises Stopped once the stream is closed."""
        if self.closed.is_set():
            raise Stopped
        self.emitted.put(value)

    def __next__(self) -> Value:
        value = self.emitted.get()
        if not isinstance(value, End):
            return value
        self.emitted.put(End())  # for whoever asks again
        raise value.error or StopIteration

    def close(self) -> None:
        """End the work at its next ``emit``."""
        self.closed.set()


class Worker(Generic[Value]):
    """Does pieces of work one after the other, always in the same thread.

    Several requests so never compute at the same time, and PyTorch keeps one pool of threads.
    """

    def __init__(self):
        self.thread = ThreadPoolExecutor(1, "models")
        self.streams: WeakSet[Stream] = WeakSet()

    def stream(self, work: Callable[[Callable[[Value], None]], None]) -> Stream[Value]:
        """Begin ``work(emit)`` as soon as the thread is free; the Stream of what it emits."""
        stream = Stream(work)
        self.streams.add(stream)
        self.thread.submit(stream.run)
        return stream

    def call(self, work: Callable[[], Value]) -> Value:
        """The result of ``work()``, computed in the thread."""
        return self.thread.submit(work).result()

    def close(self) -> None:
        """End what is running, and leave out what has not begun."""
        for stream in list(self.streams):
            stream.close()
        self.thread.shutdown(wait=False, cancel_futures=True)
