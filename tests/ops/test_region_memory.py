"""Regions and representative scores take no table of all pairs of pixels; the reference does."""

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from segweave.ops import (
    group_regions,
    jensen_shannon_divergence,
    region_attention,
    regions,
    representative_scores,
)
from tests.networks.ranet_transcription import some_maps
from tests.ops.test_regions import group_in_tiles


class LargestTensor(TorchDispatchMode):
    """Keeps the most elements that an operation's result has had; if told a type, of that type alone."""

    def __init__(self, dtype: torch.dtype | None = None) -> None:
        super().__init__()
        self.dtype = dtype
        self.elements = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        for x in result if isinstance(result, tuple | list) else [result]:
            if isinstance(x, Tensor) and self.dtype in (None, x.dtype):
                self.elements = max(self.elements, x.numel())
        return result


def peak_growth(work: Callable[[], object]) -> int:
    """By how many bytes the process grows at most: arrays of torch, of NumPy and of compiled loops."""
    clear, status = Path("/proc/self/clear_refs"), Path("/proc/self/status")
    if not os.access(clear, os.W_OK):
        pytest.skip("the system doesn't say how large a process was")

    def kilobytes(name: str) -> int:
        return next(int(line.split()[1]) for line in status.read_text().splitlines() if line.startswith(name))

    clear.write_text("5")  # the process was never larger than it is now
    before = kilobytes("VmRSS")
    work()
    return 1024 * (kilobytes("VmHWM") - before)


class TestMemory:
    side = 60

    def test_compiled_loops_keep_no_table(self) -> None:
        def work() -> None:
            roots = group_regions(*maps, 0.7)
            torch.autograd.grad(representative_scores(*maps, roots).sum(), maps)

        maps = some_maps((8, 8), batch=1, classes=2, dtype=torch.float32)
        work()
        maps = some_maps((self.side, self.side), batch=1, classes=2, dtype=torch.float32)
        assert peak_growth(work) < self.side**4 * 4 / 3

    def test_a_table_would_be_seen(self) -> None:
        probabilities = torch.ones(1, self.side**2, 1)
        assert peak_growth(lambda: jensen_shannon_divergence(probabilities)) > self.side**4 * 4

    def test_tiles_are_no_table(self, monkeypatch: pytest.MonkeyPatch) -> None:
        side = 12
        monkeypatch.setattr(regions, "TILE_ELEMENTS", side**4 // 10)
        maps = [x.detach() for x in some_maps((side, side), batch=1, dtype=torch.float32)]
        with LargestTensor() as largest:
            roots = group_in_tiles(*maps, 0.7)
            scores = regions._representative_scores_in_tiles(*maps, roots)
            regions._representative_scores_backward_in_tiles(torch.ones_like(scores), *maps, roots)
        assert 0 < largest.elements <= side**4 / 10
        with LargestTensor() as largest:
            region_attention(*maps)
        assert largest.elements >= side**4
