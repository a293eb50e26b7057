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
from .arguments import check_writable

if TYPE_CHECKING:
    from ..serving import ServerSettings
    from ..speech.engine import SpeechEngine

__all__ = ["MINIATURE_NOTE", "load_engine", "run"]

MINIATURE_NOTE = (
    "this is the embedded miniature, a small model: English in two voices, with errors here and there. For natural "
    f"speech, serve the real model (1.6 billion parameters, downloaded at the first use): --model {REAL_MODEL}"
)
_QUEUED_BATCHES = 4

logger = logging.getLogger("dia_hf.serving")


def run(args: argparse.Namespace, on_page: Callable[[str], None] | None = None) -> None:
    """Run `dia-hf serve` until SIGTERM or SIGINT.

    Args:
        args (`argparse.Namespace`): The arguments.
        on_page (`Callable[[str], None]`, *optional*): Called with the address of the page when the socket listens.
    """
    if args.port_file is not None:
        check_writable("--port-file", Path(args.port_file))
    if args.replicas is not None:
        _run_replicas(args, on_page)
        return

    from ..serving import Server, ServerSettings, ServerStatus, create_app
    from ..serving.adapters import AdapterCache, AdapterEngines, AdapterLoader, find_adapters
    from ..serving.process import log_to_stderr, model_id, read_api_keys
    from ..serving.voices import ServedVoices

    settings = ServerSettings(
        model_name=model_id(args.model),
        max_input=args.max_input,
        max_seconds=args.max_seconds,
        max_upload=int(args.max_upload * 2**20),
        api_keys=tuple(read_api_keys(args.api_key, args.api_key_file)),
        has_open_metrics=args.open_metrics,
        cors_origins=tuple(args.cors_origin),
        io_timeout=args.send_timeout,
        idle_timeout=args.idle_timeout,
        logs_texts=args.log_texts,
    )
    adapters = find_adapters(dict(args.adapter))
    log_to_stderr()
    base = load_engine(args)
    engine: SpeechEngine | AdapterEngines = base
    if adapters:
        loader = AdapterLoader(base.dia, args.model, adapters, args.quantize, base.max_batch_size, base.max_queue)
        engine = AdapterEngines(base, AdapterCache(loader, args.max_adapters), adapters)
    try:
        voices = ServedVoices(engine.dia, args.voices, dict(args.voice_name), args.transcribe)
        status = ServerStatus(is_ready=args.no_warmup)
        app = create_app(engine, voices, settings, status)
        if args.ui:
            from ..serving.page import mount_page

            mount_page(app, engine.dia, settings)
        server = Server(app, engine, status, args.host, args.port, args.shutdown_timeout)
        _tell_address(args, server.port, settings, on_page)
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
    from transformers.utils import logging as transformers_logging

    from ..speech.dia import Dia
    from ..speech.engine import SpeechEngine, share_cores

    transformers_logging.disable_progress_bar()
    dia = Dia.from_pretrained(args.model, args.dtype, args.device, codec=args.codec, quantization=args.quantize)
    share_cores(dia)
    return SpeechEngine(dia, args.max_batch_size, args.max_queue or _QUEUED_BATCHES * args.max_batch_size)


def _run_replicas(args: argparse.Namespace, on_page: Callable[[str], None] | None) -> None:
    """Run replicas under Ray Serve on this machine."""
    from ..hub import check_model
    from ..serving.adapters import find_adapters
    from ..serving.local_cluster import LocalCluster, share_of_machine
    from ..serving.process import log_to_stderr
    from ..serving.ray import AppArguments

    arguments = AppArguments(
        model=_absolute(args.model),
        codec=None if args.codec is None else _absolute(args.codec),
        device=args.device,
        dtype=args.dtype,
        quantize=args.quantize,
        max_batch_size=args.max_batch_size,
        max_queue=args.max_queue,
        replicas=args.replicas,
        deployment={"max_constructor_retry_count": 1},
        voices=_absolute_voices(args.voices),
        voice_names=dict(args.voice_name),
        transcribe=None if args.transcribe is None else _absolute(args.transcribe),
        adapters={name: str(folder) for name, folder in find_adapters(dict(args.adapter)).items()},
        max_adapters=args.max_adapters,
        max_input=args.max_input,
        max_seconds=args.max_seconds,
        max_upload=args.max_upload,
        send_timeout=args.send_timeout,
        idle_timeout=args.idle_timeout,
        shutdown_timeout=args.shutdown_timeout,
        api_keys=args.api_key,
        api_key_file=None if args.api_key_file is None else _absolute(args.api_key_file),
        open_metrics=args.open_metrics,
        cors_origins=args.cors_origin,
        log_texts=args.log_texts,
        ui=args.ui,
        warmup=not args.no_warmup,
        **share_of_machine(args.replicas, args.device),
    )
    settings = arguments.server_settings()  # errors of its values come before Ray is started
    check_model(arguments.model)
    log_to_stderr()
    cluster = LocalCluster(arguments, args.host, args.port)
    try:
        cluster.start()
    except BaseException:
        cluster.close()
        raise
    _tell_address(args, cluster.port, settings, on_page)
    cluster.run()


def _absolute(name: str) -> str:
    """Return the absolute path of a file or folder that exists: replicas have another working directory."""
    return str(Path(name).expanduser().resolve()) if os.path.exists(os.path.expanduser(name)) else name


def _absolute_voices(folder: str | None) -> str | None:
    """Return the absolute path of a folder that may be made later, or the address of a store."""
    return folder if folder is None or "://" in folder else os.path.abspath(os.path.expanduser(folder))


def _tell_address(
    args: argparse.Namespace, port: int, settings: ServerSettings, on_page: Callable[[str], None] | None
) -> None:
    """Write the port to `--port-file`, and the addresses to the log; call `on_page` with that of the page."""
    if args.port_file is not None:
        with atomic_write(args.port_file) as beside:
            beside.write_text(f"{port}\n", encoding="utf-8")
    if args.model == MINIATURE:
        logger.info("%s", MINIATURE_NOTE)
    logger.info("%s is served at http://%s:%d/v1", settings.model_name, args.host, port)
    if args.ui:
        page = f"http://{_browsable(args.host)}:{port}/ui/"
        logger.info("the page is at %s", page)
        if on_page is not None:
            on_page(page)
    if not settings.api_keys and args.host not in ("127.0.0.1", "::1", "localhost"):
        logger.warning("without --api-key-file, all who can reach %s:%d can use it", args.host, port)
