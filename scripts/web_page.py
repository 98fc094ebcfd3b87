"""Open a page in the browser on which to make people, turn them, mix them, and take a dataset away.

    python scripts/web_page.py --open

The page listens on this machine only, unless --host says otherwise. It writes nothing outside of a temporary folder,
which is deleted at the end. docs/page.md describes it.
"""

from importlib.util import find_spec
from pathlib import Path

from utils.cli.command import command  # first, as it makes settings that must precede torch

from models.errors import UserError
from utils.cli.attribute_flags import add_attribute_weights_flag
from utils.cli.demo_weights import DEMO, use_demo_weights
from utils.cli.flags import make_parser, positive
from utils.cli.generation_flags import POSE_WEIGHTS, QUALITY_WEIGHTS
from utils.cli.model_flags import add_device_flags, add_model_flags, set_up_inference
from utils.generation.make_dataset import Machine
from utils.generation.networks import WeightFiles, load_networks
from utils.generation.vector_source import VectorSource
from utils.runtime.distributed import Distributed
from utils.web.server import free_port, serve, temporary_folder, wait_for_ever
from utils.web.session import Session

LOCAL_HOSTS = ("127.0.0.1", "localhost", "::1")


def page_parser():
    parser = make_parser(__doc__)
    server = parser.add_argument_group("server")
    server.add_argument(
        "--host", default="127.0.0.1", help="address to listen on; 0.0.0.0 lets other machines use the page, too"
    )
    server.add_argument(
        "--port", type=positive, default=7860, help="port to listen on; the next free one where it is taken"
    )
    server.add_argument("--open", action="store_true", help="opening of the page in the browser")
    add_model_flags(parser)
    parser.add_argument("--quality_weights", default=QUALITY_WEIGHTS, help="weights of the quality model")
    parser.add_argument("--pose_weights", default=POSE_WEIGHTS, help="weights of the head pose estimator")
    parser.add_argument(
        "--center_feature", default="center_feature_examples.npy", help=".npy of identity vectors (K, 512)"
    )
    add_attribute_weights_flag(parser)
    add_device_flags(parser, precision="auto")
    parser.add_argument(
        "--batch_size", type=positive, default=16, help="images at a time on a GPU; without effect on a CPU"
    )
    return parser


@command
def main(argv=None):
    args = page_parser().parse_args(argv)
    if find_spec("gradio") is None:
        raise UserError("the page needs Gradio: pip install -e '.[web]'")
    session = session_of(args)
    port = free_port(args.host, args.port)
    with temporary_folder() as folder:
        from utils.web.layout import build_page  # Gradio is loaded now, as it reads its settings at once
        from utils.web.looks import CSS, theme
        from utils.web.uploads import LARGEST_FILE

        page = build_page(session, folder, about(session))
        address = serve(page, args.host, port, LARGEST_FILE, theme=theme(), css=CSS, inbrowser=args.open)
        if port != args.port:
            print(f"note: port {args.port} is taken.")
        if args.host not in LOCAL_HOSTS:
            print(f"warning: --host {args.host}: whoever reaches this machine can use the page; it has no password.")
        print(f"page: {address} (Ctrl-C ends it)", flush=True)
        try:
            wait_for_ever()
        except KeyboardInterrupt:
            raise KeyboardInterrupt("stopped: the page is closed.") from None
        finally:
            session.worker.close()  # Gradio's threads end with the process


def session_of(args) -> Session:
    """Load all networks and the identity vectors. Raises UserError for missing or unsuitable files."""
    use_demo_weights(args)
    refuse_missing(args.model_weights, args.id_weights, args.quality_weights, args.pose_weights, args.center_feature)
    machine = Machine(Distributed(), *set_up_inference(args, deterministic=True), args.batch_size)
    files = WeightFiles(
        args.model_weights, args.id_weights, args.quality_weights, args.pose_weights, attribute=attribute_file(args),
        preset=args.model,
    )  # fmt: skip
    networks = load_networks(files, machine.device, machine.precision.dtype)
    source = VectorSource(args.center_feature, usual_norm=networks.usual_norm)
    for line in (*source.warnings, *networks.warnings(0)):
        print(f"warning: {line}")
    flags = [word for name in ("device", "precision") if getattr(args, name) != "auto"
             for word in (f"--{name}", getattr(args, name))]  # fmt: skip
    measured_in = "fp32" if args.precision == "auto" else machine.precision.name
    return Session(networks, source, machine, measured_in, tuple(flags))


def attribute_file(args) -> str | None:
    """The file of the attribute estimator: the given one, that of the demo encoder, or none."""
    of_demo = Path(args.id_weights).resolve() == DEMO / "face_encoder.pth"
    return args.attribute_weights or (str(DEMO / "attributes.pth") if of_demo else None)


def refuse_missing(*paths: str) -> None:
    """Raise UserError with all files that do not exist."""
    missing = [path for path in dict.fromkeys(paths) if not Path(path).is_file()]
    if missing:
        raise UserError(
            f"missing: {', '.join(missing)}. The page needs all of its files; `python download_vec2face_weights.py` "
            "downloads the released ones."
        )


def about(session: Session) -> str:
    """The line below the page's title."""
    demo = session.networks.files.generator.startswith(str(DEMO))
    models = "The small demo models, which draw rendered faces" if demo else "The models of your files"
    device, precision = session.machine.device, session.machine.precision
    return f"Face images from identity vectors. {models}; {device.type.upper()}, {precision.name}."


if __name__ == "__main__":
    main()
