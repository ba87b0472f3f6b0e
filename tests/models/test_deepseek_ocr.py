"""What is DeepSeek-OCR's own: its folders, its modes and tasks, its encoder's order, and steps with gaps."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from rtprune.errors import ModelError, UsageError
from rtprune.models import OcrModel, Views, describe, load_model
from rtprune.models.deepseek_ocr import DeepSeekOcr, _stitched
from rtprune.models.weights import read_tensors, save_tensors
from tests.checkpoints import END, IMAGE, character_tokenizer, random_config, write_random_checkpoint
from tests.models.families import picture, published
from tests.models.networks import greedy

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(scope="module")
def model(random_checkpoint: Path) -> OcrModel:
    return load_model(str(random_checkpoint), device="cpu")


def test_full_attention_and_special_ids_come_from_the_configuration() -> None:
    config = DeepSeekOcr.configuration(published("deepseek_ocr"))
    assert config.text_config.layer_types == ["full_attention"] * 12
    assert config.text_config.mlp_layer_types == ["dense", *["sparse"] * 11]
    assert config.image_token_id == 128815
    assert (config.text_config.bos_token_id, config.text_config.eos_token_id) == (0, 1)
    assert (config.vision_config.sam_config.image_size, config.vision_config.encoder_config.image_size) == (1024, 224)
    small = DeepSeekOcr.configuration(random_config())
    assert small.image_token_id == IMAGE
    assert small.vision_config.sam_config.image_size == 512


class TestBrokenFolders:
    @pytest.fixture
    def folder(self, random_checkpoint: Path, tmp_path: Path) -> Path:
        return Path(shutil.copytree(random_checkpoint, tmp_path / "copy"))

    def test_missing_tensors_are_counted_and_named(self, folder: Path) -> None:
        tensors = {name: tensor.clone() for name, tensor in read_tensors(folder).items()}
        del tensors["lm_head.weight"], tensors["model.norm.weight"]
        save_tensors(tensors, folder / "model.safetensors", torch.bfloat16)
        with pytest.raises(ModelError, match=r"2 tensors missing: lm_head\.weight, model\.norm\.weight"):
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
    def test_a_model_trained_for_less_says_so(self, tmp_path: Path) -> None:
        folder = write_random_checkpoint(tmp_path, config=random_config(modes=["tiny", "small"], tasks=["text"]))
        model = load_model(str(folder))
        assert (model.modes, model.default_mode) == (("tiny", "small"), "tiny")
        assert (model.tasks, model.default_task) == (("text",), "text")
        with pytest.raises(UsageError, match=r"no mode 'large' \(it has: tiny, small\)"):
            model.prepare(picture(0, 600, 800), "large")
        with pytest.raises(UsageError, match=r"no task 'markdown' \(it has: text\)"):
            model.prompt("markdown")

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

    def test_marks_of_table_cells_may_repeat(self, model: DeepSeekOcr) -> None:
        assert model.repeatable_token_ids == frozenset()
        tokenizer = character_tokenizer()
        tokenizer.add_tokens(["<td>", "</td>"])
        with_cells = DeepSeekOcr(model.network, tokenizer, name="", revision="")
        assert with_cells.repeatable_token_ids == {105, 106}


class TestEncode:
    def test_pictures_of_all_modes_are_encoded_together_as_one_by_one(self, model: OcrModel) -> None:
        views = [model.prepare(picture(seed, 700, 1400), mode) for seed, mode in enumerate(["tiny", "gundam", "small"])]
        views.append(model.prepare(picture(8, 600, 800), "tiny"))
        views.append(model.prepare(picture(9, 600, 500), "gundam"))  # small enough to have no tiles
        together = model.encode(views)
        assert [tokens.shape for tokens in together] == [(view.layout.length, model.hidden_size) for view in views]
        for view, tokens in zip(views, together, strict=True):
            torch.testing.assert_close(tokens, model.encode([view])[0], rtol=1e-4, atol=1e-5)

    def test_a_batch_too_large_for_memory_is_encoded_in_parts(
        self, model: OcrModel, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        views = [model.prepare(picture(seed, 600, 800), "tiny") for seed in range(3)]
        whole = model.encode(views)
        monkeypatch.setattr("rtprune.models.deepseek_ocr._ATTENTION_BYTES", 1)
        for tokens, expected in zip(model.encode(views), whole, strict=True):
            torch.testing.assert_close(tokens, expected, rtol=1e-4, atol=1e-5)

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
        changed = Views(**(vars(view) | {"tile_pixels": changed_tiles}))
        moved = (model.encode([view])[0] - model.encode([changed])[0]).abs().amax(dim=1) > 1e-6
        stitched = moved[: 30 * 21].reshape(30, 21)
        expected = torch.zeros(30, 21, dtype=torch.bool)
        expected[10:20, 10:20] = True
        assert torch.equal(stitched, expected)
        assert not moved[30 * 21 :].any()


@pytest.fixture(scope="module")
def prompts(model: OcrModel) -> list[Tensor]:
    views = [model.prepare(picture(seed, 600, 800), mode) for seed, mode in ((3, "tiny"), (4, "small"))]
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
        views = model.prepare(picture(0, 600, 800), "tiny")
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
