"""Model families of other packages are read like this package's own."""

from __future__ import annotations

import json
import logging
import shutil
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from transformers import UnlimitedOcrForConditionalGeneration

from rtprune import Engine, PruneConfig, ReadSettings, attach, load_model, register_model_family
from rtprune.cli import main
from rtprune.errors import PluginError
from rtprune.models import FAMILIES, Answer, Family, describe, families
from rtprune.models.deepseek_ocr import DeepSeekOcr
from rtprune.models.family import TransformersOcr
from rtprune.models.native import clip_pixels
from tests.guides import declare, follow

TOY = Family(
    "Toy OCR", "toys/toy-ocr", "CC0-1.0", ("tiny",), "tiny", {"text": "<image>Read."}, DeepSeekOcr.family.unused_tensors
)


class ToyNetwork(UnlimitedOcrForConditionalGeneration):
    """The same network under a name of its own."""


class ToyOcr(DeepSeekOcr):
    """Another prompt and another way of reading answers."""

    family = TOY
    network_class = ToyNetwork

    def parse(self, answer: str) -> Answer:
        return Answer(f"toy: {answer}", ())


@pytest.fixture(autouse=True)
def fresh(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing is registered, and installed packages are looked at anew."""
    monkeypatch.setattr(FAMILIES, "_registered", {})
    monkeypatch.delitem(vars(FAMILIES), "_declared", raising=False)


@pytest.fixture(scope="module")
def toy_checkpoint(random_checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("toys") / "toy"
    shutil.copytree(random_checkpoint, folder)
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"model_type": "toy_ocr"}))
    return folder


@pytest.fixture
def site(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder on Python's path with two installed packages: one adds the toy family, the other cannot be imported."""
    (tmp_path / "toy_ocr.py").write_text(f"from {__name__} import ToyOcr\n")
    (tmp_path / "bad_ocr.py").write_text("raise RuntimeError('built for another CUDA')\n")
    declare(tmp_path, "toys", "[rtprune.models]\ntoy_ocr = toy_ocr:ToyOcr\nToyForOcr = toy_ocr:ToyOcr\n")
    declare(tmp_path, "bad", "[rtprune.models]\nbad_ocr = bad_ocr:BadOcr\n")
    monkeypatch.syspath_prepend(tmp_path)
    for module in ("toy_ocr", "bad_ocr"):
        monkeypatch.delitem(sys.modules, module, raising=False)
    return tmp_path


def assert_read_by_the_toy(folder: Path) -> None:
    card = describe(str(folder))
    assert (card.modes, card.tasks) == (("tiny",), ("text",))
    engine = Engine(load_model(str(folder), device="cpu"), ReadSettings(prune=0.25, max_output_tokens=4))
    (page,) = engine.read([Image.new("RGB", (300, 400), "white")])
    assert page.text.startswith("toy: ")
    assert page.facts is not None
    assert (page.facts.free_before, page.facts.free_after) == (64, 48)


def test_a_family_registered_by_a_call_reads_pages(toy_checkpoint: Path) -> None:
    register_model_family("toy_ocr", ToyOcr)
    assert families()[-1] is ToyOcr
    assert_read_by_the_toy(toy_checkpoint)


def test_a_family_of_an_installed_package_reads_pages(toy_checkpoint: Path, site: Path) -> None:
    assert_read_by_the_toy(toy_checkpoint)


def test_models_lists_installed_packages_and_warns_of_broken_ones(
    site: Path, capsys: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.WARNING):
        assert main(["models"]) == 0
    printed = capsys.readouterr().out
    assert printed.count("Toy OCR: toys/toy-ocr, weights under CC0-1.0") == 1
    assert "GLM-OCR: " in printed
    assert "model family 'bad_ocr' of package bad 1.0" in caplog.text
    assert "RuntimeError: built for another CUDA" in caplog.text


def test_a_broken_package_fails_its_own_checkpoints_alone(
    site: Path, toy_checkpoint: Path, random_checkpoint: Path, tmp_path: Path
) -> None:
    folder = tmp_path / "checkpoint"
    folder.mkdir()
    (folder / "config.json").write_text('{"model_type": "bad_ocr"}')
    with pytest.raises(PluginError, match=r"of package bad 1.0 .* RuntimeError: built for another CUDA"):
        load_model(str(folder))
    assert load_model(str(random_checkpoint), device="cpu").modes == ("tiny", "small", "base", "large", "gundam")


def test_a_family_s_own_network_is_attached_as_that_family(toy_checkpoint: Path) -> None:
    register_model_family("toy_ocr", ToyOcr)
    for network_class, family in ((ToyNetwork, ToyOcr), (UnlimitedOcrForConditionalGeneration, DeepSeekOcr)):
        network = network_class(DeepSeekOcr.configuration(json.loads((toy_checkpoint / "config.json").read_text())))
        assert attach(network)._family is family


class Unfinished(TransformersOcr):
    family = TOY


@pytest.mark.parametrize(
    ("thing", "message"),
    [
        (len, "its attribute family must be a rtprune.models.Family, got None"),
        (type("NoLoading", (), {"family": TOY}), "it does not define describe, load"),
        (Unfinished, "it does not define _configuration, encode, images_of, parse, prepare"),
    ],
)
def test_an_object_that_is_no_family_is_refused_with_what_it_lacks(thing: Any, message: str) -> None:
    with pytest.raises(PluginError, match=message):
        register_model_family("toy_ocr", thing)


def test_names_of_this_package_cannot_be_replaced() -> None:
    with pytest.raises(PluginError, match="there is a model family 'glm_ocr' already, from rtprune itself"):
        register_model_family("glm_ocr", ToyOcr)


@pytest.mark.slow
def test_the_guide_s_package_is_found_by_every_process_of_a_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    printed = follow("adding-a-model.md", tmp_path)
    assert printed.count("16 -> 12 visual tokens") == 2
    assert "GOT-OCR 2.0: stepfun-ai/GOT-OCR-2.0-hf, weights under Apache-2.0" in printed
    assert "read by random-got-ocr in mode base" in printed
    assert "pages             1 (truncated 1)" in printed

    monkeypatch.syspath_prepend(tmp_path / "site")
    model: Any = load_model(str(tmp_path / "random-got-ocr"), device="cpu")
    views = model.prepare(Image.new("RGB", (640, 480), "white"), "base")
    image_token = model.network.config.image_token_id
    attachment = attach(model.network, PruneConfig(ratio=0.25))
    model.network.generate(
        input_ids=torch.full((1, views.layout.length), image_token),
        pixel_values=clip_pixels(views.global_view)[None],
        max_new_tokens=2,
    )
    assert [(facts.free_before, facts.free_after) for facts in attachment.facts] == [(16, 12)]
