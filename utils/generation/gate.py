"""A gate that images must pass to be written, and the queue that rejected images return to."""

import math
from collections import deque
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any, Generic, NamedTuple, TypeVar

import numpy as np

from utils.generation.selection import Selection

Job = TypeVar("Job")


class Gating(NamedTuple):
    """What decides whether an image is written.

    ``avoid``: features of people (M, 512) for a gate on the similarity to them; ``settings``: for settings.json, beside
    those of a gate on identity similarity and quality.
    """

    gate: "Gate | None" = None
    selection: Selection | None = None
    avoid: np.ndarray | None = None
    settings: Mapping[str, Any] = MappingProxyType({})

    @property
    def measures(self) -> list[str]:
        """Names of the measures that have to be taken."""
        score = [self.selection.score] if self.selection is not None and self.selection.score else []
        return list(dict.fromkeys([*(self.gate.names if self.gate else ()), *score]))

    def needs(self, *names: str) -> bool:
        """Whether one of the measures has to be taken."""
        return bool(set(names) & set(self.measures))


@dataclass(frozen=True)
class Gate:
    """``minimums`` and ``maximums``: {name of a measure: lowest or highest value that passes}.

    ``max_tries``: the most attempts at an image.
    """

    minimums: dict[str, float]
    max_tries: int
    maximums: dict[str, float] = field(default_factory=dict)

    @property
    def limits(self) -> "list[Limit]":
        """All limits."""
        lowest = [Limit(name, value, is_minimum=True) for name, value in self.minimums.items()]
        return lowest + [Limit(name, value, is_minimum=False) for name, value in self.maximums.items()]

    @property
    def names(self) -> list[str]:
        """Names of the measures that the gate needs."""
        return list({limit.name: None for limit in self.limits})

    def failures(self, values: dict[str, float]) -> str:
        """Why one image does not pass, as text; empty if it passes."""
        missed = (limit for limit in self.limits if not limit.passes(values.get(limit.name, math.nan)))
        return ", ".join(
            f"{limit.name} {values[limit.name]:.3f} {limit}" if limit.name in values else f"no {limit.name}"
            for limit in missed
        )


class Limit(NamedTuple):
    """The lowest (``is_minimum``) or highest value of a measure that passes."""

    name: str
    value: float
    is_minimum: bool

    def passes(self, value: float) -> bool:
        """Whether a value passes; NaN does not."""
        return value >= self.value if self.is_minimum else value <= self.value

    def best(self, values: Iterable[float]) -> float:
        """The value that is nearest to passing."""
        return max(values) if self.is_minimum else min(values)

    def __str__(self) -> str:
        return f"{'below' if self.is_minimum else 'above'} {self.value:g}"


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
