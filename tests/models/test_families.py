"""What every model family must do: load whole from its published layout, and read as transformers' own code reads."""

from __future__ import annotations

import json
import random
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image, ImageOps
from torch import Tensor
from transformers.image_utils import ChannelDimension
from transformers.models.glm46v.image_processing_pil_glm46v import smart_resize
from transformers.models.pixtral.image_processing_pil_pixtral import get_resize_output_image_size

from rtprune import attach, detach
from rtprune.engine import Engine
from rtprune.errors import DocumentError, ModelError, UsageError
from rtprune.models import describe, glm_ocr, lighton_ocr, load_model, preparation
from rtprune.models.family import published_state_dict
from rtprune.models.protocol import normalised
from rtprune.models.weights import read_tensors, require_fit, save_tensors
from rtprune.pruning import PruneConfig, TokenLayout, prune
from rtprune.settings import ReadSettings
from tests.models.families import (
    CASES,
    CHARACTER_TOKENS,
    DEEPSEEK_OCR,
    DEEPSEEK_OCR2,
    GLM_OCR,
    LIGHTON_OCR,
    PROCESSORS,
    UNLIMITED_OCR,
    WINDOW,
    Case,
    Reader,
    attention_of,
    case_name,
    full_size,
    generate,
    one_pass,
    picture,
    published,
)

pytestmark = pytest.mark.usefixtures("one_thread")

every = pytest.mark.parametrize("case", CASES, ids=case_name, scope="module")
#: Families that cut pages into tiles, and those that show them in their own shape.
tiled = pytest.mark.parametrize("case", [DEEPSEEK_OCR2, UNLIMITED_OCR], ids=case_name, scope="module")
native = pytest.mark.parametrize("case", [LIGHTON_OCR, GLM_OCR], ids=case_name, scope="module")


@pytest.fixture(scope="module")
def reader(case: Case, reader_of: Callable[[Case], Reader]) -> Reader:
    return reader_of(case)


@pytest.fixture(scope="module")
def generated(reader: Reader) -> list[list[int]]:
    """Greedy tokens of each page by transformers' own generation."""
    found = [generate(reader.case, reader.model, page, reader.case.count) for page in reader.pages]
    assert len({tuple(ids) for ids in found}) == len(reader.pages), "tests need pages that read differently"
    assert all(len(set(ids)) > 3 for ids in found), "tests need answers that do not repeat one token"
    return found


@pytest.fixture
def copied(reader: Reader, tmp_path: Path) -> Path:
    """The model's folder, to be changed."""
    return Path(shutil.copytree(reader.folder, tmp_path / "copy"))


