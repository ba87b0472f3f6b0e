"""DeepSeek-OCR-2 is loaded whole from the published layout and computes what transformers' own model computes."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image, ImageOps
from torch import Tensor
from transformers import DeepseekOcr2ForConditionalGeneration
from transformers.models.deepseek_ocr2.image_processing_pil_deepseek_ocr2 import DeepseekOcr2ImageProcessorPil

from rtprune import attach, detach
from rtprune.engine import Engine
from rtprune.engine.decoding import PromptEmbeddings, assemble_prompt, decode
from rtprune.errors import DocumentError, ModelError, UsageError
from rtprune.models import OcrModel, Views, describe, load_model
from rtprune.models.deepseek_ocr2 import FAMILY, DeepSeekOcr2
from rtprune.models.family import published_state_dict
from rtprune.models.weights import read_tensors, save_tensors
from rtprune.pruning import PruneConfig, TokenKind, prune
from rtprune.settings import ReadSettings
from tests.checkpoints import END, IMAGE, character_tokenizer, random_config

pytestmark = pytest.mark.usefixtures("one_thread")

PUBLISHED_DECODER = {
    "architectures": ["DeepseekV2ForCausalLM"],
    "bos_token_id": 0,
    "eos_token_id": 1,
    "first_k_dense_replace": 1,
    "hidden_size": 1280,
    "intermediate_size": 6848,
    "kv_lora_rank": None,
    "lm_head": True,
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
    "qk_nope_head_dim": 0,
    "qk_rope_head_dim": 0,
    "topk_group": 1,
    "topk_method": "greedy",
    "torch_dtype": "bfloat16",
    "use_mla": False,
    "v_head_dim": 0,
    "vocab_size": 129280,
}
#: The decoder's sizes stand there twice; what is said of SAM's last channels (1024) is not so.
PUBLISHED_CONFIG = {
    "architectures": ["DeepseekOCR2ForCausalLM"],
    "model_type": "deepseek_vl_v2",
    "language_config": PUBLISHED_DECODER,
    "projector_config": {"input_dim": 896, "model_type": "mlp_projector", "n_embed": 1280, "projector_type": "linear"},
    "vision_config": {
        "image_size": 1024,
        "model_name": "deepencoderv2",
        "model_type": "vision",
        "width": {"qwen2-0-5b": {"dim": 896}, "sam_vit_b": {"downsample_channels": [512, 1024], "width": 768}},
    },
    **{name: value for name, value in PUBLISHED_DECODER.items() if name != "architectures"},
}
SIZES = [(500, 700), (900, 700), (700, 2300)]  # without tiles, 3 x 2 tiles ... and three in a column
NEW_TOKENS = 16
#: Sharp attention and loud tokens make an answer depend on what it has said.
LOUD = ("model.embed_tokens.weight", "self_attn.q_proj.weight", "self_attn.k_proj.weight")


def small_config() -> dict[str, Any]:
    config = random_config() | {"architectures": ["DeepseekOCR2ForCausalLM"]}
    config["vision_config"] = {
        "sam_config": {
            "hidden_size": 16,
            "num_hidden_layers": 1,
            "num_attention_heads": 2,
            "mlp_dim": 32,
            "output_channels": 8,
            "downsample_channels": [8, 16],
            "global_attn_indexes": [],
            "image_size": 1024,
        },
        "encoder_config": {
            "hidden_size": 16,
            "intermediate_size": 32,
            "num_hidden_layers": 2,
            "num_attention_heads": 2,
            "num_key_value_heads": 1,
        },
    }
    return config


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Random weights scaled so that outputs depend on the picture, under their published names."""
    folder = tmp_path_factory.mktemp("checkpoint")
    config = small_config()
    generator = torch.Generator().manual_seed(0)
    tensors = published_state_dict(DeepseekOcr2ForConditionalGeneration(DeepSeekOcr2.configuration(config)))
    for name in sorted(tensors):
        shape = tensors[name].shape
        values = torch.randn(shape, generator=generator)
        norm = len(shape) == 1 and name.endswith("weight")
        loudness = 3 if name.endswith(LOUD) else 1
        tensors[name] = 1 + 0.1 * values if norm else values * loudness / max(1, shape[1:].numel()) ** 0.5
    (folder / "config.json").write_text(json.dumps(config))
    character_tokenizer().save(str(folder / "tokenizer.json"))
    save_tensors(tensors, folder / "model.safetensors", torch.bfloat16)
    return folder


@pytest.fixture(scope="module")
def model(checkpoint: Path) -> DeepSeekOcr2:
    loaded = load_model(str(checkpoint), device="cpu")
    assert isinstance(loaded, DeepSeekOcr2)
    return loaded


