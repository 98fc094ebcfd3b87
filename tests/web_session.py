"""The session of a page with the demo models, on a CPU in fp32."""

from paths import Demo

from scripts import web_page


def demo_session(*words):
    flags = [*Demo.models, "--quality_weights", Demo.encoder, "--pose_weights", Demo.pose]
    flags += ["--center_feature", Demo.vectors, *words]
    return web_page.session_of(web_page.page_parser().parse_args([str(flag) for flag in flags]))


def last(values):
    """The last value of an iterator."""
    *_, value = values
    return value
