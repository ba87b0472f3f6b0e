"""The Python that README and docs/python.md show runs."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image

from rtprune import load_model
from rtprune.mini.generator import typeset
from rtprune.models.deepseek_ocr import DeepSeekOcr
from tests.docs.pages import REPOSITORY, blocks
from tests.docs.small_dataset import fill
from tests.sources import write_pdf

SHOWN = [*blocks(REPOSITORY / "README.md", "python"), *blocks(REPOSITORY / "docs" / "python.md", "python")]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a picture, a document and a dataset."""
    place = tmp_path_factory.mktemp("shown")
    drawn = typeset(["Hello, page."], [(20.0, 40.0)], "cour", 40 / 3)
    Image.fromarray(drawn.picture).save(place / "page.png")
    write_pdf(place / "report.pdf", 1)
    fill(str(place / "dataset"))
    return place


def given(folder: Path) -> dict[str, Any]:
    """What a piece that attaches to a model takes for granted."""
    mini = load_model("mini")
    assert isinstance(mini, DeepSeekOcr)
    views = mini.prepare(Image.open(folder / "page.png").convert("RGB"), "tiny")
    prompt = mini.prompt("text")
    visual = torch.full((views.layout.length,), mini.network.config.image_token_id)
    ids = torch.cat([prompt.before, visual, prompt.after])[None]
    inputs = {"input_ids": ids, "pixel_values": views.global_view[None], "max_new_tokens": 4}
    return {"model": mini.network, "inputs": inputs}


@pytest.mark.parametrize("code", SHOWN)
def test_it_runs(code: str, folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.chdir(folder)
    exec(code, given(folder) if "attach" in code else {})
    printed = capsys.readouterr().out
    assert printed
    assert "engine" not in code or "Hello, page." in printed