def picture(seed: int, width: int, height: int) -> Image.Image:
    values = np.random.default_rng(seed).integers(0, 256, (12, 16, 3), dtype=np.uint8)
    return Image.fromarray(values).resize((width, height), Image.Resampling.BICUBIC)


@pytest.fixture(scope="module")
def views(model: DeepSeekOcr2) -> list[Views]:
    return [model.prepare(picture(seed, *size), "gundam") for seed, size in enumerate(SIZES)]


@pytest.fixture(scope="module")
def features(model: DeepSeekOcr2, views: list[Views]) -> list[Tensor]:
    return model.encode(views)


def prompts(
    model: DeepSeekOcr2, views: list[Views], features: list[Tensor], ratio: float | str = 0.0
) -> list[PromptEmbeddings]:
    return [
        assemble_prompt(
            model, "text", view.layout, prune(tokens, view.layout, view.global_view, PruneConfig(ratio=ratio))
        )
        for view, tokens in zip(views, features, strict=True)
    ]


def own_generate(model: DeepSeekOcr2, views: list[Views]) -> list[list[int]]:
    """What `generate` of the model itself answers to pictures, as one left-padded batch."""
    prompt = model.prompt("text")
    ids = [torch.cat([prompt.before, torch.full((view.layout.length,), IMAGE), prompt.after]) for view in views]
    longest = max(map(len, ids))
    tiles = [view.tiles for view in views if view.tiles is not None]
    generated = model.network.generate(
        input_ids=torch.stack([torch.nn.functional.pad(row, (longest - len(row), 0), value=END) for row in ids]),
        attention_mask=torch.stack([(torch.arange(longest) >= longest - len(row)).long() for row in ids]),
        pixel_values=torch.stack([view.global_view for view in views]),
        pixel_values_local=torch.cat(tiles) if tiles else None,
        num_local_patches=[0 if view.tiles is None else len(view.tiles) for view in views],
        do_sample=False,
        max_new_tokens=NEW_TOKENS,
        eos_token_id=END,
        pad_token_id=END,
    )
    answers = [row[longest:].tolist() for row in generated]
    return [answer[: answer.index(END) + 1] if END in answer else answer for answer in answers]


