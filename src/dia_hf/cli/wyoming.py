"""`dia-hf wyoming`: speech by the Wyoming protocol."""

from __future__ import annotations

import argparse
import asyncio
import logging
import signal
import warnings
from contextlib import suppress
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from .._extras import import_extra
from ..assets import MINIATURE
from .serve import MINIATURE_NOTE, load_engine, log_to_stderr, model_name

if TYPE_CHECKING:
    from ..serving.wyoming import WyomingServer

__all__ = ["run"]

logger = logging.getLogger("dia_hf.serving")


def run(args: argparse.Namespace) -> None:
    """Run `dia-hf wyoming` until SIGTERM or SIGINT."""
    import_extra("wyoming")
    from ..serving import ServerSettings
    from ..serving.voices import ServedVoices
    from ..serving.wyoming import WyomingServer

    settings = ServerSettings(
        model_name=model_name(args.model),
        max_input=args.max_input,
        max_seconds=args.max_seconds,
        io_timeout=args.send_timeout,
        logs_texts=args.log_texts,
    )
    log_to_stderr()
    engine = load_engine(args)
    try:
        voices = ServedVoices(engine.dia, args.voices, dict(args.voice_name))
        server = WyomingServer(engine, voices, settings, args.language, args.voice)
        if args.model == MINIATURE:
            logger.info("%s", MINIATURE_NOTE)
        if urlsplit(args.uri).hostname not in (None, "127.0.0.1", "::1", "localhost"):
            logger.warning("the protocol has no keys: all who can reach %s can use it", args.uri)
        if not args.log_texts:
            warnings.simplefilter("ignore", UserWarning)  # those about scripts and words repeat parts of the text
        if not args.no_warmup:
            engine.warm_up()
        asyncio.run(_serve(server, args))
    finally:
        engine.close(0)


async def _serve(server: WyomingServer, args: argparse.Namespace) -> None:
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        with suppress(NotImplementedError, RuntimeError, ValueError):  # on Windows; not in the main thread
            loop.add_signal_handler(number, server.stop)
    await server.run(args.uri, args.shutdown_timeout, lambda: logger.info("listening on %s", args.uri))
