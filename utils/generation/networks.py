"""Loading the networks of a generation run, and warnings about those that do not fit together."""

from dataclasses import dataclass, field
from pathlib import Path

import torch
import torch.nn as nn

from models.attribute_estimator import load_attribute_estimator
from models.iresnet import load_face_encoder
from models.sixdrepnet import load_pose_estimator
from models.uiface import UIFaceGenerator
from models.vec2face import load_vec2face
from models.weight_files import sha256
from utils.runtime.device import compiled

RELEASED_QUALITY = 27.0  # AttrOP's target with the released quality model
# Names of the networks beside the generator, as in flags and settings.json.
ROLES = ("id", "quality", "pose", "gate", "attribute")


@dataclass(frozen=True)
class WeightFiles:
    """The weight files of a run's networks; None for a network that the run does not need.

    ``preset``: the expected preset of the generator, None to read it from the file. ``adapter``: a file of landmark
    control for the generator.
    """

    generator: Path | str
    id: Path | str | None = None
    quality: Path | str | None = None
    pose: Path | str | None = None
    gate: Path | str | None = None
    attribute: Path | str | None = None  # of an estimator that reads the maps of the encoder ``id``
    preset: str | None = None
    adapter: str | None = None

    @property
    def roles(self) -> list[str]:
        """The names in ROLES of the networks that the run needs."""
        return [role for role in ROLES if getattr(self, role) is not None]

    def hashes(self) -> dict[str, str]:
        """{"id_model": SHA-256, ...} of all files but the generator's."""
        adapter = {"landmark_adapter": sha256(self.adapter)} if self.adapter else {}
        return adapter | {f"{role}_model": sha256(getattr(self, role)) for role in self.roles}


@dataclass
class Networks:
    """The frozen networks of a run. Two roles with the same file share one network, and so its forward pass."""

    files: WeightFiles
    generator: nn.Module
    by_role: dict[str, nn.Module] = field(default_factory=dict)
    is_compiled: bool = False

    @property
    def encoder(self) -> nn.Module | None:
        """The face encoder, whose features give the similarity of an image to its identity vector."""
        return self.by_role.get("id")

    @property
    def quality(self) -> nn.Module | None:
        """The quality model; the norm of its feature is the quality of an image."""
        return self.by_role.get("quality")

    @property
    def pose(self) -> nn.Module | None:
        """The head pose estimator."""
        return self.by_role.get("pose")

    @property
    def attributes(self) -> nn.Module | None:
        """The estimator of attributes."""
        return self.by_role.get("attribute")

    @property
    def usual_norm(self) -> float | None:
        """Mean norm of the vectors that the generator was trained on, None if its file does not say."""
        return (self.generator.trained_on or {}).get("feature_norm")

    def warnings(self, wanted_quality: float) -> list[str]:
        """Lines for the user on networks that do not fit together, or a quality target that is out of reach."""
        return self._other_encoder() + self._other_generator() + self._quality_out_of_reach(wanted_quality)

    def _other_generator(self) -> list[str]:
        adapts = self.generator.adapts if self.files.adapter else None
        if adapts is None or adapts == sha256(self.files.generator):
            return []
        return [
            f"{self.files.adapter} was trained for another generator than {self.files.generator} (--model_weights)."
        ]

    def _other_encoder(self) -> list[str]:
        trained_on = self.generator.trained_on
        if trained_on is None or self.encoder is None or trained_on["encoder_sha256"] == sha256(self.files.id):
            return []
        return [
            f"{self.files.generator} was trained on the features of another face encoder than {self.files.id} "
            "(--id_weights): vectors of one mean nothing to the other."
        ]

    def _quality_out_of_reach(self, quality: float) -> list[str]:
        norms = self.quality.feature_norms if self.quality is not None else None
        if not norms or quality <= norms["95%"]:
            return []
        return [
            f"quality {quality:g} is higher than that of 95 % of the photos that {self.files.quality} was trained on "
            f"({norms['95%']:.1f}); their median is {norms['50%']:.1f}."
        ]


def load_networks(
    files: WeightFiles, device: torch.device, dtype: torch.dtype, compile: bool = False,
    generator: UIFaceGenerator | None = None,
) -> Networks:  # fmt: skip
    """Load the networks of a run, the generator only if none is given.

    Raises UserError for unsuitable files, or if ``compile`` has no compiler.
    """
    if generator is None:
        generator = load_vec2face(files.generator, device, dtype, files.preset, files.adapter)
    networks = Networks(files, generator, load_estimators(files, device, dtype))
    if compile:
        done = {id(model): compiled(model, device, fixed_shapes=True) for model in networks.by_role.values()}
        networks.by_role = {role: done[id(model)] for role, model in networks.by_role.items()}
        networks.is_compiled = True
        if isinstance(generator, UIFaceGenerator):  # of which the network alone is compiled, without the sampler's loop
            generator.net = compiled(generator.net, device, fixed_shapes=True)
        else:
            networks.generator = compiled(generator, device, fixed_shapes=True)
    return networks


def load_estimators(files: WeightFiles, device: torch.device, dtype: torch.dtype) -> dict[str, nn.Module]:
    """{role: network} for the roles that have a file; a file is loaded once."""
    by_role, loaded = {}, {}
    for role in files.roles:
        if role == "attribute":
            by_role[role] = load_attribute_estimator(files.attribute, by_role["id"], files.id)
            continue
        load = load_pose_estimator if role == "pose" else load_face_encoder
        path = Path(getattr(files, role))
        kind = load, path.resolve()
        if kind not in loaded:
            loaded[kind] = load(path, device, dtype)
        by_role[role] = loaded[kind]
    return by_role


def default_quality(quality_model: nn.Module | None, yaw: float | None = None) -> float:
    """AttrOP's default quality target: 27 with the released quality model, else from the model's training photos.

    Without a ``yaw`` target (degrees) it is the 75 % quantile of their qualities. Turned faces have lower quality, so
    with a yaw target it falls linearly from the median for a frontal face to the 5 % quantile at 90 degrees.
    """
    norms = getattr(quality_model, "feature_norms", None) or {}
    if not norms.keys() >= ({"75%"} if yaw is None else {"50%", "5%"}):
        return RELEASED_QUALITY
    if yaw is None:
        return norms["75%"]
    turned = abs(yaw) / 90
    return round((1 - turned) * norms["50%"] + turned * norms["5%"], 1)
