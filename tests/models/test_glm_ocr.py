"""What is GLM-OCR's own: a layer that only drafts, batches of its encoder, and positions on three axes."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from rtprune.models import load_model
from rtprune.models.glm_ocr import GlmOcr
from rtprune.models.weights import read_tensors, save_tensors
from rtprune.pruning import TokenLayout
from tests.models.families import GLM_OCR, Case, Reader, full_size, published, safetensors_size

pytestmark = pytest.mark.usefixtures("one_thread")

PUBLISHED_FILE_BYTES = 2_650_579_464
DRAFTING = "model.language_model.layers.16."


@pytest.fixture(scope="module")
def reader(reader_of: Callable[[Case], Reader]) -> Reader:
    return reader_of(GLM_OCR)


def test_names_and_shapes_account_for_every_byte_of_the_published_file() -> None:
    shapes = full_size(GlmOcr, published("glm_ocr"))
    extra = {name: shapes.get(name.replace(".16.", ".15."), (1536,)) for name in GlmOcr.family.unused_tensors}
    extra[f"{DRAFTING}eh_proj.weight"] = (1536, 2 * 1536)
    for name in ("embed_tokens", "shared_head.head"):
        extra[f"{DRAFTING}{name}.weight"] = (59392, 1536)
    assert not shapes.keys() & extra.keys()
    assert len(shapes | extra) == 526
    assert safetensors_size(shapes | extra, None) == PUBLISHED_FILE_BYTES


def test_sizes_and_ends_come_from_the_configuration() -> None:
    config = GlmOcr.configuration(published("glm_ocr"))
    assert config.text_config.eos_token_id == [59246, 59253]
    assert config.text_config.rope_parameters["mrope_section"] == [16, 24, 24]
    assert (config.image_token_id, config.tie_word_embeddings) == (59280, False)


def test_the_layer_that_only_drafts_may_be_left_out(reader: Reader, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(reader.folder, tmp_path / "copy"))
    tensors = {name: tensor.clone() for name, tensor in read_tensors(folder).items()}
    for name in GlmOcr.family.unused_tensors:
        del tensors[name]
    save_tensors(tensors, folder / "model.safetensors", torch.bfloat16)
    loaded = load_model(str(folder), device="cpu")
    without = Reader(GLM_OCR, folder, loaded, reader.pages, reader.views, loaded.encode(reader.views))
    assert without.answers(without.prompts(0.0)[:1], 8) == reader.answers(reader.prompts(0.0)[:1], 8)


@pytest.mark.parametrize(("limit", "sizes"), [(1, [1, 1, 1]), (4 * 48 * 4 * 4 * (15 + 22), [2, 1])])
def test_a_batch_too_large_for_memory_is_encoded_in_parts(
    reader: Reader, monkeypatch: pytest.MonkeyPatch, limit: int, sizes: list[int]
) -> None:
    found: list[int] = []
    encoder = reader.model.network.get_image_features

    def spy(pixel_values: Tensor, image_grid_thw: Tensor) -> Any:
        found.append(len(image_grid_thw))
        return encoder(pixel_values=pixel_values, image_grid_thw=image_grid_thw)

    monkeypatch.setattr("rtprune.models.glm_ocr._ENCODER_BYTES", limit)
    monkeypatch.setattr(reader.model.network, "get_image_features", spy)
    for tokens, expected in zip(reader.model.encode(reader.views), reader.features, strict=True):
        torch.testing.assert_close(tokens, expected, rtol=1e-5, atol=1e-5)
    assert found == sizes


@pytest.mark.parametrize(("columns", "rows"), [(3, 2), (2, 4), (1, 1)])
def test_rows_and_columns_have_an_axis_each(reader: Reader, columns: int, rows: int) -> None:
    found = reader.model.visual_positions(TokenLayout.plain(columns, rows, 28))
    places = [(row, column) for row in range(rows) for column in range(columns)]
    assert found.axes.tolist() == [[0] * len(places), [row for row, _ in places], [column for _, column in places]]
    assert found.extent == max(columns, rows)


def test_a_prompt_stands_where_transformers_puts_it(reader: Reader) -> None:
    for view, ours in zip(reader.views, reader.prompts(0.0), strict=True):
        columns, rows = view.layout.grid
        prompt = reader.model.prompt("text")
        ids = torch.cat([prompt.before, torch.full((columns * rows,), GLM_OCR.image), prompt.after])[None]
        positions, deltas = reader.model.network.model.get_rope_index(
            ids, (ids == GLM_OCR.image).int(), torch.tensor([[1, 2 * rows, 2 * columns]])
        )
        assert torch.equal(ours.positions, positions[:, 0])
        assert ours.next_position == ids.shape[1] + int(deltas)


def test_what_an_earlier_generation_left_behind_changes_nothing(
    reader: Reader, monkeypatch: pytest.MonkeyPatch
) -> None:
    network = reader.model.network.model
    monkeypatch.setattr(network, "rope_deltas", None)
    wanted = reader.answers(reader.prompts(0.0), GLM_OCR.count)
    monkeypatch.setattr(network, "rope_deltas", torch.tensor([[1000]]))
    assert reader.answers(reader.prompts(0.0), GLM_OCR.count) == wanted
    assert network.rope_deltas.tolist() == [[1000]]
