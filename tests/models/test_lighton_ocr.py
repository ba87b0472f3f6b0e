"""LightOnOCR is loaded whole from the published layout, shown pictures as published, and reads as transformers does."""

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
from PIL import Image
from torch import Tensor
from transformers.image_utils import ChannelDimension
from transformers.models.pixtral.image_processing_pil_pixtral import (
    PixtralImageProcessorPil,
    get_resize_output_image_size,
)

from rtprune import attach, detach
from rtprune.engine import Engine
from rtprune.engine.decoding import decode
from rtprune.errors import DocumentError, ModelError, UsageError
from rtprune.models import describe, load_model, native
from rtprune.models.family import published_state_dict
from rtprune.models.lighton_ocr import FAMILY, LightOnOcr, view_tokens
from rtprune.models.weights import read_tensors, save_tensors
from rtprune.pruning import PruneConfig, prune
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

#: What the published config.json says, less what transformers has no use for.
PUBLISHED_CONFIG: dict[str, Any] = {
    "architectures": ["LightOnOCRForConditionalGeneration"],
    "dtype": "bfloat16",
    "eos_token_id": 151645,
    "image_token_id": 151655,
    "model_type": "mistral3",
    "multimodal_projector_bias": False,
    "pad_token_id": 151643,
    "projector_hidden_act": "gelu",
    "spatial_merge_size": 2,
    "text_config": {
        "architectures": ["Qwen3ForCausalLM"],
        "attention_bias": False,
        "attention_dropout": 0,
        "dtype": "bfloat16",
        "head_dim": 128,
        "hidden_act": "silu",
        "hidden_size": 1024,
        "intermediate_size": 3072,
        "layer_types": ["full_attention"] * 28,
        "max_position_embeddings": 16384,
        "max_window_layers": 28,
        "model_type": "qwen3",
        "num_attention_heads": 16,
        "num_hidden_layers": 28,
        "num_key_value_heads": 8,
        "rms_norm_eps": 1e-06,
        "rope_parameters": {"rope_theta": 1000000, "rope_type": "default"},
        "rope_theta": 1000000,
        "sliding_window": None,
        "tie_word_embeddings": True,
        "use_qk_norm": True,
        "use_sliding_window": False,
        "vocab_size": 151936,
    },
    "vision_config": {
        "attention_dropout": 0,
        "dtype": "bfloat16",
        "head_dim": 64,
        "hidden_act": "silu",
        "hidden_size": 1024,
        "image_size": 1540,
        "intermediate_size": 4096,
        "model_type": "pixtral",
        "num_attention_heads": 16,
        "num_channels": 3,
        "num_hidden_layers": 24,
        "patch_size": 14,
        "rope_parameters": {"rope_theta": 10000, "rope_type": "default"},
        "rope_theta": 10000,
    },
    "vision_feature_layer": -1,
}
#: The older checkpoint's names no end token, and its parts carry their rotary base the old way.
OLDER_CONFIG: dict[str, Any] = {
    key: {name: value for name, value in entry.items() if name not in ("rope_parameters", "dtype", "use_qk_norm")}
    if isinstance(entry, dict)
    else entry
    for key, entry in PUBLISHED_CONFIG.items()
    if key not in ("eos_token_id", "pad_token_id")
}
PUBLISHED_FILE_BYTES = 2_011_367_489

MARKS = ("<|endoftext|>", "<|im_start|>", "<|im_end|>", "<|image_pad|>")
ENDS = (CHARACTER_TOKENS, CHARACTER_TOKENS + 2)
IMAGE = CHARACTER_TOKENS + 3
SHAPES = [(150, 90), (60, 300), (200, 170)]
COUNT = 14
PROCESSOR = PixtralImageProcessorPil(patch_size={"height": 28, "width": 28}, size={"longest_edge": 1540})


def small_config(**changes: Any) -> dict[str, Any]:
    config: dict[str, Any] = json.loads(json.dumps(PUBLISHED_CONFIG)) | {"image_token_id": IMAGE}
    config["eos_token_id"] = ENDS[1]
    config["text_config"] |= {
        "head_dim": 16,
        "hidden_size": 32,
        "intermediate_size": 48,
        "layer_types": ["full_attention"] * 2,
        "num_attention_heads": 2,
        "num_hidden_layers": 2,
        "num_key_value_heads": 1,
        "vocab_size": CHARACTER_TOKENS + len(MARKS),
    }
    config["vision_config"] |= {
        "head_dim": 16,
        "hidden_size": 32,
        "intermediate_size": 48,
        "num_attention_heads": 2,
        "num_hidden_layers": 2,
    }
    return config | changes


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_family(tmp_path_factory.mktemp("lighton"), LightOnOcr, small_config(), MARKS, {})


