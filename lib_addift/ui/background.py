"""Work of the tab that takes longer than a request may: one piece at a time, in a thread. No gradio."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable

from lib_addift.errors import AddiftError, JobError, error_sentence, is_out_of_memory

_log = logging.getLogger(__name__)

FollowUp = Callable[[], object]
Work = Callable[[], FollowUp | None]


class BackgroundTask:
    """Runs one piece of work at a time in a daemon thread; `version` grows with every change of what it shows.

    Args:
        name: of the thread.
        busy: why nothing else can start meanwhile, as a sentence; `{text}` in it stands for what is being done.
    """

    def __init__(self, name: str, busy: str = "wait a moment, this is not done yet: {text}.") -> None:
        self._name, self._busy, self._lock = name, busy, threading.Lock()
        self.text = ""  # what it is doing, or how it ended
        self.error = ""  # why the latest work failed or was refused
        self.is_busy = False
        self.version = 0

    def start(self, prepare: Callable[[], Work], text: str = "") -> threading.Thread:
        """Run the work that `prepare` returns, and then, when other work may start already, what the work returns.

        Raises JobError while other work runs, without calling `prepare`; and whatever `prepare` raises.
        """
        with self._lock:
            if self.is_busy:
                raise JobError(self._busy.format(text=self.text))
            work = prepare()
            self.is_busy, self.error = True, ""
            self.set_text(text)
        thread = threading.Thread(target=self._run, args=(work,), name=self._name, daemon=True)
        thread.start()
        return thread

    def set_text(self, text: str) -> None:
        self.text = text
        self.version += 1

    def set_error(self, error: str) -> None:
        self.error = error
        self.version += 1

    def touch(self) -> None:
        """Count a change of what the work has produced so far."""
        self.version += 1

    def _run(self, work: Work) -> None:
        follow_up = None
        try:
            follow_up = work()
        except Exception as error:
            self.text, self.error = "", report_error(error, f"{self._name} ({self.text})")
        self.is_busy = False
        self.version += 1
        if follow_up is not None:
            follow_up()


def report_error(error: Exception, source: str) -> str:
    """The sentence for a person. What nobody expected goes to the console too, with its traceback."""
    if not isinstance(error, AddiftError) and not is_out_of_memory(error):
        _log.error("%s failed", source, exc_info=error)
    return error_sentence(error)
