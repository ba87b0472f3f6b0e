"""What is DeepSeek-OCR-2's own: its published names, its tokens' order, and batches of unlike length."""

from __future__ import annotations

import json
from collections.abc import Callable

import pytest
import torch
from transformers.models.deepseek_ocr2.image_processing_pil_deepseek_ocr2 import DeepseekOcr2ImageProcessorPil

from rtprune.models import Views
from rtprune.models.deepseek_ocr2 import DeepSeekOcr2
from rtprune.pruning import TokenKind
from tests.checkpoints import END
from tests.models.families import DEEPSEEK_OCR2, Case, Reader, as_arguments, full_size, picture, published

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(scope="module")
def reader(reader_of: Callable[[Case], Reader]) -> Reader:
    return reader_of(DEEPSEEK_OCR2)


def test_the_full_size_model_has_the_published_names_and_no_others() -> None:
    """The published index is known by its length in characters and by its parts; see `published_names`."""
    ours = full_size(DeepSeekOcr2, published("deepseek_ocr2"))
    assert set(ours) == published_names()
    index = {
        "metadata": {"total_size": 6779249408},
        "weight_map": dict.fromkeys(published_names(), "model-00001-of-000001.safetensors"),
    }
    assert len(json.dumps(index, indent=2)) == 247401
    assert not DeepSeekOcr2.family.unused_tensors
    assert ours["model.sam_model.net_3.weight"] == (896, 512, 3, 3)
    assert ours["model.projector.layers.weight"] == (1280, 896)
    assert ours["model.qwen2_model.query_768.weight"] == (144, 896)
    assert ours["model.qwen2_model.query_1024.weight"] == (256, 896)
    assert ours["model.qwen2_model.model.model.layers.0.self_attn.k_proj.weight"] == (128, 896)
    assert ours["model.layers.1.mlp.shared_experts.up_proj.weight"] == (1792, 1280)


def published_names() -> set[str]:
    """Names in the published ``model.safetensors.index.json``."""
    names = {"lm_head.weight", "model.embed_tokens.weight", "model.norm.weight", "model.view_seperator"}
    names |= {f"model.projector.layers.{kind}" for kind in ("weight", "bias")}
    names |= {f"model.qwen2_model.query_{side}.weight" for side in (768, 1024)} | {"model.sam_model.pos_embed"}
    names |= {f"model.sam_model.patch_embed.proj.{kind}" for kind in ("weight", "bias")}
    names |= {f"model.sam_model.neck.{index}.weight" for index in range(4)}
    names |= {f"model.sam_model.{part}" for part in ("neck.1.bias", "neck.3.bias", "net_2.weight", "net_3.weight")}
    for layer in range(12):
        block = f"model.sam_model.blocks.{layer}"
        names |= {f"{block}.attn.rel_pos_{axis}" for axis in "hw"}
        for part in ("norm1", "norm2", "attn.qkv", "attn.proj", "mlp.lin1", "mlp.lin2"):
            names |= {f"{block}.{part}.{kind}" for kind in ("weight", "bias")}
    mlp = [f"{kind}_proj.weight" for kind in ("gate", "up", "down")]
    norms = ["input_layernorm.weight", "post_attention_layernorm.weight"]
    for layer in range(24):
        block = f"model.qwen2_model.model.model.layers.{layer}"
        names |= {f"{block}.self_attn.{part}_proj.{kind}" for part in "qkv" for kind in ("weight", "bias")}
        names |= {f"{block}.{part}" for part in (*norms, "self_attn.o_proj.weight")}
        names |= {f"{block}.mlp.{part}" for part in mlp}
    names |= {"model.qwen2_model.model.model.norm.weight"}
    for layer in range(12):
        block = f"model.layers.{layer}"
        names |= {f"{block}.self_attn.{part}_proj.weight" for part in "qkvo"} | {f"{block}.{norm}" for norm in norms}
        experts = [""] if layer == 0 else ["shared_experts.", *(f"experts.{index}." for index in range(64))]
        names |= {f"{block}.mlp.{expert}{part}" for expert in experts for part in mlp}
        names |= {f"{block}.mlp.gate.weight"} if layer else set()
    return names


