"""The server on Ray Serve: replicas of one model, each with an engine of its own, behind Serve's HTTP proxies.

`app` is the application, for `serve run dia_hf.serving.ray:app` and for config files. A replica hands the app of
`create_app` to Serve, so routes, formats and errors are those of `dia-hf serve`. Requests wait in the proxies: a
replica takes as many as its batch holds and a few more, and the others go to the replica that has a place first.

Annotations in this file are evaluated, because Serve reads that of `app`.
"""

import asyncio
import warnings
from typing import Any

import torch
from fastapi import FastAPI
from pydantic import BaseModel, ConfigDict, Field
from transformers.utils import logging as transformers_logging

from .._extras import import_extra
from ..assets import MINIATURE
from ..speech.dia import Dia
from ..speech.engine import SpeechEngine, share_cores
from .adapters import AdapterEngines, AdapterLoader, find_adapters
from .app import create_app
from .metrics import Metrics
from .process import log_to_stderr, model_id, read_api_keys
from .replica_metrics import merge_metrics
from .settings import ServerSettings
from .voices import ServedVoices

serve = import_extra("ray.serve")

__all__ = ["DEPLOYMENT", "AppArguments", "SpeechReplica", "app"]

DEPLOYMENT = "dia"
"""Name of the deployment in Serve's config files and status."""

_QUEUED_BATCHES = 4
_METRICS_TIMEOUT = 5  # seconds, below Prometheus' own
_TARGET_LOAD = 0.6  # of the batch: replicas are added above it


