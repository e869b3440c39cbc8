"""The bodies of requests and answers, for pydantic 1 (A1111) as well as pydantic 2 (Forge)."""

from __future__ import annotations

from typing import Any

from pydantic import BaseModel, Field

from lib_addift.jobs.queue import JobState

_BASE64 = "as base64, with or without 'data:image/png;base64,' before it; at most 64 MB"
_PATH = "Instead: a file in one of the folders that the WebUI opens to the API."
_PNG = "PNG as base64"


class PicturesBody(BaseModel, extra="forbid"):
    """Two pictures."""

    original: str | None = Field(None, description=f"The picture as it is, {_BASE64}.")
    original_path: str | None = Field(None, description=_PATH)
    target: str | None = Field(None, description=f"The picture as it should become, {_BASE64}.")
    target_path: str | None = Field(None, description=_PATH)


class PairBody(PicturesBody):
    """Two pictures and how to look at them."""

    preset: str = Field(
        "", description="The kind of difference: see /addift/v1/presets. Empty: the one that suits the settings."
    )
    settings: dict[str, Any] = Field(
        default_factory=dict, description="What differs from the preset: see /addift/v1/config."
    )


class AnotherPairBody(PicturesBody):
    """Another pair of the same difference."""

    original_prompt: str = Field("", description="Of this pair; empty: as the settings say.")
    target_prompt: str = Field("", description="Of this pair; empty: as the settings say.")


class TrainBody(PairBody):
    """Two pictures, more pairs of the same difference if there are, and what their LoRA is to be called."""

    name: str = Field(description="Of the LoRA, as in <lora:NAME:1>.")
    original_prompt: str = Field("", description="Of this pair; empty: as the settings say.")
    target_prompt: str = Field("", description="Of this pair; empty: as the settings say.")
    overwrite: bool = Field(False, description="Replace a LoRA of this name.")
    more_pairs: list[AnotherPairBody] = Field(
        default_factory=list, description="Several pairs make a better LoRA, with more steps unless these are given."
    )


class DrawBody(BaseModel, extra="forbid"):
    """How pictures are drawn."""

    seed: int = Field(1, description="Of the first pair; the next ones count on from it.")
    steps: int = Field(24, description="Of DDIM.")
    guidance: float = Field(7.0, description="Scale of classifier-free guidance.")
    negative_prompt: str = ""


class WordsBody(DrawBody):
    """Two prompts, which may have alternatives: {black|red} hair."""

    original_prompt: str = Field(description="What the originals show.")
    target_prompt: str = Field(description="The same with the words of the change.")
    count: int = Field(16, description="Pairs that are wanted, up to 64.")
    width: int = Field(512, description="px, a multiple of 64")
    height: int = Field(512, description="px, a multiple of 64")
    blend: str = Field("auto", description="auto: only what the words change is drawn anew; off: the whole picture")


class VaryBody(DrawBody, PicturesBody):
    """Two pictures, and words under which their difference is drawn on others."""

    count: int = Field(8, description="Pairs that are wanted beside this one, up to 64.")
    prompts: list[str] = Field(default_factory=list, description="Empty: a built-in list.")
    caption: str = Field("", description="What both pictures show, in words.")
    resolution: int = Field(512, description="px squared that the pictures are brought to at most")


class TargetBody(DrawBody):
    """A picture and what its target shows."""

    picture: str | None = Field(None, description=f"The original, {_BASE64}.")
    picture_path: str | None = Field(None, description=_PATH)
    prompt: str = Field(description="What the target shows.")
    original_prompt: str = Field("", description="What the picture shows; without it the changed area is less exact.")
    strength: float = Field(1.0, description="0.1 to 1: how freely the changed area is drawn anew")
    blend: str = Field("auto", description="auto: only what the words change is drawn anew; off: the whole picture")
    resolution: int = Field(512, description="px squared that the picture is brought to at most")


class DrawnPairAnswer(BaseModel):
    """A pair that the model drew: pictures and prompts go into /train as they are."""

    original: str = Field(description=_PNG)
    target: str = Field(description=_PNG)
    original_prompt: str = Field(description="The caption under which it is trained")
    target_prompt: str
    seed: int
    size: float = Field(description="0 to 1: how much it changes where it changes most")
    concentration: float = Field(description="0 to 1: share of the change in a quarter of the picture")


class DrawnPairsAnswer(BaseModel):
    """The pairs that can be used."""

    pairs: list[DrawnPairAnswer]
    rejected: int = Field(description="Pairs that were drawn and left out, because they lack the change")


