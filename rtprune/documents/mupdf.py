"""PyMuPDF without what it loads for the analysis of layouts: a second and some 100 MB of every process, for nothing."""

from __future__ import annotations

import sys

_UNUSED = {"pymupdf.layout", "pymupdf4llm"} - sys.modules.keys()

sys.modules.update(dict.fromkeys(_UNUSED))  # type: ignore[arg-type]  # PyMuPDF goes without what it cannot import
try:
    import pymupdf
finally:
    for _name in _UNUSED:
        del sys.modules[_name]

__all__ = ["pymupdf"]