class AppArguments(BaseModel):
    """Arguments of the application: `args` of a config file, or `NAME=VALUE` of `serve run`.

    Args:
        model (`str`, *optional*): Folder, file or Hub id that every node can read; the embedded miniature unless given.
        device, dtype, codec, quantize (`str`, *optional*): As for `Dia.from_pretrained`. Serve chooses the GPU of a
            replica.
        max_batch_size (`int`, defaults to 16): Samples that a replica computes at once.
        max_queue (`int`, *optional*): Requests that may wait in a proxy for a replica, further ones get status 429;
            four batches unless given.
        replicas (`int`, defaults to 1): Number of replicas.
        num_cpus (`float`, defaults to 1): Cores of a replica; its threads are as many.
        num_gpus (`float`, defaults to 0): GPUs of a replica; a fraction lets replicas share one.
        deployment (`dict`, defaults to none): Further options of the deployment, such as `autoscaling_config`.
        voices (`str`, *optional*): Folder or address (`s3://…`) of saved voices that all replicas can read.
        voice_names (`dict[str, str]`, defaults to none): Further names of voices, such as `{"alloy": "anna"}`.
        transcribe (`str`, *optional*): Speech recognizer for uploads without a transcript.
        adapters (`dict[str, str]`, defaults to none): LoRA adapters: name, which requests give as `model`, to folder
            or Hub id.
        max_adapters (`int`, defaults to 2): Adapters that a replica keeps loaded.
        max_input, max_seconds, cors_origins, open_metrics, log_texts: As the options of `dia-hf serve`.
        ui (`bool`, defaults to `False`): Whether to serve the page at `/ui`, too.
        max_upload (`float`, defaults to 25): Largest recording in MiB.
        send_timeout (`float`, defaults to 30): Seconds after which a body that does not come is given up.
        idle_timeout (`float`, defaults to 300): Seconds after which a WebSocket that sends no text is closed.
        shutdown_timeout (`float`, defaults to 300): Seconds in which a replica that is stopped ends its requests.
        api_key_file (`str`, *optional*): Keys, one a line, on every node. The environment variable `DIA_HF_API_KEY` of
            the replicas adds one.
        warmup (`bool`, defaults to `True`): Whether a replica generates before it takes requests.

    Raises:
        ValidationError: If an argument is unknown, or of the wrong type.
    """

    model_config = ConfigDict(extra="forbid", protected_namespaces=())

    model: str = MINIATURE
    device: str | None = None
    dtype: str | None = None
    codec: str | None = None
    quantize: str | None = None
    max_batch_size: int = Field(16, ge=1)
    max_queue: int | None = Field(None, ge=1)
    replicas: int = Field(1, ge=1)
    num_cpus: float = Field(1, gt=0)
    num_gpus: float = Field(0, ge=0)
    deployment: dict[str, Any] = {}
    voices: str | None = None
    voice_names: dict[str, str] = {}
    transcribe: str | None = None
    adapters: dict[str, str] = {}
    max_adapters: int = Field(2, ge=1)
    max_input: int = Field(4096, ge=1)
    max_seconds: float | None = Field(None, gt=0)
    max_upload: float = Field(25, gt=0)
    send_timeout: float = Field(30, gt=0)
    idle_timeout: float = Field(300, gt=0)
    shutdown_timeout: float = Field(300, ge=0)
    api_keys: list[str] = Field(default=[], repr=False)
    api_key_file: str | None = None
    open_metrics: bool = False
    cors_origins: list[str] = []
    log_texts: bool = False
    ui: bool = False
    warmup: bool = True

    def server_settings(self) -> ServerSettings:
        """Return the settings of a replica's routes; reads the keys."""
        return ServerSettings(
            model_name=model_id(self.model),
            max_input=self.max_input,
            max_seconds=self.max_seconds,
            max_upload=int(self.max_upload * 2**20),
            api_keys=tuple(read_api_keys(self.api_keys, self.api_key_file)),
            has_open_metrics=self.open_metrics,
            cors_origins=tuple(self.cors_origins),
            io_timeout=self.send_timeout,
            idle_timeout=self.idle_timeout,
            logs_texts=self.log_texts,
        )

    def deployment_options(self) -> dict[str, Any]:
        """Return the options of the deployment."""
        options: dict[str, Any] = {
            "name": DEPLOYMENT,
            "ray_actor_options": {"num_cpus": self.num_cpus, "num_gpus": self.num_gpus},
            # The engine prepares two requests beyond the batch; further ones are for the routes other than speech.
            "max_ongoing_requests": self.max_batch_size + max(4, self.max_batch_size // 4),
            "max_queued_requests": self.max_queue or _QUEUED_BATCHES * self.max_batch_size,
            "backpressure_config": {"status_code": 429, "retry_after_s": 1},
            "graceful_shutdown_timeout_s": self.shutdown_timeout,
            "health_check_period_s": 10,
            "health_check_timeout_s": 30,
            "logging_config": {"log_level": "WARNING", "enable_access_log": False},  # the replica has a log of its own
            **self.deployment,
        }
        scaling = options.get("autoscaling_config")
        if scaling is None:
            options.setdefault("num_replicas", self.replicas)
        else:
            target = max(1.0, _TARGET_LOAD * self.max_batch_size)
            options["autoscaling_config"] = {"target_ongoing_requests": target, **scaling}
        return options


class SpeechReplica:
    """A replica: a model, an engine, and the app of `create_app`.

    Args:
        arguments (`AppArguments`): Arguments of the application.
    """

    def __init__(self, arguments: AppArguments) -> None:
        transformers_logging.disable_progress_bar()
        log_to_stderr()
        if not arguments.log_texts:
            warnings.simplefilter("ignore", UserWarning)  # those about scripts repeat parts of the text
        self._settings = arguments.server_settings()
        self._has_page = arguments.ui
        options: dict[str, Any] = {"codec": arguments.codec, "quantization": arguments.quantize}
        dia = Dia.from_pretrained(arguments.model, arguments.dtype, arguments.device, **options)
        share_cores(dia, int(arguments.num_cpus) or 1)
        # Serve bounds the requests of a replica, so the engine needs no bound of its own.
        self._base = SpeechEngine(dia, arguments.max_batch_size)
        self.engine: SpeechEngine | AdapterEngines = self._base
        if arguments.adapters:
            folders = find_adapters(arguments.adapters)
            limits = (arguments.max_batch_size, None)
            self._loader = AdapterLoader(dia, arguments.model, folders, arguments.quantize, *limits)
            self.engine = AdapterEngines(self._base, self.load_adapter, folders)
        self._voices = ServedVoices(dia, arguments.voices, arguments.voice_names, arguments.transcribe)
        if arguments.warmup:
            self.engine.warm_up()

    def __serve_build_asgi_app__(self) -> FastAPI:
        """Return the app; called by Serve after the constructor."""
        asgi = create_app(self.engine, self._voices, self._settings)
        if self._has_page:
            from .page import mount_page

            mount_page(asgi, self.engine.dia, self._settings)
        self._metrics: Metrics = asgi.state.metrics
        self._metrics.collect = self._collect_metrics
        return asgi

    async def own_metrics(self) -> tuple[str, str]:
        """Return the id and the metrics of this replica; called by the replica that is asked for `/metrics`."""
        return serve.get_replica_context().replica_id.unique_id, self._metrics.text().decode()

    async def _collect_metrics(self) -> bytes:
        """Return the metrics of all replicas, or its own if one of the others does not answer in time."""
        context = serve.get_replica_context()
        handle = serve.get_deployment_handle(context.deployment, context.app_name)
        asked = handle.broadcast("own_metrics").results_async(timeout_s=_METRICS_TIMEOUT, return_exceptions=True)
        try:
            answers = await asked
        except TimeoutError:
            answers = [await self.own_metrics()]
        return merge_metrics(dict(answer for answer in answers if isinstance(answer, tuple)))

    async def load_adapter(self, name: str) -> SpeechEngine:
        """Load the engine of an adapter; `app` wraps this method in Serve's multiplexing, which keeps the last ones."""
        engine = await asyncio.to_thread(self._loader, name)
        vars(engine)["__del__"] = engine.close  # called by Serve when the adapter makes place for another
        return engine

    async def check_health(self) -> None:
        """Raise if the replica cannot generate any more; Serve then replaces it.

        Raises:
            RuntimeError: If a thread of the engine has ended, or the device does not compute.
        """
        if not self._base.is_alive:
            raise RuntimeError("a thread of the engine has ended.")
        if self._base.dia.device.type == "cuda":  # an error of a kernel stays until the process ends
            await asyncio.to_thread(torch.cuda.synchronize, self._base.dia.device)

    def __del__(self) -> None:
        """Free the model."""
        if hasattr(self, "engine"):
            self.engine.close(0)


def app(arguments: AppArguments) -> Any:
    """Create the application: a builder, which `serve run dia_hf.serving.ray:app` and config files name.

    Args:
        arguments (`AppArguments`): Arguments of the application.

    Returns:
        `ray.serve.Application`: The application, for `serve.run`.
    """

    class Replica(SpeechReplica):
        load_adapter = serve.multiplexed(max_num_models_per_replica=arguments.max_adapters)(SpeechReplica.load_adapter)

    replica = Replica if arguments.adapters else SpeechReplica
    return serve.deployment(serve.ingress()(replica)).options(**arguments.deployment_options()).bind(arguments)
