"""The model families side by side: what the tests know of each, and the way from pictures to an answer."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn
from transformers.models.glm46v.image_processing_pil_glm46v import Glm46VImageProcessorPil
from transformers.models.pixtral.image_processing_pil_pixtral import PixtralImageProcessorPil

from rtprune.engine.decoding import decode
from rtprune.engine.prompts import PromptEmbeddings, assemble_prompt
from rtprune.models import Views
from rtprune.models.deepseek_ocr import DeepSeekOcr
from rtprune.models.deepseek_ocr2 import DeepSeekOcr2
from rtprune.models.family import TransformersOcr, published_state_dict
from rtprune.models.glm_ocr import GlmOcr
from rtprune.models.lighton_ocr import LightOnOcr
from rtprune.models.unlimited_ocr import UnlimitedOcr
from rtprune.models.weights import save_tensors
from rtprune.pruning import PruneConfig, TokenLayout, prune
from tests.checkpoints import END, IMAGE, character_tokenizer, random_config

CHARACTER_TOKENS = character_tokenizer().get_vocab_size()
#: Sharp attention and loud tokens make an answer depend on what it has said.
LOUD = ("model.embed_tokens.weight", "self_attn.q_proj.weight", "self_attn.k_proj.weight")
#: How many tokens the latest of an answer see of it, in the small Unlimited-OCR.
WINDOW = 8
PROCESSORS = {
    LightOnOcr: PixtralImageProcessorPil(patch_size={"height": 28, "width": 28}, size={"longest_edge": 1540}),
    GlmOcr: Glm46VImageProcessorPil(size={"shortest_edge": 12544, "longest_edge": 9633792}),
}


def published(name: str) -> dict[str, Any]:
    """A family's published config.json, less what transformers has no use for."""
    found: dict[str, Any] = json.loads((Path(__file__).parent / "published" / f"{name}.json").read_text())
    return found


def _deepseek_ocr() -> dict[str, Any]:
    return random_config()


def _deepseek_ocr2() -> dict[str, Any]:
    config = random_config() | {"architectures": ["DeepseekOCR2ForCausalLM"]}
    sam = config["vision_config"]["sam_config"]
    sam |= {"num_hidden_layers": 1, "global_attn_indexes": [], "image_size": 1024}
    encoder = config["vision_config"]["encoder_config"]
    encoder |= {"num_hidden_layers": 2, "num_key_value_heads": 1}
    return config


def _unlimited_ocr() -> dict[str, Any]:
    config = random_config() | {"architectures": ["UnlimitedOCRForCausalLM"], "model_type": "unlimited-ocr"}
    config["language_config"] |= {"sliding_window_size": WINDOW}
    config["vision_config"]["sam_config"] |= {"num_hidden_layers": 1, "global_attn_indexes": []}
    return config | {"sliding_window": WINDOW}


_LIGHTON_MARKS = ("<|endoftext|>", "<|im_start|>", "<|im_end|>", "<|image_pad|>")
_LIGHTON_ENDS = (CHARACTER_TOKENS, CHARACTER_TOKENS + 2)


def _lighton_ocr() -> dict[str, Any]:
    config = published("lighton_ocr")
    sizes = {"head_dim": 16, "hidden_size": 32, "intermediate_size": 48}
    sizes |= {"num_attention_heads": 2, "num_hidden_layers": 2}
    config["vision_config"] |= sizes
    config["text_config"] |= sizes | {
        "layer_types": ["full_attention"] * 2,
        "num_key_value_heads": 1,
        "vocab_size": CHARACTER_TOKENS + len(_LIGHTON_MARKS),
    }
    return config | {"image_token_id": CHARACTER_TOKENS + 3, "eos_token_id": _LIGHTON_ENDS[1]}


_GLM_MARKS = (
    *("<|endoftext|>", "[gMASK]", "<sop>", "<|user|>", "<|assistant|>"),
    *("<|begin_of_image|>", "<|end_of_image|>", "<|image|>"),
)
_GLM_ENDS = (CHARACTER_TOKENS, CHARACTER_TOKENS + 3)
_GLM_IMAGE = CHARACTER_TOKENS + len(_GLM_MARKS) - 1


