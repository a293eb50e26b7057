"""HTTP server with the routes of OpenAI's speech API: text in, audio out, streamed while it is generated.

`app.py` has the routes, `requests.py` reads and checks the bodies, `body.py` sends audio, `errors.py` makes every error
the same JSON object, `gate.py` stands before the routes (keys, request ids, shutdown), `metrics.py` counts, and
`server.py` listens on a socket; `ray.py` runs the same app in replicas. All audio comes from one `SpeechEngine`. The
command is `dia-hf serve`. Needs `pip install "dia-hf[serve]"`.
"""

from .._extras import import_extra

for _package in ("fastapi", "uvicorn", "prometheus_client", "python_multipart", "av"):
    import_extra(_package)  # an error that names the extra, before the imports below fail without it

from .app import create_app  # noqa: E402
from .server import Server  # noqa: E402
from .settings import ServerSettings, ServerStatus  # noqa: E402

__all__ = ["Server", "ServerSettings", "ServerStatus", "create_app"]
