"""Tokens of prompts as CLIP frames them."""

from __future__ import annotations

START, END, COMMA, A = 49406, 49407, 267, 320  # CLIP's; "a" is one token


def framed(*tokens: int) -> list[int]:
    """One chunk as the text model gets it."""
    return [START, *tokens, *[END] * (76 - len(tokens))]
