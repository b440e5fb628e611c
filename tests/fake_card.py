"""A card that is not there: tensors that say they are on `cuda:0`, whose numbers are on the CPU.

What a real card would refuse is refused here: an operation on tensors of both places (numbers
without a dimension, and index tensors, may come from the CPU, as on CUDA), a generator of the other
place, numpy's look at a tensor that was not brought back. So the whole pipeline can be shown to put
things where they belong on a machine without a card. It says nothing of speed or rounding.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map

CARD = torch.device("cuda:0")
MOVES = {"_to_copy", "copy_", "lift_fresh"}  # between both places
BY_INDEX = {"index", "index_put", "index_put_", "_index_put_impl_"}  # indices may be on the CPU


class OnCard(torch.Tensor):
    """A tensor on the card."""

    inner: torch.Tensor

    @staticmethod
    def __new__(cls, inner: torch.Tensor) -> OnCard:
        return torch.Tensor._make_wrapper_subclass(
            cls, inner.size(), strides=inner.stride(), storage_offset=inner.storage_offset(),
            dtype=inner.dtype, device=torch.device("meta"), requires_grad=inner.requires_grad,
        )  # fmt: skip

    def __init__(self, inner: torch.Tensor) -> None:
        self.inner = inner

    @property
    def device(self) -> torch.device:
        return CARD

    @property
    def is_cuda(self) -> bool:
        return True

    @property
    def is_meta(self) -> bool:
        return False

    def __getitem__(self, key: Any) -> torch.Tensor:
        return super().__getitem__(_with_tensors(key))

    def __setitem__(self, key: Any, value: Any) -> None:
        super().__setitem__(_with_tensors(key), value)

    def new_tensor(self, data: Any, dtype: torch.dtype | None = None) -> torch.Tensor:
        return torch.tensor(data, dtype=dtype or self.dtype, device=CARD)

    def tolist(self) -> Any:
        return self.inner.tolist()

    def __repr__(self) -> str:
        return f"OnCard({self.inner!r})"

    def __array__(self, *args: object, **kwargs: object) -> Any:
        raise TypeError("a tensor on the card is not numpy's: .cpu() first")

    numpy = __array__

    @classmethod
    def __torch_dispatch__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return dispatch(func, args, kwargs or {})


def _with_tensors(key: Any) -> Any:
    """Lists as tensors: torch would make them where the numbers are said to be."""
    if isinstance(key, tuple):
        return tuple(map(_with_tensors, key))
    return torch.tensor(key, dtype=torch.long) if isinstance(key, list) else key


class Card(TorchDispatchMode):
    """While it is on, `device="cuda"` makes tensors on the card."""

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return dispatch(func, args, kwargs or {})


def dispatch(func: Any, args: Any, kwargs: dict[str, Any]) -> Any:
    """Do it on the CPU, and say where the result is; RuntimeError where a card would."""
    name = func.overloadpacket.__name__
    tensors = [t for t in tree_leaves((args, kwargs)) if isinstance(t, torch.Tensor)]
    there = [t for t in tensors if isinstance(t, OnCard)]
    on_card = bool(there)
    if kwargs.get("device") is not None:
        on_card = torch.device(kwargs["device"]).type in ("cuda", "meta")  # `.to(a tensor)`: meta
        kwargs = {**kwargs, "device": torch.device("cpu")}
    generator = kwargs.get("generator")
    if on_card and generator is not None and generator.device.type != "cuda":
        raise RuntimeError(f"{name}: expected a generator on cuda:0, found one on the CPU")
    if there and name not in MOVES:
        here = args[0] if name in BY_INDEX else (args, kwargs)
        for tensor in tree_leaves(here):
            if isinstance(tensor, torch.Tensor) and not isinstance(tensor, OnCard) and tensor.ndim:
                raise RuntimeError(f"{name}: tensors on cuda:0 and on the CPU, {tensor.shape}")
    if name in BY_INDEX and not isinstance(args[0], OnCard) and there:
        raise RuntimeError(f"{name}: indices on cuda:0 of a tensor on the CPU")
    own = {id(t.inner): t for t in there}  # what was written in place stays itself

    def back(x: Any) -> Any:
        if not isinstance(x, torch.Tensor) or not on_card:
            return x
        return own[id(x)] if id(x) in own else OnCard(x)

    unwrap: Callable[[Any], Any] = lambda x: x.inner if isinstance(x, OnCard) else x  # noqa: E731
    result = func(*tree_map(unwrap, args), **tree_map(unwrap, kwargs))
    if name == "copy_":
        return args[0]
    return tree_map(back, result)


def _no_gradients(self: Any) -> None:
    self.before = torch.is_grad_enabled()
    torch.set_grad_enabled(not self.mode)


def _gradients_as_before(self: Any, *_: object) -> None:
    torch.set_grad_enabled(self.before)


@contextmanager
def a_card(monkeypatch: pytest.MonkeyPatch, free: int = 8 << 30) -> Iterator[None]:
    """torch finds a card with so many bytes free; nothing is ever allocated on it."""
    for name, value in {
        "_lazy_init": None, "is_available": True, "synchronize": None, "memory_allocated": 0,
        "max_memory_allocated": 0, "reset_peak_memory_stats": None, "device_count": 1,
        "mem_get_info": (free, free), "get_device_name": "a card that is not there",
    }.items():  # fmt: skip
        monkeypatch.setattr(torch.cuda, name, lambda *_, value=value: value)
    # tensors of an inference are no views of such wrappers: gradients are off there, no more
    monkeypatch.setattr(torch.inference_mode, "__enter__", _no_gradients)
    monkeypatch.setattr(torch.inference_mode, "__exit__", _gradients_as_before)
    before = torch._C._only_lift_cpu_tensors()
    torch._C._set_only_lift_cpu_tensors(True)
    try:
        with Card():
            yield
    finally:
        torch._C._set_only_lift_cpu_tensors(before)
