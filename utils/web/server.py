"""Serving the page: its port, its temporary folder, and what a browser may load."""

import errno
import os
import socket
import sys
import tempfile
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from models.errors import UserError

if TYPE_CHECKING:
    import gradio

LOOPBACK = ["127.0.0.1", "localhost"]
PORTS = 100  # number of ports that are tried
# Gradio's settings: no telemetry, nothing kept in the browser, no second server, and no tool interface.
SETTINGS = {
    "GRADIO_ANALYTICS_ENABLED": "False", "GRADIO_RUN_HISTORY": "False", "GRADIO_SSR_MODE": "False",
    "GRADIO_MCP_SERVER": "False", "GRADIO_SHARE": "False",
}  # fmt: skip
# The browser loads nothing from other hosts, so that the page works without a network and tells nobody.
POLICY = (
    "default-src 'self' data: blob:; script-src 'self' 'unsafe-inline' 'unsafe-eval'; "
    "style-src 'self' 'unsafe-inline'; frame-ancestors 'self'"
)


class LocalOnly:
    """Middleware that adds the POLICY to every response."""

    def __init__(self, app: Callable):
        self.app = app

    async def __call__(self, scope: dict, receive: Callable, send: Callable) -> None:
        async def send_with_policy(message: dict) -> None:
            if message["type"] == "http.response.start":
                message["headers"] = [*message.get("headers", []), (b"content-security-policy", POLICY.encode())]
            await send(message)

        await self.app(scope, receive, send_with_policy)


@contextmanager
def temporary_folder() -> Iterator[Path]:
    """A folder for all that the page writes, uploads included; it is deleted at the end.

    Gradio is to be imported inside of this context, as it reads its settings then.
    """
    before = tempfile.tempdir
    with tempfile.TemporaryDirectory(prefix="vec2face-page-") as folder:
        os.environ |= SETTINGS | {"GRADIO_TEMP_DIR": str(Path(folder, "gradio"))}
        tempfile.tempdir = folder
        # For every request Gradio imports matplotlib if it can, which takes seconds and writes into the user's cache.
        sys.modules.setdefault("matplotlib", None)
        try:
            yield Path(folder)
        finally:
            tempfile.tempdir = before


def free_port(host: str, wanted: int) -> int:
    """The first port from ``wanted`` on that is free.

    Raises UserError when none is, or ``host`` is no address of this machine.
    """
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    for port in range(wanted, min(wanted + PORTS, 65536)):
        try:
            with socket.create_server((host, port), family=family):
                return port
        except OSError as error:
            if error.errno == errno.EACCES:
                raise UserError(f"--port {port}: this user may not use it; take one from 1024 on.") from error
            if error.errno != errno.EADDRINUSE:
                reason = os.strerror(error.errno) if error.errno > 0 else "no such host"  # negative: name not found
                raise UserError(f"--host {host}: {reason}.") from error
    raise UserError(f"--port {wanted}: it and the {PORTS - 1} after it are taken; give another one.")


def serve(page: "gradio.Blocks", host: str, port: int, largest_file: int, **looks: object) -> str:
    """Start serving a page in threads of its own; its address. ``looks``: theme, css and so on, of Gradio's launch."""
    from starlette.middleware.trustedhost import TrustedHostMiddleware  # comes with Gradio

    unproxied = [os.environ.get("NO_PROXY") or os.environ.get("no_proxy"), host, "localhost"]
    os.environ["NO_PROXY"] = os.environ["no_proxy"] = ",".join(filter(None, unproxied))  # Gradio asks its own server
    middleware = [(LocalOnly, (), {})]  # class, arguments, named arguments, as Starlette has it
    if host in LOOPBACK:  # a page of another name, which leads to this address, must not reach the photos
        middleware.append((TrustedHostMiddleware, (), {"allowed_hosts": LOOPBACK}))
    _, address, _ = page.launch(
        server_name=host, server_port=port, share=False, prevent_thread_lock=True, quiet=True, footer_links=[],
        max_file_size=largest_file, app_kwargs={"middleware": middleware, "docs_url": None},
        _frontend=False,  # otherwise the page does not start where drawing it takes longer than 3 seconds
        **looks,
    )  # fmt: skip
    return address


def wait_for_ever() -> None:
    """Wait until a signal ends the process."""
    threading.Event().wait()
