"""The page's routes: Gradio's files and our own, and nothing that runs on the server."""

from __future__ import annotations

import html
import json
import re
from pathlib import Path
from typing import Any

from fastapi import FastAPI
from starlette.datastructures import MutableHeaders
from starlette.responses import FileResponse, RedirectResponse, Response
from starlette.routing import Mount
from starlette.staticfiles import StaticFiles
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from ..._extras import import_extra
from ...audio.encoders import FORMATS
from ...speech.dia import Dia
from ...speech.script import NON_VERBAL_TAGS
from ..errors import ApiError
from ..settings import ServerSettings
from .layout import make_blocks, make_theme, sampling_defaults

__all__ = ["mount_page"]

_FILES = Path(__file__).parent / "files"
# Gradio's other routes take uploads, read files, and run functions. None of them is needed.
_GRADIO_PATHS = re.compile(r"/|/theme\.css|/(assets|static)/[\w./-]+", re.ASCII)
_HEAD = (
    '<meta name="dia-page" content="{about}"><link rel="icon" href="files/icon.svg">'
    '<link rel="stylesheet" href="files/page.css"><script type="module" src="files/main.js"></script>'
)
_RATES = (8_000, 48_000)  # hertz, that a request may ask for
# Gradio compiles the functions of its controls from strings, hence 'unsafe-eval'.
_HEADERS = {
    "content-security-policy": (
        "default-src 'none'; script-src 'self' 'unsafe-inline' 'unsafe-eval'; style-src 'self' 'unsafe-inline'; "
        "img-src 'self' data: blob:; media-src 'self' blob:; font-src 'self' data:; connect-src 'self'; "
        "manifest-src 'self'; base-uri 'self'; form-action 'none'; frame-ancestors 'self'"
    ),
    "referrer-policy": "no-referrer",
    "x-content-type-options": "nosniff",
}


def mount_page(app: FastAPI, dia: Dia, settings: ServerSettings | None = None) -> None:
    """Add the page at `/ui` to an app.

    Args:
        app (`FastAPI`): From `create_app`.
        dia (`Dia`): The model of its engine.
        settings (`ServerSettings`, *optional*): Those of the app; the defaults unless given.

    Raises:
        ImportError: If Gradio is missing.
    """
    gr: Any = import_extra("gradio")
    about = html.escape(json.dumps(_about(dia, settings or ServerSettings())), quote=True)
    inner = gr.mount_gradio_app(
        FastAPI(openapi_url=None),
        make_blocks(dia),
        "/ui",
        footer_links=[],
        ssr_mode=False,
        mcp_server=False,
        theme=make_theme(),
        head=_HEAD.format(about=about),
    )
    gradio_app = next(route.app for route in inner.routes if isinstance(route, Mount))
    app.add_api_route("/ui", _redirect, methods=["GET", "HEAD"], include_in_schema=False)
    app.add_api_route("/favicon.ico", _show_icon, methods=["GET", "HEAD"], include_in_schema=False)
    app.mount("/ui/files", _PageFiles(StaticFiles(directory=_FILES)))
    app.mount("/ui", _PageFiles(gradio_app, _GRADIO_PATHS))


def _about(dia: Dia, settings: ServerSettings) -> dict[str, Any]:
    """Return what the page's modules must know of the server."""
    low, high = _RATES
    return {
        "model": settings.model_name,
        "needsKey": bool(settings.api_keys),
        "sampleRate": min(max(dia.sampling_rate, low), high),
        "speakers": dia.processor.tokenizer.speaker_tokens,
        "sounds": NON_VERBAL_TAGS,
        "formats": list(FORMATS),
        "hasTimes": bool(getattr(dia.model.generation_config, "alignment_heads", None)),
        "maxInput": settings.max_input,
        "defaults": sampling_defaults(dia),
    }


async def _redirect() -> Response:
    return RedirectResponse("ui/")  # relative: a proxy may serve it under a prefix


async def _show_icon() -> Response:
    return FileResponse(_FILES / "icon.svg", media_type="image/svg+xml")


class _PageFiles:
    """Middleware of the page's files: reading only, of some paths, with headers that keep the page to this host.

    Args:
        app (`ASGIApp`): Has the files.
        paths (`re.Pattern`, *optional*): Paths that are served; all unless given.
    """

    def __init__(self, app: ASGIApp, paths: re.Pattern[str] | None = None) -> None:
        self.app, self.paths = app, paths

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send a file."""
        if scope["type"] == "websocket":
            await send({"type": "websocket.close"})
            return
        path = scope["path"].removeprefix(scope.get("root_path", "")) or "/"
        if scope["method"] not in ("GET", "HEAD"):
            raise ApiError(405, "the page has files only; use GET.", headers={"allow": "GET, HEAD"})
        if ".." in path or (self.paths is not None and not self.paths.fullmatch(path)):
            raise ApiError(404, "there is no such file of the page; it is at /ui/.")

        async def send_with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = MutableHeaders(scope=message)
                headers.update(_HEADERS)
                if "/assets/" not in path:  # whose names change with their content
                    headers["cache-control"] = "no-cache"
            await send(message)

        query = scope["query_string"] if path == "/theme.css" else b""  # of a page it would name a file to read
        await self.app({**scope, "query_string": query}, receive, send_with_headers)