class TestLayout:
    def test_the_full_size_model_has_the_published_names_and_no_others(self) -> None:
        """The published index is known by its length in characters and by its parts; see `published_names`."""
        with torch.device("meta"):
            ours = published_state_dict(
                DeepseekOcr2ForConditionalGeneration(DeepSeekOcr2.configuration(PUBLISHED_CONFIG))
            )
        assert set(ours) == published_names()
        index = {
            "metadata": {"total_size": 6779249408},
            "weight_map": dict.fromkeys(published_names(), "model-00001-of-000001.safetensors"),
        }
        assert len(json.dumps(index, indent=2)) == 247401
        assert not FAMILY.unused_tensors
        assert ours["model.sam_model.net_3.weight"].shape == (896, 512, 3, 3)
        assert ours["model.projector.layers.weight"].shape == (1280, 896)
        assert ours["model.qwen2_model.query_768.weight"].shape == (144, 896)
        assert ours["model.qwen2_model.query_1024.weight"].shape == (256, 896)
        assert ours["model.qwen2_model.model.model.layers.0.self_attn.k_proj.weight"].shape == (128, 896)
        assert ours["model.layers.1.mlp.shared_experts.up_proj.weight"].shape == (1792, 1280)

    def test_what_the_published_file_leaves_open_is_as_in_its_code(self) -> None:
        config = DeepSeekOcr2.configuration(PUBLISHED_CONFIG)
        text, encoder = config.text_config, config.vision_config.encoder_config
        assert text.mlp_layer_types == ["dense", *["sparse"] * 11]
        assert (text.bos_token_id, text.eos_token_id, config.image_token_id) == (0, 1, 128815)
        assert (text.rope_parameters["rope_theta"], text.rms_norm_eps, text.head_dim) == (10000, 1e-6, 128)
        assert (encoder.rope_parameters["rope_theta"], encoder.rms_norm_eps) == (1e6, 1e-6)
        assert (encoder.num_hidden_layers, encoder.num_attention_heads, encoder.intermediate_size) == (24, 14, 4864)
        assert config.vision_config.sam_config.global_attn_indexes == (2, 5, 8, 11)

    def test_every_tensor_of_a_checkpoint_arrives_unchanged(self, checkpoint: Path, model: DeepSeekOcr2) -> None:
        written = read_tensors(checkpoint)
        loaded = published_state_dict(model.network)
        assert loaded.keys() == written.keys()
        for name, tensor in loaded.items():
            assert torch.equal(tensor, written[name].float()), name

    def test_transformers_own_configuration_is_read_as_well(self) -> None:
        config = DeepSeekOcr2.configuration(small_config())
        again = DeepSeekOcr2.configuration(json.loads(config.to_json_string()))
        assert again.text_config.to_dict() == config.text_config.to_dict()
        assert again.vision_config.to_dict() == config.vision_config.to_dict()
        assert again.image_token_id == IMAGE

    @pytest.mark.parametrize(
        "name", ["DeepseekOCR2ForCausalLM", "DeepseekOcr2ForConditionalGeneration", "deepseek_ocr2"]
    )
    def test_a_folder_is_known_by_each_of_its_names(self, checkpoint: Path, tmp_path: Path, name: str) -> None:
        folder = Path(shutil.copytree(checkpoint, tmp_path / "copy"))
        named = {"architectures": [name], "model_type": "deepseek_vl_v2"} if name[0] == "D" else {"model_type": name}
        config = {key: value for key, value in small_config().items() if key != "architectures"}
        (folder / "config.json").write_text(json.dumps(config | named))
        card = describe(str(folder))
        assert (card.modes, card.default_mode) == (("base", "gundam"), "gundam")
        assert (card.tasks, card.default_task) == (("markdown", "text"), "markdown")

    @pytest.mark.parametrize(
        ("part", "change", "named"),
        [
            ("language_config", {"use_mla": True}, "use_mla = True"),
            ("language_config", {"norm_topk_prob": True}, "norm_topk_prob = True"),
            ("language_config", {"hidden_size": "wide"}, "hidden_size"),
            ("vision_config", {"sam_config": {"patch_size": 8}}, "patch_size must be 16"),
            ("vision_config", {"encoder_config": {"hidden_size": 32, "num_attention_heads": 2}}, "must end in"),
        ],
    )
    def test_another_architecture_is_refused(self, part: str, change: dict[str, Any], named: str) -> None:
        config = small_config()
        config[part] |= change
        with pytest.raises(ModelError, match=named):
            DeepSeekOcr2.configuration(config)

    @pytest.mark.parametrize("language", [None, {}, []])
    def test_a_configuration_without_a_decoder_is_refused(self, language: Any) -> None:
        with pytest.raises(ModelError, match=r"config\.json"):
            DeepSeekOcr2.configuration({"language_config": language})


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


