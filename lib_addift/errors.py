"""The errors a person may meet. Each message names the value, the rule it broke and the remedy."""

OUT_OF_MEMORY = "the memory is full: lower resolution, or close what else needs memory."


class AddiftError(Exception):
    """Anything this extension refuses or fails to do."""


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
