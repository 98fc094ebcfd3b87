"""Identity mixup (SynFace, Qiu et al., 2021): whom an image mixes with whom, and how much of each it shows.

An image of identity a is mixed with another identity b. It shows the share phi of a and 1 - phi of b, and its soft
label is (a, b, phi).
"""

from dataclasses import dataclass
from typing import Any

import numpy as np

DIGITS = 6  # decimal places of a share, so that manifest, LMDB and image agree on it
MIXTURE = "mixture"  # key, in the line of an image, of the entry that ``mixture_entry`` makes
SETTING = "identity_mixup"  # key in the settings of a dataset whose images are mixtures


@dataclass(frozen=True)
class Shares:
    """A distribution of shares between 0 and 1.

    ``count``: number of evenly spaced values from ``low`` to ``high``, equally likely; 0 for all values between them.
    """

    low: float
    high: float
    count: int = 1

    @classmethod
    def parse(cls, text: str) -> "Shares":
        """The distribution of ``linspace:LOW:HIGH:COUNT`` with a count of 2 or more, ``uniform:LOW:HIGH``, or a number.

        Raises ValueError when the text is malformed, or a share lies outside [0, 1].
        """
        try:
            match text.split(":"):
                case [value]:
                    shares = cls(float(value), float(value))
                case ["uniform", low, high]:
                    shares = cls(float(low), float(high), 0)
                case ["linspace", low, high, count] if int(count) >= 2:
                    shares = cls(float(low), float(high), int(count))
                case _:
                    raise ValueError
        except ValueError:
            raise ValueError(f"must be linspace:LOW:HIGH:COUNT, uniform:LOW:HIGH or a number, not {text}") from None
        if not 0 <= shares.low <= shares.high <= 1:
            raise ValueError(f"needs shares from 0 to 1, the lower one first, not {text}")
        return shares

    def draw(self, rng: np.random.Generator) -> float:
        """A random share. Takes one draw from ``rng``."""
        if self.count == 0:
            return round(float(rng.uniform(self.low, self.high)), DIGITS)
        return round(float(np.linspace(self.low, self.high, self.count)[rng.integers(self.count)]), DIGITS)

    def __str__(self) -> str:
        """The text that ``parse`` reads, the same for equal distributions."""
        if self.count == 1:
            return f"{self.low}"
        return f"linspace:{self.low}:{self.high}:{self.count}" if self.count else f"uniform:{self.low}:{self.high}"


def draw_mixture(rng: np.random.Generator, own: int, people: int, shares: Shares) -> tuple[int, float]:
    """The partner of person ``own`` in an image, uniformly one of the other ``people``, and phi, the share of ``own``.

    People are counted from 0. There have to be two at least.
    """
    return (own + int(rng.integers(1, people))) % people, shares.draw(rng)


def mixture_entry(number: int, name: str, phi: float) -> dict[str, Any]:
    """What the line of an image says of its mixture: number and name of the second identity; the share of the first."""
    return {"identity": number, "name": name, "phi": phi}


def mixup_setting(shares: Shares, people: int) -> dict[str, Any]:
    """What the settings of a dataset say: the distribution of phi, and the number of identities that are mixed."""
    return {"phi": str(shares), "identities": people}