class TestBrokenFolders:
    @pytest.mark.parametrize(
        ("name", "tensor", "named"),
        [
            ("model.qwen2_model.query_768.weight", None, r"1 tensors missing: model\.qwen2_model\.query_768\.weight"),
            ("model.layers.1.mlp.experts.3.up_proj.weight", None, r"1 tensors missing: model\.layers\.1\.mlp"),
            ("model.image_newline", torch.zeros(32), r"1 tensors unexpected: model\.image_newline"),
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
            ((768, 768), (1, 1), 257),  # no larger than a tile: not cut
            ((769, 10), (6, 1), 257 + 6 * 144),  # wider than any grid: the widest
            ((10, 769), (1, 6), 257 + 6 * 144),
            ((1000, 1414), (2, 3), 257 + 6 * 144),  # 0.707 lies nearest 2/3
            ((800, 800), (2, 2), 257 + 4 * 144),
            ((1600, 768), (2, 1), 257 + 2 * 144),
        ],
    )
    def test_tiles_and_tokens_follow_the_shape(
        self, model: OcrModel, size: tuple[int, int], grid: tuple[int, int], length: int
    ) -> None:
        views = model.prepare(Image.new("RGB", size, "white"), "gundam")
        assert views.grid == grid
        assert (0 if views.tiles is None else len(views.tiles)) == (grid[0] * grid[1] if length > 257 else 0)
        assert views.tiles is None or views.tiles.shape[1:] == (3, 768, 768)
        assert views.layout.length == length
        assert views.layout.kinds[:-1].unique().tolist() == [TokenKind.FREE]
        assert views.layout.kinds[-1] == TokenKind.SEPARATOR
        assert not views.layout.spatial
        assert views.global_view.shape == views.layout.view_shape == (3, 1024, 1024)

    @pytest.mark.parametrize("size", [(500, 700), (1234, 1000), (900, 2000), (3001, 1203)])
    def test_views_are_those_of_the_published_preparation(self, model: OcrModel, size: tuple[int, int]) -> None:
        """`ImageOps.pad` makes the global view there, and transformers' own processor the same tiles."""
        page = picture(1, *size)
        views = model.prepare(page, "gundam")
        padded = np.asarray(ImageOps.pad(page, (1024, 1024), color=(127, 127, 127)), dtype=np.float32)
        assert np.array_equal(np.round((views.global_view.numpy().transpose(1, 2, 0) + 1) * 127.5), padded)
        given = DeepseekOcr2ImageProcessorPil()(images=page, return_tensors="pt")
        tiles = views.tiles if views.tiles is not None else torch.zeros(0)
        assert given["num_local_patches"].tolist() == [len(tiles)]
        if len(tiles):
            torch.testing.assert_close(given["pixel_values_local"].float(), tiles, rtol=0, atol=1e-6)
        if all(margin % 2 == 0 for margin in views.content_box[:2]) and (1024 - min(views.content_box[2:])) % 2 == 0:
            # an odd margin is split otherwise there than in the published preparation
            torch.testing.assert_close(given["pixel_values"][0].float(), views.global_view, rtol=0, atol=1e-6)

    def test_base_is_the_global_view_alone(self, model: OcrModel) -> None:
        page = picture(0, 2000, 1500)
        base, gundam = model.prepare(page, "base"), model.prepare(page, "gundam")
        assert base.tiles is None
        assert base.layout.length == 257
        assert torch.equal(base.global_view, gundam.global_view)
        with pytest.raises(UsageError, match=r"no mode 'large' \(it has: base, gundam\)"):
            model.prepare(page, "large")

    @pytest.mark.parametrize("size", [(1, 1), (3, 900), (5000, 5), (4000, 4000)])
    def test_odd_pictures_are_shown_whole(self, model: OcrModel, size: tuple[int, int]) -> None:
        views = model.prepare(Image.new("RGB", size, "white"), "gundam")
        assert views.global_view.isfinite().all()
        assert views.picture_size == size

    @pytest.mark.parametrize(("size", "kind"), [((9000, 1), "too-thin"), ((0, 5), "empty-picture")])
    def test_pictures_that_cannot_be_shown_are_the_documents_fault(
        self, model: OcrModel, size: tuple[int, int], kind: str
    ) -> None:
        with pytest.raises(DocumentError) as caught:
            model.prepare(Image.new("RGB", size), "gundam")
        assert caught.value.kind == kind