class FindingAnswer(BaseModel):
    """One sentence about a pair."""

    level: str = Field(description="ok, note or warning")
    text: str


class PairAnswer(BaseModel):
    """How well two pictures fit each other."""

    width: int = Field(description="px, as they will be trained on")
    height: int = Field(description="px")
    shift: list[float] = Field(description="px; how far the target lies right of and below the original")
    colour_shift: list[float] = Field(description="Red, green and blue: target less original, of 255")
    changed_share: float = Field(description="0 to 1: share of the picture that differs")
    findings: list[FindingAnswer]
    overlay: str = Field(description=f"The original with a red tint where the LoRA will learn; {_PNG}")


class ResultAnswer(BaseModel):
    """A LoRA file that was written."""

    name: str
    tag: str = Field(description="What to write into a prompt")
    path: str = Field(description="The file, on the WebUI's machine")
    steps: int
    train_seconds: float
    recovery: float = Field(description="0 to 1: share of the pair's difference that it reproduces")
    weight: float = Field(description="The multiplier of training that became weight 1")
    new_pictures: int = Field(0, description="Pictures that it never saw, on which it was tried; 0 where none were")
    reach: int = Field(0, description="On how many of them it makes the pair's change")
    spread: int = Field(0, description="On how many of them other things change too")
    new_pictures_seconds: float = Field(0.0, description="How long they took")
    level: str = Field(description="good, weak, failed or unmeasured")
    verdict: str = Field(description="The same in a sentence or two")
    search: dict[str, Any] = Field(
        {}, description="Where it is the best of several recipes: the `chosen` one, and what each of `recipes` reached"
    )
    strip: str | None = Field(None, description=f"Weights -1 to 1; {_PNG}; only with pictures=true")
    pictures: str | None = Field(None, description=f"The round trip; {_PNG}; only with pictures=true")
    grid: str | None = Field(
        None, description=f"The new pictures, each at weights -1, 0 and 1; {_PNG}; only with pictures=true"
    )


class LogAnswer(BaseModel):
    """A line of a job's log."""

    time: float = Field(description="Seconds since 1970")
    text: str


class JobAnswer(BaseModel):
    """A training run and how it stands."""

    id: str
    name: str
    state: JobState
    text: str = Field(description="What it does now, or how it ended")
    step: int
    total: int
    progress: float = Field(description="0 to 1: share of the training steps that are done")
    seconds_left: float | None = Field(None, description="Of the training steps; null while not known")
    losses: list[float | None] = Field(description="Of each step; null where it was not finite")
    error: str = Field(description="One sentence, or empty")
    created: float = Field(description="Seconds since 1970")
    started: float | None = None
    finished: float | None = None
    findings: list[FindingAnswer] = Field(description="What the pair doctor says")
    log: list[LogAnswer] = Field(description="What happened, the newest last: also when memory ran short")
    result: ResultAnswer | None = Field(None, description="The finished LoRA; null until it is saved")
    kept_steps: list[int] = Field(description="Steps that can be looked at and saved")
    saved_steps: list[ResultAnswer] = Field(description="Unfinished LoRAs that were saved, as NAME-stepN")
    strip: str | None = Field(None, description=f"The newest strip; {_PNG}; only with pictures=true")


class QueueAnswer(BaseModel):
    """What waits."""

    paused: bool = Field(description="No further job is begun; what runs goes on to its end")
    waiting: list[str] = Field(description="The jobs' ids, the next one first")
    notice: str = Field("", description="What a person should know, such as that a damaged list of jobs was set aside")


class StepAnswer(BaseModel):
    """What a job had learnt after a step."""

    step: int
    strip: str = Field(description=f"Weights -1 to 1; {_PNG}")


class PresetsAnswer(BaseModel):
    """The presets, and which one is used when none is named."""

    default: str
    presets: dict[str, dict[str, Any]] = Field(description="For each: the settings that it sets")


class ConfigAnswer(BaseModel):
    """A JSON schema of the settings."""

    title: str
    type: str
    additionalProperties: bool  # noqa: N815 - JSON schema's word
    properties: dict[str, dict[str, Any]] = Field(
        description="For each setting: title, description, type, default and bounds; x-advanced tells what most people "
        "leave alone, x-path which settings name a file, and of which kind (picture or lora)"
    )


class ErrorAnswer(BaseModel):
    """Why a request was refused."""

    error: str = Field(description="The kind of error, such as ConfigError")
    message: str = Field(description="One sentence: which value broke which rule, and what to do")
