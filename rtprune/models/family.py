"""What the model families share: they put a published checkpoint into one of transformers' own classes.

Code that comes with a checkpoint is never run.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, ClassVar, Self

import torch
import transformers
from huggingface_hub.errors import StrictDataclassError
from PIL.Image import Image
from tokenizers import Tokenizer
from torch import Tensor
from transformers import PreTrainedConfig, PreTrainedModel
from transformers.core_model_loading import revert_weight_conversion
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

from rtprune.errors import ModelError, UsageError
from rtprune.models.attention import Attention, attend
from rtprune.models.card import Family, ModelCard, card_of, default_mode
from rtprune.models.checkpoint import Checkpoint
from rtprune.models.files import read_shapes
from rtprune.models.protocol import Answer, Prompt, Views, VisualPositions
from rtprune.models.weights import read_tensors, require_fit
from rtprune.pruning import Cues, TokenLayout

IMAGE_MARK = "<image>"
_OURS = "rtprune"

ALL_ATTENTION_FUNCTIONS.register(_OURS, attend)


class TransformersOcr(ABC):
    """A model in memory that is one of transformers' classes; fulfils `rtprune.models.protocol.OcrModel`.

    Args:
        network: transformers' model, on its device and in the type it computes in.
        modes: view sizes it was trained for. Default is the family's default mode, or the first where that is missing.
        tasks: the kinds of answer it can give; the first is the default.
    """

    family: ClassVar[Family]
    network_class: ClassVar[type[PreTrainedModel]]

    def __init__(
        self,
        network: PreTrainedModel,
        tokenizer: Tokenizer,
        *,
        name: str,
        revision: str,
        modes: tuple[str, ...] | None = None,
        tasks: tuple[str, ...] | None = None,
    ) -> None:
        text = network.config.get_text_config()
        self.network: Any = network.eval()
        self.name = name
        self.revision = revision
        self.device: torch.device = network.device
        self.dtype: torch.dtype = network.dtype
        end_marks = (tokenizer.token_to_id(mark) for mark in self.family.end_marks)
        self.end_token_ids = _ids(text.eos_token_id) | {id for id in end_marks if id is not None}
        self.hidden_size: int = text.hidden_size
        self.cache_bytes_per_token = _cache_bytes(text, self.dtype)
        self.modes = modes or self.family.modes
        self.default_mode = default_mode(self.family, self.modes)
        self.tasks = tasks or tuple(self.family.prompts)
        self.default_task = self.tasks[0]
        self._tokenizer = tokenizer
        cell_marks = (tokenizer.token_to_id(mark) for mark in ("<td>", "</td>"))
        self.repeatable_token_ids = frozenset(id for id in cell_marks if id is not None)

    @classmethod
    def configuration(cls, config: Mapping[str, Any]) -> PreTrainedConfig:
        """transformers' configuration of a checkpoint's ``config.json``.

        Raises:
            ModelError: it describes no model of this family.
        """
        try:
            return cls._configuration(config)
        except (TypeError, ValueError, StrictDataclassError) as error:
            cause = " ".join(str(error).split())
            raise ModelError(f"config.json does not describe a {cls.family.title} model: {cause}") from error

    @classmethod
    @abstractmethod
    def _configuration(cls, config: Mapping[str, Any]) -> PreTrainedConfig:
        """As ``configuration``, which makes a `ModelError` of every TypeError and ValueError raised here."""

    @classmethod
    def describe(cls, checkpoint: Checkpoint) -> ModelCard:
        """What a checkpoint folder can be asked for. Raises `ModelError` where it is none."""
        return card_of(checkpoint, cls.family)

    @classmethod
    def load(cls, checkpoint: Checkpoint, device: torch.device, dtype: torch.dtype) -> Self:
        """Load a checkpoint folder. Raises `ModelError` where a file is missing or does not fit the others."""
        network = cls._load_network(checkpoint, dtype).to(device)
        tokenizer = _load_tokenizer(checkpoint, network.config.get_text_config().vocab_size)
        card = cls.describe(checkpoint)
        return cls(network, tokenizer, name=card.name, revision=card.revision, modes=card.modes, tasks=card.tasks)

    @abstractmethod
    def prepare(self, picture: Image, mode: str) -> Views: ...

    @abstractmethod
    def encode(self, views: Sequence[Views]) -> list[Tensor]: ...

    @property
    def answer_window(self) -> int | None:
        return None

    @abstractmethod
    def parse(self, answer: str) -> Answer: ...

    @classmethod
    @abstractmethod
    def images_of(cls, network: Any, inputs: Mapping[str, Any]) -> list[tuple[TokenLayout, Tensor]]:
        """Layout and global view [3, H, W] in [-1, 1] of each picture among the arguments of ``network.generate``."""

    def attention_cues(self, views: Views) -> Cues:
        raise UsageError(
            f"{self.family.title} does not say how its encoder attends to its visual tokens",
            "the method 'visionzip' needs that; DeepSeek-OCR does",
        )

    def visual_positions(self, layout: TokenLayout) -> VisualPositions:
        return VisualPositions.sequential(layout)

    def prompt(self, task: str) -> Prompt:
        self.require("task", task, self.tasks)
        before, after = self.family.prompts[task].split(IMAGE_MARK)
        return Prompt(self._ids_of(before), self._ids_of(after))

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
        logits_to_keep: int | Tensor = 1,
        attention: Attention | None = None,
    ) -> tuple[Tensor, Any]:
        given = {
            "inputs_embeds": inputs_embeds,
            "position_ids": position_ids if len(position_ids) > 1 else position_ids[0],
            "attention_mask": attention_mask,
            # not only for speed: without a cache, gaps in position_ids are taken for borders between sequences
            "past_key_values": past_key_values,
            "use_cache": True,
            "logits_to_keep": logits_to_keep,
        }
        if attention is None:
            output = self.network(**given)
        else:
            with _attending_by(self.network.config.get_text_config(), _OURS):
                output = self.network(**given, attention=attention)
        return output.logits, output.past_key_values

    def tokenize(self, text: str) -> list[int]:
        ids: list[int] = self._tokenizer.encode(text, add_special_tokens=False).ids
        return ids

    def detokenize(self, ids: Sequence[int]) -> str:
        kept = [id for id in ids if id not in self.end_token_ids]
        text: str = self._tokenizer.decode(kept, skip_special_tokens=False)
        return text

    def require(self, what: str, value: str, valid: tuple[str, ...]) -> None:
        """Raise `UsageError` unless ``value`` is among the ``valid`` ones."""
        if value not in valid:
            raise UsageError(f"model {self.name!r} has no {what} {value!r}", f"it has: {', '.join(valid)}")

    def _ids_of(self, text: str) -> Tensor:
        return torch.tensor(self.tokenize(text), dtype=torch.long)

    @classmethod
    def _load_network(cls, checkpoint: Checkpoint, dtype: torch.dtype) -> PreTrainedModel:
        config = cls.configuration(checkpoint.config)
        with torch.device("meta"):
            needed = published_state_dict(cls.network_class(config))
        shapes = {name: tuple(tensor.shape) for name, tensor in needed.items()}
        require_fit(checkpoint.folder, read_shapes(checkpoint.folder), shapes, cls.family.unused_tensors)
        with _no_progress_bar():
            model, report = cls.network_class.from_pretrained(
                None, config=config, state_dict=read_tensors(checkpoint.folder), dtype=dtype, output_loading_info=True
            )
        faults = {kind: sorted(map(str, names)) for kind, names in report.items() if names and kind.endswith("_keys")}
        if faults:
            raise ModelError(f"the weights in {checkpoint.folder} were not taken over whole: {faults}")
        network: PreTrainedModel = model
        return network


def published_state_dict(model: PreTrainedModel) -> dict[str, Tensor]:
    """The model's tensors under the names that the published checkpoint has for them. A tensor with two names, such as
    tied embeddings, is there once."""
    own = {name: tensor for name, tensor in model.state_dict().items() if name not in model.all_tied_weights_keys}
    tensors: dict[str, Tensor] = revert_weight_conversion(model, own)
    return tensors


@contextmanager
def _no_progress_bar() -> Iterator[None]:
    shown = transformers.utils.logging.is_progress_bar_enabled()
    transformers.utils.logging.disable_progress_bar()
    try:
        yield
    finally:
        if shown:
            transformers.utils.logging.enable_progress_bar()


def _ids(value: int | Sequence[int] | None) -> frozenset[int]:
    return frozenset(() if value is None else (value,) if isinstance(value, int) else value)


@contextmanager
def _attending_by(config: Any, name: str) -> Iterator[None]:
    """Let the decoder that has ``config`` call the attention of that ``name``."""
    before = config._attn_implementation
    config._attn_implementation = name
    try:
        yield
    finally:
        config._attn_implementation = before


def _cache_bytes(text: Any, dtype: torch.dtype) -> int:
    heads: int = getattr(text, "num_key_value_heads", None) or text.num_attention_heads
    width: int = getattr(text, "head_dim", None) or text.hidden_size // text.num_attention_heads
    return 2 * int(text.num_hidden_layers) * heads * width * dtype.itemsize


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
