"""The memory that a network's activations take."""

import weakref
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves


def peak_activation_bytes(network: nn.Module, images: Tensor) -> int:
    """The most bytes of tensors that live at once in a forward pass, beside the weights and the images.

    Scratch memory inside an operation isn't counted.

    Args:
        network: Any that takes images; in training mode or not.
        images: (B, 3, H, W). Tensors of torch's fake mode are counted by the bytes that they would take.
    """
    memory = _LiveMemory([*network.parameters(), *network.buffers(), images])
    with memory:
        logits = network(images)
    del logits  # until here it holds all that backward would need
    return memory.peak


class _LiveMemory(TorchDispatchMode):
    """Adds up the bytes of all tensors that operations make, as long as they live.

    Args:
        outside: Tensors that aren't counted.
    """

    def __init__(self, outside: Sequence[Tensor]) -> None:
        super().__init__()  # type: ignore[no-untyped-call]  # torch's has no types
        self.live = 0
        self.peak = 0
        self._known = {tensor.untyped_storage()._cdata for tensor in outside}

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        for tensor in tree_leaves(result):
            if isinstance(tensor, Tensor):
                self._add(tensor.untyped_storage())
        return result

    def _add(self, storage: torch.UntypedStorage) -> None:
        key, size = storage._cdata, storage.nbytes()
        if key in self._known:
            return
        self._known.add(key)
        self.live += size
        self.peak = max(self.peak, self.live)
        weakref.finalize(storage, self._remove, key, size)

    def _remove(self, key: int, size: int) -> None:
        self._known.discard(key)
        self.live -= size
