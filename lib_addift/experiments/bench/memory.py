"""The peak memory of some work, beyond what was in use before."""

from __future__ import annotations

import ctypes
import gc
import platform
import threading
from types import TracebackType

import psutil
import torch

_EVERY = 0.005  # s
_M_MMAP_THRESHOLD, _LARGE = -3, 2**16  # see mallopt(3); bytes


def _return_free_memory() -> None:
    """Make the C library return freed memory to the system, so that what is allocated next shows in the resident size.

    Only glibc keeps much. The program gets slower by it, so time is measured before memory.
    """
    if platform.libc_ver()[0] == "glibc":
        library = ctypes.CDLL(None)
        library.mallopt(_M_MMAP_THRESHOLD, _LARGE)
        library.malloc_trim(0)


class Peak:
    """A context manager: `bytes` is the most memory in use inside the block, less what was in use at its start.

    On a GPU the allocator counts exactly. Elsewhere the process's resident size is sampled every 5 ms, and the program
    is slower afterwards (see `_return_free_memory`).
    """

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._ended = threading.Event()
        self._process = psutil.Process()
        self.bytes = 0

    def __enter__(self) -> Peak:
        gc.collect()
        if self._device.type == "cuda":
            torch.cuda.synchronize(self._device)
            torch.cuda.empty_cache()
            torch.cuda.reset_peak_memory_stats(self._device)
            self._before = torch.cuda.memory_allocated(self._device)
        else:
            _return_free_memory()
            self._before = self._process.memory_info().rss
            self._watcher = threading.Thread(target=self._watch, daemon=True)
            self._watcher.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None) -> None:
        if self._device.type == "cuda":
            self.bytes = torch.cuda.max_memory_allocated(self._device) - self._before
        else:
            self._ended.set()
            self._watcher.join()

    def _watch(self) -> None:
        while not self._ended.wait(_EVERY):
            self.bytes = max(self.bytes, self._process.memory_info().rss - self._before)
