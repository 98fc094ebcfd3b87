"""A gate that images must pass to be written, and the queue that rejected images return to."""

from collections import deque
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Generic, TypeVar

Job = TypeVar("Job")


@dataclass(frozen=True)
class Gate:
    """``minimums``: {name of a measure: lowest value that passes}; ``max_tries``: most attempts at an image."""

    minimums: dict[str, float]
    max_tries: int

    def missed(self, values: dict[str, float]) -> list[str]:
        """Names of the measures of one image that are below their minimum (or NaN)."""
        return [name for name, lowest in self.minimums.items() if not values[name] >= lowest]

    def failures(self, values: dict[str, float]) -> str:
        """Why one image does not pass, as text; empty if it passes."""
        return ", ".join(f"{name} {values[name]:.3f} below {self.minimums[name]:g}" for name in self.missed(values))


class RetryQueue(Generic[Job]):
    """A queue of jobs: those put back come first, then the next of ``jobs``, an iterable that is read on demand.

    An empty queue may fill again when a rejected job is put back, so an empty queue does not mean that all is done.
    """

    def __init__(self, jobs: Iterable[Job]):
        self.jobs, self.retries = iter(jobs), deque[Job]()

    def put_back(self, job: Job) -> None:
        """Queue a job for another attempt."""
        self.retries.append(job)

    def take(self) -> Job | None:
        """The next job, None if the queue is empty at the moment."""
        return self.retries.popleft() if self.retries else next(self.jobs, None)

    def take_batch(self, size: int) -> list[Job]:
        """The next ``size`` jobs, or fewer if the queue has fewer at the moment."""
        batch = []
        while len(batch) < size and (job := self.take()) is not None:
            batch.append(job)
        return batch
