"""The built-in checkpoint: a small DeepSeek-OCR that reads large Latin print, and how it was made."""

from __future__ import annotations
