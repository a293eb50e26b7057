"""Counter of host synchronizations: calls at which the host waits for the device, and a GPU idles.

Independent of Dia. Tests use it to bound the synchronizations of the fast path.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from types import TracebackType
from typing import Any

import torch
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode

__all__ = ["HostSyncCounter"]

# Methods that read values. On a CPU some of them call no operator, so their calls are counted.
_FUNCTIONS = {
    "item": "item",
    "tolist": "tolist",
    "numpy": "numpy",
    "__array__": "numpy",
    "cpu": "cpu",
    "__bool__": "bool",
    "__int__": "int",
    "__float__": "float",
    "__complex__": "complex",
    "__index__": "index",
}

# Operators whose result, or its shape, depends on values that the host must read. `multinomial` is not among them: its
# checks are assertions on the device.
_OPERATORS = {
    "_local_scalar_dense": "item",
    "is_nonzero": "bool",
    "equal": "equal",
    "allclose": "allclose",
    "nonzero": "nonzero",
    "masked_select": "masked_select",
    "_unique": "unique",
    "_unique2": "unique",
    "unique_dim": "unique",
    "unique_consecutive": "unique",
    "bincount": "bincount",
}
_FROM_HOST_DATA = {"tensor", "as_tensor", "new_tensor"}


class HostSyncCounter:
    """Context that counts host synchronizations: reads of values, and results whose shape depends on values.

    On a CPU nothing waits, but the same calls are made, so the count is that of a GPU. Counted, by name: `item`,
    `bool`, `int`, `float`, `index` (a tensor used as a number), `tolist`, `numpy`, `cpu`, `equal`, `allclose`,
    `nonzero`, `masked_select`, `boolean index` (reading or writing by a mask, except that writing one number is a
    masked fill, which does not synchronize), `unique`, `bincount`, `repeat_interleave` (by a tensor, without
    `output_size`), and, where devices differ, `copy` between them (unless `non_blocking`). Each call counts once,
    however many operators are below it.

    Only the thread that entered the context is counted. Compiled code and the replay of a CUDA graph (which cannot
    synchronize) are not.

    Args:
        device (`str` or `torch.device`, defaults to `"cpu"`): Device of the tensors that count. With a GPU, tensors on
            the host do not count.

    Attributes:
        counts (`collections.Counter`): Number of calls by name.

    Raises:
        RuntimeError: If it is entered while it is counting.

    Example:
    ```python
    >>> import torch
    >>> from host_syncs import HostSyncCounter
    >>> codes = torch.arange(4)
    >>> with HostSyncCounter() as syncs:
    ...     if (codes > 2).any():
    ...         codes = codes[codes > 2]
    >>> dict(syncs.counts), syncs.total
    ({'bool': 1, 'boolean index': 1}, 2)

    ```
    """

    def __init__(self, device: str | torch.device = "cpu") -> None:
        self.device = torch.device(device)
        self.counts: Counter[str] = Counter()
        self._modes: tuple[_Functions, _Operators] | None = None
        self._is_inside = False

    @property
    def total(self) -> int:
        """Total number of calls."""
        return sum(self.counts.values())

    def __enter__(self) -> HostSyncCounter:
        if self._modes is not None:
            raise RuntimeError("this HostSyncCounter is counting already; make another one.")
        self._modes = (_Functions(self), _Operators(self))
        for mode in self._modes:
            mode.__enter__()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        assert self._modes is not None
        modes, self._modes = self._modes, None
        for mode in reversed(modes):
            mode.__exit__(kind, error, traceback)

    def _call(self, name: str | None, function: Callable, args: tuple, kwargs: dict[str, Any]) -> Any:
        """Call the function; with a name, count it as one synchronization, whatever it calls internally."""
        if name is None or self._is_inside:
            return function(*args, **kwargs)
        self.counts[name] += 1
        self._is_inside = True
        try:
            return function(*args, **kwargs)
        finally:
            self._is_inside = False

    def _is_watched(self, value: Any) -> bool:
        return isinstance(value, torch.Tensor) and value.device.type == self.device.type


class _Functions(TorchFunctionMode):
    """Counter of calls of Python functions and methods."""

    def __init__(self, counter: HostSyncCounter) -> None:
        super().__init__()
        self.counter = counter

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: dict[str, Any] | None = None) -> Any:
        called, name = getattr(func, "__name__", ""), None
        if called in _FUNCTIONS and args and self.counter._is_watched(args[0]):
            name = _FUNCTIONS[called]
        result = self.counter._call(name, func, args, kwargs or {})
        # A tensor made from host data for another device: a copy that no operator shows.
        if called in _FROM_HOST_DATA and self.counter.device.type != "cpu" and self.counter._is_watched(result):
            is_new = called == "new_tensor" or not isinstance(args[0] if args else None, torch.Tensor)
            self.counter.counts["copy"] += is_new
        return result


class _Operators(TorchDispatchMode):
    """Counter of operators at the dispatcher, called from Python or C++."""

    def __init__(self, counter: HostSyncCounter) -> None:
        super().__init__()
        self.counter = counter

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: dict[str, Any] | None = None) -> Any:
        kwargs = kwargs or {}
        name = self._name(func.overloadpacket.__name__, args, kwargs)
        return self.counter._call(name, func, args, kwargs)

    def _name(self, operator: str, args: Any, kwargs: dict[str, Any]) -> str | None:
        is_watched = self.counter._is_watched
        if operator in ("_to_copy", "copy_"):
            return "copy" if self._is_waiting_copy(operator, args, kwargs) else None
        if not args or not is_watched(args[0]):
            return None
        if operator in ("index", "index_put", "index_put_", "_index_put_impl_"):
            masks = [index for index in args[1] if index is not None and index.dtype in (torch.bool, torch.uint8)]
            is_fill = operator != "index" and len(masks) == len(args[1]) == 1 and args[2].ndim == 0
            return "boolean index" if masks and not is_fill else None
        if operator == "repeat_interleave":
            return operator if kwargs.get("output_size") is None else None
        return _OPERATORS.get(operator)

    def _is_waiting_copy(self, operator: str, args: Any, kwargs: dict[str, Any]) -> bool:
        if operator == "_to_copy":
            source, target, is_async = args[0].device, kwargs.get("device"), kwargs.get("non_blocking")
        else:
            source, target, is_async = args[1].device, args[0].device, [*args, *kwargs.values()][2:] == [True]
        if target is None or source.type == target.type or is_async:
            return False
        return self.counter.device.type in (source.type, target.type)