class TestLayout:
    @pytest.mark.parametrize("case", [DEEPSEEK_OCR, UNLIMITED_OCR], ids=case_name)
    def test_the_full_size_model_has_the_published_names_and_shapes(self, case: Case, shared_data: Path) -> None:
        manifest = json.loads((shared_data / "deepseek-ocr" / "manifest.json").read_text())
        assert len(manifest) == 2710
        ours = full_size(case.family, published(case.name))
        there = {name: tuple(shape) for name, shape in manifest.items()}
        require_fit(shared_data, there, ours, case.family.family.unused_tensors)
        assert there.keys() - ours.keys() == case.family.family.unused_tensors

    @every
    def test_every_tensor_of_a_checkpoint_arrives_unchanged(self, reader: Reader) -> None:
        written = read_tensors(reader.folder)
        loaded = published_state_dict(reader.model.network)
        assert loaded.keys() == written.keys() - reader.case.family.family.unused_tensors
        for name, tensor in loaded.items():
            assert torch.equal(tensor, written[name].float()), name
        assert describe(str(reader.folder)).parameters == sum(tensor.numel() for tensor in loaded.values())

    @every
    def test_it_is_described_without_its_weights_as_it_is_loaded(
        self, reader: Reader, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr("rtprune.models.family.read_tensors", lambda folder: pytest.fail("weights were read"))
        told = dict(vars(describe(str(reader.folder))))
        assert told.pop("parameters") == sum(parameter.numel() for parameter in reader.model.network.parameters())
        assert told == {field: getattr(reader.model, field) for field in told}
        assert (told["modes"], told["default_mode"], told["tasks"], told["default_task"]) == reader.case.card

    @every
    def test_cpu_computes_in_float32(self, reader: Reader) -> None:
        assert reader.model.dtype == torch.float32
        assert reader.model.device.type == "cpu"

    @pytest.mark.parametrize(
        ("case", "named"), [(case, named) for case in CASES for named in case.known_as], ids=case_name, scope="module"
    )
    def test_a_folder_is_known_by_each_of_its_names(self, case: Case, copied: Path, named: dict[str, Any]) -> None:
        (copied / "config.json").write_text(json.dumps(case.config() | named))
        card = describe(str(copied))
        assert (card.modes, card.default_mode, card.tasks, card.default_task) == case.card
        assert type(load_model(str(copied), device="cpu")) is case.family

    @tiled
    def test_transformers_own_configuration_is_read_as_well(self, case: Case) -> None:
        config = case.family.configuration(case.config())
        again = case.family.configuration(json.loads(config.to_json_string()))
        assert again.to_dict() == config.to_dict()

    @pytest.mark.parametrize(
        ("case", "part", "change", "named"),
        [
            (DEEPSEEK_OCR, "language_config", {"use_mla": True}, "use_mla = True"),
            (DEEPSEEK_OCR, "language_config", {"scoring_func": "sigmoid"}, "scoring_func = 'sigmoid'"),
            (DEEPSEEK_OCR, "language_config", {"norm_topk_prob": True}, "norm_topk_prob = True"),
            (DEEPSEEK_OCR, "language_config", {"sliding_window": 128}, "sliding_window = 128"),
            (DEEPSEEK_OCR2, "language_config", {"use_mla": True}, "use_mla = True"),
            (DEEPSEEK_OCR2, "language_config", {"norm_topk_prob": True}, "norm_topk_prob = True"),
            (DEEPSEEK_OCR2, "language_config", {"hidden_size": "wide"}, "hidden_size"),
            (DEEPSEEK_OCR2, "vision_config", {"sam_config": {"patch_size": 8}}, "patch_size must be 16"),
            (
                DEEPSEEK_OCR2,
                "vision_config",
                {"encoder_config": {"hidden_size": 32, "num_attention_heads": 2}},
                "must end in",
            ),
            (UNLIMITED_OCR, None, {"sliding_window": 9}, "sliding_window"),  # language_config says otherwise
            (UNLIMITED_OCR, None, {"sliding_window": "wide"}, "sliding_window"),
            (UNLIMITED_OCR, None, {"layer_types": ["full_attention"] * 2}, "layer_types"),
            (UNLIMITED_OCR, "language_config", {"use_mla": True}, "use_mla = True"),
            (UNLIMITED_OCR, None, {"language_config": None}, "no language_config"),
            (
                UNLIMITED_OCR,
                None,
                {"language_config": {"num_hidden_layers": 2, "hidden_size": "wide"}},
                "hidden_size",
            ),
            (LIGHTON_OCR, None, {"spatial_merge_size": 1}, "spatial_merge_size = 1"),
            (LIGHTON_OCR, None, {"vision_feature_layer": -2}, "vision_feature_layer = -2"),
            (LIGHTON_OCR, None, {"multimodal_projector_bias": True}, "multimodal_projector_bias = True"),
            (LIGHTON_OCR, "vision_config", {"model_type": "siglip"}, "vision_config of model_type"),
            (LIGHTON_OCR, "vision_config", {"patch_size": 16}, "patch_size must be 14"),
            (LIGHTON_OCR, "text_config", {"model_type": "mistral"}, "text_config of model_type"),
            (GLM_OCR, "text_config", {"model_type": "glm4v_text"}, "text_config of model_type"),
            (GLM_OCR, "vision_config", {"model_type": "glm4v_vision"}, "vision_config of model_type"),
            (GLM_OCR, "vision_config", {"patch_size": 16}, "patch_size = 16"),
            (GLM_OCR, "vision_config", {"spatial_merge_size": 1}, "spatial_merge_size = 1"),
            (GLM_OCR, "vision_config", {"temporal_patch_size": 1}, "temporal_patch_size = 1"),
            *((case, None, {"text_config": None}, "text_config") for case in (LIGHTON_OCR, GLM_OCR)),
            *((case, None, {"vision_config": []}, "vision_config") for case in (LIGHTON_OCR, GLM_OCR)),
            *((case, "text_config", {"hidden_size": "wide"}, r"config\.json") for case in (LIGHTON_OCR, GLM_OCR)),
        ],
        ids=case_name,
    )
    def test_another_architecture_is_refused(
        self, case: Case, part: str | None, change: dict[str, Any], named: str
    ) -> None:
        config = case.config()
        (config if part is None else config[part]).update(change)
        with pytest.raises(ModelError, match=named):
            case.family.configuration(config)

    @pytest.mark.parametrize("case", [DEEPSEEK_OCR, DEEPSEEK_OCR2], ids=case_name)
    @pytest.mark.parametrize("language", [None, {}, [], {"num_hidden_layers": 2, "hidden_size": "wide"}])
    def test_a_configuration_without_a_decoder_is_refused(self, case: Case, language: Any) -> None:
        with pytest.raises(ModelError, match=r"config\.json"):
            case.family.configuration({"language_config": language})


_EXPERT = "model.layers.1.mlp.experts.3.up_proj.weight"
_DRAFTING = "model.language_model.layers.16."


@pytest.mark.parametrize(
    ("case", "name", "tensor", "named"),
    [
        (DEEPSEEK_OCR, _EXPERT, None, f"1 tensors missing: {_EXPERT}"),
        (DEEPSEEK_OCR, "model.adapter", torch.zeros(1), "1 tensors unexpected: model.adapter"),
        (DEEPSEEK_OCR, "model.norm.weight", torch.zeros(7), "model.norm.weight [7] instead of [32]"),
        *(
            (DEEPSEEK_OCR2, name, None, f"1 tensors missing: {name}")
            for name in ("model.qwen2_model.query_768.weight", _EXPERT)
        ),
        (DEEPSEEK_OCR2, "model.image_newline", torch.zeros(32), "1 tensors unexpected: model.image_newline"),
        (DEEPSEEK_OCR2, "model.norm.weight", torch.zeros(7), "model.norm.weight [7] instead of [32]"),
        (UNLIMITED_OCR, "model.image_newline", None, "1 tensors missing: model.image_newline"),
        (UNLIMITED_OCR, "model.adapter", torch.zeros(1), "1 tensors unexpected: model.adapter"),
        (UNLIMITED_OCR, "model.norm.weight", torch.zeros(7), "model.norm.weight [7] instead of [32]"),
        *(
            (
                LIGHTON_OCR,
                f"model.vision_projection.{name}",
                tensor,
                f"1 tensors {what}: model.vision_projection.{name}",
            )
            for name, tensor, what in (("norm.weight", None, "missing"), ("bias", torch.zeros(1), "unexpected"))
        ),
        *(  # GLM-OCR's head is no copy of its embeddings
            (GLM_OCR, name, None, f"1 tensors missing: {name}")
            for name in ("model.visual.downsample.bias", "lm_head.weight")
        ),
        *(
            (GLM_OCR, name, torch.zeros(1), f"1 tensors unexpected: {name}")
            for name in (f"{_DRAFTING}adapter.weight", "model.language_model.layers.2.mlp.down_proj.weight")
        ),
        *(
            (case, "model.language_model.norm.weight", torch.zeros(7), "language_model.norm.weight [7] instead of [32]")
            for case in (LIGHTON_OCR, GLM_OCR)
        ),
    ],
    ids=case_name,
    scope="module",
)
def test_tensors_that_do_not_fit_are_named(
    case: Case, copied: Path, name: str, tensor: Tensor | None, named: str
) -> None:
    tensors = {name: tensor.clone() for name, tensor in read_tensors(copied).items()}
    tensors.pop(name, None)
    save_tensors(tensors | ({} if tensor is None else {name: tensor}), copied / "model.safetensors", torch.bfloat16)
    with pytest.raises(ModelError) as caught:
        load_model(str(copied))
    assert named in caught.value.message
    assert str(copied) in caught.value.message
    assert caught.value.hint


class TestPrompt:
    @every
    def test_prompts_are_the_published_ones(self, reader: Reader) -> None:
        assert set(reader.model.tasks) == reader.case.prompts.keys()
        for task, (text, before, behind) in reader.case.prompts.items():
            assert reader.case.family.family.prompts[task] == text
            prompt = reader.model.prompt(task)
            assert prompt.before.dtype == prompt.after.dtype == torch.int64
            assert (len(prompt.before), len(prompt.after)) == (before, behind)
            begin = len(reader.case.begin)
            assert tuple(prompt.before[:begin].tolist()) == reader.case.begin
            shown = [
                reader.model._tokenizer.decode(ids.tolist(), skip_special_tokens=False)
                for ids in (prompt.before[begin:], prompt.after)
            ]
            assert shown == text.split("<image>")

    @every
    def test_any_end_ends_an_answer_and_is_not_shown(self, reader: Reader) -> None:
        assert reader.model.end_token_ids == set(reader.case.ends)
        assert reader.model.detokenize([CHARACTER_TOKENS - 1, *reader.case.ends]) == "~"

    @every
    def test_other_modes_and_tasks_are_refused(self, reader: Reader) -> None:
        modes, _, tasks, _ = reader.case.card
        for mode in {"large", "huge"} - set(modes):
            with pytest.raises(UsageError, match=rf"no mode '{mode}' \(it has: {', '.join(modes)}\)"):
                reader.model.prepare(picture(0, 50, 50), mode)
        for task in {"text", "markdown", "translation"} - set(tasks):
            with pytest.raises(UsageError, match=rf"no task '{task}' \(it has: {', '.join(tasks)}\)"):
                reader.model.prompt(task)

    @pytest.mark.parametrize(
        ("case", "answer", "text", "boxes"),
        [
            (DEEPSEEK_OCR2, "<|ref|>title<|/ref|><|det|>[[33, 19, 55, 23]]<|/det|>\n# F", "# F", [(33, 19, 55, 23)]),
            (UNLIMITED_OCR, "<|det|>title [33, 19, 55, 23]<|/det|># F", "# F", [(33, 19, 55, 23)]),
            (LIGHTON_OCR, "\n# One\n\n$x$ ", "# One\n\n$x$", []),
            (GLM_OCR, "\nOne\n\n$x$ ", "One\n\n$x$", []),
        ],
        ids=case_name,
        scope="module",
    )
    def test_answers_are_parsed_in_its_own_form(
        self, reader: Reader, answer: str, text: str, boxes: list[tuple[int, ...]]
    ) -> None:
        parsed = reader.model.parse(answer)
        assert parsed.text == text
        assert [region.box for region in parsed.regions] == boxes


class TestTiledPreparation:
    @pytest.mark.parametrize(
        ("case", "size", "grid"),
        [
            (DEEPSEEK_OCR2, (768, 768), None),  # no larger than a tile: not cut
            (DEEPSEEK_OCR2, (769, 10), (6, 1)),  # wider than any grid: the widest
            (DEEPSEEK_OCR2, (10, 769), (1, 6)),
            (DEEPSEEK_OCR2, (1000, 1414), (2, 3)),  # 0.707 lies nearest 2/3
            (DEEPSEEK_OCR2, (800, 800), (2, 2)),
            (DEEPSEEK_OCR2, (1600, 768), (2, 1)),
            (UNLIMITED_OCR, (640, 640), None),  # no larger than a tile: not cut
            (UNLIMITED_OCR, (1281, 640), (2, 1)),
            (UNLIMITED_OCR, (10, 641), (1, 32)),
            (UNLIMITED_OCR, (641, 10), (32, 1)),
        ],
        ids=case_name,
        scope="module",
    )
    def test_tiles_and_tokens_follow_the_shape(
        self, reader: Reader, size: tuple[int, int], grid: tuple[int, int] | None
    ) -> None:
        views = reader.model.prepare(Image.new("RGB", size, "white"), "gundam")
        columns, rows = views.grid
        side = reader.case.tile_side
        assert views.grid == (grid or (1, 1))
        assert (None if views.tiles is None else views.tiles.shape) == (grid and (columns * rows, 3, side, side))
        assert views.global_view.shape == views.layout.view_shape == (3, 1024, 1024)
        if reader.case is UNLIMITED_OCR:
            assert views.layout == TokenLayout.deepseek_ocr(16, grid)
            assert views.layout.length == 273 + (10 * rows * (10 * columns + 1) if grid else 0)
        else:
            assert views.layout.length == 257 + (144 * columns * rows if grid else 0)

    @pytest.mark.parametrize(
        ("case", "size"),
        [
            *((DEEPSEEK_OCR2, size) for size in [(500, 700), (1234, 1000), (900, 2000), (3001, 1203)]),
            *((UNLIMITED_OCR, size) for size in [(500, 700), (700, 1400), (3001, 1203)]),
        ],
        ids=case_name,
        scope="module",
    )
    def test_views_are_those_of_the_published_preparation(self, reader: Reader, size: tuple[int, int]) -> None:
        """`ImageOps.pad` makes the global view there; the tiles are cut from the picture resized to their grid."""
        page = picture(1, *size)
        views = reader.model.prepare(page, "gundam")
        padded = np.asarray(ImageOps.pad(page, (1024, 1024), color=(127, 127, 127)), dtype=np.float32)
        assert np.array_equal(np.round((views.global_view.numpy().transpose(1, 2, 0) + 1) * 127.5), padded)
        if views.tiles is not None:
            columns, rows = views.grid
            across, down = reader.case.tile_side * columns, reader.case.tile_side * rows
            stitched = views.tiles.unflatten(0, (rows, columns)).permute(2, 0, 3, 1, 4).reshape(3, down, across)
            assert torch.equal(stitched, normalised(preparation.levels(page.resize((across, down)))))

    @tiled
    def test_base_is_the_global_view_alone(self, reader: Reader) -> None:
        page = picture(0, 1600, 1200)
        base, gundam = reader.model.prepare(page, "base"), reader.model.prepare(page, "gundam")
        assert base.tiles is None
        assert base.layout == reader.model.prepare(picture(0, 400, 300), "gundam").layout
        assert base.layout.length == (273 if reader.case is UNLIMITED_OCR else 257)
        assert torch.equal(base.global_view, gundam.global_view)

    @pytest.mark.parametrize(
        ("case", "size"),
        [
            *((case, size) for case in (DEEPSEEK_OCR2, UNLIMITED_OCR) for size in [(1, 1), (3, 900), (5000, 5)]),
            (DEEPSEEK_OCR2, (4000, 4000)),
        ],
        ids=case_name,
        scope="module",
    )
    def test_odd_pictures_are_shown_whole(self, reader: Reader, size: tuple[int, int]) -> None:
        views = reader.model.prepare(Image.new("RGB", size, "white"), "gundam")
        assert views.global_view.isfinite().all()
        assert views.picture_size == size


class TestNativePreparation:
    @pytest.mark.parametrize(
        ("tokens_of", "size", "tokens"),
        [
            (lighton_ocr.view_tokens, (1, 1), (1, 1)),  # never enlarged, only stretched to a whole token
            (lighton_ocr.view_tokens, (28, 29), (1, 2)),
            (lighton_ocr.view_tokens, (1540, 1540), (55, 55)),
            # A4 at 200 dpi: 1654 * 1540 / 2339 = 1089.0 wide, which is 38.9 tokens
            (lighton_ocr.view_tokens, (1654, 2339), (39, 55)),
            (lighton_ocr.view_tokens, (3080, 56), (55, 1)),
            (lighton_ocr.view_tokens, (20000, 14), (55, 1)),  # 14 * 0.077 = 1.08
            (lighton_ocr.view_tokens, (40000, 30000), (55, 42)),  # 1155 / 28 = 41.25
            (glm_ocr.view_tokens, (1, 1), (3, 3)),  # 28 x 28, then 6272 pixels at least: * 2.83
            (glm_ocr.view_tokens, (84, 84), (3, 3)),
            (glm_ocr.view_tokens, (98, 70), (4, 2)),  # 3.5 and 2.5 are halves: to the even; and just enough pixels
            (glm_ocr.view_tokens, (1654, 2339), (59, 84)),  # A4 at 200 dpi: 59.07 and 83.54
            (glm_ocr.view_tokens, (10000, 10000), (78, 78)),  # 4 816 896 pixels at most: 2194.7, so 78.4 tokens
            (glm_ocr.view_tokens, (14, 2800), (1, 200)),  # 28 x 5600
        ],
    )
    def test_sizes_are_those_worked_by_hand(
        self, tokens_of: Callable[[int, int], tuple[int, int]], size: tuple[int, int], tokens: tuple[int, int]
    ) -> None:
        assert tokens_of(*size) == tokens

    @native
    def test_sizes_are_those_of_transformers_own_processor(self, case: Case) -> None:
        chance = random.Random(0)
        refused = 0
        for _ in range(1000):
            width, height = (round(10 ** chance.uniform(0, 4)) for _ in range(2))
            try:
                wanted = _processors_tokens(case, width, height)
            except ValueError:
                refused += 1
                with pytest.raises(DocumentError) as caught:
                    _tokens_of(case)(width, height)
                assert caught.value.reason == "too-thin"
            else:
                assert _tokens_of(case)(width, height) == wanted
        assert 0 < refused < 500

    @pytest.mark.parametrize(
        ("case", "size"),
        [
            *((LIGHTON_OCR, size) for size in [(1, 1), (150, 90), (31, 999), (1700, 400)]),
            *((GLM_OCR, size) for size in [(1, 1), (150, 90), (98, 70), (31, 999), (27, 1700)]),
        ],
        ids=case_name,
        scope="module",
    )
    def test_views_are_those_of_transformers_own_processor(self, reader: Reader, size: tuple[int, int]) -> None:
        page = picture(1, *size)
        wanted = PROCESSORS[reader.case.family](page, return_tensors="pt")
        view = reader.model.prepare(page, "native")
        columns, rows = view.layout.grid
        assert view.global_view.shape == view.layout.view_shape == (3, 28 * rows, 28 * columns)
        assert -1 <= view.global_view.min() <= view.global_view.max() <= 1
        if reader.case is GLM_OCR:
            assert wanted["image_grid_thw"].tolist() == [[1, 2 * rows, 2 * columns]]
            torch.testing.assert_close(glm_ocr.patches(view.global_view), wanted["pixel_values"], rtol=0, atol=2e-6)
        else:
            ours = lighton_ocr.native.clip_pixels(view.global_view)
            torch.testing.assert_close(ours, wanted["pixel_values"][0], rtol=0, atol=2e-6)

    @pytest.mark.parametrize(
        ("case", "grid"), [(LIGHTON_OCR, (6, 4)), (GLM_OCR, (5, 3))], ids=case_name, scope="module"
    )
    def test_a_view_says_what_it_shows(self, reader: Reader, grid: tuple[int, int]) -> None:
        view = reader.model.prepare(picture(0, 150, 90), "native")
        columns, rows = grid
        assert (view.mode, view.tiles, view.grid) == ("native", None, (1, 1))
        assert (view.layout.grid, view.layout.patch, view.layout.length) == (grid, 28, columns * rows)
        assert bool(view.layout.free.all())
        assert (view.content_box, view.picture_size) == ((0, 0, 28 * columns, 28 * rows), (150, 90))

    @native
    @pytest.mark.parametrize("mode", ["L", "1", "CMYK", "P"])
    def test_any_kind_of_colour_is_shown(self, reader: Reader, mode: str) -> None:
        page = picture(0, 100, 80)
        wanted = (3, 84, 112)
        assert reader.model.prepare(page.convert(mode), "native").global_view.shape == wanted

    @native
    def test_tokens_stand_row_by_row(self, reader: Reader, monkeypatch: pytest.MonkeyPatch) -> None:
        """Without attention a token sees its own square only."""
        for layer, forward in attention_of(reader.model):
            monkeypatch.setattr(layer, "forward", forward)
        view = reader.model.prepare(picture(0, 5 * 28, 3 * 28), "native")
        changed = view.global_view.clone()
        changed[:, 28:56, 84:112] *= -1
        other = type(view)(**(vars(view) | {"pixels": changed}))
        before, after = (reader.model.encode([one])[0] for one in (view, other))
        assert ((before - after).abs().amax(dim=1) > 1e-6).nonzero().flatten().tolist() == [1 * 5 + 3]


def _tokens_of(case: Case) -> Callable[[int, int], tuple[int, int]]:
    return lighton_ocr.view_tokens if case is LIGHTON_OCR else glm_ocr.view_tokens


def _processors_tokens(case: Case, width: int, height: int) -> tuple[int, int]:
    """By transformers' own processor. Raises `ValueError` where it cannot show the picture."""
    if case is GLM_OCR:
        high, wide = smart_resize(2, height, width, min_pixels=12544, max_pixels=9633792)
    else:
        page = np.broadcast_to(np.uint8(0), (height, width, 3))
        high, wide = get_resize_output_image_size(page, 1540, 28, ChannelDimension.LAST)
        if not (wide and high):
            raise ValueError("the picture vanishes")
    return wide // 28, high // 28


@pytest.mark.parametrize(
    ("case", "size", "reason"),
    [
        *((case, (0, 5), "empty-picture") for case in CASES),
        *((case, (5, 0), "empty-picture") for case in CASES),
        *((case, (9000, 1), "too-thin") for case in CASES if case.tile_side),
        *((LIGHTON_OCR, size, "too-thin") for size in [(1, 1541), (4000, 2)]),
        *((GLM_OCR, size, "too-thin") for size in [(1, 201), (5800, 28)]),
    ],
    ids=case_name,
    scope="module",
)
def test_pictures_that_cannot_be_shown_are_the_documents_fault(
    reader: Reader, size: tuple[int, int], reason: str
) -> None:
    with pytest.raises(DocumentError) as caught:
        reader.model.prepare(Image.new("RGB", size), reader.case.card[1])
    assert caught.value.reason == reason


@every
def test_a_picture_is_turned_upright(reader: Reader) -> None:
    lying = picture(0, 150, 90)
    upright = reader.model.prepare(lying.transpose(Image.Transpose.ROTATE_270), reader.case.mode)
    lying.getexif()[0x0112] = 6
    view = reader.model.prepare(lying, reader.case.mode)
    assert (view.picture_size, view.layout) == ((90, 150), upright.layout)
    assert torch.equal(view.global_view, upright.global_view)


@every
def test_views_are_found_again_among_the_arguments_of_generate(reader: Reader) -> None:
    found = reader.model.images_of(reader.model.network, reader.case.inputs(reader.model, reader.pages))
    rounding = 0 if reader.case.tile_side else 2e-6  # their processor rounds otherwise
    for (layout, shown), view in zip(found, reader.views, strict=True):
        assert layout == view.layout
        torch.testing.assert_close(shown, view.global_view, rtol=0, atol=rounding)
    if reader.case.tile_side:
        ((layout, _),) = reader.model.images_of(
            reader.model.network, {"pixel_values": reader.views[0].global_view[None]}
        )
        assert layout == reader.views[0].layout


class TestEncode:
    @every
    def test_pictures_are_encoded_together_as_one_by_one(self, reader: Reader) -> None:
        width = reader.model.hidden_size
        assert [tokens.shape for tokens in reader.features] == [(view.layout.length, width) for view in reader.views]
        for view, tokens in zip(reader.views, reader.features, strict=True):
            torch.testing.assert_close(tokens, reader.model.encode([view])[0], **reader.case.alike)
        assert reader.model.encode([]) == []

    @every
    def test_attention_is_told_for_each_free_token_or_refused_by_name(self, reader: Reader) -> None:
        if reader.case.has_cues:
            for view in reader.views:
                assert reader.model.attention_cues(view).attention.shape == (view.layout.free_count,)
        else:
            with pytest.raises(UsageError, match=reader.case.family.family.title):
                reader.model.attention_cues(reader.views[0])


class TestReading:
    @every
    def test_without_pruning_it_answers_as_transformers_generates(
        self, reader: Reader, generated: list[list[int]]
    ) -> None:
        if reader.case is UNLIMITED_OCR:
            assert min(map(len, generated)) > 3 * WINDOW, "the test needs answers that go on beyond the window"
        given = reader.prompts(0.0)
        assert reader.alone(given, reader.case.count) == generated
        assert reader.answers(given, reader.case.count) == generated

    @every
    @pytest.mark.parametrize("ratio", [0.25, 0.6, "dynamic"])
    def test_pruned_pages_read_the_same_in_any_company(
        self, reader: Reader, generated: list[list[int]], ratio: float | str
    ) -> None:
        given = reader.prompts(ratio)
        alone = reader.alone(given, reader.case.count)
        assert reader.answers(given, reader.case.count) == alone
        assert ratio == "dynamic" or alone != generated

    @every
    @pytest.mark.parametrize("ratio", [0.5, "dynamic"])
    def test_steps_with_gaps_are_those_of_one_pass(self, reader: Reader, ratio: float | str) -> None:
        for prompt in reader.prompts(ratio):
            (ids,) = reader.answers([prompt], reader.case.count)
            assert one_pass(reader, prompt, ids) == ids

    @every
    def test_transformers_generation_prunes_alike_once_attached(self, reader: Reader) -> None:
        attach(reader.model.network, PruneConfig(ratio=0.5))
        try:
            found = [generate(reader.case, reader.model, page, reader.case.count) for page in reader.pages]
        finally:
            detach(reader.model.network)
        assert found == reader.alone(reader.prompts(0.5), reader.case.count)

    @every
    def test_the_engine_reads_what_transformers_generates(self, reader: Reader, generated: list[list[int]]) -> None:
        pages = reader.pages[:2]
        off, nothing, dynamic = (
            _engine(reader, pruning, reader.case.count).read(pages) for pruning in ("off", 0.0, "dynamic")
        )
        for ids, view, *results in zip(generated[:2], reader.views[:2], off, nothing, dynamic, strict=True):
            for result in results[:2]:
                assert result.output_tokens == len(ids)
                assert result.text == reader.model.parse(reader.model.detokenize(ids)).text
            whole, pruned = results[0].facts, results[2].facts
            assert whole is not None
            assert pruned is not None
            assert pruned.tokens_after < whole.tokens_after == view.layout.length

    @native
    def test_pages_are_pruned_by_what_they_show(self, reader: Reader) -> None:
        engine = _engine(reader, "dynamic", 8)
        together = engine.read(reader.pages)
        assert all(result.status != "failed" for result in together)
        assert [engine.read([page])[0].text for page in reader.pages] == [result.text for result in together]

    @every
    def test_the_decoder_sees_the_surviving_tokens_where_they_stood(
        self, reader: Reader, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        layout = reader.views[1].layout
        pruned = prune(reader.features[1], layout, reader.views[1].global_view, PruneConfig(ratio=0.5))
        kept = pruned.positions.tolist()
        assert int(layout.free[kept].sum()) == layout.free_count // 2
        if reader.case is not UNLIMITED_OCR and reader.case is not DEEPSEEK_OCR:  # newlines may go with their row
            assert len(kept) == layout.length - layout.free_count + layout.free_count // 2
        if reader.case.tile_side:
            assert kept[-1] == layout.length - 1, "the separator stays"
        prompt = reader.model.prompt(reader.case.task)
        begin = len(prompt.before)
        visual, extent = reader.case.places(layout, kept)
        end = begin + extent + len(prompt.after)
        given = reader.prompts(0.5)[1]
        assert given.next_position == end

        seen: list[tuple[Tensor, Tensor]] = []
        decoder = reader.model.decoder

        def spy(embeddings: Tensor, positions: Tensor, *rest: Any) -> tuple[Tensor, Any]:
            seen.append((embeddings, positions))
            return decoder(embeddings, positions, *rest)

        monkeypatch.setattr(reader.model, "decoder", spy)
        (ids,) = reader.answers([given], 6)
        (embeddings, positions), *steps = seen
        assert positions.tolist() == [
            [[*range(begin), *(begin + place for place in axis), *range(begin + extent, end)]] for axis in visual
        ]
        assert torch.equal(embeddings[0, begin : begin + len(kept)], pruned.features)
        assert [step[1].tolist() for step in steps] == [[[[end + step]]] * len(visual) for step in range(len(ids) - 1)]


def _engine(reader: Reader, pruning: Any, count: int) -> Engine:
    case = reader.case
    return Engine(reader.model, ReadSettings(mode=case.mode, task=case.task, prune=pruning, max_output_tokens=count))
