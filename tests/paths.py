"""Where the project, its demo weights and the test photos lie, and what a folder holds."""

from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
DEMO = ROOT / "weights" / "demo"
PHOTOS = ROOT / "tests" / "photos"


class Demo:
    """Paths of the demo weights, and flags that point the scripts at them."""

    generator = DEMO / "vec2face_generator.pth"
    encoder = DEMO / "face_encoder.pth"
    pose = DEMO / "head_pose.pth"
    vectors = DEMO / "identity_vectors.npy"
    models = ("--model_weights", str(generator), "--id_weights", str(encoder), "--device", "cpu", "--precision", "fp32")


def files_of(folder):
    """{relative path: bytes} of everything in a folder."""
    return {str(path.relative_to(folder)): path.read_bytes() for path in Path(folder).rglob("*") if path.is_file()}
