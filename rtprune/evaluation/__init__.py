"""Scores of Markdown answers by the published benchmarks' own rules: olmOCR-bench and OmniDocBench.

Nothing here is imported by the rest of the package; the libraries it needs are the extra ``rtprune[eval]``.
"""
