"""The run that the flags of a generation script ask for, from models to a dataset and its summary."""

import platform
import time
from importlib.metadata import version
from pathlib import Path

import cv2
import numpy as np
import torch
from tqdm import tqdm

from models.attrop import AttrOP, pitch_target, quality_target, yaw_target
from models.errors import UserError
from models.iresnet import load_face_encoder
from models.masking import MaskRates
from models.sixdrepnet import load_pose_estimator
from models.vec2face import load_vec2face
from models.weight_files import sha256
from utils.cli.demo_weights import use_demo_weights
from utils.cli.flags import note_flags_without_effect
from utils.dataset.layout import contact_sheet_path
from utils.dataset.writer import (
    STORES,
    DatasetWriter,
    dataset_size,
    finish_dataset,
    identities_to_keep,
    prepare_dataset,
    read_records,
    unmerged_note,
)
from utils.generation.attrop_progress import AttrOPProgress
from utils.generation.batch_rows import attrop_rows, decoded_rows
from utils.generation.gate import Gate
from utils.generation.generate import generate
from utils.generation.image_measures import ImageMeasures
from utils.generation.measures import make_measures
from utils.generation.person_source import PersonSource, people_warnings
from utils.generation.photo_source import PhotoSource
from utils.generation.recipe import Recipe
from utils.generation.summary import attrop_lines, count_records, gate_lines
from utils.generation.vector_source import VectorSource
from utils.runtime.device import compiled

RELEASED_QUALITY = 27.0  # of the released quality model, where AttrOP went


def run_generation(mode, args, world, device, precision):
    """Make the dataset that the flags ask for, or what is missing of it; prints a summary. Raises UserError."""
    check_pose(mode, args)
    roles = roles_of(mode, args)
    use_demo_weights(args, unused=[f"{role}_weights" for role in ("id", "quality", "pose") if role not in roles])
    note_flags_without_effect(args)
    started = time.monotonic()
    recipe = make_recipe(args)
    models = load_models(roles, args, device, precision.dtype)
    if mode != "reference" and args.image_quality is None:
        args.image_quality = usual_quality(models.get("quality"), args.pose if mode == "pose" else None)
    source = make_source(mode, args, models)
    root = Path(args.output_dir) / (f"{args.name}-{args.pose:g}" if mode == "pose" else args.name)
    measures, measured, note = make_measures(
        args, models, device, precision, root, list(gate_minimums(args)), mode == "pose" and not args.skip_attrop
    )
    if args.compile:
        models, measures = compile_models(models, measures, device)
    world.barrier()  # everybody has seen what was there before
    if world.is_main:
        if source.note:
            print(source.note)
        warnings = source.warnings + people_warnings(source)
        if mode == "pose" and args.skip_attrop:
            warnings.append("--skip_attrop: without AttrOP nothing asks for the pose; the images have any.")
        for warning in warnings + encoder_warnings(args, models) + quality_warnings(mode, args, models):
            print(f"warning: {warning}")
        if note:
            print(f"note: {note}")
        settings = describe(mode, args, recipe, precision, source, models) | {"measured": measured}
        environment = describe_environment(device) | {"number_formats": precision.describe()}
        prepare_dataset(root, settings, environment, args.overwrite, args.migrate)
    plan = world.from_main(lambda: plan_work(root, args.format, source, recipe.example))
    todo, images_there = plan  # nobody writes before the first rank has looked

    mine = todo[world.rank :: world.size]
    if world.is_main and len(todo) < len(source.slice):
        print(f"{len(source.slice) - len(todo)} of {len(source.slice)} identities are there already.")
    if world.is_main and images_there:
        print(f"{len(images_there)} identities have fewer than {recipe.example} images and get the others.")
    part = f"{source.slice.start:08d}-{source.slice.stop:08d}-{world.rank:04d}-of-{world.size:04d}"
    attrop = make_attrop(mode, args, recipe, models, device)
    identities = (
        identity._replace(first_image=images_there.get(identity.name, 0)) for identity in source.identities(mine)
    )
    generated = generate(
        models["generator"], identities, recipe, decoded_rows(args.batch_size, device), attrop, attrop_on_for(mode),
        measures, make_gate(args),
    )  # fmt: skip
    with DatasetWriter(root, args.format, part, args.jpeg_quality, args.workers) as writer:
        done = drain(generated, writer, len(mine), world.is_main and bool(mine), attrop)
    identities_made, images_made = map(sum, zip(*world.gather(done), strict=True))
    skipped = [line for lines in world.gather(source.skipped) for line in lines]
    if world.is_main:
        others = finish_dataset(root, args.format)
        for line in skipped:
            print(f"skipped {line}")
        print(summary(root, args, source, attrop, images_made, time.monotonic() - started))
        if others:
            print(unmerged_note(root, others))
    if skipped and not identities_made and len(todo) == len(source.slice):
        world.barrier()  # rank 0 has said what was skipped
        raise UserError(f"{args.image_file}: none of the {len(source.photos)} images could be used.")


