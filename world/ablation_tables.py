"""The rows of the tables that world/run_ablation.py makes."""

from dataclasses import dataclass
from typing import NamedTuple


class Part(NamedTuple):
    """A part of the known people and of their photos: N and S as fractions of the synthetic identities and images."""

    people: float
    images: float = 1.0

    def __str__(self) -> str:
        return f"{self.people:g}x{self.images:g}"

    def of(self, identities: int, images: int) -> tuple[int, int]:
        """N and S beside so many synthetic identities with so many images each."""
        return max(2, round(identities * self.people)), max(1, round(images * self.images))


@dataclass(frozen=True)
class SyntheticSet:
    """How the training data of one row of a table are made."""

    sigma: tuple[float, ...] = (0.3, 0.3, 0.5, 0.5, 0.7)  # standard deviations of the noise
    attrop: bool = True  # AttrOP for quality
    similarity: float | None = None  # mean similarity of the identity vectors; None: as sampled
    fraction: float = 1.0  # of the identities, that the FR model is trained on
    mixed: float = 0.0  # fraction of the images made from mixtures of two identities
    blended: bool = False  # real photos are blended into the images
    mixup: str | None = None  # identity mixup, as --identity_mixup names it
    real: Part | None = None  # of the real photos, that is blended in as SynFace does

    @property
    def as_synface(self) -> bool:
        """Whether SynFace's settings of mixup are used in training."""
        return self.mixup is not None or self.real is not None

    def dataset_name(self, seed: int) -> str:
        """The name of the folder of its images."""
        sigma = "-".join(f"{s:g}" for s in self.sigma)
        mixed = f"mixed{self.mixed:g}_" if self.mixed else ""
        mixed += f"mixup{self.mixup.replace(':', '-')}_" if self.mixup else ""
        return f"{mixed}sigma{sigma}_attrop{int(self.attrop)}_similarity{self.similarity}_{seed}"

    def training_name(self, seed: int) -> str:
        """The name of the FR model trained on it: several rows may train on the same images."""
        part = f"_{self.fraction:g}" if self.fraction < 1 else ""
        real = f"_real{self.real}" if self.real else ""
        return f"{self.dataset_name(seed)}{part}{real}" + ("_blended" if self.blended else "")


@dataclass(frozen=True)
class Photos:
    """Photos in the place of a synthetic set: of the known people, to train on, or of the unseen ones, to measure.

    ``part``: of the known people, None for as many identities and images as the synthetic sets have.
    """

    known: bool
    part: Part | None = None

    def training_name(self, seed: int) -> str:
        """The name of the FR model trained on them."""
        return f"real{self.part or ''}_{seed}"


TABLES = {  # name of a table -> the rows by their names
    "noise": {
        "noise .3": SyntheticSet(sigma=(0.3,)),
        "noise .3 .5 .7": SyntheticSet(),
        "noise .3 .5 .9": SyntheticSet(sigma=(0.3, 0.3, 0.5, 0.5, 0.9)),
    },
    "attrop": {"AttrOP for quality": SyntheticSet(), "no AttrOP": SyntheticSet(attrop=False)},
    "similarity": {
        "as sampled": SyntheticSet(),
        "mean .2": SyntheticSet(similarity=0.2),
        "mean .4": SyntheticSet(similarity=0.4),
    },
    "people": {"a quarter": SyntheticSet(fraction=0.25), "half": SyntheticSet(fraction=0.5), "all": SyntheticSet()},
    "real": {"real": Photos(known=True), "synthetic": SyntheticSet()},
    "mixup": {  # equally many images in each row, not counting the real ones that are blended in
        "synthetic": SyntheticSet(),
        "half of them of two people each": SyntheticSet(mixed=0.5),
        "blended with real photos": SyntheticSet(blended=True),
    },
    "synface": {  # IM: identity mixup; DM: domain mixup with N real people, SynFace's Mix_N_S; and these people alone
        "no mixup": SyntheticSet(),
        "IM, share .8": SyntheticSet(mixup="0.8"),
        "IM, share .6 to 1": SyntheticSet(mixup="linspace:0.6:1:11"),
        "DM, a tenth as many real people": SyntheticSet(real=Part(0.1)),
        "DM, a quarter": SyntheticSet(real=Part(0.25)),
        "DM, half": SyntheticSet(real=Part(0.5)),
        "IM and DM, a tenth": SyntheticSet(mixup="linspace:0.6:1:11", real=Part(0.1)),
        "real photos alone, a tenth": Photos(known=True, part=Part(0.1)),
        "real photos alone, a quarter": Photos(known=True, part=Part(0.25)),
        "real photos alone, half": Photos(known=True, part=Part(0.5)),
    },
    "separability": {
        "photos of others": Photos(known=False),
        "synthetic": SyntheticSet(),
        "no AttrOP": SyntheticSet(attrop=False),
        "noise .3": SyntheticSet(sigma=(0.3,)),
    },
}

# The rows whose images are measured: of a table that trains nothing, and those beside the accuracies of another one.
MEASURED = {
    "separability": tuple(TABLES["separability"]),
    "synface": ("no mixup", "IM, share .8", "IM, share .6 to 1"),
}
