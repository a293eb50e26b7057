"""`dia-hf serve`: speech over HTTP."""

from __future__ import annotations

import argparse
import logging
import os
import threading
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from dia_hf_command.options import REAL_MODEL

from ..assets import MINIATURE
from ..atomic_write import atomic_write
from ..text_files import read_text
from .arguments import check_writable

if TYPE_CHECKING:
    from ..speech.engine import SpeechEngine

__all__ = ["MINIATURE_NOTE", "load_engine", "log_to_stderr", "model_name", "run"]

MINIATURE_NOTE = (
    "this is the embedded miniature: two voices, and a few hundred words of English, one after the other. For anything "
    f"else, serve the real model (1.6 billion parameters, downloaded at the first use): --model {REAL_MODEL}"
)
_KEY_VARIABLE = "DIA_HF_API_KEY"
_QUEUED_BATCHES = 4

logger = logging.getLogger("dia_hf.serving")


def run(args: argparse.Namespace, on_page: Callable[[str], None] | None = None) -> None:
    """Run `dia-hf serve` until SIGTERM or SIGINT.

    Args:
        args (`argparse.Namespace`): The arguments.
        on_page (`Callable[[str], None]`, *optional*): Called with the address of the page when the socket listens.
    """
    from ..serving import Server, ServerSettings, ServerStatus, create_app
    from ..serving.voices import ServedVoices

    settings = ServerSettings(
        model_name=model_name(args.model),
        max_input=args.max_input,
        max_seconds=args.max_seconds,
        max_upload=int(args.max_upload * 2**20),
        api_keys=tuple(_api_keys(args)),
        has_open_metrics=args.open_metrics,
        cors_origins=tuple(args.cors_origin),
        io_timeout=args.send_timeout,
        idle_timeout=args.idle_timeout,
        logs_texts=args.log_texts,
    )
    if args.port_file is not None:
        check_writable("--port-file", Path(args.port_file))
    log_to_stderr()
    engine = load_engine(args)
    try:
        voices = ServedVoices(engine.dia, args.voices, dict(args.voice_name), args.transcribe)
        status = ServerStatus(is_ready=args.no_warmup)
        app = create_app(engine, voices, settings, status)
        if args.ui:
            from ..serving.page import mount_page

            mount_page(app, engine.dia, settings)
        server = Server(app, engine, status, args.host, args.port, args.shutdown_timeout)
        if args.port_file is not None:
            with atomic_write(args.port_file) as beside:
                beside.write_text(f"{server.port}\n", encoding="utf-8")
        if args.model == MINIATURE:
            logger.info("%s", MINIATURE_NOTE)
        logger.info("%s is served at http://%s:%d/v1", settings.model_name, args.host, server.port)
        if args.ui:
            address = f"http://{_browsable(args.host)}:{server.port}/ui/"
            logger.info("the page is at %s", address)
            if on_page is not None:
                on_page(address)
        if not settings.api_keys and args.host not in ("127.0.0.1", "::1", "localhost"):
            logger.warning("without --api-key-file, all who can reach %s:%d can use it", args.host, server.port)
        if not args.log_texts:
            warnings.simplefilter("ignore", UserWarning)  # those about scripts and words repeat parts of the text
        if not args.no_warmup:
            threading.Thread(target=server.warm_up, name="dia-warm-up", daemon=True).start()
        server.run()
        if server.warm_up_error is not None:
            raise server.warm_up_error
    finally:
        engine.close(0)


def _browsable(host: str) -> str:
    """Return an address to open in a browser, for one to listen on."""
    if host in ("0.0.0.0", "::"):
        return "localhost"
    return f"[{host}]" if ":" in host else host


def load_engine(args: argparse.Namespace) -> SpeechEngine:
    """Load the model, and make the engine of a server."""
    import torch
    from transformers.utils import logging as transformers_logging

    from ..speech.dia import Dia
    from ..speech.engine import SpeechEngine

    transformers_logging.disable_progress_bar()
    dia = Dia.from_pretrained(args.model, args.dtype, args.device, quantization=args.quantize)
    if dia.device.type == "cpu":  # for the steps and for the codec, which run at the same time
        torch.set_num_threads(max(1, torch.get_num_threads() // 2))
    return SpeechEngine(dia, args.max_batch_size, args.max_queue or _QUEUED_BATCHES * args.max_batch_size)


def model_name(model: str) -> str:
    """Return the id of a model: its name on the Hub, or that of its folder."""
    if model == MINIATURE:
        return "miniature"
    return Path(model).resolve().name if os.path.isdir(model) else model


def _api_keys(args: argparse.Namespace) -> list[str]:
    """Return the keys of options, file and environment."""
    keys = [*args.api_key]
    if args.api_key_file is not None:
        try:
            text = read_text(args.api_key_file)
        except OSError as error:
            raise OSError(f"--api-key-file {args.api_key_file!r} cannot be read: {error.strerror}.") from error
        in_file = [line.strip() for line in text.splitlines() if line.strip()]
        if not in_file:
            raise ValueError(f"--api-key-file {args.api_key_file!r} has no key; write one a line.")
        keys += in_file
    if key := os.environ.get(_KEY_VARIABLE, "").strip():
        keys.append(key)
    return keys


def log_to_stderr() -> None:
    """Write log lines of the server and of uvicorn to standard error."""
    handler = logging.StreamHandler()
    handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(message)s"))
    for name, level in (("dia_hf", logging.INFO), ("uvicorn", logging.WARNING)):
        known = logging.getLogger(name)
        known.handlers, known.propagate = [handler], False
        known.setLevel(level)
