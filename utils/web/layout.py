"""The page: what lies where, and which handler belongs to which button."""

from pathlib import Path

import gradio as gr

from models.attribute_estimator import Attribute
from utils.data.images import EXTENSIONS
from utils.web.download import KINDS
from utils.web.handlers import SAMPLED, SOURCES, TARGETS, Handlers
from utils.web.order import LIMITS
from utils.web.session import Session

SHOWN = 8  # most images on the page
LONGEST_QUEUE = 8  # requests that wait; further ones are sent away
KEPT_SECONDS = 3600  # how long files and photos of a visitor are kept
ONE_AT_A_TIME = {"concurrency_id": "models", "concurrency_limit": 1}


def slider(name: str, value: float, step: float, label: str, **options) -> gr.Slider:
    """A slider over the LIMITS of a value."""
    low, high = LIMITS[name][:2]
    usual = {"minimum": low, "maximum": high, "value": value, "step": step, "label": label, "elem_id": name}
    return gr.Slider(**usual | options)


def build_page(session: Session, folder: Path, about: str) -> gr.Blocks:
    """The page of a session. ``folder``: where zip files are written; ``about``: the line below the title."""
    handlers = Handlers(session, folder)
    with gr.Blocks(title="Vec2Face", delete_cache=(KEPT_SECONDS, KEPT_SECONDS), fill_width=True) as page:
        order = gr.State(None, time_to_live=KEPT_SECONDS)
        gr.Markdown(f"# Vec2Face\n{about}", elem_id="title")
        with gr.Row(equal_height=False):
            with gr.Column(scale=2, min_width=330, elem_id="controls"):
                person, people = person_controls(session, handlers)
                controls = person + shape_controls(session) + attribute_controls(session)
                with gr.Row(elem_id="run"):
                    make = gr.Button("Make images", variant="primary", elem_id="make", scale=3)
                    stop = gr.Button("Stop", elem_id="stop", scale=1, min_width=60)
            with gr.Column(scale=3, min_width=420):
                status = gr.Markdown("", elem_id="status")
                images = gr.HTML("", elem_id="images", padding=False)
                path = gr.HTML("", elem_id="path", padding=False)
                command = take_away_controls(handlers, order)
        event = {
            "fn": handlers.make, "inputs": controls, "outputs": [order, status, images, path, command],
            "show_progress": "hidden", **ONE_AT_A_TIME,
        }  # fmt: skip
        make.click(**event, api_name="make")
        page.load(**event, api_visibility="private")
        page.load(handlers.thumbnails, None, people, api_visibility="private", show_progress="hidden", **ONE_AT_A_TIME)
        stop.click(handlers.stop, queue=False, api_visibility="private", show_progress="hidden")
        page.unload(handlers.stop)
    page.queue(max_size=LONGEST_QUEUE, default_concurrency_limit=1)
    return page


def person_controls(session: Session, handlers: Handlers) -> tuple[list, gr.Gallery]:
    """Who is shown: the controls, in the order of Handlers.order_of, and the gallery of the first people."""
    last = session.people - 1
    gr.Markdown("### Person")
    source = gr.Radio(list(SOURCES), value=SAMPLED, show_label=False, container=False, elem_id="source")
    with gr.Group(visible=True) as sampled:
        gallery = gr.Gallery(
            columns=6, height="auto", allow_preview=False, show_label=False, buttons=[], elem_id="people",
            object_fit="cover", interactive=False, format="png",
        )  # fmt: skip
        row = gr.Number(0, label=f"Number in the file, 0 to {last}", precision=0, elem_id="row")
    with gr.Group(visible=False) as drawn, gr.Row():
        draw = gr.Number(1, label="Seed of the draw", precision=0, elem_id="draw")
        another = gr.Button("Draw another", elem_id="another")
    with gr.Column(visible=False) as photographed:
        photo = gr.State(None, time_to_live=KEPT_SECONDS)
        upload = gr.UploadButton(
            "Choose a photo (at most 10 MB)", file_types=list(EXTENSIONS), elem_id="upload", size="md"
        )
        crop = gr.HTML("", elem_id="crop")
        gr.Markdown(
            "The photo is deleted once its face is cut out; its identity vector stays in the memory of this machine.",
            elem_classes="hint",
        )
    with gr.Accordion("Mix with a second person", open=False, elem_id="mix") as mix:
        share = slider("share", 0, 0.05, "Share of the second person (0: not mixed)")
        second = gr.Number(min(1, last), label=f"Second person, 0 to {last}", precision=0, elem_id="second")
        face = gr.HTML("", elem_id="second_face")

    source.change(
        lambda name: [gr.update(visible=name == shown) for shown in SOURCES],
        source, [sampled, drawn, photographed], queue=False, api_visibility="private", show_progress="hidden",
    )  # fmt: skip
    gallery.select(pick, None, row, queue=False, api_visibility="private", show_progress="hidden")
    another.click(handlers.draw_another, None, draw, queue=False, api_visibility="private", show_progress="hidden")
    upload.upload(handlers.upload, upload, [photo, crop], api_name="upload", **ONE_AT_A_TIME)
    for changed in (second.change, mix.expand):
        changed(
            handlers.preview_second, second, face, api_visibility="private", show_progress="hidden", **ONE_AT_A_TIME,
        )  # fmt: skip
    return [source, row, draw, photo, share, second], gallery