class TestEncode:
    def test_pictures_are_encoded_together_as_one_by_one(
        self, model: DeepSeekOcr2, views: list[Views], features: list[Tensor]
    ) -> None:
        assert [tokens.shape for tokens in features] == [(view.layout.length, model.hidden_size) for view in views]
        for view, tokens in zip(views, features, strict=True):
            torch.testing.assert_close(tokens, model.encode([view])[0], rtol=1e-4, atol=1e-5)
        assert model.encode([]) == []

    def test_a_batch_too_large_for_memory_is_encoded_in_parts(
        self, model: DeepSeekOcr2, views: list[Views], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        assert model._batches(views) == [[0, 1, 2]]
        monkeypatch.setattr("rtprune.models.deepseek_ocr2._ATTENTION_BYTES", 2 * 4 * (64**4 + 6 * 48**4))
        assert model._batches(views) == [[0], [1], [2]]

    def test_tiles_come_first_one_after_the_other_and_the_separator_last(
        self, model: DeepSeekOcr2, views: list[Views], features: list[Tensor]
    ) -> None:
        view, tokens = views[1], features[1]
        assert view.tiles is not None
        tiles = view.tiles.clone()
        tiles[1] = -tiles[1]
        changed = model.encode([Views(**(vars(view) | {"tiles": tiles}))])[0]
        moved = ((tokens - changed).abs().amax(dim=1) > 1e-6).nonzero().flatten().tolist()
        assert moved == list(range(144, 288))
        separator = model.network.model.view_separator
        assert (tokens == separator).all(dim=1).nonzero().flatten().tolist() == [view.layout.length - 1]


class TestAnswers:
    def test_unpruned_answers_are_those_of_the_models_own_generate(
        self, model: DeepSeekOcr2, views: list[Views], features: list[Tensor]
    ) -> None:
        wanted = [own_generate(model, [view])[0] for view in views]
        assert len({tuple(answer) for answer in wanted}) == len(wanted), "the test needs pages that read differently"
        assert all(len(set(answer)) > 3 for answer in wanted), "the test needs answers that do not repeat one token"
        given = prompts(model, views, features)
        assert [list(decode(model, [prompt], NEW_TOKENS)[0].ids) for prompt in given] == wanted
        assert [list(answer.ids) for answer in decode(model, given, NEW_TOKENS)] == wanted
        assert own_generate(model, views) == wanted

    @pytest.mark.parametrize("ratio", [0.4, "dynamic"])
    def test_pruned_pages_read_the_same_in_any_company(
        self, model: DeepSeekOcr2, views: list[Views], features: list[Tensor], ratio: float | str
    ) -> None:
        given = prompts(model, views, features, ratio)
        alone = [decode(model, [prompt], NEW_TOKENS)[0].ids for prompt in given]
        assert [answer.ids for answer in decode(model, given, NEW_TOKENS)] == alone

    def test_the_decoder_sees_what_survives_at_its_unpruned_positions(
        self, model: DeepSeekOcr2, views: list[Views], features: list[Tensor]
    ) -> None:
        layout = views[1].layout
        pruned = prune(features[1], layout, config=PruneConfig(ratio=0.4))
        prompt = assemble_prompt(model, "text", layout, pruned)
        task = model.prompt("text")
        before, behind = len(task.before), len(task.after)
        kept = layout.length - layout.free_count + int(layout.free_count * 0.6)
        assert len(pruned.positions) == kept
        assert pruned.positions[-1] == layout.length - 1, "the separator stays"
        visual = [before + position for position in pruned.positions.tolist()]
        end = before + layout.length
        assert prompt.positions.tolist() == [[*range(before), *visual, *range(end, end + behind)]]
        assert prompt.next_position == end + behind
        assert torch.equal(prompt.embeddings[before : before + kept], pruned.features)

    def test_the_arguments_of_generate_tell_the_layouts(self, model: DeepSeekOcr2, views: list[Views]) -> None:
        tiles = [view.tiles for view in views if view.tiles is not None]
        given = {
            "pixel_values": torch.stack([view.global_view for view in views]),
            "pixel_values_local": torch.cat(tiles),
            "num_local_patches": [0 if view.tiles is None else len(view.tiles) for view in views],
        }
        found = model.images_of(model.network, given)
        assert [layout for layout, _ in found] == [view.layout for view in views]
        assert all(torch.equal(shown, view.global_view) for (_, shown), view in zip(found, views, strict=True))
        plain = model.images_of(model.network, {"pixel_values": views[0].global_view[None]})
        assert plain[0][0] == views[0].layout

    def test_transformers_generation_prunes_alike_once_attached(
        self, model: DeepSeekOcr2, views: list[Views], features: list[Tensor]
    ) -> None:
        attach(model.network, PruneConfig(ratio=0.5))
        try:
            found = own_generate(model, views)
        finally:
            detach(model.network)
        wanted = decode(model, prompts(model, views, features, 0.5), NEW_TOKENS)
        assert found == [list(answer.ids) for answer in wanted]

    def test_no_attention_of_a_class_token_is_told(self, model: DeepSeekOcr2, views: list[Views]) -> None:
        with pytest.raises(UsageError, match="DeepSeek-OCR-2"):
            model.attention_cues(views[0])

    def test_a_page_is_read_whole_by_the_engine(self, model: DeepSeekOcr2) -> None:
        pages = [picture(seed, *size) for seed, size in enumerate(SIZES[:2])]
        off, nothing, dynamic = (
            Engine(model, ReadSettings(prune=prune, task="text", max_output_tokens=NEW_TOKENS)).read(pages)
            for prune in ("off", 0.0, "dynamic")
        )
        views = [model.prepare(page, "gundam") for page in pages]
        for view, one, other, pruned in zip(views, off, nothing, dynamic, strict=True):
            assert one.text == other.text == model.parse(model.detokenize(own_generate(model, [view])[0])).text
            assert one.facts is not None
            assert pruned.facts is not None
            assert pruned.facts.tokens_after < one.facts.tokens_after == view.layout.length

    def test_prompts_are_the_published_ones(self, model: DeepSeekOcr2) -> None:
        markdown = model.prompt("markdown")
        assert markdown.before.tolist() == [0]
        assert model.detokenize(markdown.after.tolist()) == "\n<|grounding|>Convert the document to markdown."
        assert model.detokenize(model.prompt("text").after.tolist()) == "\nFree OCR."

    def test_answers_are_grounded_as_deepseek_ocrs(self, model: DeepSeekOcr2) -> None:
        parsed = model.parse("<|ref|>title<|/ref|><|det|>[[330, 198, 558, 230]]<|/det|>\n# Form")
        assert parsed.text == "# Form"
        assert parsed.regions[0].box == (330, 198, 558, 230)
