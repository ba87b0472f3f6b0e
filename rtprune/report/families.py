"""What `rtprune models` prints: the families that can be read, and what each can be asked for."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rtprune.models import Family


def family_values(families: Sequence[Family]) -> list[dict[str, Any]]:
    """The families as plain values, ready for JSON."""
    shown = ("title", "published", "licence", "modes", "default_mode", "prompts")
    return [{name: asdict(family)[name] for name in shown} for family in families]


def family_list(families: Sequence[Family]) -> str:
    """The families for people: a paragraph each, defaults marked with a star."""
    paragraphs = []
    for family in families:
        modes = ", ".join(f"{mode}{'*' * (mode == family.default_mode)}" for mode in family.modes)
        lines = [f"{family.title}: {family.published}, weights under {family.licence}", f"  modes      {modes}"]
        for index, (task, prompt) in enumerate(family.prompts.items()):
            lines.append(f"  {task + '*' * (index == 0):<10} {ascii(prompt)[1:-1]}")
        paragraphs.append("\n".join(lines))
    end = "* default. Use: --model with a published name, or a folder or s3:// prefix in its layout; or --model mini."
    return "\n\n".join([*paragraphs, end])
