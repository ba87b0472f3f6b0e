"""RTPrune inside a transformers model's own `generate`: for those who want the method alone."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping, Sequence
from itertools import accumulate
from typing import Any

import torch
from torch import Tensor
from transformers import PreTrainedModel

from rtprune.errors import UsageError
from rtprune.models import families
from rtprune.models.family import TransformersOcr
from rtprune.pruning import PruneConfig, Pruned, PruneFacts, prune_batch

_ATTRIBUTE = "_rtprune"
_WINDOWED = "reference_sliding_attention"


class Attachment:
    """What `attach` has put into a model.

    Attributes:
        facts: what pruning did to each picture of the last `generate` that had pictures, in order.
    """

    def __init__(self, model: PreTrainedModel, family: type[TransformersOcr], config: PruneConfig) -> None:
        self.facts: list[PruneFacts] = []
        self._family = family
        self._config = config
        self._generate: Callable[..., Any] = model.generate
        self._image_arguments = _image_arguments(family.network_class, model)

    def generate(self, model: Any, inputs: Mapping[str, Any]) -> Any:
        """`model.generate(**inputs)` with its visual tokens pruned."""
        if inputs.get("pixel_values") is None:
            return self._generate(**inputs)
        input_ids = inputs.get("input_ids")
        if not isinstance(input_ids, Tensor) or inputs.get("past_key_values") is not None:
            raise UsageError(
                "generate with pixel_values needs input_ids and no cache once rtprune is attached",
                "pass what the model's processor gives, or detach first",
            )
        pruned = self._prune(model, inputs)
        self.facts = [one.facts for one in pruned]
        prompt = _shortened(model, inputs, pruned)
        if _WINDOWED in _layer_types(model) and not bool(prompt["attention_mask"].all()):
            raise UsageError(
                f"transformers' {type(model).__name__} with a window misreads prompts that are padded to one length",
                "pass one prompt at a time; rtprune's own engine reads such batches right",
            )
        others = {
            name: value
            for name, value in inputs.items()
            if name not in {*self._image_arguments, *prompt, "input_ids", "mm_token_type_ids", "token_type_ids"}
        }
        for bound in ("max", "min"):  # these count the prompt's tokens too, as they were passed
            if others.get(f"{bound}_length") is not None:
                others[f"{bound}_new_tokens"] = others.pop(f"{bound}_length") - input_ids.shape[1]
        return _with_prompt(self._generate(**others, **prompt), input_ids)

    def _prune(self, model: Any, inputs: Mapping[str, Any]) -> list[Pruned]:
        given = {name: inputs[name] for name in self._image_arguments if inputs.get(name) is not None}
        features = list(model.get_image_features(**given, return_dict=True).pooler_output)
        layouts, views = zip(*self._family.images_of(model, inputs), strict=True)
        needed = [view.to(model.device) for view in views] if self._config.ratio == "dynamic" else None
        return prune_batch(features, layouts, needed, self._config)


def attach(model: PreTrainedModel, config: PruneConfig | None = None) -> Attachment:
    """Make ``model.generate(pixel_values=..., ...)`` prune its visual tokens, in place and until `detach`.

    Every surviving token keeps its position, and new tokens continue after the unpruned length. ``generate`` returns
    what it did before: the prompt's ids as they were passed, then the new ones. Options that look at the prompt's ids,
    such as ``repetition_penalty``, see only the new ones.

    Args:
        model: a transformers model of one of the families that `rtprune models` lists, or of a class derived from it.
        config: how to prune; the paper's dynamic pruning when absent.

    Raises:
        UsageError: the model is of no such family, or has rtprune attached already.
    """
    family = _family_of(model)
    if hasattr(model, _ATTRIBUTE):
        raise UsageError("rtprune is attached to this model already", "call rtprune.detach(model) first")
    attachment = Attachment(model, family, config or PruneConfig())

    @torch.no_grad()
    def generate(inputs: Tensor | None = None, generation_config: Any = None, **given: Any) -> Any:
        if inputs is not None:
            given["input_ids"] = inputs
        if generation_config is not None:
            given["generation_config"] = generation_config
        return attachment.generate(model, given)

    model.generate = generate
    setattr(model, _ATTRIBUTE, attachment)
    return attachment


def detach(model: PreTrainedModel) -> None:
    """Undo `attach`.

    Raises:
        UsageError: nothing is attached.
    """
    if not hasattr(model, _ATTRIBUTE):
        raise UsageError("rtprune is not attached to this model")
    delattr(model, _ATTRIBUTE)
    del model.generate  # the instance's own; the class's is there again


def _family_of(model: Any) -> type[TransformersOcr]:
    """The family whose network class is nearest among the classes that the model's own is derived from."""
    known = [
        family
        for family in families()
        if isinstance(family, type) and issubclass(family, TransformersOcr) and hasattr(family, "network_class")
    ]
    for ancestor in type(model).__mro__:
        for family in known:
            if family.network_class is ancestor:
                return family
    names = ", ".join(dict.fromkeys(family.network_class.__name__ for family in known))
    raise UsageError(
        f"rtprune cannot be attached to a {type(model).__name__}", f"it can to: {names}, and their subclasses"
    )