def _glm_ocr() -> dict[str, Any]:
    config = published("glm_ocr")
    sizes = {"hidden_size": 32, "intermediate_size": 48}
    config["vision_config"] |= sizes | {"depth": 2, "num_heads": 2, "out_hidden_size": 32}
    config["text_config"] |= sizes | {
        "eos_token_id": list(_GLM_ENDS),
        "head_dim": 16,
        "num_attention_heads": 2,
        "num_hidden_layers": 2,
        "num_key_value_heads": 1,
        "pad_token_id": _GLM_ENDS[0],
        "vocab_size": CHARACTER_TOKENS + len(_GLM_MARKS),
    }
    config["text_config"]["rope_parameters"]["mrope_section"] = [2, 3, 3]
    return config | {"image_token_id": _GLM_IMAGE}


@dataclass(frozen=True, eq=False)
class Case:
    """What the tests know of a family.

    Attributes:
        name: of its module, and of its published configuration here.
        config: config.json of a small model of it.
        card: modes, the default one, tasks and the default one.
        mode: in which the tests read.
        task: that the tests read for.
        sizes: (width, height) of pages that a small model reads differently.
        image: the token that stands for a picture in the prompts of transformers.
        ends: tokens that end an answer.
        begin: tokens in front of every prompt, which its text does not show.
        prompts: by task, the published prompt, and how many tokens stand in front of the picture and behind it.
        known_as: changes to config.json by which the family calls itself otherwise.
        alike: how near features of one page must be, whatever it is encoded with.
        seed: of a small model's weights; unlike others, it tells the pages of ``sizes`` apart.
        loud: names of tensors that are three times as large as usual.
        marks: tokens behind those of single characters.
        unused_shape: of the tensors in the published file that nothing computes with; empty where it is without them.
        tile_side: of the tiles that a page is cut into, in pixels; none where it is shown in its own shape.
        count: how many tokens are read of a page.
        has_cues: whether it tells how its encoder attends.
    """

    name: str
    family: type[TransformersOcr]
    config: Callable[[], dict[str, Any]]
    card: tuple[tuple[str, ...], str, tuple[str, ...], str]
    mode: str
    task: str
    sizes: tuple[tuple[int, int], ...]
    image: int
    ends: tuple[int, ...]
    prompts: Mapping[str, tuple[str, int, int]]
    known_as: tuple[dict[str, Any], ...]
    begin: tuple[int, ...] = ()
    alike: Mapping[str, float] = field(default_factory=lambda: {"rtol": 1e-4, "atol": 1e-5})
    seed: int = 0
    loud: tuple[str, ...] = ()
    marks: tuple[str, ...] = ()
    unused_shape: tuple[int, ...] = ()
    tile_side: int | None = None
    count: int = 14
    has_cues: bool = False

    def pages(self) -> list[Image.Image]:
        return [picture(seed, *size) for seed, size in enumerate(self.sizes)]

    def inputs(self, model: TransformersOcr, pages: Sequence[Image.Image]) -> dict[str, Any]:
        """The pictures as ``generate`` takes them: as transformers' own processor makes them, where we have it."""
        if self.family in PROCESSORS:
            return dict(PROCESSORS[self.family](list(pages), return_tensors="pt"))
        return as_arguments([model.prepare(page, self.mode) for page in pages])

    def places(self, layout: TokenLayout, kept: Sequence[int]) -> tuple[list[list[int]], int]:
        """Where kept tokens of a picture stand on every axis, counted from its first, and where the prompt goes on."""
        if self.family is not GlmOcr:
            return [list(kept)], layout.length
        columns, rows = layout.grid
        return [[0] * len(kept), [k // columns for k in kept], [k % columns for k in kept]], max(columns, rows)


DEEPSEEK_OCR = Case(
    name="deepseek_ocr",
    family=DeepSeekOcr,
    config=_deepseek_ocr,
    card=(("tiny", "small", "base", "large", "gundam"), "large", ("markdown", "text"), "markdown"),
    mode="tiny",
    task="text",
    sizes=((500, 700), (900, 700), (1300, 500)),
    image=IMAGE,
    ends=(END,),
    begin=(0,),
    prompts={
        "text": ("<image>\nFree OCR.", 1, 10),
        "markdown": ("<image>\n<|grounding|>Convert the document to markdown.", 1, 35),
    },
    seed=2,
    loud=LOUD,
    known_as=({"model_type": "deepseek_vl_v2"}, {"architectures": ["DeepseekOCRForCausalLM"], "model_type": None}),
    unused_shape=(16, 3, 14, 14),
    tile_side=640,
    has_cues=True,
)
DEEPSEEK_OCR2 = Case(
    name="deepseek_ocr2",
    family=DeepSeekOcr2,
    config=_deepseek_ocr2,
    card=(("base", "gundam"), "gundam", ("markdown", "text"), "markdown"),
    mode="gundam",
    task="text",
    sizes=((500, 700), (1600, 768), (700, 2300)),  # without tiles, 2 beside one another, and 3 in a column
    image=IMAGE,
    ends=(END,),
    begin=(0,),
    prompts=DEEPSEEK_OCR.prompts,
    known_as=(
        {"architectures": ["DeepseekOCR2ForCausalLM"], "model_type": "deepseek_vl_v2"},
        {"architectures": ["DeepseekOcr2ForConditionalGeneration"], "model_type": "deepseek_vl_v2"},
        {"architectures": None, "model_type": "deepseek_ocr2"},
    ),
    loud=LOUD,
    tile_side=768,
)
UNLIMITED_OCR = Case(
    name="unlimited_ocr",
    family=UnlimitedOcr,
    config=_unlimited_ocr,
    card=(("base", "gundam"), "gundam", ("markdown",), "markdown"),
    mode="gundam",
    task="markdown",
    sizes=((500, 600), (1300, 650), (600, 1900)),
    image=IMAGE,
    ends=(END,),
    begin=(0,),
    prompts={"markdown": ("<image>document parsing.", 1, 17)},
    known_as=(
        {
            "architectures": ["UnlimitedOcrForConditionalGeneration"],
            "model_type": "UnlimitedOcrForConditionalGeneration",
        },
        {"architectures": None, "model_type": "unlimited-ocr"},
        {"architectures": None, "model_type": "unlimited_ocr"},
    ),
    seed=2,
    loud=LOUD,
    unused_shape=(16, 3, 14, 14),
    tile_side=640,
    count=28,  # several windows
    has_cues=True,
)
LIGHTON_OCR = Case(
    name="lighton_ocr",
    family=LightOnOcr,
    config=_lighton_ocr,
    card=(("native",), "native", ("markdown",), "markdown"),
    mode="native",
    task="markdown",
    sizes=((150, 90), (60, 300), (200, 170)),
    image=CHARACTER_TOKENS + 3,
    ends=_LIGHTON_ENDS,
    prompts={  # a token for each character, and one for each of four and two marks
        "markdown": (
            "<|im_start|>system<|im_end|>\n<|im_start|>user\n<image><|im_end|>\n<|im_start|>assistant\n",
            3 + len("system\nuser\n"),
            2 + len("\nassistant\n"),
        )
    },
    known_as=(
        {"architectures": ["LightOnOcrForConditionalGeneration"], "model_type": "lighton_ocr"},
        {"architectures": ["LightOnOCRForConditionalGeneration"], "model_type": "mistral3"},
    ),
    alike={"rtol": 0, "atol": 0},
    seed=1,
    marks=_LIGHTON_MARKS,
)
GLM_OCR = Case(
    name="glm_ocr",
    family=GlmOcr,
    config=_glm_ocr,
    card=(("native",), "native", ("text",), "text"),
    mode="native",
    task="text",
    sizes=((150, 90), (60, 300), (200, 170)),
    image=_GLM_IMAGE,
    ends=_GLM_ENDS,
    prompts={
        "text": (
            "[gMASK]<sop><|user|>\n<|begin_of_image|><image><|end_of_image|>Text Recognition:<|assistant|>\n",
            4 + len("\n"),
            2 + len("Text Recognition:\n"),
        )
    },
    known_as=(
        {"architectures": ["GlmOcrForConditionalGeneration"], "model_type": None},
        {"architectures": None, "model_type": "glm_ocr"},
    ),
    alike={"rtol": 1e-5, "atol": 1e-5},
    marks=_GLM_MARKS,
    unused_shape=(4,),
)
CASES = (DEEPSEEK_OCR, DEEPSEEK_OCR2, UNLIMITED_OCR, LIGHTON_OCR, GLM_OCR)


def case_name(value: Any) -> str | None:
    """Names a test by its family; other parameters as ever."""
    return value.name if isinstance(value, Case) else None


def write_case(folder: Path, case: Case) -> Path:
    """Write a small model of the family in the published layout, with random weights; returns the folder.

    Weights are drawn with a standard deviation of 1 / sqrt(fan-in), so that answers depend on the picture.
    """
    config = case.config()
    generator = torch.Generator().manual_seed(case.seed)
    tensors = published_state_dict(case.family.network_class(case.family.configuration(config)))
    if case.unused_shape:
        tensors |= {name: torch.zeros(case.unused_shape) for name in case.family.family.unused_tensors}
    for name in sorted(tensors):
        shape = tensors[name].shape
        values = torch.randn(shape, generator=generator) * (3 if name.endswith(case.loud or "/") else 1)
        norm = len(shape) == 1 and name.endswith("weight")
        tensors[name] = 1 + 0.1 * values if norm else values / max(1, shape[1:].numel()) ** 0.5
    tokenizer = character_tokenizer()
    tokenizer.add_special_tokens(list(case.marks))
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.json").write_text(json.dumps(config))
    tokenizer.save(str(folder / "tokenizer.json"))
    save_tensors(tensors, folder / "model.safetensors", torch.bfloat16)
    return folder


def picture(seed: int, width: int, height: int) -> Image.Image:
    """Coloured blocks."""
    values = np.random.default_rng(seed).integers(0, 256, (12, 16, 3), dtype=np.uint8)
    return Image.fromarray(values).resize((width, height), Image.Resampling.BICUBIC)


def full_size(family: type[TransformersOcr], config: Mapping[str, Any]) -> dict[str, tuple[int, ...]]:
    """Names and shapes of a checkpoint's tensors, without their memory."""
    with torch.device("meta"):
        tensors = published_state_dict(family.network_class(family.configuration(config)))
    return {name: tuple(tensor.shape) for name, tensor in tensors.items()}


def safetensors_size(shapes: Mapping[str, tuple[int, ...]], metadata: Mapping[str, str] | None) -> int:
    """Bytes of a safetensors file of bfloat16 tensors sorted by name, as the library writes it without padding."""
    header: dict[str, Any] = {} if metadata is None else {"__metadata__": metadata}
    end = 0
    for name in sorted(shapes):
        start, end = end, end + 2 * int(np.prod(shapes[name]))
        header[name] = {"dtype": "BF16", "shape": shapes[name], "data_offsets": [start, end]}
    return 8 + len(json.dumps(header, separators=(",", ":"))) + end


def as_arguments(views: Sequence[Views]) -> dict[str, Any]:
    """Views as ``generate`` of the DeepSeek families takes them."""
    tiles = [view.tiles for view in views if view.tiles is not None]
    return {
        "pixel_values": torch.stack([view.global_view for view in views]),
        "pixel_values_local": torch.cat(tiles) if tiles else None,
        "num_local_patches": [0 if view.tiles is None else len(view.tiles) for view in views],
        "patches_grid": [view.grid for view in views],
    }


def generate(case: Case, model: TransformersOcr, page: Image.Image, count: int) -> list[int]:
    """Greedy tokens of one picture by transformers' own preparation, as far as it has one, and generation."""
    view = model.prepare(page, case.mode)
    prompt = model.prompt(case.task)
    ids = torch.cat([prompt.before, torch.full((view.layout.length,), case.image), prompt.after])[None]
    inputs = case.inputs(model, [page])
    if case.family is GlmOcr:
        inputs["mm_token_type_ids"] = (ids == case.image).int()
    if case.family is DeepSeekOcr2:
        del inputs["patches_grid"]
    found: Tensor = model.network.generate(
        input_ids=ids,
        attention_mask=torch.ones_like(ids),
        **inputs,
        do_sample=False,
        max_new_tokens=count,
        eos_token_id=list(case.ends),
        pad_token_id=case.ends[0],
    )
    return found[0, ids.shape[1] :].tolist()


def attention_of(model: TransformersOcr) -> list[tuple[nn.Module, Callable[..., Any]]]:
    """The attention layers of a native encoder, each with a forward by which tokens see nothing of each other."""
    if isinstance(model, GlmOcr):
        return [
            (block.attn, lambda hidden_states, **_: hidden_states * 0) for block in model.network.model.visual.blocks
        ]
    layers = model.network.model.vision_encoder.transformer.layers
    return [(layer.attention, lambda hidden_states, **_: (hidden_states * 0, None)) for layer in layers]


@dataclass(frozen=True, eq=False)
class Reader:
    """A small model of a family with pages, their views and features. Tests change it by ``monkeypatch`` only."""

    case: Case
    folder: Path
    model: Any
    pages: list[Image.Image]
    views: list[Views]
    features: list[Tensor]

    def prompts(self, ratio: float | str) -> list[PromptEmbeddings]:
        """Each page's prompt with that share of its visual tokens pruned."""
        return [
            assemble_prompt(
                self.model,
                self.case.task,
                view.layout,
                prune(tokens, view.layout, view.global_view, PruneConfig(ratio=ratio)),
            )
            for view, tokens in zip(self.views, self.features, strict=True)
        ]

    def answers(self, prompts: Sequence[PromptEmbeddings], count: int) -> list[list[int]]:
        """Greedy tokens, at most ``count`` for each, of prompts read as one batch."""
        return [list(found.ids) for found in decode(self.model, prompts, count)]

    def alone(self, prompts: Sequence[PromptEmbeddings], count: int) -> list[list[int]]:
        """As ``answers``, but of each prompt for itself."""
        return [self.answers([prompt], count)[0] for prompt in prompts]


def one_pass(reader: Reader, prompt: PromptEmbeddings, ids: Sequence[int]) -> list[int]:
    """What the decoder answers at each place of a prompt with its answer, all of it in one pass without a cache."""
    model = reader.model
    length = len(prompt.embeddings)
    embeddings = torch.cat([prompt.embeddings, model.embed(torch.tensor(ids[:-1], dtype=torch.long))])
    axes = len(prompt.positions)
    later = torch.arange(prompt.next_position, prompt.next_position + len(ids) - 1).expand(axes, -1)
    positions = torch.cat([prompt.positions, later], dim=1)[:, None]
    mask: Any = torch.ones(1, len(embeddings), dtype=torch.long)
    if reader.case is UNLIMITED_OCR:  # its mask is written out: a token sees the prompt and the latest of the answer
        query, key = torch.arange(len(embeddings))[:, None], torch.arange(len(embeddings))
        seen = (key <= query) & ((key < length) | (key > query - WINDOW))
        mask = {"reference_sliding_attention": seen[None, None]}
    with torch.inference_mode():
        logits: Tensor = model.network(
            inputs_embeds=embeddings[None],
            position_ids=positions if axes > 1 else positions[0],
            attention_mask=mask,
            use_cache=reader.case is not UNLIMITED_OCR,
        ).logits
    return logits[0, length - 1 :].argmax(dim=-1).tolist()
