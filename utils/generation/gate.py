"""A gate that images must pass to be written, and the queue of images that are drawn again."""

from collections import deque
from dataclasses import dataclass


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


class Waiting:
    """An iterator over images to draw, those to be drawn again first; after its end it goes on when more come back."""

    def __init__(self, drawn):
        self.drawn, self.again = iter(drawn), deque()

    def __iter__(self):
        return self

    def __next__(self):
        return self.again.popleft() if self.again else next(self.drawn)
