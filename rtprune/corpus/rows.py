"""From what documents and engine say about a page to its row in the dataset."""

from __future__ import annotations

from typing import TYPE_CHECKING

from rtprune.dataset import PageRow, PageSlice, RegionRow
from rtprune.errors import Reason

if TYPE_CHECKING:
    from rtprune.documents import PageImage
    from rtprune.engine import PageResult


def read_row(piece: PageSlice, image: PageImage, result: PageResult, model: str, mode: str, attempt: int) -> PageRow:
    """The row of a page that was rendered and given to the engine, whatever came of it."""
    facts, times = result.facts, result.timings
    if result.status == "skipped":
        return PageRow(
            piece.doc_id,
            piece.uri,
            image.page,
            "skipped",
            model,
            scale=image.scale,
            render_ms=image.render_ms,
            attempts=attempt,
        )
    if result.status == "failed" or facts is None:
        return failed_row(
            piece,
            image.page,
            result.reason or Reason.UNEXPECTED,
            result.message or "",
            model=model,
            mode=mode,
            attempt=attempt,
            render_ms=image.render_ms,
        )
    return PageRow(
        doc_id=piece.doc_id,
        uri=piece.uri,
        page=image.page,
        status=result.status,
        model=model,
        mode=result.mode or mode,
        strategy=result.strategy,
        text=result.text,
        regions=tuple(RegionRow(region.label, *region.box, region.text) for region in result.regions),
        finish_reason=result.finish_reason,
        visual_tokens_before=facts.tokens_before,
        visual_tokens_after=facts.tokens_after,
        keep_ratio=facts.tokens_after / facts.tokens_before,
        similarity=facts.similarity,
        density=facts.density,
        prompt_tokens=result.prompt_tokens,
        output_tokens=result.output_tokens,
        decode_steps=result.decode_steps,
        drafted_tokens=result.drafted_tokens,
        accepted_tokens=result.accepted_tokens,
        mean_log_probability=result.confidence.mean if result.confidence else None,
        weakest_log_probability=result.confidence.weakest if result.confidence else None,
        weakest_at=result.confidence.weakest_at if result.confidence else None,
        audit_distance=result.audit.distance if result.audit else None,
        audit_output_tokens=result.audit.output_tokens if result.audit else None,
        scale=image.scale,
        render_ms=image.render_ms,
        encode_ms=times.encode_ms,
        prune_ms=times.prune_ms,
        prefill_ms=times.prefill_ms,
        decode_ms=times.decode_ms,
        attempts=attempt,
    )


def failed_row(
    piece: PageSlice,
    page: int,
    reason: Reason,
    message: str,
    *,
    model: str,
    mode: str,
    attempt: int,
    render_ms: float | None = None,
) -> PageRow:
    """The row of a page that could not be read."""
    return PageRow(
        doc_id=piece.doc_id,
        uri=piece.uri,
        page=page,
        status="failed",
        model=model,
        mode=mode,
        render_ms=render_ms,
        attempts=attempt,
        reason=reason,
        message=message,
    )