def plan_work(root, format, source, example):
    """(rows of the slice to do, {name: how many images an identity to extend has}). Reads the index, for one process.

    Every rank gets the result from the first one.
    """
    there = identities_to_keep(root, format, [source.names[row] for row in source.slice], example)
    todo = [row for row in source.slice if there.get(source.names[row], 0) < example]
    return todo, {name: there[name] for row in todo if (name := source.names[row]) in there}


def check_pose(mode, args):
    lowest = -90 if mode == "pose" and args.signed_pose else 0
    if mode == "pose" and not lowest <= args.pose <= 90:
        raise UserError(
            f"--pose {args.pose:g}: a yaw lies between {lowest} and 90 degrees (below 0 with --signed_pose)."
        )


def make_recipe(args):
    try:
        masks = MaskRates(args.mask_ratio_min, args.mask_ratio_max, args.mask_ratio_mu, args.mask_ratio_std)
    except ValueError as error:
        raise UserError(f"--mask_ratio_*: {error}.") from error
    return Recipe(args.example, tuple(args.sigma), args.seed, masks)


def roles_of(mode, args):
    """The models a run needs beside the generator, of "id", "quality" and "pose"."""
    uses_attrop = mode != "reference" and not args.skip_attrop
    needed = {
        "id": mode == "reference" or uses_attrop or args.min_id_similarity is not None or args.measure,
        "quality": uses_attrop or args.min_quality is not None or args.measure,
        "pose": mode == "pose" and (uses_attrop or args.measure),
    }
    return [role for role, is_needed in needed.items() if is_needed]


def load_models(roles, args, device, dtype):
    """{role: model}; two roles with the same weight file share one model, and so its forward pass."""
    models = {"generator": load_vec2face(args.model_weights, device, dtype, args.model)}
    if "id" in roles:
        models["id"] = load_face_encoder(args.id_weights, device, dtype)
    if "quality" in roles:
        same = Path(args.quality_weights).resolve() == Path(args.id_weights).resolve()
        shared = same and "id" in roles
        models["quality"] = models["id"] if shared else load_face_encoder(args.quality_weights, device, dtype)
    if "pose" in roles:
        models["pose"] = load_pose_estimator(args.pose_weights, device, dtype)
    return models


def compile_models(models, measures, device):
    """{role: model} and ImageMeasures (or None) with compiled models; one that serves twice is compiled once."""
    done = {}

    def once(model):
        if model is not None and id(model) not in done:
            done[id(model)] = compiled(model, device, fixed_shapes=True)
        return done.get(id(model))

    if measures is not None:
        measures = ImageMeasures(once(measures.encoder), once(measures.quality_model), once(measures.pose_model))
    return {role: once(model) for role, model in models.items()}, measures


def usual_quality(encoder, yaw=None):
    """The quality to ask for: 27 with the released quality model, else by the photos that the model was trained on.

    Better than three quarters of them, but for a wanted ``yaw`` in degrees: turned faces are rated lower, so it falls
    from their median for a face seen from the front to their 5 % quantile at 90 degrees.
    """
    norms = getattr(encoder, "feature_norms", None) or {}
    if not norms.keys() >= ({"75%"} if yaw is None else {"50%", "5%"}):
        return RELEASED_QUALITY
    if yaw is None:
        return norms["75%"]
    turned = abs(yaw) / 90
    return round((1 - turned) * norms["50%"] + turned * norms["5%"], 1)


def encoder_warnings(args, models):
    """Lines to print when the generator was trained on features of another face encoder."""
    trained_on = models["generator"].trained_on
    if trained_on is None or "id" not in models or trained_on["encoder_sha256"] == sha256(args.id_weights):
        return []
    return [
        f"{args.model_weights} was trained on the features of another face encoder than {args.id_weights} "
        "(--id_weights): vectors of one mean nothing to the other."
    ]


def quality_warnings(mode, args, models):
    """Lines to print when the wanted quality is above what the quality model gives to photos."""
    norms = models["quality"].feature_norms if "quality" in models else None
    wanted = max(args.min_quality or 0, 0 if mode == "reference" else args.image_quality)
    if not norms or wanted <= norms["95%"]:
        return []
    return [
        f"quality {wanted:g} is more than 95 % of the photos have that {args.quality_weights} was trained on "
        f"({norms['95%']:.1f}); half of them have {norms['50%']:.1f}."
    ]


