"""The arguments of `dia-hf serve`."""

from __future__ import annotations

import argparse

from .options import add_codec, add_device, add_dtype, add_model, count, not_negative, positive

__all__ = ["add_engine", "add_options", "add_parser", "add_voices"]


def _port(value: str) -> int:
    number = int(value)
    if not 0 <= number <= 65535:
        raise argparse.ArgumentTypeError(f"{value} is not a port, 0 to 65535")
    return number


_port.__name__ = "port"  # argparse's errors name the function


def _voice_name(value: str) -> tuple[str, str]:
    name, sign, voice = value.partition("=")
    if not (name and sign and voice):
        raise argparse.ArgumentTypeError(f"{value!r} is not NAME=VOICE, such as alloy=anna")
    return name, voice


def _adapter(value: str) -> tuple[str, str]:
    name, sign, folder = value.partition("=")
    if not (name and sign and folder):
        raise argparse.ArgumentTypeError(f"{value!r} is not NAME=DIR, such as anna=runs/anna/adapter")
    return name, folder


def add_engine(parser: argparse.ArgumentParser) -> None:
    """Add the options of the engine."""
    add_codec(parser)
    add_device(parser)
    add_dtype(parser)
    parser.add_argument("--quantize", choices=["int8", "int4", "fp8"], help="smaller weights (dia-hf[quantize])")
    parser.add_argument("--max-batch-size", type=count, default=16, metavar="N", help="samples to compute at once (16)")
    parser.add_argument("--max-queue", type=count, metavar="N", help="requests that may wait; default: 4 batches")
    parser.add_argument("--no-warmup", action="store_true", help="be ready without generating once")


def add_voices(parser: argparse.ArgumentParser) -> argparse._ArgumentGroup:
    """Add the options of voices."""
    voice = parser.add_argument_group("voices")
    voice.add_argument(
        "--voices", metavar="DIR|URL", help="folder of saved voices, or s3://…; default: that of `dia-hf voices`"
    )
    voice.add_argument(
        "--voice-name",
        type=_voice_name,
        action="append",
        default=[],
        metavar="NAME=VOICE",
        help="another name of a saved voice, such as alloy=anna; repeatable",
    )
    return voice


def add_parser(verbs: argparse._SubParsersAction) -> None:
    """Add `dia-hf serve`."""
    serve = verbs.add_parser(
        "serve",
        help="serve speech over HTTP",
        description="Serve speech over HTTP, with the routes of OpenAI's speech API (dia-hf[serve]).",
    )
    serve.add_argument("--ui", action="store_true", help="serve the page at /ui as well (dia-hf[ui])")
    add_options(serve)


def add_options(serve: argparse.ArgumentParser) -> None:
    """Add the options of a server."""
    add_model(serve)
    serve.add_argument("--host", default="127.0.0.1", metavar="H", help="address to listen on (127.0.0.1)")
    serve.add_argument("--port", type=_port, default=8000, metavar="N", help="0: a free one (8000)")
    serve.add_argument("--port-file", metavar="F", help="write the port to this file once it is open")
    add_engine(serve)
    serve.add_argument(
        "--adapter",
        type=_adapter,
        action="append",
        default=[],
        metavar="NAME=DIR|ID",
        help="LoRA adapter for requests whose `model` is this name; repeatable (dia-hf[train])",
    )
    serve.add_argument("--max-adapters", type=count, default=2, metavar="N", help="adapters to keep loaded (2)")
    serve.add_argument(
        "--replicas", type=count, metavar="N", help="processes that share the machine, under Ray Serve (dia-hf[ray])"
    )
    voice = add_voices(serve)
    voice.add_argument(
        "--transcribe", metavar="MODEL", help="speech recognizer for uploaded recordings without a transcript"
    )
    limits = serve.add_argument_group("limits")
    limits.add_argument("--max-input", type=count, default=4096, metavar="N", help="characters of a text (4096)")
    limits.add_argument("--max-seconds", type=positive, metavar="S", help="audio of a request; default: no limit")
    limits.add_argument("--max-upload", type=positive, default=25, metavar="MIB", help="size of a recording (25)")
    limits.add_argument(
        "--send-timeout",
        type=positive,
        default=30,
        metavar="S",
        help="close a connection that takes or sends nothing for this long (30)",
    )
    limits.add_argument(
        "--idle-timeout",
        type=positive,
        default=300,
        metavar="S",
        help="close a WebSocket that sends no text for this long (300)",
    )
    limits.add_argument(
        "--shutdown-timeout",
        type=not_negative,
        default=30,
        metavar="S",
        help="time to finish running requests after SIGTERM or Ctrl-C (30)",
    )
    access = serve.add_argument_group("access")
    access.add_argument(
        "--api-key",
        action="append",
        default=[],
        metavar="KEY",
        help="require this key or another of them; repeatable. Other users of the machine can see it in the list of "
        "processes: --api-key-file or DIA_HF_API_KEY in the environment are hidden from them",
    )
    access.add_argument("--api-key-file", metavar="F", help="keys, one a line")
    access.add_argument("--open-metrics", action="store_true", help="/metrics needs no key")
    access.add_argument(
        "--cors-origin",
        action="append",
        default=[],
        metavar="ORIGIN",
        help="pages of this origin may send requests from a browser; * for all; repeatable",
    )
    access.add_argument("--log-texts", action="store_true", help="write the texts of requests to the log")
