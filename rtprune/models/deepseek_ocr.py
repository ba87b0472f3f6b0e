"""DeepSeek-OCR: SAM and CLIP encoders in front of a mixture-of-experts decoder, by transformers' own classes.

The published checkpoint's layout is read natively (`UnlimitedOcrForConditionalGeneration` is the same architecture):
no code that came with a checkpoint is ever run.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
import transformers
from huggingface_hub.errors import StrictDataclassError
from PIL.Image import Image
from tokenizers import Tokenizer
from torch import Tensor
from transformers import UnlimitedOcrConfig, UnlimitedOcrForConditionalGeneration, UnlimitedOcrTextConfig
from transformers.core_model_loading import revert_weight_conversion

from rtprune.errors import ModelError, UsageError
from rtprune.models import preparation
from rtprune.models.answers import parse_grounded
from rtprune.models.checkpoint import Checkpoint
from rtprune.models.protocol import Answer, ModelCard, Prompt, Views
from rtprune.models.weights import fingerprint, read_shapes, read_tensors, require_fit

#: What follows the visual tokens, by task.
TASKS = {
    "markdown": "\n<|grounding|>Convert the document to markdown.",
    "text": "\nFree OCR.",
}
#: In the published file but in no computation: CLIP is fed with SAM's map instead of patches.
UNUSED_TENSORS = frozenset({"model.vision_model.embeddings.patch_embedding.weight"})

_DEFAULT_MODE = "large"
_IMAGE_TOKEN_ID = 128815
_ATTENTION_BYTES = 2 * 2**30
#: What a `language_config` may say beside the decoder's sizes, and the only value that this architecture has.
_FIXED = {
    "use_mla": False,
    "scoring_func": "softmax",
    "norm_topk_prob": False,
    "topk_method": "greedy",
    "kv_lora_rank": None,
    "q_lora_rank": None,
    "attention_bias": False,
    "tie_word_embeddings": False,
    "moe_layer_freq": 1,
    "sliding_window": None,
}


def configuration(config: Mapping[str, Any]) -> UnlimitedOcrConfig:
    """transformers' configuration of a checkpoint's ``config.json``.

    ``language_config`` has the decoder's sizes. ``vision_config`` has the encoders' as ``sam_config`` and
    ``encoder_config`` (fields of `UnlimitedOcrSamVisionConfig` and `UnlimitedOcrVisionEncoderConfig`); the published
    file describes them otherwise there and means the full sizes, which are the defaults.

    Raises:
        ModelError: the configuration lacks the decoder's sizes or describes another architecture.
    """
    language = config.get("language_config")
    if not isinstance(language, Mapping) or "num_hidden_layers" not in language:
        raise ModelError("config.json has no language_config with num_hidden_layers", "this is no DeepSeek-OCR folder")
    for key, value in _FIXED.items():
        asked = language.get(key, config.get(key, value))
        if asked != value:
            raise ModelError(
                f"config.json asks for {key} = {asked!r} where DeepSeek-OCR has {value!r}",
                "this checkpoint is of another architecture",
            )
    sizes = {field.name for field in dataclasses.fields(UnlimitedOcrTextConfig)} | {
        "first_k_dense_replace",
        "rope_theta",
        "rope_scaling",
    }
    text = {key: value for key, value in language.items() if key in sizes - _FIXED.keys()}
    vision = config.get("vision_config") or {}
    try:
        return UnlimitedOcrConfig(
            # the class's own default, a sliding window, diverges from this model after 128 tokens
            text_config=text | {"layer_types": ["full_attention"] * language["num_hidden_layers"]},
            vision_config={key: dict(vision[key]) for key in ("sam_config", "encoder_config") if key in vision},
            image_token_id=config.get("image_token_id", _IMAGE_TOKEN_ID),
            tie_word_embeddings=False,
        )
    except (TypeError, ValueError, StrictDataclassError) as error:
        cause = " ".join(str(error).split())
        raise ModelError(f"config.json does not describe a DeepSeek-OCR model: {cause}") from error


def published_state_dict(model: UnlimitedOcrForConditionalGeneration) -> dict[str, Tensor]:
    """The model's tensors under the names of the published checkpoint (less `UNUSED_TENSORS`)."""
    tensors: dict[str, Tensor] = revert_weight_conversion(model, model.state_dict())
    return tensors


