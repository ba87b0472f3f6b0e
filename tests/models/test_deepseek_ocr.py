"""DeepSeek-OCR is loaded whole from the published layout and computes what the original computes."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from rtprune.errors import ModelError, UsageError
from rtprune.models import OcrModel, Views, describe, load_model
from rtprune.models.deepseek_ocr import FAMILY, DeepSeekOcr, _stitched
from rtprune.models.family import published_state_dict
from rtprune.models.weights import read_tensors, require_fit, save_tensors
from tests.checkpoints import END, IMAGE, character_tokenizer, random_config, write_random_checkpoint
from tests.models.networks import greedy, on_meta

PUBLISHED_CONFIG = {
    "model_type": "deepseek_vl_v2",
    "language_config": {
        "architectures": ["DeepseekV2ForCausalLM"],
        "auto_map": {"AutoModel": "modeling_deepseekv2.DeepseekV2Model"},
        "bos_token_id": 0,
        "eos_token_id": 1,
        "first_k_dense_replace": 1,
        "hidden_size": 1280,
        "intermediate_size": 6848,
        "kv_lora_rank": None,
        "max_position_embeddings": 8192,
        "moe_intermediate_size": 896,
        "n_group": 1,
        "n_routed_experts": 64,
        "n_shared_experts": 2,
        "num_attention_heads": 10,
        "num_experts_per_tok": 6,
        "num_hidden_layers": 12,
        "num_key_value_heads": 10,
        "q_lora_rank": None,
        "topk_group": 1,
        "topk_method": "greedy",
        "use_mla": False,
        "v_head_dim": 0,
        "vocab_size": 129280,
    },
    "vision_config": {"image_size": 1024, "model_type": "vision", "width": {"clip-l-14-224": {}, "sam_vit_b": {}}},
}


@pytest.fixture(scope="module")
def model(random_checkpoint: Path) -> OcrModel:
    return load_model(str(random_checkpoint), device="cpu")


def picture(seed: int, width: int = 600, height: int = 800) -> Image.Image:
    values = np.random.default_rng(seed).integers(0, 256, (12, 16, 3), dtype=np.uint8)
    return Image.fromarray(values).resize((width, height), Image.Resampling.NEAREST)


class TestLayout:
    def test_the_full_size_model_has_the_published_names_and_shapes(self, shared_data: Path) -> None:
        manifest = json.loads((shared_data / "deepseek-ocr" / "manifest.json").read_text())
        assert len(manifest) == 2710
        ours = {name: tuple(tensor.shape) for name, tensor in on_meta(PUBLISHED_CONFIG).items()}
        published = {name: tuple(shape) for name, shape in manifest.items()}
        require_fit(shared_data, published, ours, FAMILY.unused_tensors)
        assert published.keys() - ours.keys() == FAMILY.unused_tensors

    def test_every_tensor_of_a_checkpoint_arrives_unchanged(self, random_checkpoint: Path, model: DeepSeekOcr) -> None:
        written = read_tensors(random_checkpoint)
        loaded = published_state_dict(model.network)
        assert loaded.keys() == written.keys() - FAMILY.unused_tensors
        for name, tensor in loaded.items():
            assert torch.equal(tensor, written[name].float()), name

    def test_full_attention_and_special_ids_come_from_the_configuration(self) -> None:
        config = DeepSeekOcr.configuration(PUBLISHED_CONFIG)
        assert config.text_config.layer_types == ["full_attention"] * 12
        assert config.text_config.mlp_layer_types == ["dense", *["sparse"] * 11]
        assert config.image_token_id == 128815
        assert (config.text_config.bos_token_id, config.text_config.eos_token_id) == (0, 1)
        assert (config.vision_config.sam_config.image_size, config.vision_config.encoder_config.image_size) == (
            1024,
            224,
        )
        small = DeepSeekOcr.configuration(random_config())
        assert small.image_token_id == IMAGE
        assert small.vision_config.sam_config.image_size == 512

    @pytest.mark.parametrize(
        ("change", "named"),
        [
            ({"use_mla": True}, "use_mla = True"),
            ({"scoring_func": "sigmoid"}, "scoring_func = 'sigmoid'"),
            ({"norm_topk_prob": True}, "norm_topk_prob = True"),
            ({"sliding_window": 128}, "sliding_window = 128"),
        ],
    )
    def test_another_architecture_is_refused(self, change: dict[str, Any], named: str) -> None:
        config = random_config()
        config["language_config"] |= change
        with pytest.raises(ModelError, match=named):
            DeepSeekOcr.configuration(config)

    @pytest.mark.parametrize("language", [None, {}, {"num_hidden_layers": 2, "hidden_size": "wide"}])
    def test_a_configuration_without_a_decoder_is_refused(self, language: Any) -> None:
        with pytest.raises(ModelError, match=r"config\.json"):
            DeepSeekOcr.configuration({"language_config": language})


class TestBrokenFolders:
    @pytest.fixture
    def folder(self, random_checkpoint: Path, tmp_path: Path) -> Path:
        return Path(shutil.copytree(random_checkpoint, tmp_path / "copy"))

    def edit(self, folder: Path, change: Callable[[dict[str, Tensor]], object]) -> None:
        tensors = {name: tensor.clone() for name, tensor in read_tensors(folder).items()}
        change(tensors)
        save_tensors(tensors, folder / "model.safetensors", torch.bfloat16)

    def test_missing_tensors_are_counted_and_named(self, folder: Path) -> None:
        self.edit(folder, lambda tensors: [tensors.pop(name) for name in ("lm_head.weight", "model.norm.weight")])
        with pytest.raises(ModelError, match=r"2 tensors missing: lm_head\.weight, model\.norm\.weight") as caught:
            load_model(str(folder))
        assert str(folder) in str(caught.value)
        assert caught.value.hint

    def test_one_lacking_expert_is_seen(self, folder: Path) -> None:
        name = "model.layers.1.mlp.experts.3.up_proj.weight"
        self.edit(folder, lambda tensors: tensors.pop(name))
        with pytest.raises(ModelError, match=f"1 tensors missing: {name}"):
            load_model(str(folder))

    def test_unexpected_tensors_are_named(self, folder: Path) -> None:
        self.edit(folder, lambda tensors: tensors.update({"model.adapter": torch.zeros(1)}))
        with pytest.raises(ModelError, match=r"1 tensors unexpected: model\.adapter"):
            load_model(str(folder))

    def test_tensors_of_another_shape_are_named(self, folder: Path) -> None:
        self.edit(folder, lambda tensors: tensors.update({"model.norm.weight": torch.zeros(7)}))
        with pytest.raises(ModelError, match=r"model\.norm\.weight \[7\] instead of \[32\]"):
            load_model(str(folder))

    @pytest.mark.parametrize("content", [None, "", "{}"])
    def test_an_unreadable_tokenizer_is_named(self, folder: Path, content: str | None) -> None:
        (folder / "tokenizer.json").unlink()
        if content is not None:
            (folder / "tokenizer.json").write_text(content)
        with pytest.raises(ModelError, match=r"tokenizer\.json is not a readable tokenizer"):
            load_model(str(folder))

    def test_a_tokenizer_with_more_tokens_than_the_model_is_refused(self, folder: Path) -> None:
        tokenizer = character_tokenizer()
        tokenizer.add_tokens(["one", "more"])
        tokenizer.save(str(folder / "tokenizer.json"))
        with pytest.raises(ModelError, match="107 tokens, but the model's vocabulary is 105"):
            load_model(str(folder))

    def test_a_folder_that_says_nothing_usable_about_its_training_is_refused(self, folder: Path) -> None:
        (folder / "config.json").write_text(json.dumps(random_config() | {"rtprune": ["tiny"]}))
        with pytest.raises(ModelError, match="rtprune"):
            describe(str(folder))

    @pytest.mark.parametrize("change", [{"modes": ["giant"]}, {"modes": []}, {"tasks": ["translate"]}])
    def test_a_mode_or_task_that_does_not_exist_is_refused(self, folder: Path, change: dict[str, Any]) -> None:
        (folder / "config.json").write_text(json.dumps(random_config(**change)))
        with pytest.raises(ModelError, match=f"names {next(iter(change))}"):
            load_model(str(folder))

    def test_a_patch_size_that_views_do_not_have_is_refused(self, folder: Path) -> None:
        config = random_config()
        config["vision_config"]["sam_config"]["patch_size"] = 8
        (folder / "config.json").write_text(json.dumps(config))
        with pytest.raises(ModelError, match="patch_size must be 16"):
            load_model(str(folder))


class TestModesAndTasks:
    def test_defaults_are_those_of_the_published_model(self, model: OcrModel) -> None:
        assert model.modes == ("tiny", "small", "base", "large", "gundam")
        assert (model.default_mode, model.default_task) == ("large", "markdown")
        assert set(model.tasks) == {"text", "markdown"}

    def test_a_model_trained_for_less_says_so(self, tmp_path: Path) -> None:
        folder = write_random_checkpoint(tmp_path, config=random_config(modes=["tiny", "small"], tasks=["text"]))
        model = load_model(str(folder))
        assert (model.modes, model.default_mode) == (("tiny", "small"), "tiny")
        assert (model.tasks, model.default_task) == (("text",), "text")
        with pytest.raises(UsageError, match=r"no mode 'large' \(it has: tiny, small\)"):
            model.prepare(picture(0), "large")
        with pytest.raises(UsageError, match=r"no task 'markdown' \(it has: text\)"):
            model.prompt("markdown")

    @pytest.mark.parametrize(
        ("task", "text"),
        [("text", "\nFree OCR."), ("markdown", "\n<|grounding|>Convert the document to markdown.")],
    )
    def test_prompts_are_the_published_ones(self, model: OcrModel, task: str, text: str) -> None:
        prompt = model.prompt(task)
        assert prompt.before.tolist() == [0]
        assert model.detokenize(prompt.after.tolist()) == text
        assert prompt.before.dtype == prompt.after.dtype == torch.int64

    def test_an_answer_is_detokenized_with_its_marks_and_without_its_end(self, model: OcrModel) -> None:
        answer = "<|ref|>text<|/ref|><|det|>[[1, 2, 3, 4]]<|/det|>\nTwo  words."
        ids = character_tokenizer().encode(answer, add_special_tokens=False).ids
        assert model.detokenize([*ids, END]) == answer
        assert model.parse(answer).regions[0].box == (1, 2, 3, 4)

    def test_the_same_bytes_are_the_same_revision(
        self, model: OcrModel, random_checkpoint: Path, tmp_path: Path
    ) -> None:
        again = load_model(str(write_random_checkpoint(tmp_path / "same", seed=0)))
        other = load_model(str(write_random_checkpoint(tmp_path / "other", seed=1)))
        assert again.revision == model.revision != other.revision
        assert again.name == str(tmp_path / "same")

    def test_a_description_says_without_loading_what_the_loaded_model_says(
        self, random_checkpoint: Path, model: DeepSeekOcr, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr("rtprune.models.family.read_tensors", lambda folder: pytest.fail("weights were read"))
        card = describe(str(random_checkpoint))
        told = dict(vars(card))
        assert told.pop("parameters") == sum(parameter.numel() for parameter in model.network.parameters())
        assert told == {field: getattr(model, field) for field in told}

    def test_marks_of_table_cells_may_repeat(self, model: DeepSeekOcr) -> None:
        assert model.repeatable_token_ids == frozenset()
        tokenizer = character_tokenizer()
        tokenizer.add_tokens(["<td>", "</td>"])
        with_cells = DeepSeekOcr(model.network, tokenizer, name="", revision="")
        assert with_cells.repeatable_token_ids == {105, 106}

    def test_cpu_computes_in_float32(self, model: OcrModel) -> None:
        assert model.dtype == torch.float32
        assert model.device.type == "cpu"


class TestEncode:
    def test_pictures_of_all_modes_are_encoded_together_as_one_by_one(self, model: OcrModel) -> None:
        views = [model.prepare(picture(seed), mode) for seed, mode in enumerate(["tiny", "gundam", "small", "tiny"])]
        views.append(model.prepare(picture(9, 600, 500), "gundam"))  # small enough to have no tiles
        together = model.encode(views)
        assert [tokens.shape for tokens in together] == [(view.layout.length, model.hidden_size) for view in views]
        for view, tokens in zip(views, together, strict=True):
            torch.testing.assert_close(tokens, model.encode([view])[0], rtol=1e-4, atol=1e-5)

    def test_a_batch_too_large_for_memory_is_encoded_in_parts(
        self, model: OcrModel, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        views = [model.prepare(picture(seed), "tiny") for seed in range(3)]
        whole = model.encode(views)
        monkeypatch.setattr("rtprune.models.deepseek_ocr._ATTENTION_BYTES", 1)
        for tokens, expected in zip(model.encode(views), whole, strict=True):
            torch.testing.assert_close(tokens, expected, rtol=1e-4, atol=1e-5)

    def test_no_pictures_have_no_tokens(self, model: OcrModel) -> None:
        assert model.encode([]) == []

    def test_newlines_and_separator_stand_where_the_layout_says(self, model: DeepSeekOcr) -> None:
        view = model.prepare(picture(0, 1300, 700), "gundam")
        assert view.grid == (2, 1)
        tokens = model.encode([view])[0]
        learned = model.network.model
        newlines = (tokens == learned.image_newline).all(dim=1)
        assert torch.equal(newlines, view.layout.newlines)
        separators = (tokens == learned.view_separator).all(dim=1).nonzero().flatten()
        assert separators.tolist() == [view.layout.length - 1]

    def test_each_row_of_the_sequence_shows_its_row_of_the_picture(self, model: OcrModel) -> None:
        """Only the tile that changes changes its tokens, and they lie in its rows and columns of the stitched grid."""
        view = model.prepare(picture(0, 1300, 1950), "gundam")
        assert view.grid == (2, 3)
        assert view.tiles is not None
        changed_tiles = view.tiles.clone()
        changed_tiles[3] = -changed_tiles[3]  # row 1, column 1
        changed = Views(**(vars(view) | {"tiles": changed_tiles}))
        moved = (model.encode([view])[0] - model.encode([changed])[0]).abs().amax(dim=1) > 1e-6
        stitched = moved[: 30 * 21].reshape(30, 21)
        expected = torch.zeros(30, 21, dtype=torch.bool)
        expected[10:20, 10:20] = True
        assert torch.equal(stitched, expected)
        assert not moved[30 * 21 :].any()


@pytest.fixture(scope="module")
def prompts(model: OcrModel) -> list[Tensor]:
    views = [model.prepare(picture(seed), mode) for seed, mode in ((3, "tiny"), (4, "small"))]
    prompt = model.prompt("text")
    return [
        torch.cat([model.embed(prompt.before), tokens, model.embed(prompt.after)]) for tokens in model.encode(views)
    ]


@pytest.fixture(scope="module")
def positions(prompts: list[Tensor]) -> list[Tensor]:
    """Of the second prompt with the gaps that pruning leaves."""
    return [
        torch.arange(len(prompts[0])),
        torch.arange(len(prompts[1])) + (torch.arange(len(prompts[1])) > 40) * 17,
    ]


class TestAttentionCues:
    def test_they_are_the_class_token_s_attention_in_the_last_layer(self, random_checkpoint: Path) -> None:
        model = load_model(str(random_checkpoint), device="cpu")
        assert isinstance(model, DeepSeekOcr)
        views = model.prepare(picture(0), "tiny")
        cues = model.attention_cues(views)
        model.network.set_attn_implementation("eager")  # the one that keeps what it attends to
        with torch.inference_mode():
            tower = model.network.model.vision_tower
            attentions = tower(views.global_view[None], output_attentions=True).attentions
        wanted = attentions[-1][0, :, 0, 1:].mean(dim=0)
        assert cues.attention is not None
        assert torch.allclose(cues.attention, wanted, atol=1e-6)
        assert cues.attention.std() > 0

    def test_with_tiles_they_stand_in_the_order_of_the_free_tokens(self, model: DeepSeekOcr) -> None:
        views = model.prepare(picture(1, 900, 1300), "gundam")
        assert views.tiles is not None
        cues = model.attention_cues(views)
        assert cues.attention is not None
        assert cues.keys is not None
        assert len(cues.attention) == len(cues.keys) == views.layout.free_count
        # What is stitched in the same way from the tiles' own features is what the model gives as free tokens.
        with torch.inference_mode():
            own = model.network.model.multi_modal_projector(
                model.network.model.vision_tower(views.tiles).last_hidden_state
            )
        (features,) = model.encode([views])
        free = features[views.layout.free]
        tile_tokens = len(views.tiles) * 100
        assert torch.allclose(free[:tile_tokens], _stitched(own, views.grid), atol=1e-5)


class TestDecoder:
    def test_greedy_decoding_is_that_of_generate(
        self, model: DeepSeekOcr, prompts: list[Tensor], positions: list[Tensor]
    ) -> None:
        for prompt, position in zip(prompts, positions, strict=True):
            native = model.network.generate(
                inputs_embeds=prompt[None],
                attention_mask=torch.ones(1, len(prompt), dtype=torch.long),
                position_ids=position[None],
                do_sample=False,
                min_new_tokens=24,
                max_new_tokens=24,
                eos_token_id=None,
                pad_token_id=END,
            )
            assert greedy(model, [prompt], [position], 24) == native.tolist()

    def test_a_ragged_batch_answers_as_its_pages_alone(
        self, model: OcrModel, prompts: list[Tensor], positions: list[Tensor]
    ) -> None:
        alone = [greedy(model, [prompts[index]], [positions[index]], 24)[0] for index in (0, 1)]
        assert greedy(model, prompts, positions, 24) == alone
        assert alone[0] != alone[1]

    def test_the_answer_depends_on_positions(
        self, model: OcrModel, prompts: list[Tensor], positions: list[Tensor]
    ) -> None:
        gapped, _ = model.decoder(prompts[1][None], positions[1][None, None])
        plain, _ = model.decoder(prompts[1][None], torch.arange(len(prompts[1]))[None, None])
        assert (gapped - plain).abs().max() > 1e-3
