"""What reading one page gives."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal

from rtprune.errors import Reason

if TYPE_CHECKING:  # what stands behind these takes seconds to import
    from rtprune.engine.confidence import Confidence
    from rtprune.engine.fidelity import Audit
    from rtprune.models.protocol import Region
    from rtprune.pruning import PruneFacts

PageStatus = Literal["ok", "empty", "truncated", "loop", "failed", "skipped"]
FinishReason = Literal["eos", "length", "loop"]
StrategyName = Literal["default", "unpruned", "tiled", "sampled"]


@dataclass(frozen=True)
class Timings:
    """Where a page's time went, milliseconds. A batch's time is shared out evenly over the pages that were in it.

    Attributes:
        encode_ms: picture to views, views to visual tokens.
        prune_ms: visual tokens to pruned ones; measured per page.
        prefill_ms: prompt into the decoder, up to the first token.
        decode_ms: all further tokens: the page's shares of the passes it was in.
        render_ms: page of a document to picture; 0 where the engine was given the picture.
    """

    encode_ms: float = 0.0
    prune_ms: float = 0.0
    prefill_ms: float = 0.0
    decode_ms: float = 0.0
    render_ms: float = 0.0


@dataclass(frozen=True)
class PageResult:
    """One page, read or not.

    Attributes:
        status: "ok"; "empty" (ended with no text); "truncated" (cut at the token limit); "loop" (cut as it repeated
            itself); "failed" (not read: see the error); "skipped" (there was no model to read it).
        text: the page's text, location marks removed; of a page that was cut, what came before the cut.
        regions: parts of the page that the model located, in reading order.
        finish_reason: "eos" (the model ended), "length", "loop"; ``None`` for a failed page.
        facts: what pruning did, counted over the whole visual sequence; ``None`` where it was not reached.
        prompt_tokens: length of what the decoder was given, visual tokens after pruning included.
        output_tokens: tokens that the decoder gave, the end token included.
        decode_steps: passes of the decoder that they took, the prefill included.
        drafted_tokens: how many were guessed at, from the page's text layer or from what was read before.
        accepted_tokens: how many of those guesses were right.
        confidence: how sure the decoder was of its tokens; ``None`` for a failed page.
        mode: view size that gave the answer.
        strategy: which way of reading gave it: "default" (as the settings say), or, where that looped or failed,
            "unpruned", "tiled" or "sampled".
        audit: this answer against the unpruned one, of a page that was read both ways.
        reason: why the page failed.
        message: the same in words.
        page: its number in its document, from 1; ``None`` where the engine was given the picture alone.
    """

    status: PageStatus
    text: str = ""
    regions: tuple[Region, ...] = ()
    finish_reason: FinishReason | None = None
    facts: PruneFacts | None = None
    prompt_tokens: int = 0
    output_tokens: int = 0
    decode_steps: int = 0
    drafted_tokens: int = 0
    accepted_tokens: int = 0
    confidence: Confidence | None = None
    timings: Timings = field(default_factory=Timings)
    mode: str | None = None
    strategy: StrategyName = "default"
    audit: Audit | None = None
    reason: Reason | None = None
    message: str | None = None
    page: int | None = None
