"""Settings of a server, and its state between start and shutdown."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING
from weakref import WeakSet

if TYPE_CHECKING:
    from .websocket import SpeechSession

__all__ = ["ServerSettings", "ServerStatus"]


@dataclass(frozen=True)
class ServerSettings:
    """Settings of a server.

    Args:
        model_name (`str`, defaults to `"dia"`): Id of the model in `/models`. Requests may name any model.
        max_input (`int`, defaults to 4096): Longest text in characters.
        max_seconds (`float`, *optional*): Longest audio of a request; the default and the limit of its `max_seconds`.
        max_upload (`int`, defaults to 25 MiB): Largest recording in bytes.
        api_keys (`tuple[str, ...]`, defaults to none): Keys that requests must have one of; none: no authorization.
        has_open_metrics (`bool`, defaults to `False`): Whether `/metrics` needs no key.
        cors_origins (`tuple[str, ...]`, defaults to none): Origins whose pages may send requests; `"*"` for all.
        io_timeout (`float`, defaults to 30.0): Seconds after which a connection that takes or sends nothing is closed.
        idle_timeout (`float`, defaults to 300.0): Seconds after which a WebSocket is closed that sends no text.
        logs_texts (`bool`, defaults to `False`): Whether texts are logged.

    Raises:
        ValueError: If a number is not above 0, or a key is blank or not ASCII.
    """

    model_name: str = "dia"
    max_input: int = 4096
    max_seconds: float | None = None
    max_upload: int = 25 * 2**20
    api_keys: tuple[str, ...] = ()
    has_open_metrics: bool = False
    cors_origins: tuple[str, ...] = ()
    io_timeout: float = 30.0
    idle_timeout: float = 300.0
    logs_texts: bool = False

    def __post_init__(self) -> None:
        for name in ("max_input", "max_seconds", "max_upload", "io_timeout", "idle_timeout"):
            value = getattr(self, name)
            if value is not None and not value > 0:
                raise ValueError(f"`{name}` is {value}; give a number above 0.")
        for place, key in enumerate(self.api_keys, start=1):
            if not key.isascii() or not key.isprintable() or key.split() != [key]:  # the key itself is not repeated
                raise ValueError(
                    f"API key {place} of {len(self.api_keys)} is blank, or has spaces or characters beyond ASCII, "
                    "which no header can carry; give another one."
                )


@dataclass
class ServerStatus:
    """State of a server.

    Args:
        is_ready (`bool`, defaults to `True`): Whether the warm-up is over.
        is_draining (`bool`, defaults to `False`): Whether new requests are refused, because the server shuts down.
        sessions (`WeakSet[SpeechSession]`): WebSockets, which uvicorn closes at a shutdown whatever they still have to
            send, unlike responses.
    """

    is_ready: bool = True
    is_draining: bool = False
    sessions: WeakSet[SpeechSession] = field(default_factory=WeakSet)
