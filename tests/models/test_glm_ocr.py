"""GLM-OCR is loaded whole from the published layout, shown pictures as published, and reads as transformers does."""

from __future__ import annotations

import json
import random
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from torch import Tensor
from transformers.models.glm46v.image_processing_pil_glm46v import Glm46VImageProcessorPil, smart_resize

from rtprune import attach, detach
from rtprune.engine import Engine
from rtprune.engine.decoding import decode
from rtprune.errors import DocumentError, ModelError, UsageError
from rtprune.models import describe, load_model
from rtprune.models.family import published_state_dict
from rtprune.models.glm_ocr import FAMILY, GlmOcr, patches, view_tokens
from rtprune.models.weights import read_tensors, save_tensors
from rtprune.pruning import PruneConfig, TokenLayout, prune
from rtprune.settings import ReadSettings
from tests.models.families import (
    CHARACTER_TOKENS,
    answers,
    full_size,
    one_pass,
    picture,
    prompts,
    safetensors_size,
    write_family,
)

pytestmark = pytest.mark.usefixtures("one_thread")

PUBLISHED_CONFIG: dict[str, Any] = {
    "architectures": ["GlmOcrForConditionalGeneration"],
    "model_type": "glm_ocr",
    "text_config": {
        "model_type": "glm_ocr_text",
        "pad_token_id": 59246,
        "vocab_size": 59392,
        "eos_token_id": [59246, 59253],
        "attention_bias": False,
        "attention_dropout": 0.0,
        "head_dim": 128,
        "hidden_act": "silu",
        "hidden_size": 1536,
        "initializer_range": 0.02,
        "intermediate_size": 4608,
        "max_position_embeddings": 131072,
        "num_attention_heads": 16,
        "num_hidden_layers": 16,
        "num_nextn_predict_layers": 1,
        "num_key_value_heads": 8,
        "rms_norm_eps": 1e-05,
        "dtype": "bfloat16",
        "rope_parameters": {
            "rope_type": "default",
            "mrope_section": [16, 24, 24],
            "partial_rotary_factor": 1.0,
            "rope_theta": 10000,
        },
        "tie_word_embeddings": False,
        "use_cache": True,
    },
    "vision_config": {
        "model_type": "glm_ocr_vision",
        "hidden_size": 1024,
        "depth": 24,
        "num_heads": 16,
        "attention_bias": True,
        "intermediate_size": 4096,
        "hidden_act": "silu",
        "hidden_dropout_prob": 0.0,
        "initializer_range": 0.02,
        "image_size": 336,
        "patch_size": 14,
        "out_hidden_size": 1536,
        "rms_norm_eps": 1e-05,
        "spatial_merge_size": 2,
        "temporal_patch_size": 2,
    },
    "image_start_token_id": 59256,
    "image_end_token_id": 59257,
    "video_start_token_id": 59258,
    "video_end_token_id": 59259,
    "image_token_id": 59280,
    "video_token_id": 59281,
}
PUBLISHED_FILE_BYTES = 2_650_579_464
DRAFTING = "model.language_model.layers.16."

MARKS = (
    *("<|endoftext|>", "[gMASK]", "<sop>", "<|user|>", "<|assistant|>"),
    *("<|begin_of_image|>", "<|end_of_image|>", "<|image|>"),
)
ENDS = (CHARACTER_TOKENS, CHARACTER_TOKENS + 3)
IMAGE = CHARACTER_TOKENS + len(MARKS) - 1
SHAPES = [(150, 90), (60, 300), (200, 170)]
COUNT = 14


def small_config(**changes: Any) -> dict[str, Any]:
    config: dict[str, Any] = json.loads(json.dumps(PUBLISHED_CONFIG)) | {"image_token_id": IMAGE}
    config["text_config"] |= {
        "eos_token_id": list(ENDS),
        "head_dim": 16,
        "hidden_size": 32,
        "intermediate_size": 48,
        "num_attention_heads": 2,
        "num_hidden_layers": 2,
        "num_key_value_heads": 1,
        "pad_token_id": ENDS[0],
        "vocab_size": CHARACTER_TOKENS + len(MARKS),
    }
    config["text_config"]["rope_parameters"]["mrope_section"] = [2, 3, 3]
    config["vision_config"] |= {
        "depth": 2,
        "hidden_size": 32,
        "intermediate_size": 48,
        "num_heads": 2,
        "out_hidden_size": 32,
    }
    return config | changes


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    unused = dict.fromkeys(FAMILY.unused_tensors, (4,))
    return write_family(tmp_path_factory.mktemp("glm"), GlmOcr, small_config(), MARKS, unused)


