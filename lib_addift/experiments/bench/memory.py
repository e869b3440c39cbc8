"""How much memory some work needs at its peak, beside what was there before."""

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


def _give_back_what_is_free() -> None:
    """What the C library keeps for later would hide what is taken anew, so from now on it keeps nothing that is large.

    Only glibc keeps much. It makes the program slower: what is compared in time is timed before.
    """
    if platform.libc_ver()[0] == "glibc":
        library = ctypes.CDLL(None)
        library.mallopt(_M_MMAP_THRESHOLD, _LARGE)
        library.malloc_trim(0)


class Peak:
    """A context: `bytes` is how far the memory in use rose above its beginning.

    A GPU's allocator counts exactly. Elsewhere the process's resident memory is looked at every 5 ms; the program is
    slower from then on.
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
            _give_back_what_is_free()
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
