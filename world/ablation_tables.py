"""The rows of the tables that world/run_ablation.py makes."""

from dataclasses import dataclass


@dataclass(frozen=True)
class SyntheticSet:
    """How the training data of one row of a table are made."""

    sigma: tuple[float, ...] = (0.3, 0.3, 0.5, 0.5, 0.7)  # standard deviations of the noise
    attrop: bool = True  # AttrOP for quality
    similarity: float | None = None  # mean similarity of the identity vectors; None: as sampled
    fraction: float = 1.0  # of the identities, that the FR model is trained on
    mixed: float = 0.0  # fraction of the images made from mixtures of two identities
    blended: bool = False  # real photos are blended into the images

    def dataset_name(self, seed: int) -> str:
        """The name of the folder of its images."""
        sigma = "-".join(f"{s:g}" for s in self.sigma)
        mixed = f"mixed{self.mixed:g}_" if self.mixed else ""
        return f"{mixed}sigma{sigma}_attrop{int(self.attrop)}_similarity{self.similarity}_{seed}"

    def training_name(self, seed: int) -> str:
        """The name of the FR model trained on it: several rows may train on the same images."""
        part = f"_{self.fraction:g}" if self.fraction < 1 else ""
        return f"{self.dataset_name(seed)}{part}" + ("_blended" if self.blended else "")


@dataclass(frozen=True)
class Photos:
    """Photos in the place of a synthetic set: of the known people, to train on, or of the unseen ones, to measure."""

    known: bool

    def training_name(self, seed: int) -> str:
        """The name of the FR model trained on them."""
        return f"real_{seed}"


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
    "separability": {
        "photos of others": Photos(known=False),
        "synthetic": SyntheticSet(),
        "no AttrOP": SyntheticSet(attrop=False),
        "noise .3": SyntheticSet(sigma=(0.3,)),
    },
}
