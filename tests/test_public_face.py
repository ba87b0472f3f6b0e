"""What users import is there, and what the README shows runs."""

from __future__ import annotations

import subprocess
import sys

import pytest
import torch
from PIL import Image

import rtprune
from rtprune.mini.generator import typeset
from rtprune.models.deepseek_ocr import DeepSeekOcr


@pytest.mark.parametrize("name", rtprune.__all__)
def test_every_public_name_can_be_imported(name: str) -> None:
    assert getattr(rtprune, name) is not None


def test_an_unknown_name_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="nonsense"):
        _ = rtprune.nonsense


def test_importing_the_package_does_not_load_torch() -> None:
    code = "import sys, rtprune; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_the_readme_example_prunes() -> None:
    from rtprune import PruneConfig, TokenLayout, prune

    generator = torch.Generator().manual_seed(0)
    layout = TokenLayout.deepseek_ocr(grid=16)
    features = torch.randn(273, 32, generator=generator)
    view = torch.rand(3, 1024, 1024, generator=generator) * 2 - 1
    pruned = prune(features, layout, view, PruneConfig())
    assert pruned.features.shape == (len(pruned.positions), 32)
    assert pruned.facts.tokens_before == 273
    assert pruned.facts.tokens_after == len(pruned.positions) < 273


def test_the_readme_example_reads() -> None:
    from rtprune import Engine, ReadSettings, load_model

    drawn = typeset(["Hello, page."], [(20.0, 40.0)], "cour", 40 / 3)
    picture = Image.fromarray(drawn.picture).convert("RGB")
    engine = Engine(load_model("mini"), ReadSettings())
    (page,) = engine.read([picture])
    assert page.status == "ok"
    assert page.text == "Hello, page."
    assert page.facts is not None
    assert page.facts.tokens_after < page.facts.tokens_before


def test_the_readme_example_attaches() -> None:
    mini = rtprune.load_model("mini")
    assert isinstance(mini, DeepSeekOcr)
    model = mini.network
    drawn = typeset(["Hello, page."], [(20.0, 40.0)], "cour", 40 / 3)
    views = mini.prepare(Image.fromarray(drawn.picture).convert("RGB"), "tiny")
    prompt = mini.prompt("text")
    visual = torch.full((views.layout.length,), model.config.image_token_id)
    inputs = {
        "input_ids": torch.cat([prompt.before, visual, prompt.after])[None],
        "pixel_values": views.global_view[None],
    }

    attachment = rtprune.attach(model)
    answer = model.generate(**inputs, max_new_tokens=40, do_sample=False)
    (facts,) = attachment.facts
    rtprune.detach(model)

    assert mini.detokenize(answer[0, inputs["input_ids"].shape[1] :].tolist()) == "Hello, page."
    assert facts.tokens_after < facts.tokens_before == 73


def test_public_names_are_listed() -> None:
    assert set(rtprune.__all__) <= set(dir(rtprune))