def test_what_the_published_file_leaves_open_is_as_in_its_code() -> None:
    config = DeepSeekOcr2.configuration(published("deepseek_ocr2"))
    text, encoder = config.text_config, config.vision_config.encoder_config
    assert text.mlp_layer_types == ["dense", *["sparse"] * 11]
    assert (text.bos_token_id, text.eos_token_id, config.image_token_id) == (0, 1, 128815)
    assert (text.rope_parameters["rope_theta"], text.rms_norm_eps, text.head_dim) == (10000, 1e-6, 128)
    assert (encoder.rope_parameters["rope_theta"], encoder.rms_norm_eps) == (1e6, 1e-6)
    assert (encoder.num_hidden_layers, encoder.num_attention_heads, encoder.intermediate_size) == (24, 14, 4864)
    assert config.vision_config.sam_config.global_attn_indexes == (2, 5, 8, 11)


def test_tokens_are_free_but_for_the_separator_and_have_no_place(reader: Reader) -> None:
    for view in reader.views:
        assert view.layout.kinds[:-1].unique().tolist() == [TokenKind.FREE]
        assert view.layout.kinds[-1] == TokenKind.SEPARATOR
        assert not view.layout.spatial


@pytest.mark.parametrize("size", [(500, 700), (1234, 1000), (900, 2000), (3001, 1203)])
def test_views_are_those_of_transformers_own_processor(reader: Reader, size: tuple[int, int]) -> None:
    page = picture(1, *size)
    views = reader.model.prepare(page, "gundam")
    given = DeepseekOcr2ImageProcessorPil()(images=page, return_tensors="pt")
    tiles = views.tiles if views.tiles is not None else torch.zeros(0)
    assert given["num_local_patches"].tolist() == [len(tiles)]
    if len(tiles):
        torch.testing.assert_close(given["pixel_values_local"].float(), tiles, rtol=0, atol=1e-6)
    if all(margin % 2 == 0 for margin in views.content_box[:2]) and (1024 - min(views.content_box[2:])) % 2 == 0:
        # an odd margin is split otherwise there than in the published preparation
        torch.testing.assert_close(given["pixel_values"][0].float(), views.global_view, rtol=0, atol=1e-6)


def test_a_batch_too_large_for_memory_is_encoded_in_parts(reader: Reader, monkeypatch: pytest.MonkeyPatch) -> None:
    assert reader.model._batches(reader.views) == [[0, 1, 2]]
    monkeypatch.setattr("rtprune.models.deepseek_ocr2._ATTENTION_BYTES", 2 * 4 * (64**4 + 2 * 48**4))
    assert reader.model._batches(reader.views) == [[0], [1], [2]]


def test_tiles_come_first_one_after_the_other_and_the_separator_last(reader: Reader) -> None:
    view, tokens = reader.views[1], reader.features[1]
    assert view.tiles is not None
    tiles = view.tiles.clone()
    tiles[1] = -tiles[1]
    changed = reader.model.encode([Views(**(vars(view) | {"tile_pixels": tiles}))])[0]
    moved = ((tokens - changed).abs().amax(dim=1) > 1e-6).nonzero().flatten().tolist()
    assert moved == list(range(144, 288))
    separator = reader.model.network.model.view_separator
    assert (tokens == separator).all(dim=1).nonzero().flatten().tolist() == [view.layout.length - 1]


def test_a_left_padded_batch_of_transformers_generates_what_is_read(reader: Reader) -> None:
    prompt = reader.model.prompt("text")
    ids = [
        torch.cat([prompt.before, torch.full((view.layout.length,), DEEPSEEK_OCR2.image), prompt.after])
        for view in reader.views
    ]
    longest = max(map(len, ids))
    inputs = as_arguments(reader.views)
    del inputs["patches_grid"]
    generated = reader.model.network.generate(
        input_ids=torch.stack([torch.nn.functional.pad(row, (longest - len(row), 0), value=END) for row in ids]),
        attention_mask=torch.stack([(torch.arange(longest) >= longest - len(row)).long() for row in ids]),
        **inputs,
        do_sample=False,
        max_new_tokens=DEEPSEEK_OCR2.count,
        eos_token_id=END,
        pad_token_id=END,
    )
    answers = [row[longest:].tolist() for row in generated]
    found = [answer[: answer.index(END) + 1] if END in answer else answer for answer in answers]
    assert found == reader.answers(reader.prompts(0.0), DEEPSEEK_OCR2.count)
