"""What is LightOnOCR's own: a head that is its embeddings, the names it borrowed, and its rotary bases."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from rtprune.errors import ModelError
from rtprune.models import describe, load_model
from rtprune.models.lighton_ocr import LightOnOcr
from rtprune.models.weights import read_tensors, save_tensors
from tests.models.families import LIGHTON_OCR, Case, Reader, full_size, published, safetensors_size

pytestmark = pytest.mark.usefixtures("one_thread")

PUBLISHED = published("lighton_ocr")
#: The older checkpoint's names no end token, and its parts carry their rotary base the old way.
OLDER: dict[str, Any] = {
    key: {name: value for name, value in entry.items() if name not in ("rope_parameters", "dtype", "use_qk_norm")}
    if isinstance(entry, dict)
    else entry
    for key, entry in PUBLISHED.items()
    if key not in ("eos_token_id", "pad_token_id")
}
PUBLISHED_FILE_BYTES = 2_011_367_489


@pytest.fixture(scope="module")
def reader(reader_of: Callable[[Case], Reader]) -> Reader:
    return reader_of(LIGHTON_OCR)


@pytest.fixture
def copied(reader: Reader, tmp_path: Path) -> Path:
    """The model's folder, to be changed."""
    return Path(shutil.copytree(reader.folder, tmp_path / "copy"))


@pytest.mark.parametrize("config", [PUBLISHED, OLDER])
def test_names_and_shapes_account_for_every_byte_of_the_published_file(config: dict[str, Any]) -> None:
    assert safetensors_size(full_size(LightOnOcr, config), {"format": "pt"}) == PUBLISHED_FILE_BYTES


@pytest.mark.parametrize("config", [PUBLISHED, OLDER])
def test_rotary_bases_are_the_published_ones(config: dict[str, Any]) -> None:
    found = LightOnOcr.configuration(config)
    assert found.text_config.rope_parameters["rope_theta"] == 1000000
    assert found.vision_config.rope_parameters["rope_theta"] == 10000
    assert found.image_token_id == 151655
    assert found.tie_word_embeddings


def test_the_head_is_the_embeddings(reader: Reader) -> None:
    assert reader.model.network.lm_head.weight is reader.model.network.get_input_embeddings().weight


def test_a_copy_of_the_embeddings_as_the_head_changes_nothing(reader: Reader, copied: Path) -> None:
    tensors = {name: tensor.clone() for name, tensor in read_tensors(copied).items()}
    tensors["lm_head.weight"] = tensors["model.language_model.embed_tokens.weight"].clone()
    save_tensors(tensors, copied / "model.safetensors", torch.bfloat16)
    loaded = load_model(str(copied), device="cpu")
    again = Reader(LIGHTON_OCR, copied, loaded, reader.pages, reader.views, loaded.encode(reader.views))
    assert again.answers(again.prompts(0.0)[:1], 8) == reader.answers(reader.prompts(0.0)[:1], 8)
    assert describe(str(copied)).parameters == sum(weight.numel() for weight in reader.model.network.parameters())


def test_the_model_that_it_borrowed_its_name_from_is_refused(copied: Path) -> None:
    config = LIGHTON_OCR.config() | {"architectures": ["Mistral3ForConditionalGeneration"]}
    (copied / "config.json").write_text(json.dumps(config))
    with pytest.raises(ModelError, match="calls the model 'Mistral3ForConditionalGeneration' or 'mistral3'"):
        load_model(str(copied))


def test_a_configuration_without_an_end_still_ends(copied: Path) -> None:
    config = LIGHTON_OCR.config()
    del config["eos_token_id"]
    (copied / "config.json").write_text(json.dumps(config))
    assert load_model(str(copied), device="cpu").end_token_ids == set(LIGHTON_OCR.ends)


def test_what_is_no_whole_token_is_left_out_as_the_encoder_does(reader: Reader) -> None:
    inputs = {"pixel_values": torch.zeros(1, 3, 42, 98), "image_sizes": torch.tensor([[42, 98]])}
    ((layout, view),) = LightOnOcr.images_of(reader.model.network, inputs)
    assert (layout.grid, tuple(view.shape)) == ((3, 1), (3, 28, 84))
    assert len(reader.model.network.get_image_features(**inputs).pooler_output[0]) == layout.length
