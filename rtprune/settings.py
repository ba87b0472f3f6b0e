"""Every knob of the package, typed and described, in one place.

Each field can be set as a keyword, by a command line flag of the same name, or by an environment variable
``RTPRUNE_<NAME>`` (for example ``RTPRUNE_MODE=tiny``); a keyword or flag wins over the environment.
"""

from __future__ import annotations

import os
from difflib import get_close_matches
from typing import Annotated, Literal

from pydantic import Field
from pydantic_settings import BaseSettings, SettingsConfigDict

from rtprune.errors import UsageError

PUBLISHED_MODEL = "deepseek-ai/DeepSeek-OCR"
NO_MODEL = "none"
#: Pages decoded together by kind of device: a GPU's step costs little more for many pages than for few.
SLOTS = {"cpu": 16, "cuda": 128}

Ratio = Annotated[float, Field(ge=0.0, le=1.0)]
Limit = Annotated[str, Field(pattern=r"^(\d+|\d+(\.\d+)?%)$", coerce_numbers_to_str=True)]


class ReadSettings(BaseSettings):
    """How a page is read: what decides the text. A dataset holds rows of one such configuration."""

    model_config = SettingsConfigDict(env_prefix="RTPRUNE_", frozen=True, extra="forbid", protected_namespaces=())

    model: str = Field(
        default=PUBLISHED_MODEL,
        description="Published model, local folder or s3:// prefix in its layout, 'mini' (the built-in one), or "
        "'none', which renders pages and records them as skipped.",
    )
    mode: str | None = Field(
        default=None, description="View size: tiny, small, base, large or gundam; the model's own default when absent."
    )
    task: str | None = Field(
        default=None,
        description="'text' (plain reading) or 'markdown' (with regions); the model's own default when absent.",
    )
    prune: Literal["dynamic", "off"] | Ratio = Field(
        default="dynamic",
        description="Share of free visual tokens to prune: 'dynamic' (adapts to the page), 'off', or 0..1.",
    )
    max_output_tokens: int = Field(
        default=8192, ge=1, description="A page that has not ended after so many tokens is cut."
    )
    reread: bool = Field(
        default=True,
        description="Whether a page that fails or is read in a loop is read again: unpruned, in tiles, then sampled.",
    )
    dpi: int = Field(
        default=144, ge=36, le=600, description="Resolution at which PDF pages are rendered, dots per inch."
    )
    max_pixels: int = Field(
        default=50_000_000, ge=4096, description="A page that would have more pixels is rendered at a smaller scale."
    )


class RunSettings(ReadSettings):
    """How a corpus is run: reading plus the resources it takes. Only the reading fields decide the rows."""

    password: str | None = Field(default=None, repr=False, description="Password tried on encrypted PDF documents.")
    workers: int | None = Field(
        default=None,
        ge=1,
        description="Ray actors that hold the model; one per GPU, or per two CPU cores, when absent.",
    )
    unit_pages: int = Field(
        default=64, ge=1, le=10_000, description="Pages in a work unit: what is committed in one file."
    )
    batch_pages: int | None = Field(
        default=None,
        ge=1,
        le=1024,
        description="Pages the model reads together, fewer where memory does not hold them; 16 on a CPU and 128 on a "
        "GPU when absent.",
    )
    audit_fraction: Ratio = Field(
        default=0.01,
        description="Share of pages that are read unpruned as well, to measure how much text pruning changes.",
    )
    audit_floor: Ratio | None = Field(
        default=None,
        description="Once the audited pages keep less than this share of their text, the run stops pruning.",
    )
    max_attempts: int = Field(
        default=2,
        ge=1,
        le=10,
        description="How often a unit may kill its worker before its pages are recorded as failed.",
    )
    max_failed: Limit = Field(
        default="10%",
        description="How many pages, and how many documents, may fail, as a share ('5%') or a number: where more do, "
        "the run ends as failed, with everything kept. Files that are no documents do not count.",
    )
    page_timeout_s: float = Field(
        default=120.0, gt=0, description="A page fails if rendering it takes longer, a document if opening it does."
    )
    unit_timeout_s: float = Field(default=3600.0, gt=0, description="A unit that takes longer has its worker killed.")
    worker_pages: int = Field(default=20_000, ge=1, description="A worker that has read so many pages is replaced.")
    worker_growth_mib: int = Field(
        default=4096, ge=1, description="A worker whose memory has grown by so much since its first unit is replaced."
    )
    ray_address: str | None = Field(
        default=None, description="Ray cluster to join ('auto' inside one); a local one is started when absent."
    )


#: The settings that reading one document knows.
PAGE_SETTINGS = (*ReadSettings.model_fields, "password")


def check_variables() -> None:
    """Refuse a misspelt ``RTPRUNE_`` variable, which would be as good as not set; others are somebody else's.

    Raises:
        UsageError: it names the variable and what may have been meant.
    """
    known = {f"RTPRUNE_{name.upper()}" for name in (*RunSettings.model_fields, "log_level")}
    for name in sorted(os.environ):
        meant = get_close_matches(name, known, n=2, cutoff=0.9) if name.startswith("RTPRUNE_") else []
        if meant and name not in known:
            raise UsageError(f"{name} is no setting", f"rename it to {' or '.join(meant)}, or unset it")
