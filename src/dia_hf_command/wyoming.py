"""The arguments of `dia-hf wyoming`."""

from __future__ import annotations

import argparse
from urllib.parse import urlsplit

from .options import add_model, count, not_negative, positive
from .serve import add_engine, add_voices

__all__ = ["add_parser"]


def _uri(value: str) -> str:
    uri = urlsplit(value)
    if not (uri.scheme == "tcp" and uri.hostname and uri.port) and not (uri.scheme == "unix" and uri.path):
        raise argparse.ArgumentTypeError(f"{value!r} is no tcp://HOST:PORT and no unix://PATH")
    return value


_uri.__name__ = "uri"  # argparse's errors name the function


def add_parser(verbs: argparse._SubParsersAction) -> None:
    """Add `dia-hf wyoming`."""
    wyoming = verbs.add_parser(
        "wyoming",
        help="serve speech to Home Assistant",
        description="Serve speech by the Wyoming protocol, to Home Assistant and others (dia-hf[wyoming]).",
    )
    add_model(wyoming)
    default = "tcp://127.0.0.1:10200"
    wyoming.add_argument("--uri", type=_uri, default=default, metavar="U", help=f"address to listen on ({default})")
    add_engine(wyoming)
    voice = add_voices(wyoming)
    voice.add_argument("--voice", metavar="NAME", help="voice of texts that name none; default: that of the first text")
    voice.add_argument("--language", default="en", metavar="L", help="language of the model, as it is listed (en)")
    limits = wyoming.add_argument_group("limits")
    limits.add_argument("--max-input", type=count, default=4096, metavar="N", help="characters of a text (4096)")
    limits.add_argument("--max-seconds", type=positive, metavar="S", help="audio of a text; default: no limit")
    limits.add_argument(
        "--send-timeout",
        type=positive,
        default=30,
        metavar="S",
        help="close a connection that takes nothing for this long (30)",
    )
    limits.add_argument(
        "--shutdown-timeout",
        type=not_negative,
        default=30,
        metavar="S",
        help="time to finish what is being spoken after SIGTERM or Ctrl-C (30)",
    )
    wyoming.add_argument("--log-texts", action="store_true", help="write texts to the log")