@pytest.fixture(scope="module")
def model(checkpoint: Path) -> GlmOcr:
    loaded = load_model(str(checkpoint), device="cpu")
    assert isinstance(loaded, GlmOcr)
    return loaded


@pytest.fixture(scope="module")
def pictures() -> list[Image.Image]:
    return [picture(seed, *shape) for seed, shape in enumerate(SHAPES)]


@pytest.fixture(scope="module")
def processor() -> Glm46VImageProcessorPil:
    return Glm46VImageProcessorPil(size={"shortest_edge": 12544, "longest_edge": 9633792})


@pytest.fixture(scope="module")
def generated(model: GlmOcr, pictures: list[Image.Image], processor: Glm46VImageProcessorPil) -> list[list[int]]:
    """Greedy tokens of each picture by transformers' own processor and generation."""
    found = [generate(model, page, processor) for page in pictures]
    assert len({tuple(ids) for ids in found}) == len(pictures), "tests need pages that read differently"
    return found


def generate(model: GlmOcr, page: Image.Image, processor: Glm46VImageProcessorPil) -> list[int]:
    inputs = processor(page, return_tensors="pt")
    prompt = model.prompt("text")
    visual = torch.full((int(inputs["image_grid_thw"].prod()) // 4,), IMAGE)
    ids = torch.cat([prompt.before, visual, prompt.after])[None]
    found = model.network.generate(
        input_ids=ids,
        attention_mask=torch.ones_like(ids),
        mm_token_type_ids=(ids == IMAGE).int(),
        pixel_values=inputs["pixel_values"],
        image_grid_thw=inputs["image_grid_thw"],
        do_sample=False,
        max_new_tokens=COUNT,
        eos_token_id=list(ENDS),
        pad_token_id=ENDS[0],
    )
    return found[0, ids.shape[1] :].tolist()


class TestLayout:
    def test_names_and_shapes_account_for_every_byte_of_the_published_file(self) -> None:
        shapes = full_size(GlmOcr, PUBLISHED_CONFIG)
        extra = {name: shapes.get(name.replace(".16.", ".15."), (1536,)) for name in FAMILY.unused_tensors}
        extra[f"{DRAFTING}eh_proj.weight"] = (1536, 2 * 1536)
        for name in ("embed_tokens", "shared_head.head"):
            extra[f"{DRAFTING}{name}.weight"] = (59392, 1536)
        assert not shapes.keys() & extra.keys()
        assert len(shapes | extra) == 526
        assert safetensors_size(shapes | extra, None) == PUBLISHED_FILE_BYTES

    def test_every_tensor_of_a_checkpoint_arrives_unchanged(self, checkpoint: Path, model: GlmOcr) -> None:
        written = read_tensors(checkpoint)
        loaded = published_state_dict(model.network)
        assert loaded.keys() == written.keys() - FAMILY.unused_tensors
        for name, tensor in loaded.items():
            assert torch.equal(tensor, written[name].float()), name
        assert describe(str(checkpoint)).parameters == sum(tensor.numel() for tensor in loaded.values())

    def test_sizes_and_ends_come_from_the_configuration(self) -> None:
        config = GlmOcr.configuration(PUBLISHED_CONFIG)
        assert config.text_config.eos_token_id == [59246, 59253]
        assert config.text_config.rope_parameters["mrope_section"] == [16, 24, 24]
        assert (config.image_token_id, config.tie_word_embeddings) == (59280, False)

    @pytest.mark.parametrize(
        ("part", "change", "named"),
        [
            (None, {"text_config": None}, "text_config"),
            (None, {"vision_config": []}, "vision_config"),
            ("text_config", {"model_type": "glm4v_text"}, "text_config of model_type"),
            ("text_config", {"hidden_size": "wide"}, "config.json"),
            ("vision_config", {"model_type": "glm4v_vision"}, "vision_config of model_type"),
            ("vision_config", {"patch_size": 16}, "patch_size = 16"),
            ("vision_config", {"spatial_merge_size": 1}, "spatial_merge_size = 1"),
            ("vision_config", {"temporal_patch_size": 1}, "temporal_patch_size = 1"),
        ],
    )
    def test_another_architecture_is_refused(self, part: str | None, change: dict[str, Any], named: str) -> None:
        config = small_config()
        (config if part is None else config[part]).update(change)
        with pytest.raises(ModelError, match=named):
            GlmOcr.configuration(config)


class TestBrokenFolders:
    @pytest.fixture
    def edit(self, checkpoint: Path, tmp_path: Path) -> Callable[..., Path]:
        def write(change: Callable[[dict[str, Tensor]], object]) -> Path:
            folder = Path(shutil.copytree(checkpoint, tmp_path / "copy"))
            tensors = {name: tensor.clone() for name, tensor in read_tensors(folder).items()}
            change(tensors)
            save_tensors(tensors, folder / "model.safetensors", torch.bfloat16)
            return folder

        return write

    def test_missing_tensors_are_named(self, edit: Callable[..., Path]) -> None:
        folder = edit(lambda tensors: tensors.pop("model.visual.downsample.bias"))
        with pytest.raises(ModelError, match=r"1 tensors missing: model\.visual\.downsample\.bias"):
            load_model(str(folder))

    def test_the_head_is_no_copy_and_must_be_there(self, edit: Callable[..., Path]) -> None:
        folder = edit(lambda tensors: tensors.pop("lm_head.weight"))
        with pytest.raises(ModelError, match=r"1 tensors missing: lm_head\.weight"):
            load_model(str(folder))

    @pytest.mark.parametrize(
        "name", [f"{DRAFTING}adapter.weight", "model.language_model.layers.2.mlp.down_proj.weight"]
    )
    def test_unexpected_tensors_are_named(self, edit: Callable[..., Path], name: str) -> None:
        folder = edit(lambda tensors: tensors.update({name: torch.zeros(1)}))
        with pytest.raises(ModelError, match=f"1 tensors unexpected: {name}"):
            load_model(str(folder))

    def test_tensors_of_another_shape_are_named(self, edit: Callable[..., Path]) -> None:
        folder = edit(lambda tensors: tensors.update({"model.language_model.norm.weight": torch.zeros(7)}))
        with pytest.raises(ModelError, match=r"model\.language_model\.norm\.weight \[7\] instead of \[32\]"):
            load_model(str(folder))

    def test_the_layer_that_only_drafts_may_be_left_out(
        self, edit: Callable[..., Path], model: GlmOcr, pictures: list[Image.Image]
    ) -> None:
        folder = edit(lambda tensors: [tensors.pop(name) for name in FAMILY.unused_tensors])
        without = load_model(str(folder), device="cpu")
        assert isinstance(without, GlmOcr)
        assert answers(without, pictures[:1], 0.0, 8) == answers(model, pictures[:1], 0.0, 8)


class TestPrompt:
    def test_it_is_the_published_one(self, model: GlmOcr) -> None:
        assert (model.modes, model.tasks) == (("native",), ("text",))
        text = FAMILY.prompts["text"]
        assert text == (
            "[gMASK]<sop><|user|>\n<|begin_of_image|><image><|end_of_image|>Text Recognition:<|assistant|>\n"
        )
        prompt = model.prompt("text")
        # a token for each character, and one for each of four and two marks
        assert len(prompt.before) == 4 + len("\n")
        assert len(prompt.after) == 2 + len("Text Recognition:\n")
        whole = [
            model._tokenizer.decode(ids.tolist(), skip_special_tokens=False) for ids in (prompt.before, prompt.after)
        ]
        assert whole == text.split("<image>")

    def test_either_end_ends_an_answer(self, model: GlmOcr) -> None:
        assert model.end_token_ids == set(ENDS)
        assert model.detokenize([CHARACTER_TOKENS - 1, *ENDS]) == "~"

    def test_other_modes_and_tasks_are_refused(self, model: GlmOcr) -> None:
        with pytest.raises(UsageError, match="no mode 'large'"):
            model.prepare(picture(0, 50, 50), "large")
        with pytest.raises(UsageError, match="no task 'markdown'"):
            model.prompt("markdown")

    def test_an_answer_is_its_text(self, model: GlmOcr) -> None:
        assert model.parse("\nOne\n\n$x$ ").text == "One\n\n$x$"
        assert model.parse("One").regions == ()


class TestPreparation:
    @pytest.mark.parametrize(
        ("size", "tokens"),
        [
            ((1, 1), (3, 3)),  # 28 x 28, then 6272 pixels at least: * 2.83
            ((84, 84), (3, 3)),
            ((98, 70), (4, 2)),  # 3.5 and 2.5 are halves: to the even; and just enough pixels
            ((1654, 2339), (59, 84)),  # A4 at 200 dpi: 59.07 and 83.54
            ((10000, 10000), (78, 78)),  # 4 816 896 pixels at most: 2194.7, which is 78.4 tokens
            ((14, 2800), (1, 200)),  # 28 x 5600
        ],
    )
    def test_sizes_are_those_worked_by_hand(self, size: tuple[int, int], tokens: tuple[int, int]) -> None:
        assert view_tokens(*size) == tokens

    def test_sizes_are_those_of_transformers_own_processor(self) -> None:
        chance = random.Random(0)
        for _ in range(1000):
            width, height = (round(10 ** chance.uniform(0, 4)) for _ in range(2))
            try:
                high, wide = smart_resize(2, height, width, min_pixels=12544, max_pixels=9633792)
            except ValueError:
                with pytest.raises(DocumentError, match="more than 200 times"):
                    view_tokens(width, height)
            else:
                assert view_tokens(width, height) == (wide // 28, high // 28)

    @pytest.mark.parametrize("size", [(1, 1), (150, 90), (98, 70), (31, 999), (27, 1700)])
    def test_views_are_those_of_transformers_own_processor(
        self, model: GlmOcr, processor: Glm46VImageProcessorPil, size: tuple[int, int]
    ) -> None:
        page = picture(1, *size)
        wanted = processor(page, return_tensors="pt")
        view = model.prepare(page, "native")
        columns, rows = view.layout.grid
        assert wanted["image_grid_thw"].tolist() == [[1, 2 * rows, 2 * columns]]
        assert view.global_view.shape == view.layout.view_shape
        assert -1 <= view.global_view.min() <= view.global_view.max() <= 1
        torch.testing.assert_close(patches(view.global_view), wanted["pixel_values"], rtol=0, atol=2e-6)

    def test_views_are_found_again_in_what_the_processor_gives(
        self, model: GlmOcr, pictures: list[Image.Image], processor: Glm46VImageProcessorPil
    ) -> None:
        found = GlmOcr.images_of(model.network, processor(pictures, return_tensors="pt"))
        for page, (layout, view) in zip(pictures, found, strict=True):
            wanted = model.prepare(page, "native")
            assert layout == wanted.layout
            torch.testing.assert_close(view, wanted.global_view, rtol=0, atol=2e-6)

    def test_a_view_says_what_it_shows(self, model: GlmOcr) -> None:
        view = model.prepare(picture(0, 150, 90), "native")
        assert (view.mode, view.tiles, view.grid) == ("native", None, (1, 1))
        assert (view.layout.grid, view.layout.patch, view.layout.length) == ((5, 3), 28, 15)
        assert bool(view.layout.free.all())
        assert (view.content_box, view.picture_size) == ((0, 0, 140, 84), (150, 90))

    @pytest.mark.parametrize("size", [(0, 5), (5, 0), (1, 201), (5800, 28)])
    def test_what_cannot_be_shown_is_a_document_error(self, model: GlmOcr, size: tuple[int, int]) -> None:
        with pytest.raises(DocumentError):
            model.prepare(Image.new("RGB", size), "native")

    @pytest.mark.parametrize("mode", ["L", "1", "CMYK", "P"])
    def test_any_kind_of_colour_is_shown(self, model: GlmOcr, mode: str) -> None:
        assert model.prepare(picture(0, 100, 80).convert(mode), "native").global_view.shape == (3, 84, 112)


class TestEncode:
    def test_pictures_are_encoded_together_as_one_by_one(self, model: GlmOcr, pictures: list[Image.Image]) -> None:
        views = [model.prepare(page, "native") for page in pictures]
        together = model.encode(views)
        assert [tokens.shape for tokens in together] == [(view.layout.length, 32) for view in views]
        for view, tokens in zip(views, together, strict=True):
            torch.testing.assert_close(tokens, model.encode([view])[0], rtol=1e-5, atol=1e-5)
        assert model.encode([]) == []

    @pytest.mark.parametrize(("limit", "sizes"), [(1, [1, 1, 1]), (4 * 48 * 4 * 4 * (15 + 22), [2, 1])])
    def test_a_batch_too_large_for_memory_is_encoded_in_parts(
        self,
        model: GlmOcr,
        pictures: list[Image.Image],
        monkeypatch: pytest.MonkeyPatch,
        limit: int,
        sizes: list[int],
    ) -> None:
        views = [model.prepare(page, "native") for page in pictures]
        whole = model.encode(views)
        found: list[int] = []
        encoder = model.network.get_image_features

        def spy(pixel_values: Tensor, image_grid_thw: Tensor) -> Any:
            found.append(len(image_grid_thw))
            return encoder(pixel_values=pixel_values, image_grid_thw=image_grid_thw)

        monkeypatch.setattr("rtprune.models.glm_ocr._ENCODER_BYTES", limit)
        monkeypatch.setattr(model.network, "get_image_features", spy)
        for tokens, expected in zip(model.encode(views), whole, strict=True):
            torch.testing.assert_close(tokens, expected, rtol=1e-5, atol=1e-5)
        assert found == sizes

    def test_tokens_stand_row_by_row(self, model: GlmOcr, monkeypatch: pytest.MonkeyPatch) -> None:
        """Without attention a token sees its own square only."""
        for block in model.network.model.visual.blocks:
            monkeypatch.setattr(block.attn, "forward", lambda hidden_states, **_: hidden_states * 0)
        view = model.prepare(picture(0, 5 * 28, 3 * 28), "native")
        changed = view.global_view.clone()
        changed[:, 28:56, 84:112] *= -1
        other = type(view)(**(vars(view) | {"global_view": changed}))
        moved = (model.encode([view])[0] - model.encode([other])[0]).abs().amax(dim=1) > 1e-6
        assert moved.nonzero().flatten().tolist() == [1 * 5 + 3]


class TestPositions:
    @pytest.mark.parametrize(("columns", "rows"), [(3, 2), (2, 4), (1, 1)])
    def test_rows_and_columns_have_an_axis_each(self, model: GlmOcr, columns: int, rows: int) -> None:
        found = model.visual_positions(TokenLayout.plain(columns, rows, 28))
        places = [(row, column) for row in range(rows) for column in range(columns)]
        assert found.axes.tolist() == [[0] * len(places), [row for row, _ in places], [column for _, column in places]]
        assert found.extent == max(columns, rows)

    def test_a_prompt_stands_where_transformers_puts_it(self, model: GlmOcr, pictures: list[Image.Image]) -> None:
        for page, ours in zip(pictures, prompts(model, pictures, 0.0), strict=True):
            columns, rows = model.prepare(page, "native").layout.grid
            prompt = model.prompt("text")
            ids = torch.cat([prompt.before, torch.full((columns * rows,), IMAGE), prompt.after])[None]
            positions, deltas = model.network.model.get_rope_index(
                ids, (ids == IMAGE).int(), torch.tensor([[1, 2 * rows, 2 * columns]])
            )
            assert torch.equal(ours.positions, positions[:, 0])
            assert ours.next_position == ids.shape[1] + int(deltas)


class TestReading:
    def test_without_pruning_it_answers_as_transformers_generates(
        self, model: GlmOcr, pictures: list[Image.Image], generated: list[list[int]]
    ) -> None:
        assert [answers(model, [page], 0.0, COUNT)[0] for page in pictures] == generated
        assert answers(model, pictures, 0.0, COUNT) == generated

    @pytest.mark.parametrize("prune", ["off", 0.0])
    def test_the_engine_reads_what_transformers_generates(
        self, model: GlmOcr, pictures: list[Image.Image], generated: list[list[int]], prune: Any
    ) -> None:
        engine = Engine(model, ReadSettings(prune=prune, max_output_tokens=COUNT))
        for ids, result in zip(generated, engine.read(pictures), strict=True):
            assert result.output_tokens == len(ids)
            assert result.text == model.parse(model.detokenize(ids)).text

    def test_what_an_earlier_generation_left_behind_changes_nothing(
        self, model: GlmOcr, pictures: list[Image.Image], generated: list[list[int]], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(model.network.model, "rope_deltas", torch.tensor([[1000]]))
        assert answers(model, pictures, 0.0, COUNT) == generated
        assert model.network.model.rope_deltas.tolist() == [[1000]]

    @pytest.mark.parametrize("ratio", [0.25, 0.6])
    def test_with_pruning_a_batch_answers_as_its_pages_alone(
        self, model: GlmOcr, pictures: list[Image.Image], generated: list[list[int]], ratio: float
    ) -> None:
        alone = [answers(model, [page], ratio, COUNT)[0] for page in pictures]
        assert answers(model, pictures, ratio, COUNT) == alone
        assert alone != generated

    def test_pages_are_pruned_by_what_they_show(self, model: GlmOcr, pictures: list[Image.Image]) -> None:
        engine = Engine(model, ReadSettings(max_output_tokens=8))
        together = engine.read(pictures)
        assert all(result.status != "failed" for result in together)
        assert [engine.read([page])[0].text for page in pictures] == [result.text for result in together]

    def test_the_decoder_sees_the_surviving_tokens_where_they_stood(
        self, model: GlmOcr, pictures: list[Image.Image], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        page = pictures[0]
        view = model.prepare(page, "native")
        columns, rows = view.layout.grid
        pruned = prune(model.encode([view])[0], view.layout, config=PruneConfig(ratio=0.5))
        prompt = model.prompt("text")
        begin = len(prompt.before)
        behind = begin + max(columns, rows)
        end = behind + len(prompt.after)
        seen: list[tuple[Tensor, Tensor]] = []
        decoder = model.decoder

        def spy(embeddings: Tensor, positions: Tensor, *rest: Any) -> tuple[Tensor, Any]:
            seen.append((embeddings, positions))
            return decoder(embeddings, positions, *rest)

        monkeypatch.setattr(model, "decoder", spy)
        count = len(answers(model, [page], 0.5, 6)[0])
        embeddings, positions = seen[0]
        places = pruned.positions.tolist()
        assert len(places) == columns * rows // 2
        assert positions.tolist() == [
            [[*range(begin), *visual, *range(behind, end)]]
            for visual in (
                [begin] * len(places),
                [begin + place // columns for place in places],
                [begin + place % columns for place in places],
            )
        ]
        assert torch.equal(embeddings[0, begin : begin + len(places)], pruned.features)
        assert [step[1].tolist() for step in seen[1:]] == [[[[end + step]]] * 3 for step in range(count - 1)]

    def test_transformers_generation_prunes_alike_once_attached(
        self, model: GlmOcr, pictures: list[Image.Image], processor: Glm46VImageProcessorPil
    ) -> None:
        attach(model.network, PruneConfig(ratio=0.5))
        try:
            found = [generate(model, page, processor) for page in pictures]
        finally:
            detach(model.network)
        assert found == answers(model, pictures, 0.5, COUNT)

    def test_steps_with_gaps_are_those_of_one_pass(self, model: GlmOcr, pictures: list[Image.Image]) -> None:
        for prompt in prompts(model, pictures, 0.5):
            ids = decode(model, [prompt], 16)[0].ids
            assert one_pass(model, prompt, ids) == list(ids)