def _image_arguments(network_class: type[PreTrainedModel], model: Any) -> list[str]:
    """Arguments of ``get_image_features``, also where a subclass passes them on as ``*args`` and ``**kwargs``."""
    methods = network_class.get_image_features, type(model).get_image_features
    named = [one for method in methods for one in inspect.signature(method).parameters.values()]
    variable = inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD
    return [name for name in dict.fromkeys(one.name for one in named if one.kind not in variable) if name != "self"]


def _shortened(model: Any, inputs: Mapping[str, Any], pruned: list[Pruned]) -> dict[str, Tensor]:
    """Embeddings [B, n, D], mask [B, n] and positions [..., B, n] of prompts whose pictures are ``pruned``."""
    ids = inputs["input_ids"]
    mask = inputs.get("attention_mask")
    mask = torch.ones_like(ids) if mask is None else mask
    positions = inputs.get("position_ids")
    if positions is None:
        # those that the model itself would use, on as many axes as it has
        positions = model._prepare_position_ids_for_generation(ids, {**inputs, "attention_mask": mask})
    embeddings = model.get_input_embeddings()(ids)
    visual = ids == model.config.image_token_id
    counts = [len(row.nonzero()) for row in visual]
    lengths = [picture.facts.tokens_before for picture in pruned]
    if not _fit(counts, lengths):
        raise UsageError(
            f"the prompts' image tokens, {counts}, do not fit the visual tokens of their pictures, {lengths}",
            "pass input_ids and pixel_values as the model's processor gives them",
        )
    pictures = iter(pruned)
    kept = []
    for row in range(len(ids)):
        where = visual[row].nonzero().squeeze(1)
        stays = mask[row] != 0
        stays[where] = False
        while len(where):
            picture = next(pictures)
            survivors = where[picture.positions.to(where.device)]
            stays[survivors] = True
            embeddings[row, survivors] = picture.features.to(embeddings.dtype)
            where = where[picture.facts.tokens_before :]
        kept.append(stays.nonzero().squeeze(1))
    return _padded_left(embeddings, positions.expand(*positions.shape[:-2], *ids.shape), kept)


def _layer_types(model: Any) -> Sequence[str]:
    return getattr(model.config.get_text_config(), "layer_types", None) or ()


def _fit(counts: list[int], lengths: list[int]) -> bool:
    """Whether pictures of these ``lengths``, in order, fill rows of these ``counts`` of image tokens."""
    return set(accumulate(counts)) <= {0, *accumulate(lengths)} and sum(counts) == sum(lengths)


def _padded_left(embeddings: Tensor, positions: Tensor, kept: list[Tensor]) -> dict[str, Tensor]:
    """The ``kept`` columns of each row, padded on the left to one length."""
    longest = max(map(len, kept))
    shorter = embeddings.new_zeros(len(kept), longest, embeddings.shape[-1])
    mask = torch.zeros(len(kept), longest, dtype=torch.long, device=embeddings.device)
    places = positions.new_zeros(*positions.shape[:-1], longest)
    for row, columns in enumerate(kept):
        begin = longest - len(columns)
        shorter[row, begin:] = embeddings[row, columns]
        mask[row, begin:] = 1
        places[..., row, begin:] = positions[..., row, columns]
    return {"inputs_embeds": shorter, "attention_mask": mask, "position_ids": places}


def _with_prompt(output: Any, input_ids: Tensor) -> Any:
    """A `generate` from embeddings returns new ids only: put the prompt in front of each, as it does from ids."""
    sequences = output if isinstance(output, Tensor) else output.sequences
    copies = len(sequences) // len(input_ids)
    whole = torch.cat([input_ids.repeat_interleave(copies, dim=0), sequences], dim=1)
    if isinstance(output, Tensor):
        return whole
    output.sequences = whole
    return output
