"""Which measures of its images a generation run takes, and with which models."""

from pathlib import Path

from models.iresnet import load_face_encoder
from models.sixdrepnet import load_pose_estimator
from utils.dataset.layout import SETTINGS, has_old_layout, read_settings, settings_path
from utils.dataset.migration import measured_by_gate
from utils.generation.image_measures import ImageMeasures
from utils.runtime.precision import PRECISIONS, Precision

CHEAP = 0.1  # of the operations that drawing an image takes: what costs less is measured unasked
ROLES = {"id_similarity": "id", "quality": "quality", "yaw": "pose"}  # the model that each measure needs


def measuring_precision(args, precision: Precision) -> str:
    """What is stored is measured in float32 unless --precision says otherwise."""
    return "fp32" if args.precision == "auto" else precision.name


def load_measuring_models(args, models: dict, device, precision: Precision) -> dict:
    """{role: model} of the run's models, loaded once more in float32 where the run itself computes in 16 bit."""
    exact = measuring_precision(args, precision)
    if exact == precision.name:
        return models
    loaded, by_path = {}, {}
    for role in set(ROLES.values()) & models.keys():
        path = Path(getattr(args, f"{role}_weights")).resolve()
        load = load_pose_estimator if role == "pose" else load_face_encoder
        if path not in by_path:
            by_path[path] = load(path, device, PRECISIONS[exact])
        loaded[role] = by_path[path]
    return loaded


def measures_of(names, models: dict) -> ImageMeasures | None:
    """ImageMeasures of some names in ROLES; None without any."""
    chosen = {role: models[role] if name in names else None for name, role in ROLES.items()}
    return ImageMeasures(chosen["id"], chosen["quality"], chosen["pose"]) if names else None


def choose_names(args, available: list[str], cost, root: Path, gate_names: list[str], done_by_attrop: bool):
    """(names in ROLES to measure of every image, a note for the user or None).

    ``available``: names whose models are loaded; ``cost(names)``: operations of measuring these, without what the gate
    measures anyway, over those of drawing an image; ``gate_names``: what the gate needs; ``done_by_attrop``:
    AttrOP measures every image on its way. --measure takes all, --no-measure what the gate needs. With neither, a
    dataset that is there goes on as it began, and a new one is measured where that is CHEAP.
    """
    if args.measure:
        return available, None
    if args.measure is False or done_by_attrop or set(available) == set(gate_names):
        return gate_names, None
    if not args.overwrite and (settings_path(root).exists() or has_old_layout(root)):
        begun_with = earlier_measures(root)
        return [name for name in available if name in begun_with or name in gate_names], None
    if not available:
        return [], (
            "the images are not measured. To have their id similarity and quality in the manifest, begin the dataset "
            "with --measure."
        )
    if (share := cost(available)) < CHEAP:
        return available, None
    left = " and ".join(name.replace("_", " ") for name in available if name not in gate_names)
    return gate_names, (
        f"{left} of the images {'are' if ' and ' in left else 'is'} not measured, as that would cost {share:.0%} of "
        "drawing them. To have it in the manifest, begin the dataset with --measure."
    )


def make_measures(
    args, models: dict, device, precision: Precision, root: Path, gate_names: list[str], done_by_attrop: bool
):
    """(ImageMeasures or None, what settings.json says of it, a note for the user or None)."""
    if args.measure is False and not gate_names:
        return None, None, None
    available = [name for name, role in ROLES.items() if role in models]
    measuring_models = load_measuring_models(args, models, device, precision)

    def operations(names):
        return measures_of(names, measuring_models).cost(models["generator"]) if names else 0.0

    def cost(names):
        return operations(names) - operations(gate_names)

    names, note = choose_names(args, available, cost, root, gate_names, done_by_attrop)
    described = {"names": names, "precision": measuring_precision(args, precision)}
    return measures_of(names, measuring_models), described if names else None, note


def earlier_measures(root: Path) -> list[str]:
    """Names of what is measured of the images of a dataset that is there, of either layout."""
    old = has_old_layout(root)
    settings = read_settings(Path(root) / SETTINGS if old else settings_path(root))["settings"]
    return ((measured_by_gate(settings) if old else settings.get("measured")) or {"names": []})["names"]