def pick(event: gr.SelectData) -> int:
    """The number of the person that was clicked on."""
    return event.index


def shape_controls(session: Session) -> list:
    """How the images shall be. The controls, in the order of Handlers.order_of."""
    norms = session.networks.quality.feature_norms or {}
    lowest, highest = round(norms.get("5%", 15), 1), round(norms.get("95%", 35), 1)
    gr.Markdown("### Images")
    targets = gr.CheckboxGroup(
        [(LIMITS[name].label, name) for name in TARGETS], label="AttrOP moves the vector to reach", value=[],
        elem_id="targets",
    )  # fmt: skip
    with gr.Group(visible=False) as wanted:
        yaw = slider("yaw", 30, 5, "Yaw in degrees (negative: to the left of the image)", visible=False)
        pitch = slider("pitch", 15, 5, "Pitch in degrees (negative: downwards)", visible=False)
        quality = slider(
            "quality", session.quality, 0.1, "Lowest quality (norm of the quality model's feature)", visible=False,
            minimum=lowest, maximum=highest,
        )  # fmt: skip
        max_iters = slider("max_iters", 40, 5, "At most this many iterations", minimum=5)
    with gr.Group():
        sigma = slider("sigma", 0.3, 0.05, "Noise (standard deviation on each number of the vector)")
        with gr.Row():
            count = slider("count", 4, 1, "Images", maximum=SHOWN, scale=2)
            seed = gr.Number(0, label="Seed", precision=0, min_width=90, scale=1, elem_id="seed")
    targets.change(
        lambda chosen: [gr.update(visible=bool(chosen))] + [gr.update(visible=name in chosen) for name in TARGETS],
        targets, [wanted, yaw, pitch, quality], queue=False, api_visibility="private", show_progress="hidden",
    )  # fmt: skip
    return [targets, yaw, pitch, quality, max_iters, sigma, seed, count]


def attribute_controls(session: Session) -> list:
    """Attributes to change, where there is an estimator. The controls, in the order of Handlers.order_of."""
    there = session.attributes
    with gr.Accordion("Light, expression and other attributes", open=False, visible=bool(there), elem_id="attributes"):
        changed = gr.Dropdown(
            [(attribute.name.replace("_", " "), attribute.name) for attribute in there], multiselect=True, value=[],
            label="AttrOP moves the vector to reach these, too",
        )  # fmt: skip
        sliders = [attribute_slider(attribute) for attribute in there]
    if there:
        changed.change(
            lambda names: [gr.update(visible=attribute.name in names) for attribute in there], changed, sliders,
            queue=False, api_visibility="private", show_progress="hidden",
        )  # fmt: skip
    return [changed, *sliders]


def attribute_slider(attribute: Attribute) -> gr.Slider:
    """A slider over the values that the estimator has seen."""
    low, high = attribute.lowest, attribute.highest
    step = 1 if high - low > 10 else 0.01
    unit = f" in {attribute.unit}" if attribute.unit else ""
    return gr.Slider(
        low, high, round((low + high) / 2 / step) * step, step=step, label=attribute.name.replace("_", " ") + unit,
        visible=False, elem_id=attribute.name,
    )  # fmt: skip


def take_away_controls(handlers: Handlers, order: gr.State) -> gr.Code:
    """The zip, and the command line, whose field is returned."""
    gr.Markdown("### Take away")
    with gr.Row(equal_height=True):
        count = slider("count", 20, 1, "Images in the zip", scale=2, elem_id="zip_count")
        kind = gr.Radio(
            [(label, name) for name, label in KINDS.items()], value="images", label="Contents", scale=3,
        )  # fmt: skip
    with gr.Row():
        prepare = gr.Button("Make the zip", elem_id="prepare")
        save = gr.DownloadButton("Save", visible=False, elem_id="save", variant="primary")
    progress = gr.Markdown("", elem_id="zip_status")
    command = gr.Code(
        "", language="shell", label="The same images on the command line, in the project's folder", interactive=False,
        elem_id="command", wrap_lines=True, show_line_numbers=False, lines=3,
    )  # fmt: skip
    prepare.click(
        handlers.take_away, [order, count, kind], [progress, save], api_name="zip", show_progress="hidden",
        **ONE_AT_A_TIME,
    )  # fmt: skip
    return command