def make_source(mode, args, models):
    if args.rep_dim != 512:
        raise UserError(f"--rep_dim {args.rep_dim}: the generator reads identity vectors of length 512.")
    if mode == "reference":
        kind = PersonSource if args.per_person else PhotoSource
        return kind(args.image_file, models["id"], args.start_end, args.feat_batch_size, args.align)
    usual_norm = (models["generator"].trained_on or {}).get("feature_norm")
    return VectorSource(args.center_feature, args.start_end, args.start_class_id, args.rep_dim, usual_norm)


def attrop_on_for(mode):
    return "image" if mode == "pose" else "identity"


def gate_minimums(args):
    """{measure: lowest value that passes} that the gate flags ask for."""
    asked = {"id_similarity": args.min_id_similarity, "quality": args.min_quality}
    return {name: lowest for name, lowest in asked.items() if lowest is not None}


def make_gate(args):
    minimums = gate_minimums(args)
    return Gate(minimums, args.max_tries) if minimums else None


def make_attrop(mode, args, recipe, models, device):
    if mode == "reference" or args.skip_attrop:
        return None
    targets = [quality_target(models["quality"], args.image_quality)]
    if "pose" in models:
        targets.append(yaw_target(models["pose"], args.pose, args.signed_pose))
        if args.pitch is not None:
            targets.append(pitch_target(models["pose"], args.pitch))
    return AttrOP(
        models["generator"], models["id"], targets,
        batch_size=attrop_rows(args.batch_size, device), drop_ratio=recipe.masks.minimum, max_iters=args.max_iters,
        on_iteration=AttrOPProgress(args.image_quality),
    )  # fmt: skip


def describe(mode, args, recipe, precision, source, models):
    """All that determines the images, for settings.json."""
    masks = recipe.masks
    settings = {
        "mode": mode,
        "format": args.format,
        "generator": sha256(args.model_weights),
        "identities": source.fingerprint,
        "start_class_id": args.start_class_id,
        "seed": args.seed,
        "example": args.example,
        "sigma": list(recipe.sigmas),
        "mask_ratio": [masks.minimum, masks.maximum, masks.mu, masks.std],
        "precision": precision.name,
        "jpeg_quality": args.jpeg_quality,
    }
    if mode == "reference":
        settings["align"] = args.align
        if args.per_person:  # named only then, as earlier datasets lack it
            settings["each_folder_is_an_identity"] = True
    weight_flags = {"id": "id_weights", "quality": "quality_weights", "pose": "pose_weights"}
    settings |= {f"{role}_model": sha256(getattr(args, flag)) for role, flag in weight_flags.items() if role in models}
    if mode != "reference":
        names = ["image_quality", "max_iters"] + (["pose", "signed_pose", "pitch"] if mode == "pose" else [])
        settings["attrop"] = None if args.skip_attrop else {name: getattr(args, name) for name in names}
    if args.min_id_similarity is not None or args.min_quality is not None:
        settings["gate"] = [args.min_id_similarity, args.min_quality, args.max_tries]
    if args.compile:  # which rounds in another way; named only then, as earlier datasets lack it
        settings["compile"] = True
    return settings


def describe_environment(device):
    """What else may have touched the pixels: written down, not compared."""
    return {
        "device": torch.cuda.get_device_name(device) if device.type == "cuda" else device.type,
        "python": platform.python_version(),
        "torch": torch.__version__,
        "timm": version("timm"),
        "numpy": np.__version__,
        "opencv": cv2.__version__,
    }


def drain(generated, writer, count, show, attrop=None):
    """Write what is generated under a progress bar; how many identities and images."""
    identities = made = 0
    with tqdm(total=count, unit="id", disable=not show, smoothing=0.05) as bar:
        started = time.monotonic()
        if show and attrop is not None:
            attrop.on_iteration.bar = bar
        for identity, images in generated:
            writer.write(identity, images)
            identities, made = identities + 1, made + sum(image.pixels is not None for image in images)
            bar.update()
            speed = f"{made / (time.monotonic() - started):.1f} images/s"
            bar.set_postfix_str(speed if attrop is None else str(attrop.on_iteration), refresh=False)
    return identities, made


def summary(root, args, source, attrop, made, seconds):
    """A few lines on what this run was to make and on the dataset, from its manifest."""
    minimums = gate_minimums(args)
    counts = count_records(read_records(root, {source.names[row] for row in source.slice}), minimums)
    images, people = dataset_size(root)
    lines = [f"{made} images made in {seconds:.0f} s; the dataset has {images} images of {people} identities."]
    if attrop is not None:
        wanted = None if attrop.on_iteration.hinted else args.image_quality
        lines += attrop_lines(counts, wanted, attrop.target_names)
    lines += gate_lines(counts, minimums, args.max_tries)
    lines.append(f"dataset: {root}" + (f" ({STORES['lmdb'].path(root).name})" if args.format == "lmdb" else ""))
    if contact_sheet_path(root).exists():
        lines.append(f"contact sheet: {contact_sheet_path(root)}")
    return "\n".join(lines)
