"""A model is described without torch, and as the classes that read it have it."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from rtprune.models import FAMILIES, deepseek_ocr2, describe, native, preparation, unlimited_ocr
from rtprune.models.published import KNOWN, Known


def test_a_model_is_described_without_torch(random_checkpoint: Path) -> None:
    code = (
        "import sys, rtprune.models; print(rtprune.models.describe(sys.argv[1]).parameters); "
        "sys.exit('torch' in sys.modules or 'transformers' in sys.modules)"
    )
    asked = subprocess.run([sys.executable, "-c", code, str(random_checkpoint)], capture_output=True, text=True)
    assert (asked.returncode, asked.stderr) == (0, "")
    assert int(asked.stdout) == describe(str(random_checkpoint)).parameters


@pytest.mark.parametrize("known", KNOWN, ids=lambda known: known.family.title)
def test_each_family_is_read_by_the_class_that_has_its_values(known: Known) -> None:
    assert all(FAMILIES[name].family is known.family for name in known.names)


def test_its_modes_are_those_that_pictures_are_prepared_in() -> None:
    prepared = {
        "DeepSeek-OCR": preparation.MODES,
        "DeepSeek-OCR-2": deepseek_ocr2.MODES,
        "Unlimited-OCR": unlimited_ocr.MODES,
        "LightOnOCR": {native.MODE},
        "GLM-OCR": {native.MODE},
    }
    assert {known.family.title: known.family.modes for known in KNOWN} == {
        title: tuple(modes) for title, modes in prepared.items()
    }
