"""The card of a published dataset: a README.md whose head the Hugging Face Hub reads, and text for people."""

from collections import defaultdict
from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

from huggingface_hub import DatasetCardData

from utils.data.images import CONTACT_SHEET, SIDE
from utils.dataset.manifest import read_lines

SIZES = ((10**3, "n<1K"), (10**4, "1K<n<10K"), (10**5, "10K<n<100K"), (10**6, "100K<n<1M"), (10**7, "1M<n<10M"))
MODES = {  # "mode" of settings.json -> how the images were made
    "identity": "Each identity is a vector in the feature space of a face-recognition (FR) model. Gaussian noise on "
    "the vector gives the different images of the identity.",
    "pose": "Each identity is a vector in the feature space of a face-recognition (FR) model. Gaussian noise on "
    "the vector gives a vector for each image of the identity.",
    "reference": "The identity vectors are face-recognition (FR) features of photos. Gaussian noise on a vector gives "
    "the different images of an identity.",
    "uiface": "Each identity is a vector in the feature space of a face-recognition (FR) model. Latent diffusion draws "
    "each image from noise of its own, first a face without an identity and then with that of the vector.",
}
VEC2FACE = "[Vec2Face](https://arxiv.org/abs/2409.02979), which turns face-recognition vectors into face images"
SYSTEMS = {"uiface": "UIFace (Lin et al., ICLR 2025), a latent diffusion model conditioned on face-recognition vectors"}
SAMPLING = {  # settings of UIFace's sampler
    "partition": "timestep from which an image had its identity",
    "threshold": "largest movement of a settled attention map",
    "steps": "sampling steps",
    "guidance": "scale of classifier-free guidance",
    "injection": "injection of the attention of the pass without an identity",
}
ATTROP = {  # "mode" of settings.json -> what AttrOP did, where it was used
    "identity": "Before that, AttrOP changed the identity vector until its image reached the target quality, or for "
    "the given number of iterations.",
    "reference": "Before the noise, AttrOP changed the identity vector until its image reached the targets, or for the "
    "given number of iterations.",
    "pose": "AttrOP changed the vector of each image until the image reached the target yaw and quality, or for the "
    "given number of iterations.",
}
WEIGHTS = {
    "generator": "generator",
    "autoencoder": "autoencoder",
    "id_model": "FR model that reads the identity",
    "quality_model": "quality model",
    "pose_model": "head pose model",
    "gate_model": "second face encoder of the gate",
    "attribute_model": "estimator of attributes",
}
FURTHER_GATES = {
    "min_gate_similarity": "gate: smallest similarity by a second face encoder",
    "max_avoid_similarity": "gate: highest similarity to people to avoid",
    "max_landmark_error": "gate: one face, with landmarks within so many pixels of the template",
    "best": "images of an identity that are kept, the best of those drawn",
    "complete": "images that an identity must have, or it was replaced",
}
MEASURED = {
    "id_similarity": "cosine similarity of an image's FR feature to the identity vector",
    "quality": "norm of the quality model's feature",
    "yaw": "yaw in degrees",
    "pitch": "pitch in degrees",
}
COLUMNS = """| column | meaning |
|---|---|
| `label` | number of the identity, 0 to {last} |
| `identity` | name of the identity |
| `sigma` | standard deviation of Gaussian noise on each dimension of the identity vector |
| `cosine` | of the image's vector to the identity vector, in place of `sigma` with noise in a cone |
| `id_similarity`, `quality`, `yaw`, `pitch` | measured on the image before JPEG compression, or absent |"""
LIMITS = (
    "The images inherit the biases of the photos that the generator and the FR model were trained on. The distribution "
    "of the identities over sex, age and skin tone was neither controlled nor measured.",
    "Two identities may resemble each other, and an identity may resemble a real person.",
    "Similarity and quality depend on the models that measured them.",
    "The dataset is meant for research on face recognition, not for identifying anybody.",
)
ORIGIN = {  # whether the mode is "reference" -> what is known of where the identity vectors came from
    False: "`settings.json` does not tell where the identity vectors came from. Images made from vectors of real "
    "people resemble these people.",
    True: "The identity vectors were taken from photos, so the images resemble the people on these photos. The names "
    "of the photos were left out.",
}


class ManifestSummary(NamedTuple):
    """What a manifest says of all images together.

    ``images``: number of images written; ``identities``: number of identities with an image; ``without_image``: number
    of identities of which no image passed the gate; ``accepted`` of ``optimised``: number of AttrOP's vectors that
    reached their targets; ``means``: {name in MEASURED: (mean, number of images measured)}.
    """

    images: int
    identities: int
    without_image: int
    accepted: int
    optimised: int
    means: dict[str, tuple[float, int]]


def summarise(manifest: Path) -> ManifestSummary:
    """Read a manifest once, in constant memory but for one entry per identity."""
    has_image, images, accepted, optimised = defaultdict(bool), 0, 0, 0
    sums = dict.fromkeys(MEASURED, (0.0, 0))
    for line in read_lines(manifest):
        written = line.get("passed") is not False
        has_image[line["identity"], line["name"]] |= written
        images += written
        if verdict := line.get("attrop"):
            accepted, optimised = accepted + bool(verdict["accepted"]), optimised + 1
        for name, (total, count) in sums.items():
            if written and line.get(name) is not None:
                sums[name] = (total + line[name], count + 1)
    identities = sum(has_image.values())
    means = {name: (total / count, count) for name, (total, count) in sums.items() if count}
    return ManifestSummary(images, identities, len(has_image) - identities, accepted, optimised, means)