def describe(checkpoint: Checkpoint) -> ModelCard:
    """What a checkpoint folder can be asked for. Raises `ModelError` where it is none."""
    trained_for = checkpoint.config.get("rtprune", {})
    if not isinstance(trained_for, Mapping):
        raise ModelError(f'{checkpoint.folder / "config.json"}: "rtprune" must be an object with modes and tasks')
    modes = _known(checkpoint, "modes", trained_for, tuple(preparation.MODES))
    tasks = _known(checkpoint, "tasks", trained_for, tuple(TASKS))
    shapes = read_shapes(checkpoint.folder)
    parameters = sum(math.prod(shape) for name, shape in shapes.items() if name not in UNUSED_TENSORS)
    revision = fingerprint(checkpoint.folder)
    return ModelCard(checkpoint.name, revision, parameters, modes, _default_mode(modes), tasks, tasks[0])


def load(checkpoint: Checkpoint, device: torch.device, dtype: torch.dtype) -> DeepSeekOcr:
    """Load a checkpoint folder. Raises `ModelError` where a file is missing or does not fit the others."""
    network = _load_network(checkpoint, dtype).to(device)
    tokenizer = _load_tokenizer(checkpoint, network.config.text_config.vocab_size)
    card = describe(checkpoint)
    return DeepSeekOcr(network, tokenizer, name=card.name, revision=card.revision, modes=card.modes, tasks=card.tasks)


