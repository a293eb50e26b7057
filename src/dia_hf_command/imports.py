"""Import `dia_hf.cli` quietly and, for verbs that need little, without packages that are installed but not needed.

transformers imports optional packages wherever they are installed. `torchao` alone prints four lines and takes half a
second. The functions here change what an import does for its duration only; Python's and torch's own functions are back
in place afterwards. Nothing here is used by `import dia_hf`.
"""

from __future__ import annotations

import argparse
import gc
import importlib.machinery
import importlib.metadata
import json
import logging
import os
import sys
import threading
import warnings
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from importlib.abc import Loader, MetaPathFinder
from types import ModuleType
from typing import Any

from .options import MINIATURE

__all__ = ["import_cli", "needs_all_packages", "quiet"]

# scikit-learn, which transformers 5.17 imports, needs scipy.
_OPTIONAL = ("torchao", "sklearn", "scipy", "accelerate")
# Releases of PyTorch whose own imports are known: on any other all of it is imported, which takes longer.
_KNOWN_TORCH = ("2.13.",)


def import_cli(args: argparse.Namespace) -> ModuleType:
    """Import the verbs.

    Args:
        args (`argparse.Namespace`): The parsed arguments, which decide what can be left out.

    Returns:
        `ModuleType`: `dia_hf.cli`.
    """
    with ExitStack() as stack:
        stack.enter_context(quiet())
        stack.enter_context(_without_collection())
        if not needs_all_packages(args):
            stack.enter_context(_without_optional_packages())
            if importlib.metadata.version("torch").startswith(_KNOWN_TORCH):
                stack.enter_context(_without_distributed())
                stack.enter_context(_with_lazy_dynamo())
        from dia_hf import cli
    return cli


def needs_all_packages(args: argparse.Namespace) -> bool:
    """Decide whether a command may need a package that is not among the required dependencies.

    `generate` and `voices` need none, unless they transcribe, quantize, merge an adapter, or load a model from the Hub
    or one that was saved quantized. The answer is `True` where that is not known.
    """
    if args.verb not in ("generate", "voices") or getattr(args, "transcribe", None) is not None:
        return True
    if args.verb == "voices":
        return False
    if args.quantize is not None or args.adapter is not None:
        return True
    folder = MINIATURE if args.model == "miniature" and not os.path.exists(args.model) else args.model
    try:
        with open(os.path.join(folder, "config.json"), encoding="utf-8") as file:
            return "quantization_config" in json.load(file)
    except (OSError, ValueError, TypeError):
        return True


@contextmanager
def quiet() -> Iterator[None]:
    """Keep log lines below ERROR and Python warnings of the imported libraries off the screen."""
    before = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(before)


@contextmanager
def _without_collection() -> Iterator[None]:
    """Switch the garbage collector off: imports allocate much and leave nothing to collect."""
    was_enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_enabled:
            gc.freeze()  # modules stay; later collections need not look at them
            gc.enable()


@contextmanager
def _without_optional_packages() -> Iterator[None]:
    """Hide packages from transformers, which then takes them for not installed, in all of this process."""
    hidden = [name for name in _OPTIONAL if name not in sys.modules]
    for name in hidden:
        sys.modules[name] = None  # type: ignore[assignment]  # Python's mark for a module that cannot be imported
    try:
        yield
    finally:
        for name in hidden:
            del sys.modules[name]


@contextmanager
def _without_distributed() -> Iterator[None]:
    """Let transformers take torch for a build without `torch.distributed`; one process generates."""
    import torch

    is_available = torch.distributed.is_available
    torch.distributed.is_available = lambda: False
    try:
        yield
    finally:
        torch.distributed.is_available = is_available


class _LazyDynamo(ModuleType):
    """`torch._dynamo` whose code runs when one of its names or submodules is asked for.

    It imports SymPy and 800 other modules. transformers needs it for three decorators only, which say how
    `torch.compile` treats a function. They are noted, and applied when the code has run.
    """

    def __init__(self, name: str, loader: Any) -> None:
        super().__init__(name)
        self.__dict__.update(_real_loader=loader, _noted=[], _lock=threading.RLock())

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        if name in ("allow_in_graph", "assume_constant_result"):
            return lambda function: self._note(name, function)
        if name == "disable":
            return self._disable
        self._load()
        return getattr(self, name)

    def _load(self) -> None:
        with self._lock:
            if type(self) is not _LazyDynamo:  # by another thread
                return
            loader, noted = self._real_loader, self._noted
            self.__class__ = ModuleType  # type: ignore[assignment]
            if self.__spec__ is not None:
                self.__spec__.loader = loader
            self.__loader__ = loader
            loader.exec_module(self)
            for decorator, function in noted:
                getattr(self, decorator)(function)

    def _note(self, decorator: str, function: Callable) -> Callable:
        self._noted.append((decorator, function))
        return function

    def _disable(self, fn: Callable | None = None, recursive: bool = True, **options: Any) -> Callable:
        if fn is None:
            return lambda function: self._disable(function, recursive, **options)
        fn._torchdynamo_disable = True  # type: ignore[attr-defined]  # what the real decorator sets
        return fn


class _LazyLoader(Loader):
    def __init__(self, inner: Any) -> None:
        self.inner = inner

    def create_module(self, spec: importlib.machinery.ModuleSpec) -> ModuleType:
        return _LazyDynamo(spec.name, self.inner)

    def exec_module(self, module: ModuleType) -> None:
        """Leave the code for later."""


class _LoadedLoader(Loader):
    """Load a module that has been imported meanwhile: leave it as it is."""

    def __init__(self, module: ModuleType) -> None:
        self.module = module
        self.spec = module.__spec__

    def create_module(self, spec: importlib.machinery.ModuleSpec) -> ModuleType:
        return self.module

    def exec_module(self, module: ModuleType) -> None:
        module.__spec__ = self.spec


class _LazyFinder(MetaPathFinder):
    """Find the lazy `torch._dynamo` while `is_open`; afterwards load the real one when a submodule is imported."""

    is_open = True

    def find_spec(self, name: str, path: Any = None, target: Any = None) -> importlib.machinery.ModuleSpec | None:
        if self.is_open and name == "torch._dynamo":
            spec = importlib.machinery.PathFinder.find_spec(name, path, target)
            if spec is not None:
                spec.loader = _LazyLoader(spec.loader)
            return spec
        if not self.is_open and name.startswith("torch._dynamo."):
            sys.meta_path = [finder for finder in sys.meta_path if finder is not self]  # importlib reads the old list
            package = sys.modules["torch._dynamo"]
            if isinstance(package, _LazyDynamo):
                package._load()
            if (module := sys.modules.get(name)) is not None:  # it would be imported a second time
                return importlib.machinery.ModuleSpec(name, _LoadedLoader(module))
        return None


@contextmanager
def _with_lazy_dynamo() -> Iterator[None]:
    """Give the lazy `torch._dynamo` to all that import it meanwhile."""
    finder = _LazyFinder()
    sys.meta_path.insert(0, finder)
    try:
        yield
    finally:
        finder.is_open = False
        if not isinstance(sys.modules.get("torch._dynamo"), _LazyDynamo):
            sys.meta_path.remove(finder)
