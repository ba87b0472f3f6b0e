"""Unlimited-OCR is loaded whole from the published layout, and its window is right for batches and pruned prompts."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st
from PIL import Image, ImageOps
from torch import Tensor
from transformers import UnlimitedOcrForConditionalGeneration

from rtprune import attach, detach
from rtprune.engine import Engine
from rtprune.engine.decoding import Decoded, PromptEmbeddings, assemble_prompt, decode
from rtprune.errors import DocumentError, ModelError, UsageError
from rtprune.models import Answer, OcrModel, Region, Views, describe, load_model, preparation
from rtprune.models.deepseek_ocr import DeepSeekOcr
from rtprune.models.family import published_state_dict
from rtprune.models.unlimited_ocr import FAMILY, UnlimitedOcr, parse_marked
from rtprune.models.weights import read_tensors, require_fit, save_tensors
from rtprune.pruning import PruneConfig, TokenLayout, prune
from rtprune.settings import ReadSettings
from tests.checkpoints import END, IMAGE, random_config, write_random_checkpoint

pytestmark = pytest.mark.usefixtures("one_thread")

#: What the published config.json says beyond DeepSeek-OCR's; the decoder's sizes stand at its top as well.
PUBLISHED_CONFIG = {
    "architectures": ["UnlimitedOCRForCausalLM"],
    "model_type": "unlimited-ocr",
    "language_config": {
        "bos_token_id": 0,
        "eos_token_id": 1,
        "first_k_dense_replace": 1,
        "hidden_size": 1280,
        "intermediate_size": 6848,
        "kv_lora_rank": None,
        "max_position_embeddings": 32768,
        "moe_intermediate_size": 896,
        "n_group": 1,
        "n_routed_experts": 64,
        "n_shared_experts": 2,
        "num_attention_heads": 10,
        "num_experts_per_tok": 6,
        "num_hidden_layers": 12,
        "num_key_value_heads": 10,
        "q_lora_rank": None,
        "sliding_window_size": 128,
        "topk_group": 1,
        "topk_method": "greedy",
        "use_mla": False,
        "v_head_dim": 128,
        "vocab_size": 129280,
    },
    "vision_config": {"image_size": 1024, "model_type": "vision", "width": {"clip-l-14-224": {}, "sam_vit_b": {}}},
    "sliding_window_size": 128,
    "sliding_window": 128,
}
WINDOW = 8
LOUD = ("model.embed_tokens.weight", "self_attn.q_proj.weight", "self_attn.k_proj.weight")
SIZES = [(500, 600), (900, 700), (1300, 500)]
NEW_TOKENS = 28  # several windows


def small_config() -> dict[str, Any]:
    config = random_config() | {"architectures": ["UnlimitedOCRForCausalLM"], "model_type": "unlimited-ocr"}
    config["language_config"] |= {"sliding_window_size": WINDOW}
    config["vision_config"]["sam_config"] |= {"num_hidden_layers": 1, "global_attn_indexes": []}
    return config | {"sliding_window": WINDOW}


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """DeepSeek-OCR's tensors, which are Unlimited-OCR's too, beside its own config.json.

    Attention is sharp and tokens are loud in them, so that an answer depends on what it sees of itself.
    """
    config = small_config()
    del config["sliding_window"], config["language_config"]["sliding_window_size"]
    folder = write_random_checkpoint(tmp_path_factory.mktemp("checkpoint"), seed=1, config=config)
    tensors = {name: tensor * (3 if name.endswith(LOUD) else 1) for name, tensor in read_tensors(folder).items()}
    save_tensors(tensors, folder / "model.safetensors", torch.bfloat16)
    (folder / "config.json").write_text(json.dumps(small_config()))
    return folder


@pytest.fixture(scope="module")
def model(checkpoint: Path) -> UnlimitedOcr:
    loaded = load_model(str(checkpoint), device="cpu")
    assert isinstance(loaded, UnlimitedOcr)
    return loaded


def picture(seed: int, width: int, height: int) -> Image.Image:
    values = np.random.default_rng(seed).integers(0, 256, (12, 16, 3), dtype=np.uint8)
    return Image.fromarray(values).resize((width, height), Image.Resampling.BICUBIC)


@pytest.fixture(scope="module")
def views(model: UnlimitedOcr) -> list[Views]:
    return [model.prepare(picture(seed, *size), "gundam") for seed, size in enumerate(SIZES)]


@pytest.fixture(scope="module")
def prompts(model: UnlimitedOcr, views: list[Views]) -> Callable[[float | str], list[PromptEmbeddings]]:
    """Prompts of the pages, pruned at a ratio: of unlike length at any."""
    features = model.encode(views)

    def at(ratio: float | str) -> list[PromptEmbeddings]:
        return [
            assemble_prompt(
                model, "markdown", view.layout, prune(tokens, view.layout, view.global_view, PruneConfig(ratio=ratio))
            )
            for view, tokens in zip(views, features, strict=True)
        ]

    return at


def own_generate(model: UnlimitedOcr, view: Views, count: int = NEW_TOKENS) -> list[int]:
    """What `generate` of the model itself answers to one picture."""
    prompt = model.prompt("markdown")
    ids = torch.cat([prompt.before, torch.full((view.layout.length,), IMAGE), prompt.after])[None]
    generated: Tensor = model.network.generate(
        input_ids=ids,
        attention_mask=torch.ones_like(ids),
        pixel_values=view.global_view[None],
        pixel_values_local=view.tiles,
        num_local_patches=[0 if view.tiles is None else len(view.tiles)],
        patches_grid=[view.grid],
        do_sample=False,
        max_new_tokens=count,
        eos_token_id=END,
        pad_token_id=END,
    )
    return generated[0, ids.shape[1] :].tolist()


def ids_of(answers: list[Decoded]) -> list[list[int]]:
    return [list(answer.ids) for answer in answers]


class TestLayout:
    def test_the_full_size_model_has_the_names_and_shapes_of_deepseek_ocr(self, shared_data: Path) -> None:
        manifest = json.loads((shared_data / "deepseek-ocr" / "manifest.json").read_text())
        published = {name: tuple(shape) for name, shape in manifest.items()}
        with torch.device("meta"):
            network = UnlimitedOcrForConditionalGeneration(UnlimitedOcr.configuration(PUBLISHED_CONFIG))
        ours = {name: tuple(tensor.shape) for name, tensor in published_state_dict(network).items()}
        require_fit(shared_data, published, ours, FAMILY.unused_tensors)
        assert published.keys() - ours.keys() == FAMILY.unused_tensors

    def test_the_window_comes_from_the_configuration(self) -> None:
        text = UnlimitedOcr.configuration(PUBLISHED_CONFIG).text_config
        assert text.sliding_window == 128
        assert text.layer_types == ["reference_sliding_attention"] * 12
        assert text.mlp_layer_types == ["dense", *["sparse"] * 11]
        assert text.max_position_embeddings == 32768
        assert UnlimitedOcr.configuration(small_config()).text_config.sliding_window == WINDOW

    def test_transformers_own_configuration_is_read_as_well(self) -> None:
        config = UnlimitedOcr.configuration(small_config())
        again = UnlimitedOcr.configuration(json.loads(config.to_json_string()))
        assert again.to_dict() == config.to_dict()

    def test_every_tensor_of_a_checkpoint_arrives_unchanged(self, checkpoint: Path, model: UnlimitedOcr) -> None:
        written = read_tensors(checkpoint)
        loaded = published_state_dict(model.network)
        assert loaded.keys() == written.keys() - FAMILY.unused_tensors
        for name, tensor in loaded.items():
            assert torch.equal(tensor, written[name].float()), name

    @pytest.mark.parametrize("name", ["UnlimitedOcrForConditionalGeneration", "unlimited-ocr", "unlimited_ocr"])
    def test_a_folder_is_known_by_each_of_its_names(self, checkpoint: Path, tmp_path: Path, name: str) -> None:
        folder = Path(shutil.copytree(checkpoint, tmp_path / "copy"))
        named = {"architectures": [name] if name[0] == "U" else None, "model_type": name}
        (folder / "config.json").write_text(json.dumps(small_config() | named))
        card = describe(str(folder))
        assert (card.modes, card.default_mode, card.tasks) == (("base", "gundam"), "gundam", ("markdown",))

    @pytest.mark.parametrize(
        ("change", "named"),
        [
            ({"sliding_window": 9}, "sliding_window"),  # language_config says otherwise
            ({"sliding_window": "wide"}, "sliding_window"),
            ({"layer_types": ["full_attention"] * 2}, "layer_types"),
            ({"use_mla": True}, "use_mla = True"),
            ({"language_config": None}, "no language_config"),
            ({"language_config": {"num_hidden_layers": 2, "hidden_size": "wide"}}, "hidden_size"),
        ],
    )
    def test_another_architecture_is_refused(self, change: dict[str, Any], named: str) -> None:
        config = small_config()
        if "use_mla" in change:
            config["language_config"] |= change
        with pytest.raises(ModelError, match=named):
            UnlimitedOcr.configuration(config | change)

    @pytest.mark.parametrize("window", [None, 1, 0, -3])
    def test_a_window_that_is_none_is_refused(self, window: int | None) -> None:
        config = small_config() | {"sliding_window": window}
        config["language_config"]["sliding_window_size"] = window
        with pytest.raises(ModelError, match="sliding_window"):
            UnlimitedOcr.configuration(config)

    def test_deepseek_ocr_does_not_take_it_for_its_own(self) -> None:
        with pytest.raises(ModelError, match="sliding_window = 128"):
            DeepSeekOcr.configuration(PUBLISHED_CONFIG)

    @pytest.mark.parametrize(
        ("name", "tensor", "named"),
        [
            ("model.image_newline", None, r"1 tensors missing: model\.image_newline"),
            ("model.adapter", torch.zeros(1), r"1 tensors unexpected: model\.adapter"),
            ("model.norm.weight", torch.zeros(7), r"model\.norm\.weight \[7\] instead of \[32\]"),
        ],
    )
    def test_tensors_that_do_not_fit_are_named(
        self, checkpoint: Path, tmp_path: Path, name: str, tensor: Tensor | None, named: str
    ) -> None:
        folder = Path(shutil.copytree(checkpoint, tmp_path / "copy"))
        tensors = {name: tensor.clone() for name, tensor in read_tensors(folder).items()}
        tensors.pop(name, None)
        save_tensors(tensors | ({} if tensor is None else {name: tensor}), folder / "model.safetensors", torch.bfloat16)
        with pytest.raises(ModelError, match=named):
            load_model(str(folder))


class TestPreparation:
    @pytest.mark.parametrize(
        ("size", "grid", "length"),
        [
            ((640, 640), (1, 1), 273),  # no larger than a tile: not cut
            ((1281, 640), (2, 1), 273 + 10 * 21),
            ((1000, 1414), (5, 7), None),  # 35 tiles would be nearest 0.707: not more than 32
            ((10, 641), (1, 32), 273 + 320 * 11),
            ((641, 10), (32, 1), 273 + 10 * 321),
        ],
    )
    def test_tiles_and_tokens_follow_the_shape(
        self, model: OcrModel, size: tuple[int, int], grid: tuple[int, int], length: int | None
    ) -> None:
        views = model.prepare(Image.new("RGB", size, "white"), "gundam")
        if length is None:
            assert views.grid != grid
            assert 2 <= views.grid[0] * views.grid[1] <= 32
            return
        assert views.grid == grid
        assert views.layout == TokenLayout.deepseek_ocr(16, None if length == 273 else grid)
        assert views.layout.length == length

    @pytest.mark.parametrize("size", [(500, 700), (2481, 3507), (3001, 1203)])
    def test_views_are_those_of_the_published_preparation(self, model: OcrModel, size: tuple[int, int]) -> None:
        """`ImageOps.pad` makes the global view there; the tiles are cut from the picture resized to their grid."""
        page = picture(1, *size)
        views = model.prepare(page, "gundam")
        padded = np.asarray(ImageOps.pad(page, (1024, 1024), color=(127, 127, 127)), dtype=np.float32)
        assert np.array_equal(np.round((views.global_view.numpy().transpose(1, 2, 0) + 1) * 127.5), padded)
        if views.tiles is not None:
            columns, rows = views.grid
            stitched = preparation.normalise(page.resize((640 * columns, 640 * rows)))
            grid = views.tiles.unflatten(0, (rows, columns)).permute(2, 0, 3, 1, 4)
            assert torch.equal(grid.reshape(3, 640 * rows, 640 * columns), stitched)

    def test_base_is_the_global_view_alone(self, model: OcrModel) -> None:
        page = picture(0, 2000, 1500)
        views = model.prepare(page, "base")
        assert views.tiles is None
        assert views.layout == TokenLayout.deepseek_ocr(16)
        with pytest.raises(UsageError, match=r"no mode 'large' \(it has: base, gundam\)"):
            model.prepare(page, "large")

    @pytest.mark.parametrize("size", [(1, 1), (3, 900), (5000, 5)])
    def test_odd_pictures_are_shown_whole(self, model: OcrModel, size: tuple[int, int]) -> None:
        assert model.prepare(Image.new("RGB", size, "white"), "gundam").global_view.isfinite().all()

    @pytest.mark.parametrize(("size", "kind"), [((9000, 1), "too-thin"), ((0, 5), "empty-picture")])
    def test_pictures_that_cannot_be_shown_are_the_documents_fault(
        self, model: OcrModel, size: tuple[int, int], kind: str
    ) -> None:
        with pytest.raises(DocumentError) as caught:
            model.prepare(Image.new("RGB", size), "gundam")
        assert caught.value.kind == kind


#: By test round, at which step each page ends at the latest: before, at and behind the first window.
STEPS = [(0, 5, 25), (WINDOW - 1, WINDOW, 2 * WINDOW)]


class TestAnswers:
    def test_unpruned_answers_are_those_of_the_models_own_generate(
        self, model: UnlimitedOcr, views: list[Views], prompts: Callable[[float], list[PromptEmbeddings]]
    ) -> None:
        wanted = [own_generate(model, view) for view in views]
        assert min(map(len, wanted)) > 3 * WINDOW, "the test needs answers that go on beyond the window"
        assert len({tuple(answer) for answer in wanted}) == len(wanted), "the test needs pages that read differently"
        assert all(len(set(answer)) > 3 for answer in wanted), "the test needs answers that do not repeat one token"
        alone = [decode(model, [prompt], NEW_TOKENS)[0] for prompt in prompts(0.0)]
        assert ids_of(alone) == wanted
        assert ids_of(decode(model, prompts(0.0), NEW_TOKENS)) == wanted

    @pytest.mark.parametrize("ratio", [0.4, "dynamic"])
    def test_a_token_sees_the_prompt_and_the_latest_of_the_answer(
        self, model: UnlimitedOcr, prompts: Callable[[float | str], list[PromptEmbeddings]], ratio: float | str
    ) -> None:
        """Against one pass over prompt and answer without a cache, its mask written out."""
        for prompt in prompts(ratio):
            (answer,) = decode(model, [prompt], NEW_TOKENS)
            length = len(prompt.embeddings)
            given = torch.cat([prompt.embeddings, model.embed(torch.tensor(answer.ids[:-1]))])
            places = torch.cat([prompt.positions[0], prompt.next_position + torch.arange(len(answer.ids) - 1)])
            query, key = torch.arange(len(given))[:, None], torch.arange(len(given))
            seen = (key <= query) & ((key < length) | (key > query - WINDOW))
            with torch.inference_mode():
                logits = model.network(
                    inputs_embeds=given[None],
                    position_ids=places[None],
                    attention_mask={"reference_sliding_attention": seen[None, None]},
                    use_cache=False,
                ).logits
            assert logits[0, length - 1 :].argmax(dim=-1).tolist() == list(answer.ids)

    @pytest.mark.parametrize("ratio", [0.0, 0.4])
    def test_pages_that_leave_a_batch_at_any_step_leave_the_others_as_they_are(
        self,
        model: UnlimitedOcr,
        prompts: Callable[[float], list[PromptEmbeddings]],
        ratio: float,
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:
        given = prompts(ratio)
        free_running = ids_of(decode(model, given, NEW_TOKENS))
        for ends in ({answer[step] for answer, step in zip(free_running, steps, strict=True)} for steps in STEPS):
            monkeypatch.setattr(model, "end_token_ids", frozenset(ends))
            alone = [decode(model, [prompt], NEW_TOKENS)[0] for prompt in given]
            together = decode(model, given, NEW_TOKENS)
            assert ids_of(together) == ids_of(alone)
            assert [answer.finish_reason for answer in together] == [answer.finish_reason for answer in alone]

    def test_the_arguments_of_generate_tell_the_layouts(self, model: UnlimitedOcr, views: list[Views]) -> None:
        tiles = [view.tiles for view in views if view.tiles is not None]
        given = {
            "pixel_values": torch.stack([view.global_view for view in views]),
            "pixel_values_local": torch.cat(tiles),
            "num_local_patches": [0 if view.tiles is None else len(view.tiles) for view in views],
            "patches_grid": [view.grid for view in views],
        }
        found = model.images_of(model.network, given)
        assert [layout for layout, _ in found] == [view.layout for view in views]
        assert all(torch.equal(shown, view.global_view) for (_, shown), view in zip(found, views, strict=True))
        plain = model.images_of(model.network, {"pixel_values": views[0].global_view[None]})
        assert plain[0][0] == views[0].layout

    def test_transformers_generation_prunes_alike_once_attached(
        self, model: UnlimitedOcr, views: list[Views], prompts: Callable[[float | str], list[PromptEmbeddings]]
    ) -> None:
        attach(model.network, PruneConfig(ratio=0.5))
        try:
            found = [own_generate(model, view) for view in views]
        finally:
            detach(model.network)
        assert found == ids_of([decode(model, [prompt], NEW_TOKENS)[0] for prompt in prompts(0.5)])

    def test_an_attached_batch_that_must_be_padded_is_refused(self, model: UnlimitedOcr) -> None:
        pages = [model.prepare(Image.new("RGB", (400, 400), colour), "base") for colour in ("white", "black")]
        prompt = model.prompt("markdown")
        ids = torch.cat([prompt.before, torch.full((pages[0].layout.length,), IMAGE), prompt.after])
        inputs = {
            "input_ids": torch.stack([torch.cat([ids, ids[-1:]]), torch.cat([torch.tensor([END]), ids])]),
            "attention_mask": torch.ones(2, len(ids) + 1, dtype=torch.long),
            "pixel_values": torch.stack([page.global_view for page in pages]),
            "num_local_patches": [0, 0],
            "patches_grid": [(1, 1), (1, 1)],
        }
        inputs["attention_mask"][1, 0] = 0
        attach(model.network, PruneConfig(ratio=0.5))
        try:
            with pytest.raises(UsageError, match="misreads prompts that are padded"):
                model.network.generate(**inputs, max_new_tokens=2)
        finally:
            detach(model.network)

    def test_attention_is_told_for_each_free_token(self, model: UnlimitedOcr, views: list[Views]) -> None:
        for view in views:
            assert model.attention_cues(view).attention.shape == (view.layout.free_count,)

    def test_a_page_is_read_whole_by_the_engine(self, model: UnlimitedOcr) -> None:
        page = picture(1, *SIZES[1])
        views = model.prepare(page, "gundam")
        off, nothing, dynamic = (
            Engine(model, ReadSettings(prune=prune, max_output_tokens=12)).read([page])[0]
            for prune in ("off", 0.0, "dynamic")
        )
        assert off.text == nothing.text == model.parse(model.detokenize(own_generate(model, views, 12))).text
        assert off.facts is not None
        assert dynamic.facts is not None
        assert dynamic.facts.tokens_after < off.facts.tokens_after == views.layout.length

    def test_the_prompt_is_the_published_one(self, model: UnlimitedOcr) -> None:
        prompt = model.prompt("markdown")
        assert prompt.before.tolist() == [0]
        assert model.detokenize(prompt.after.tolist()) == "document parsing."


class TestParse:
    def test_regions_carry_label_box_and_text(self) -> None:
        answer = (
            "<|det|>title [333, 201, 558, 230]<|/det|># R&D FORM\n"
            "<|det|>image [383, 87, 497, 171]<|/det|>\n"
            "<|det|>text [1, 2, 3, 4]<|/det|>Two\nlines, [5, 6].\n"
        )
        assert parse_marked(answer) == Answer(
            "# R&D FORM\nTwo\nlines, [5, 6].",
            (
                Region("title", (333, 201, 558, 230), "# R&D FORM"),
                Region("image", (383, 87, 497, 171), ""),
                Region("text", (1, 2, 3, 4), "Two\nlines, [5, 6]."),
            ),
        )

    @pytest.mark.parametrize(
        "inside",
        [
            "",
            "text",
            "[1, 2, 3, 4]",
            "text [1, 2, 3]",
            "text [1, 2, 3, 4, 5]",
            "text [[1, 2, 3, 4]]",
            "text [1, 2, 3, 1000]",
            "text [-1, 2, 3, 4]",
            "text [3, 2, 1, 4]",  # right of its own right edge
            "text [1, 4, 3, 2]",
            "text [1, 2, 3, 4] more",
            "text [a, b, c, d]",
            "text [\u0661, \u0662, \u0663, \u0664]",  # digits to Python's int, but not the model's
            "text [__import__('os').abort()]",
            "[" * 10_000,
        ],
    )
    def test_a_malformed_mark_gives_no_region_and_keeps_the_text(self, inside: str) -> None:
        assert parse_marked(f"<|det|>{inside}<|/det|>Still here.") == Answer("Still here.", ())

    @pytest.mark.parametrize(
        "cut", ["<|det|>", "<|det|>te", "<|det|>text [", "<|det|>text [12, 3", "<|det|>text [1, 2]"]
    )
    def test_a_mark_cut_short_by_the_end_leaves_nothing_behind(self, cut: str) -> None:
        whole = "<|det|>text [1, 2, 3, 4]<|/det|>Words."
        assert parse_marked(f"{whole}\n{cut}") == parse_marked(whole)

    def test_text_outside_marks_and_behind_a_lone_one_is_kept(self) -> None:
        assert parse_marked("Before.\n<|det|>text [1, 2, 3, 4]<|/det|>In it.").text == "Before.\nIn it."
        assert parse_marked("<|det|>All the page's text,\nunmarked.") == Answer("All the page's text,\nunmarked.", ())

    @given(
        st.lists(
            st.one_of(
                st.sampled_from(
                    ["<|det|>", "<|/det|>", "<|ref|>", "text [1, 2, 3, 4]", "[", "]", "7", "<|", "\n", " "]
                ),
                st.text(max_size=5),
            )
        ).map("".join)
    )
    @example("<|det|>" * 5_000)
    @settings(max_examples=60, deadline=None)
    def test_nothing_that_a_model_may_say_raises(self, answer: str) -> None:
        parsed = parse_marked(answer)
        for region in parsed.regions:
            left, top, right, bottom = region.box
            assert 0 <= left <= right <= 999
            assert 0 <= top <= bottom <= 999
            assert region.text in parsed.text
