"""A gate that images must pass to be written, and the queue that rejected images return to."""

from collections import deque
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Generic, TypeVar

Job = TypeVar("Job")


@dataclass(frozen=True)
class Gate:
    """``minimums``: {name of a measure: lowest value that passes}; an image is drawn ``max_tries`` times at most."""

    minimums: dict[str, float]
    max_tries: int

    def missed(self, values: dict[str, float]) -> list[str]:
        """Names of the measures of one image that do not pass."""
        return [name for name, lowest in self.minimums.items() if not values[name] >= lowest]

    def failures(self, values: dict[str, float]) -> str:
        """Why one image does not pass, empty when it does."""
        return ", ".join(f"{name} {values[name]:.3f} below {self.minimums[name]:g}" for name in self.missed(values))


class RetryQueue(Generic[Job]):
    """Jobs that wait to be done: those put back come first, then the next of ``jobs``, which is read as work goes on.

    An empty queue may fill again when a rejected job is put back, so being empty now does not mean that all is done.
    """

    def __init__(self, jobs: Iterable[Job]):
        self.jobs, self.retries = iter(jobs), deque()

    def put_back(self, job: Job) -> None:
        """Let a job wait for another attempt."""
        self.retries.append(job)

    def take(self) -> Job | None:
        """The next job, or None when none waits at the moment."""
        return self.retries.popleft() if self.retries else next(self.jobs, None)

    def take_batch(self, size: int) -> list[Job]:
        """The next ``size`` jobs, or as many as wait at the moment."""
        batch = []
        while len(batch) < size and (job := self.take()) is not None:
            batch.append(job)
        return batch
