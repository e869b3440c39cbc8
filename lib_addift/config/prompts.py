"""Prompts with alternatives, {black|red} hair, and what two prompts share."""

from __future__ import annotations

import random
import re
from collections import Counter
from dataclasses import dataclass, field

from lib_addift.errors import ConfigError

# For pictures of anything: they change light, colour, style and the kind of person, and name no expression or pose.
VARIED_PROMPTS = (
    "", "a photo of a young woman", "a photo of an old man", "an oil painting", "a watercolour drawing",
    "a photo of a black man", "a photo of a woman with blond hair", "a photo at night", "a black and white photo",
    "an anime drawing of a girl", "a photo of a boy with red hair", "a photo in bright sunlight", "a comic drawing",
    "a photo of an asian woman", "a pencil sketch", "a 3d rendering",
)  # fmt: skip


def choose_alternatives(prompt: str, seed: int) -> str:
    """The prompt with one alternative of each {a|b|c}, drawn by the seed.

    The same braces get the same alternative in every prompt of a seed, so that two prompts stay a pair. Braces may
    stand within braces; a backslash before {, | or } makes it an ordinary character. Raises ConfigError when the braces
    are unbalanced.
    """
    parser = _Parser(prompt, seed)
    text = parser.sequence(depth=0)
    return " ".join(text.split())


def check_alternatives(prompt: str) -> None:
    """Raises ConfigError when the braces of a prompt are unbalanced."""
    choose_alternatives(prompt, 0)


def without_alternatives(prompt: str) -> str:
    """A prompt with alternatives that means this one as it stands, such as a caption."""
    return re.sub(r"[{|}]", r"\\\g<0>", prompt)


def phrases(prompt: str) -> list[str]:
    """The parts of a prompt between its commas, without spaces around them and without empty ones."""
    return [part for part in (part.strip() for part in prompt.split(",")) if part]


def shared_caption(original: str, target: str) -> str:
    """The phrases that both prompts have, in the original's order: what the two pictures have in common."""
    left = Counter(phrases(target))
    shared = []
    for phrase in phrases(original):
        if left[phrase]:
            left[phrase] -= 1
            shared.append(phrase)
    return ", ".join(shared)


@dataclass
class _Parser:
    """Reads a prompt from left to right."""

    prompt: str
    seed: int
    place: int = 0
    seen: Counter[str] = field(default_factory=Counter)  # braces by their text

    def sequence(self, depth: int) -> str:
        """Text up to the | or } that ends it, or up to the prompt's end outside of braces."""
        text = ""
        while self.place < len(self.prompt):
            character = self.prompt[self.place]
            if character == "\\" and self.prompt[self.place + 1 : self.place + 2] in ("{", "|", "}"):
                text += self.prompt[self.place + 1]
                self.place += 2
            elif character == "{":
                text += self._braces(depth)
            elif character == "}" and not depth:
                raise self._error("a } without its {")
            elif character in "|}" and depth:
                return text
            else:
                text += character
                self.place += 1
        if depth:
            raise self._error("a { without its }")
        return text

    def _braces(self, depth: int) -> str:
        start = self.place
        options = []
        while self.prompt[self.place] != "}":
            self.place += 1
            options.append(self.sequence(depth + 1))
        self.place += 1
        braces = self.prompt[start : self.place]
        self.seen[braces] += 1
        # Seeded by the text of the braces: other braces of the prompt do not change the choice.
        return random.Random(f"{self.seed} {self.seen[braces]} {braces}").choice(options)

    def _error(self, what: str) -> ConfigError:
        return ConfigError(
            f"the prompt '{self.prompt}' has {what}: write alternatives as {{black|red}} hair, and \\{{ for a brace."
        )
