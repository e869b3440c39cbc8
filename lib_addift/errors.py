"""The errors a person may meet. Each message names the value, the rule it broke and the remedy."""

import re

OUT_OF_MEMORY = "the memory is full: lower resolution, or close what else needs memory."

_LONGEST_VALUE = 80  # characters of a value in a message
# Line ends and what a terminal obeys: control characters, marks of direction, and halves of surrogate pairs.
_INVISIBLE = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028-\u202e\u2066-\u2069\ud800-\udfff]")


def printable(text: str) -> str:
    """`text` as one line, with escapes for what cannot be seen and may do something else."""
    return _INVISIBLE.sub(lambda found: ascii(found[0])[1:-1], text)


class AddiftError(Exception):
    """Anything this extension refuses or fails to do. Its message is one line, whatever files and values it quotes."""

    def __init__(self, message: str = "") -> None:
        super().__init__(printable(message))


class ConfigError(AddiftError):
    """A setting is unknown, out of bounds or contradicts another."""


class PictureError(AddiftError):
    """A picture or mask cannot be used."""


class HostError(AddiftError):
    """The model, the checkpoint or the WebUI cannot be used."""


class TrainingError(AddiftError):
    """Training ran and did not give a usable LoRA."""


class LoraFileError(AddiftError):
    """A LoRA file cannot be read or written."""


class JobError(AddiftError):
    """There is no such job, or it is not in a state in which this can be done."""


def short_repr(value: object) -> str:
    """A value in a message: one line of at most 80 characters, whatever it is."""
    try:
        text = repr(value)
    except Exception:  # nested too deeply, a number of thousands of digits, or an object of a stranger
        text = f"a {type(value).__name__} that cannot be printed"
    text = " ".join(text.split())
    return text if len(text) <= _LONGEST_VALUE else f"{text[: _LONGEST_VALUE - 3]}..."


def is_out_of_memory(error: BaseException) -> bool:
    """Whether the computer's or a GPU's memory was full; torch's error is known by its name, without torch."""
    return isinstance(error, MemoryError) or any(kind.__name__ == "OutOfMemoryError" for kind in type(error).__mro__)


def error_sentence(error: BaseException) -> str:
    """What a person is told: our own sentence, that memory is full, or that the error was not expected."""
    if isinstance(error, AddiftError):
        return str(error)
    if is_out_of_memory(error):
        return OUT_OF_MEMORY
    reason = (str(error).splitlines() or [""])[0].rstrip(". ")
    return f"unexpected {type(error).__name__}: {reason}. The console has the details."