def card_text(
    name: str,
    repository: str,
    license: str,
    form: str,
    settings: dict,
    environment: dict,
    summary: ManifestSummary,
    *,
    figures: str = "",
    has_contact_sheet: bool = True,
) -> str:
    """The text of a dataset card, in Markdown with a YAML head.

    ``name``: of the dataset; ``repository``: OWNER/NAME on the Hub; ``license``: identifier of the licence; ``form``:
    imagefolder, webdataset or parquet; ``settings`` and ``environment``: the content of settings.json; ``figures``:
    Markdown on what was measured of the dataset, empty where nothing was.
    """
    mode, from_photos = settings.get("mode"), settings.get("mode") == "reference"
    about = f"{summary.images:,} generated face images of {summary.identities:,} identities, {SIDE}x{SIDE} pixels"
    parts = [
        f"# {name}",
        f"{about}, made with {SYSTEMS.get(mode, VEC2FACE)}.",
        f"![The first identities, one per row]({CONTACT_SHEET})" if has_contact_sheet else "",
        "## Use",
        f'```python\nfrom datasets import load_dataset\n\ndataset = load_dataset("{repository}", split="train")\n```',
        "Each sample of these shards has the image (`jpg`) and a record (`json`) with:" if form == "webdataset" else "",
        COLUMNS.format(last=summary.identities - 1),
        "## How it was made",
        " ".join([MODES.get(mode, ""), *([ATTROP.get(mode, "")] if settings.get("attrop") else [])]).strip(),
        table(["setting", "value"], settings_rows(settings, environment)),
        table(["weights", "SHA-256"], weight_rows(settings)),
        "`settings.json` holds all settings. With them, the same weights and the same identity vectors, the dataset "
        "can be made again.",
        "## Counts and figures",
        table(["what", "value"], count_rows(summary)),
        figures or "No report on the dataset was made, so no figures are compared with those of photos.",
        "## Known limits",
        "\n".join(f"- {limit}" for limit in (*LIMITS, ORIGIN[from_photos])),
        "## Licence",
        f"`{license}`, as chosen by the publisher of the dataset.",
    ]
    head = card_head(name, license, form, summary.images)
    return f"---\n{head}\n---\n\n" + "\n\n".join(part for part in parts if part) + "\n"


def card_head(name: str, license: str, form: str, images: int) -> str:
    """The YAML that the Hub reads: licence, size, and where the data lies."""
    size = next((word for limit, word in SIZES if images < limit), "n>10M")
    place = {"webdataset": "data/*.tar", "parquet": "data/*.parquet"}.get(form)
    data = {"data_files": [{"split": "train", "path": place}]} if place else {"data_dir": "data"}
    return DatasetCardData(
        license=license,
        pretty_name=name,
        size_categories=[size],
        task_categories=["image-classification"],
        tags=["face-recognition", "synthetic", "vec2face"],
        configs=[{"config_name": "default", **data}],
    ).to_yaml()


def settings_rows(settings: dict, environment: dict) -> Iterable[tuple[str, str]]:
    """Rows of what determined the images, in words where there are words."""
    yield "SHA-256 of the identity vectors or photos", f"`{settings.get('identities')}`"
    yield "seed", str(settings.get("seed"))
    yield "images per identity, before any gate", str(settings.get("example"))
    if settings.get("noise") == "cone":
        yield "noise", f"in a cone around the identity vector, cosine {settings.get('lower_bound')} or more"
    else:
        yield "standard deviations of the noise", ", ".join(map(str, settings.get("sigma") or ())) or "-"
    if attrop := settings.get("attrop"):
        yield (
            "AttrOP",
            ", ".join(
                f"{key} {', '.join(value) if isinstance(value, list) else value}" for key, value in attrop.items()
            ),
        )
    if gate := settings.get("gate"):
        names = ("smallest id similarity", "smallest quality", "highest number of tries")
        yield "gate", ", ".join(f"{word} {value}" for word, value in zip(names, gate, strict=True) if value is not None)
    for name, meaning in (SAMPLING | FURTHER_GATES).items():
        if settings.get(name) is not None:
            yield meaning, str(settings[name])
    yield "precision", str(settings.get("precision"))
    yield "JPEG quality", str(settings.get("jpeg_quality"))
    versions = (f"{key} {environment[key]}" for key in ("device", "python", "torch") if environment.get(key))
    yield "made on", ", ".join(versions) or "-"


def weight_rows(settings: dict) -> Iterable[tuple[str, str]]:
    """Rows of the weight files, of which an autoencoder may have two."""
    for key, meaning in WEIGHTS.items():
        hashes = settings.get(key) or []
        for sha256 in [hashes] if isinstance(hashes, str) else hashes:
            yield meaning, f"`{sha256}`"


def count_rows(summary: ManifestSummary) -> Iterable[tuple[str, str]]:
    yield "images", f"{summary.images:,}"
    yield "identities", f"{summary.identities:,}"
    if summary.without_image:
        yield "identities of which no image passed the gate, left out", f"{summary.without_image:,}"
    if summary.optimised:
        share = summary.accepted / summary.optimised
        yield (
            "vectors that reached the targets of AttrOP",
            f"{summary.accepted:,} of {summary.optimised:,} ({share:.1%})",
        )
    for name, (mean, count) in summary.means.items():
        yield f"{MEASURED[name]}, mean of {count:,} images", f"{mean:.3f}"


def table(head: list[str], rows: Iterable[tuple[str, str]]) -> str:
    """A Markdown table; empty without rows."""
    lines = [f"| {' | '.join(cells)} |" for cells in rows]
    return "\n".join([f"| {' | '.join(head)} |", "|---" * len(head) + "|", *lines]) if lines else ""
