"""The tab 'Tools' as HTML, and which of its fields an operation has."""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from typing import Any

from lib_addift.lora.inspect import BlockFigures
from lib_addift.ui import render
from lib_addift.ui.form import Props
from lib_addift.ui.render import escape, sentence
from lib_addift.ui.tools import USED_BY, Outcome, Tools

TOOLS_PANELS = (*USED_BY, "tools_loras", "tools_hint", "tools_run", "tools_alert", "tools")
_HINTS = {
    "subtract": "Choose two: the second is taken from the first. What both do cancels, what only the first does stays.",
    "merge": "One LoRA that does what all the chosen ones do, each at its weight. Of a single one: that at another "
    "weight, or at other weights of its blocks.",
    "average": "The mean of the chosen LoRAs: what they share stays, what only one does becomes weak.",
    "resize": "A smaller file: the best approximation of the LoRA in a lower rank, or in a share of its energy.",
    "extract": "What one checkpoint has learnt beyond another, as a LoRA of the rank that you give, such as 32. Takes "
    "some minutes.",
    "calibrate": "Scales a LoRA so that weight 1 is the difference of the two pictures in the tab 'Pair', with that "
    "tab's settings. It takes its turn with trainings and pictures.",
    "show": "What a LoRA says of itself, and how strongly it acts in each block.",
}


def panels(tools: Tools) -> dict[str, tuple[object, Callable[[], Any]]]:
    """The panels of the tab by name, each as a `Panel` of panels.py: a key that changes with it, and what makes it."""
    operation = tools.operation
    used = {name: operation in operations for name, operations in USED_BY.items()}
    names = list(tools.names)
    button = "Show it" if operation == "show" else "Make it"
    return {
        **{name: (is_used, functools.partial(Props, visible=is_used)) for name, is_used in used.items()},
        "tools_loras": (names, lambda: Props(choices=names)),
        "tools_hint": (operation, lambda: hint(operation)),
        "tools_run": (button, lambda: Props(value=button)),
        "tools": (tools.task.version, lambda: result(tools)),
    }


def chosen(tools: Tools) -> Props:
    """The list of LoRAs, and which are chosen."""
    return Props(choices=list(tools.names), value=tools.values["tools_loras"])


def restored(tools: Tools) -> dict[str, Any]:
    """The fields as they were last sent."""
    return {**tools.values, "tools_loras": chosen(tools)}


def hint(operation: str) -> str:
    """What an operation does, and in which format the file is stored."""
    stored = "" if operation == "show" else " Stored in the 'File precision' of the tab 'Pair'."
    return f'<p class="addift-hint">{escape(_HINTS[operation])}{escape(stored)}</p>'


def result(tools: Tools) -> str:
    """What is being done, or what came of the latest operation."""
    busy = ' data-addift-active="1"' if tools.task.is_busy else ""
    shown = "" if tools.task.is_busy or tools.outcome is None else _outcome(tools.outcome)
    status = f'<p class="addift-hint" role="status">{sentence(tools.task.text)}</p>'
    return f"<div{busy}>{shown}{status}{render.error(tools.task.error)}</div>"


def _outcome(outcome: Outcome) -> str:
    name = escape(outcome.title)
    if not outcome.tag:
        lines = f'<pre class="addift-lines" aria-label="What {name} says of itself">{escape(outcome.text)}</pre>'
        return f'<div class="addift-card" data-addift-shown="{name}">{lines}{_table(outcome.blocks)}</div>'
    return (
        f'<div class="addift-card" data-addift-made="{name}">'
        f'<p class="addift-verdict addift-good">{name} is saved.</p>'
        f'<p class="addift-text">{sentence(outcome.text)}</p>'
        f'<p class="addift-tag"><code>{escape(outcome.tag)}</code></p></div>'
    )


def _table(blocks: Sequence[BlockFigures]) -> str:
    heads = ("Block", "Layers", "Norm", "Energy", "Effective rank")
    rows = "".join(
        f'<tr><th scope="row">{escape(block.name)}</th><td>{block.layers}</td><td>{block.norm:.4g}</td>'
        f"<td>{block.share:.1%}</td><td>{block.effective_rank:.2f}</td></tr>"
        for block in blocks
    )
    head = "".join(f'<th scope="col">{text}</th>' for text in heads)
    return (
        '<div class="addift-wide" tabindex="0" role="group" aria-label="Blocks"><table class="addift-table">'
        f"<thead><tr>{head}</tr></thead><tbody>{rows}</tbody></table></div>"
    )