@pytest.fixture(scope="module")
def model(checkpoint: Path) -> LightOnOcr:
    loaded = load_model(str(checkpoint), device="cpu")
    assert isinstance(loaded, LightOnOcr)
    return loaded


@pytest.fixture(scope="module")
def pictures() -> list[Image.Image]:
    return [picture(seed, *shape) for seed, shape in enumerate(SHAPES)]


@pytest.fixture(scope="module")
def generated(model: LightOnOcr, pictures: list[Image.Image]) -> list[list[int]]:
    """Greedy tokens of each picture by transformers' own processor and generation."""
    found = [generate(model, page) for page in pictures]
    assert len({tuple(ids) for ids in found}) == len(pictures), "tests need pages that read differently"
    return found


def generate(model: LightOnOcr, page: Image.Image) -> list[int]:
    inputs = PROCESSOR(page, return_tensors="pt")
    height, width = inputs["image_sizes"][0].tolist()
    prompt = model.prompt("markdown")
    visual = torch.full(((height // 28) * (width // 28),), IMAGE)
    ids = torch.cat([prompt.before, visual, prompt.after])[None]
    found = model.network.generate(
        input_ids=ids,
        attention_mask=torch.ones_like(ids),
        pixel_values=inputs["pixel_values"],
        image_sizes=inputs["image_sizes"],
        do_sample=False,
        max_new_tokens=COUNT,
        eos_token_id=list(ENDS),
        pad_token_id=ENDS[0],
    )
    return found[0, ids.shape[1] :].tolist()


class TestLayout:
    @pytest.mark.parametrize("config", [PUBLISHED_CONFIG, OLDER_CONFIG])
    def test_names_and_shapes_account_for_every_byte_of_the_published_file(self, config: dict[str, Any]) -> None:
        assert safetensors_size(full_size(LightOnOcr, config), {"format": "pt"}) == PUBLISHED_FILE_BYTES

    def test_every_tensor_of_a_checkpoint_arrives_unchanged(self, checkpoint: Path, model: LightOnOcr) -> None:
        written = read_tensors(checkpoint)
        loaded = published_state_dict(model.network)
        assert loaded.keys() == written.keys()
        for name, tensor in loaded.items():
            assert torch.equal(tensor, written[name].float()), name

    def test_the_head_is_the_embeddings(self, model: LightOnOcr) -> None:
        assert model.network.lm_head.weight is model.network.get_input_embeddings().weight

    @pytest.mark.parametrize("config", [PUBLISHED_CONFIG, OLDER_CONFIG])
    def test_rotary_bases_are_the_published_ones(self, config: dict[str, Any]) -> None:
        found = LightOnOcr.configuration(config)
        assert found.text_config.rope_parameters["rope_theta"] == 1000000
        assert found.vision_config.rope_parameters["rope_theta"] == 10000
        assert found.image_token_id == 151655
        assert found.tie_word_embeddings

    @pytest.mark.parametrize(
        ("name", "architecture"), [("lighton_ocr", "LightOnOcrForConditionalGeneration"), ("mistral3", None)]
    )
    def test_what_transformers_saves_is_read_too(
        self, checkpoint: Path, tmp_path: Path, name: str, architecture: str | None
    ) -> None:
        folder = Path(shutil.copytree(checkpoint, tmp_path / "copy"))
        config = small_config(model_type=name)
        if architecture:
            config["architectures"] = [architecture]
        (folder / "config.json").write_text(json.dumps(config))
        assert isinstance(load_model(str(folder), device="cpu"), LightOnOcr)

    @pytest.mark.parametrize(
        ("part", "change", "named"),
        [
            (None, {"spatial_merge_size": 1}, "spatial_merge_size = 1"),
            (None, {"vision_feature_layer": -2}, "vision_feature_layer = -2"),
            (None, {"multimodal_projector_bias": True}, "multimodal_projector_bias = True"),
            (None, {"text_config": None}, "text_config"),
            (None, {"vision_config": []}, "vision_config"),
            ("text_config", {"model_type": "mistral"}, "text_config of model_type"),
            ("text_config", {"hidden_size": "wide"}, "config.json"),
            ("vision_config", {"model_type": "siglip"}, "vision_config of model_type"),
            ("vision_config", {"patch_size": 16}, "patch_size must be 14"),
        ],
    )
    def test_another_architecture_is_refused(self, part: str | None, change: dict[str, Any], named: str) -> None:
        config = small_config()
        (config if part is None else config[part]).update(change)
        with pytest.raises(ModelError, match=named):
            LightOnOcr.configuration(config)

    def test_the_model_that_it_borrowed_its_name_from_is_refused(self, checkpoint: Path, tmp_path: Path) -> None:
        folder = Path(shutil.copytree(checkpoint, tmp_path / "copy"))
        config = small_config(architectures=["Mistral3ForConditionalGeneration"])
        (folder / "config.json").write_text(json.dumps(config))
        with pytest.raises(ModelError, match="calls the model 'Mistral3ForConditionalGeneration' or 'mistral3'"):
            load_model(str(folder))


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
        folder = edit(lambda tensors: tensors.pop("model.vision_projection.norm.weight"))
        with pytest.raises(ModelError, match=r"1 tensors missing: model\.vision_projection\.norm\.weight"):
            load_model(str(folder))

    def test_unexpected_tensors_are_named(self, edit: Callable[..., Path]) -> None:
        folder = edit(lambda tensors: tensors.update({"model.vision_projection.bias": torch.zeros(1)}))
        with pytest.raises(ModelError, match=r"1 tensors unexpected: model\.vision_projection\.bias"):
            load_model(str(folder))

    def test_tensors_of_another_shape_are_named(self, edit: Callable[..., Path]) -> None:
        folder = edit(lambda tensors: tensors.update({"model.language_model.norm.weight": torch.zeros(7)}))
        with pytest.raises(ModelError, match=r"model\.language_model\.norm\.weight \[7\] instead of \[32\]"):
            load_model(str(folder))

    def test_a_copy_of_the_embeddings_as_the_head_changes_nothing(
        self, edit: Callable[..., Path], model: LightOnOcr, pictures: list[Image.Image]
    ) -> None:
        name = "model.language_model.embed_tokens.weight"
        folder = edit(lambda tensors: tensors.update({"lm_head.weight": tensors[name]}))
        copied = load_model(str(folder), device="cpu")
        assert isinstance(copied, LightOnOcr)
        assert answers(copied, pictures[:1], 0.0, 8) == answers(model, pictures[:1], 0.0, 8)
        assert describe(str(folder)).parameters == sum(weight.numel() for weight in model.network.parameters())


class TestPrompt:
    def test_it_is_the_published_one(self, model: LightOnOcr) -> None:
        assert (model.modes, model.tasks) == (("native",), ("markdown",))
        text = FAMILY.prompts["markdown"]
        assert text == ("<|im_start|>system<|im_end|>\n<|im_start|>user\n<image><|im_end|>\n<|im_start|>assistant\n")
        prompt = model.prompt("markdown")
        before, after = text.split("<image>")
        # a token for each character, and one for each of four and two marks
        assert len(prompt.before) == 3 + len("system\nuser\n")
        assert len(prompt.after) == 2 + len("\nassistant\n")
        whole = [
            model._tokenizer.decode(ids.tolist(), skip_special_tokens=False) for ids in (prompt.before, prompt.after)
        ]
        assert whole == [before, after]

    def test_either_end_of_the_published_generation_ends_an_answer(self, model: LightOnOcr) -> None:
        assert model.end_token_ids == set(ENDS)
        assert model.detokenize([CHARACTER_TOKENS - 1, *ENDS]) == "~"

    def test_a_configuration_without_an_end_still_ends(self, checkpoint: Path, tmp_path: Path) -> None:
        folder = Path(shutil.copytree(checkpoint, tmp_path / "copy"))
        config = small_config()
        del config["eos_token_id"]
        (folder / "config.json").write_text(json.dumps(config))
        assert load_model(str(folder), device="cpu").end_token_ids == set(ENDS)

    def test_other_modes_and_tasks_are_refused(self, model: LightOnOcr) -> None:
        with pytest.raises(UsageError, match="no mode 'large'"):
            model.prepare(picture(0, 50, 50), "large")
        with pytest.raises(UsageError, match="no task 'text'"):
            model.prompt("text")

    def test_an_answer_is_its_text(self, model: LightOnOcr) -> None:
        assert model.parse("\n# One\n\n$x$ ").text == "# One\n\n$x$"
        assert model.parse("# One").regions == ()


class TestPreparation:
    @pytest.mark.parametrize(
        ("size", "tokens"),
        [
            ((1, 1), (1, 1)),  # never enlarged, only stretched to a whole token
            ((28, 29), (1, 2)),
            ((1540, 1540), (55, 55)),
            ((1654, 2339), (39, 55)),  # A4 at 200 dpi: 1654 * 1540 / 2339 = 1089.0 wide, which is 38.9 tokens
            ((3080, 56), (55, 1)),
            ((20000, 14), (55, 1)),  # 14 * 0.077 = 1.08
            ((40000, 30000), (55, 42)),  # 1155 / 28 = 41.25
        ],
    )
    def test_sizes_are_those_worked_by_hand(self, size: tuple[int, int], tokens: tuple[int, int]) -> None:
        assert view_tokens(*size) == tokens

    def test_sizes_are_those_of_transformers_own_processor(self) -> None:
        chance = random.Random(0)
        for _ in range(1000):
            width, height = (round(10 ** chance.uniform(0, 4)) for _ in range(2))
            picture = np.broadcast_to(np.uint8(0), (height, width, 3))
            high, wide = get_resize_output_image_size(picture, 1540, 28, ChannelDimension.LAST)
            if wide and high:
                assert view_tokens(width, height) == (wide // 28, high // 28)
            else:
                with pytest.raises(DocumentError, match="vanishes"):
                    view_tokens(width, height)

    @pytest.mark.parametrize("size", [(1, 1), (150, 90), (31, 999), (1700, 400)])
    def test_views_are_those_of_transformers_own_processor(self, model: LightOnOcr, size: tuple[int, int]) -> None:
        page = picture(1, *size)
        wanted = PROCESSOR(page, return_tensors="pt")["pixel_values"][0]
        view = model.prepare(page, "native")
        assert view.global_view.shape == wanted.shape == view.layout.view_shape
        assert -1 <= view.global_view.min() <= view.global_view.max() <= 1
        torch.testing.assert_close(native.clip_pixels(view.global_view), wanted, rtol=0, atol=2e-6)

    def test_views_are_found_again_in_what_the_processor_gives(
        self, model: LightOnOcr, pictures: list[Image.Image]
    ) -> None:
        found = LightOnOcr.images_of(model.network, PROCESSOR(pictures, return_tensors="pt"))
        for page, (layout, view) in zip(pictures, found, strict=True):
            wanted = model.prepare(page, "native")
            assert layout == wanted.layout
            torch.testing.assert_close(view, wanted.global_view, rtol=0, atol=2e-6)

    def test_what_is_no_whole_token_is_left_out_as_the_encoder_does(self, model: LightOnOcr) -> None:
        inputs = {"pixel_values": torch.zeros(1, 3, 42, 98), "image_sizes": torch.tensor([[42, 98]])}
        ((layout, view),) = LightOnOcr.images_of(model.network, inputs)
        assert (layout.grid, tuple(view.shape)) == ((3, 1), (3, 28, 84))
        assert len(model.network.get_image_features(**inputs).pooler_output[0]) == layout.length

    def test_a_view_says_what_it_shows(self, model: LightOnOcr) -> None:
        view = model.prepare(picture(0, 150, 90), "native")
        assert (view.mode, view.tiles, view.grid) == ("native", None, (1, 1))
        assert (view.layout.grid, view.layout.patch, view.layout.length) == ((6, 4), 28, 24)
        assert bool(view.layout.free.all())
        assert (view.content_box, view.picture_size) == ((0, 0, 168, 112), (150, 90))

    def test_a_picture_is_turned_upright(self, model: LightOnOcr) -> None:
        lying = picture(0, 150, 90)
        lying.getexif()[0x0112] = 6
        view = model.prepare(lying, "native")
        assert (view.picture_size, view.layout.grid) == ((90, 150), (4, 6))

    @pytest.mark.parametrize("size", [(0, 5), (5, 0), (1, 1541), (4000, 2)])
    def test_what_cannot_be_shown_is_a_document_error(self, model: LightOnOcr, size: tuple[int, int]) -> None:
        with pytest.raises(DocumentError):
            model.prepare(Image.new("RGB", size), "native")

    @pytest.mark.parametrize("mode", ["L", "1", "CMYK", "P"])
    def test_any_kind_of_colour_is_shown(self, model: LightOnOcr, mode: str) -> None:
        assert model.prepare(picture(0, 40, 30).convert(mode), "native").global_view.shape == (3, 56, 56)


class TestEncode:
    def test_pictures_are_encoded_together_as_one_by_one(self, model: LightOnOcr, pictures: list[Image.Image]) -> None:
        views = [model.prepare(page, "native") for page in pictures]
        together = model.encode(views)
        assert [tokens.shape for tokens in together] == [(view.layout.length, 32) for view in views]
        for view, tokens in zip(views, together, strict=True):
            assert torch.equal(tokens, model.encode([view])[0])
        assert model.encode([]) == []

    def test_tokens_stand_row_by_row(self, model: LightOnOcr, monkeypatch: pytest.MonkeyPatch) -> None:
        """Without attention a token sees its own square only."""
        for layer in model.network.model.vision_encoder.transformer.layers:
            monkeypatch.setattr(layer.attention, "forward", lambda hidden_states, **_: (hidden_states * 0, None))
        view = model.prepare(picture(0, 5 * 28, 3 * 28), "native")
        changed = view.global_view.clone()
        changed[:, 28:56, 84:112] *= -1
        other = type(view)(**(vars(view) | {"global_view": changed}))
        moved = (model.encode([view])[0] - model.encode([other])[0]).abs().amax(dim=1) > 1e-6
        assert moved.nonzero().flatten().tolist() == [1 * 5 + 3]


class TestReading:
    def test_without_pruning_it_answers_as_transformers_generates(
        self, model: LightOnOcr, pictures: list[Image.Image], generated: list[list[int]]
    ) -> None:
        assert [answers(model, [page], 0.0, COUNT)[0] for page in pictures] == generated
        assert answers(model, pictures, 0.0, COUNT) == generated

    @pytest.mark.parametrize("prune", ["off", 0.0])
    def test_the_engine_reads_what_transformers_generates(
        self, model: LightOnOcr, pictures: list[Image.Image], generated: list[list[int]], prune: Any
    ) -> None:
        engine = Engine(model, ReadSettings(prune=prune, max_output_tokens=COUNT))
        for ids, result in zip(generated, engine.read(pictures), strict=True):
            assert result.output_tokens == len(ids)
            assert result.text == model.parse(model.detokenize(ids)).text

    @pytest.mark.parametrize("ratio", [0.25, 0.6])
    def test_with_pruning_a_batch_answers_as_its_pages_alone(
        self, model: LightOnOcr, pictures: list[Image.Image], generated: list[list[int]], ratio: float
    ) -> None:
        alone = [answers(model, [page], ratio, COUNT)[0] for page in pictures]
        assert answers(model, pictures, ratio, COUNT) == alone
        assert alone != generated

    def test_pages_are_pruned_by_what_they_show(self, model: LightOnOcr, pictures: list[Image.Image]) -> None:
        engine = Engine(model, ReadSettings(max_output_tokens=8))
        together = engine.read(pictures)
        assert all(result.status != "failed" for result in together)
        assert [engine.read([page])[0].text for page in pictures] == [result.text for result in together]

    def test_the_decoder_sees_the_surviving_tokens_where_they_stood(
        self, model: LightOnOcr, pictures: list[Image.Image], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        page = pictures[0]
        view = model.prepare(page, "native")
        pruned = prune(model.encode([view])[0], view.layout, config=PruneConfig(ratio=0.5))
        prompt = model.prompt("markdown")
        begin, length = len(prompt.before), view.layout.length
        end = begin + length + len(prompt.after)
        seen: list[tuple[Tensor, Tensor]] = []
        decoder = model.decoder

        def spy(embeddings: Tensor, positions: Tensor, *rest: Any) -> tuple[Tensor, Any]:
            seen.append((embeddings, positions))
            return decoder(embeddings, positions, *rest)

        monkeypatch.setattr(model, "decoder", spy)
        count = len(answers(model, [page], 0.5, 6)[0])
        embeddings, positions = seen[0]
        visual = [begin + place for place in pruned.positions.tolist()]
        assert len(visual) == length // 2
        assert positions.tolist() == [[[*range(begin), *visual, *range(begin + length, end)]]]
        assert torch.equal(embeddings[0, begin : begin + len(visual)], pruned.features)
        assert [step[1].tolist() for step in seen[1:]] == [[[[end + step]]] for step in range(count - 1)]

    def test_transformers_generation_prunes_alike_once_attached(
        self, model: LightOnOcr, pictures: list[Image.Image]
    ) -> None:
        attach(model.network, PruneConfig(ratio=0.5))
        try:
            found = [generate(model, page) for page in pictures]
        finally:
            detach(model.network)
        assert found == answers(model, pictures, 0.5, COUNT)

    def test_steps_with_gaps_are_those_of_one_pass(self, model: LightOnOcr, pictures: list[Image.Image]) -> None:
        for prompt in prompts(model, pictures, 0.5):
            ids = decode(model, [prompt], 16)[0].ids
            assert one_pass(model, prompt, ids) == list(ids)