class DeepSeekOcr:
    """A DeepSeek-OCR model in memory; fulfils `rtprune.models.protocol.OcrModel`.

    Args:
        network: transformers' model, on its device and in the type it computes in.
        modes: view sizes it was trained for; "large" is the default where it is among them, else the first.
        tasks: what it can be asked for; the first is the default.
    """

    def __init__(
        self,
        network: UnlimitedOcrForConditionalGeneration,
        tokenizer: Tokenizer,
        *,
        name: str,
        revision: str,
        modes: tuple[str, ...] = tuple(preparation.MODES),
        tasks: tuple[str, ...] = tuple(TASKS),
    ) -> None:
        text = network.config.text_config
        self.network = network.eval()
        self.name = name
        self.revision = revision
        self.device: torch.device = network.device
        self.dtype: torch.dtype = network.dtype
        self.begin_token_id: int = text.bos_token_id
        self.end_token_id: int = text.eos_token_id
        self.hidden_size: int = text.hidden_size
        self.modes = modes
        self.default_mode = _default_mode(modes)
        self.tasks = tasks
        self.default_task = tasks[0]
        self._tokenizer = tokenizer
        cell_marks = (tokenizer.token_to_id(mark) for mark in ("<td>", "</td>"))
        self.repeatable_token_ids = frozenset(id for id in cell_marks if id is not None)

    def prepare(self, picture: Image, mode: str) -> Views:
        self._require("mode", mode, self.modes)
        return preparation.prepare(picture, mode)

    @torch.inference_mode()
    def encode(self, views: Sequence[Views]) -> list[Tensor]:
        features: list[Tensor | None] = [None] * len(views)
        for group in self._batches(views):
            for index, found in zip(group, self._encode_alike([views[index] for index in group]), strict=True):
                features[index] = found
        return [found for found in features if found is not None]

    def prompt(self, task: str) -> Prompt:
        self._require("task", task, self.tasks)
        after = self._tokenizer.encode(TASKS[task], add_special_tokens=False).ids
        return Prompt(torch.tensor([self.begin_token_id]), torch.tensor(after, dtype=torch.long))

    @torch.inference_mode()
    def embed(self, ids: Tensor) -> Tensor:
        embedded: Tensor = self.network.get_input_embeddings()(ids.to(self.device))
        return embedded

    @torch.inference_mode()
    def decoder(
        self,
        inputs_embeds: Tensor,
        position_ids: Tensor,
        attention_mask: Tensor | None = None,
        past_key_values: Any = None,
    ) -> tuple[Tensor, Any]:
        # the cache is not only for speed: without one, gaps in position_ids are taken for borders between sequences
        output = self.network(
            inputs_embeds=inputs_embeds,
            position_ids=position_ids,
            attention_mask=attention_mask,
            past_key_values=past_key_values,
            use_cache=True,
            logits_to_keep=1,
        )
        return output.logits, output.past_key_values

    def detokenize(self, ids: Sequence[int]) -> str:
        kept = [id for id in ids if id != self.end_token_id]
        text: str = self._tokenizer.decode(kept, skip_special_tokens=False)
        return text

    def parse(self, answer: str) -> Answer:
        return parse_grounded(answer)

    def _encode_alike(self, views: Sequence[Views]) -> list[Tensor]:
        """Visual tokens of pictures whose global views are of one size."""
        tiles = [view.tiles for view in views if view.tiles is not None]
        output = self.network.get_image_features(
            pixel_values=torch.stack([view.global_view for view in views]).to(self.device, self.dtype),
            pixel_values_local=torch.cat(tiles).to(self.device, self.dtype) if tiles else None,
            num_local_patches=[0 if view.tiles is None else len(view.tiles) for view in views],
            patches_grid=[view.grid for view in views],
        )
        features: list[Tensor] = output.pooler_output
        return features

    def _batches(self, views: Sequence[Views]) -> list[list[int]]:
        """Indices of views that go through the encoder together: of one size, and no more than memory bears.

        SAM's global attention holds a float per head and pair of 16-pixel patches; that bounds a batch.
        """
        heads = self.network.config.vision_config.sam_config.num_attention_heads
        batches: list[list[int]] = []
        latest: dict[int, tuple[list[int], int]] = {}
        for index, view in enumerate(views):
            side = view.global_view.shape[-1]
            tile_count = 0 if view.tiles is None else len(view.tiles)
            pairs = (side // 16) ** 4 + tile_count * (preparation.TILE_SIDE // 16) ** 4
            cost = pairs * heads * self.dtype.itemsize
            batch, spent = latest.get(side, ([], 0))
            if not batch or spent + cost > _ATTENTION_BYTES:
                batch, spent = [], 0
                batches.append(batch)
            batch.append(index)
            latest[side] = batch, spent + cost
        return batches

    def _require(self, what: str, value: str, valid: tuple[str, ...]) -> None:
        if value not in valid:
            raise UsageError(f"model {self.name!r} has no {what} {value!r}", f"it has: {', '.join(valid)}")


def _load_network(checkpoint: Checkpoint, dtype: torch.dtype) -> UnlimitedOcrForConditionalGeneration:
    config = configuration(checkpoint.config)
    if config.vision_config.sam_config.patch_size * 4 != preparation.PIXELS_PER_TOKEN:
        raise ModelError(f"{checkpoint.folder}: sam_config.patch_size must be {preparation.PIXELS_PER_TOKEN // 4}")
    with torch.device("meta"):
        needed = published_state_dict(UnlimitedOcrForConditionalGeneration(config))
    shapes = {name: tuple(tensor.shape) for name, tensor in needed.items()}
    require_fit(checkpoint.folder, read_shapes(checkpoint.folder), shapes, UNUSED_TENSORS)
    with _no_progress_bar():
        model, report = UnlimitedOcrForConditionalGeneration.from_pretrained(
            None, config=config, state_dict=read_tensors(checkpoint.folder), dtype=dtype, output_loading_info=True
        )
    faults = {kind: sorted(map(str, names)) for kind, names in report.items() if names and kind.endswith("_keys")}
    if faults:
        raise ModelError(f"the weights in {checkpoint.folder} were not taken over whole: {faults}")
    return model


@contextmanager
def _no_progress_bar() -> Iterator[None]:
    shown = transformers.utils.logging.is_progress_bar_enabled()
    transformers.utils.logging.disable_progress_bar()
    try:
        yield
    finally:
        if shown:
            transformers.utils.logging.enable_progress_bar()


def _default_mode(modes: tuple[str, ...]) -> str:
    return _DEFAULT_MODE if _DEFAULT_MODE in modes else modes[0]


def _known(
    checkpoint: Checkpoint, what: str, trained_for: Mapping[str, Any], known: tuple[str, ...]
) -> tuple[str, ...]:
    named = tuple(trained_for.get(what, known))
    if not named or not set(named) <= set(known):
        raise ModelError(
            f"{checkpoint.folder / 'config.json'} names {what} {list(named)}", f"there are: {', '.join(known)}"
        )
    return named


def _load_tokenizer(checkpoint: Checkpoint, vocabulary: int) -> Tokenizer:
    file = checkpoint.folder / "tokenizer.json"
    try:
        tokenizer = Tokenizer.from_file(str(file))
    except Exception as error:  # the library raises bare Exception for a file it cannot read
        raise ModelError(f"{file} is not a readable tokenizer: {error}", "fetch the checkpoint again") from error
    if tokenizer.get_vocab_size() > vocabulary:
        raise ModelError(
            f"{file} has {tokenizer.get_vocab_size()} tokens, but the model's vocabulary is {vocabulary}",
            "check that tokenizer.json belongs to config.json",
        )
    return tokenizer
