"""A transformers model with rtprune attached generates what our own path gives, by its own `generate`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from torch import nn
from transformers import GenerationConfig, UnlimitedOcrForConditionalGeneration

from rtprune import Engine, PruneConfig, ReadSettings, attach, detach, load_model
from rtprune.engine.decoding import decode
from rtprune.engine.prompts import assemble_prompt
from rtprune.errors import UsageError
from rtprune.models.deepseek_ocr import DeepSeekOcr
from tests.checkpoints import IMAGE, random_config, write_random_checkpoint

pytestmark = pytest.mark.usefixtures("one_thread")

NEW_TOKENS = 12


@pytest.fixture
def model(random_checkpoint: Path) -> DeepSeekOcr:
    """Loaded anew for each test, as attaching changes it."""
    loaded = load_model(str(random_checkpoint), device="cpu")
    assert isinstance(loaded, DeepSeekOcr)
    return loaded


def page(seed: int, size: tuple[int, int]) -> Image.Image:
    generator = torch.Generator().manual_seed(seed)
    blocks = torch.randint(0, 256, (size[1] // 20, size[0] // 20, 3), generator=generator, dtype=torch.uint8)
    return Image.fromarray(blocks.numpy()).resize(size, Image.Resampling.NEAREST)


def processed(model: DeepSeekOcr, pages: list[Image.Image], mode: str) -> dict[str, Any]:
    """What a processor of transformers gives for ``generate``."""
    views = [model.prepare(one, mode) for one in pages]
    prompt = model.prompt("text")
    rows = [torch.cat([prompt.before, torch.full((view.layout.length,), IMAGE), prompt.after]) for view in views]
    longest = max(map(len, rows))
    ids, mask = torch.zeros(len(rows), longest, dtype=torch.long), torch.zeros(len(rows), longest, dtype=torch.long)
    for row, found in enumerate(rows):
        ids[row, longest - len(found) :] = found
        mask[row, longest - len(found) :] = 1
    tiles = [view.tiles for view in views if view.tiles is not None]
    inputs = {
        "input_ids": ids,
        "attention_mask": mask,
        "pixel_values": torch.stack([view.global_view for view in views]),
        "num_local_patches": [0 if view.tiles is None else len(view.tiles) for view in views],
        "patches_grid": [list(view.grid) for view in views],
    }
    return inputs | ({"pixel_values_local": torch.cat(tiles)} if tiles else {})


def generate(model: DeepSeekOcr, inputs: dict[str, Any], **options: Any) -> Any:
    arguments = {"max_new_tokens": NEW_TOKENS, "min_new_tokens": NEW_TOKENS, "do_sample": False, "pad_token_id": 1}
    return model.network.generate(**inputs, **(arguments | {"eos_token_id": None} | options))


PAGES = [page(0, (320, 400)), page(1, (700, 340)), page(2, (660, 1300))]


@pytest.mark.parametrize("mode", ["tiny", "gundam"])
@pytest.mark.parametrize("prune", ["dynamic", 0.3])
def test_attached_generate_gives_the_tokens_of_our_own_path(model: DeepSeekOcr, mode: str, prune: Any) -> None:
    inputs = processed(model, PAGES, mode)
    attachment = attach(model.network, PruneConfig(ratio=prune))
    found = generate(model, inputs)
    wanted, facts = [], []
    engine = Engine(model, ReadSettings(mode=mode, task="text", prune=prune))
    for one in PAGES:
        views, _, pruned = engine.prune_page(one)
        facts.append(pruned.facts)
        endless = assemble_prompt(model, "text", views.layout, pruned)
        model.end_token_ids = frozenset()
        wanted.append(list(decode(model, [endless], NEW_TOKENS)[0].ids))
    width = inputs["input_ids"].shape[1]
    assert torch.equal(found[:, :width], inputs["input_ids"]), "the prompt stands in front, as generate has it"
    assert found[:, width:].tolist() == wanted
    assert [(one.tokens_before, one.tokens_after) for one in attachment.facts] == [
        (one.tokens_before, one.tokens_after) for one in facts
    ]
    assert all(one.tokens_after < one.tokens_before for one in attachment.facts)


class Plain(UnlimitedOcrForConditionalGeneration):
    """Adds nothing."""


class Wrapping(Plain):
    """Passes on what it is given without naming it, as wrappers do."""

    def get_image_features(self, *arguments: Any, **named: Any) -> Any:
        self.encoded = getattr(self, "encoded", 0) + 1
        return super().get_image_features(*arguments, **named)


@pytest.mark.parametrize("subclass", [Plain, Wrapping])
def test_a_subclass_is_attached_as_its_base_is(model: DeepSeekOcr, subclass: type[Any]) -> None:
    inputs = processed(model, PAGES, "gundam")
    attach(model.network, PruneConfig(ratio=0.3))
    wanted = generate(model, inputs)
    detach(model.network)
    derived = subclass(model.network.config)
    derived.load_state_dict(model.network.state_dict())
    model.network = derived.eval()
    attachment = attach(derived, PruneConfig(ratio=0.3))
    assert torch.equal(generate(model, inputs), wanted)
    assert all(one.free_after < one.free_before for one in attachment.facts)
    assert getattr(derived, "encoded", 1) == 1, "pictures are encoded once, not again by generate"


def test_a_ratio_of_nothing_generates_what_the_model_alone_does(model: DeepSeekOcr) -> None:
    inputs = processed(model, PAGES, "gundam")
    alone = generate(model, inputs)
    attach(model.network, PruneConfig(ratio=0.0))
    assert torch.equal(generate(model, inputs), alone)


def test_detach_leaves_the_model_as_it_was(model: DeepSeekOcr) -> None:
    inputs = processed(model, PAGES[:1], "tiny")
    alone = generate(model, inputs)
    before = set(vars(model.network))
    attach(model.network, PruneConfig(ratio=0.9))
    assert not torch.equal(generate(model, inputs), alone)
    detach(model.network)
    assert torch.equal(generate(model, inputs), alone)
    assert set(vars(model.network)) == before
    attach(model.network)  # and it can be attached again


def test_beams_and_dictionaries_come_back_as_generate_gives_them(model: DeepSeekOcr) -> None:
    inputs = processed(model, PAGES[:2], "tiny")
    attach(model.network)
    output = generate(model, inputs, num_beams=2, num_return_sequences=2, return_dict_in_generate=True)
    width = inputs["input_ids"].shape[1]
    assert output.sequences.shape == (4, width + NEW_TOKENS)
    assert torch.equal(output.sequences[:, :width], inputs["input_ids"].repeat_interleave(2, dim=0))


def test_two_pictures_in_one_prompt_are_pruned_each(model: DeepSeekOcr) -> None:
    inputs = processed(model, PAGES[:2], "tiny")
    ids = inputs["input_ids"]
    inputs["input_ids"] = torch.cat([ids[0], ids[1]])[None]
    inputs["attention_mask"] = torch.ones_like(inputs["input_ids"])
    alone = generate(model, inputs)
    attachment = attach(model.network, PruneConfig(ratio=0.5))
    found = generate(model, inputs)
    assert [one.free_after for one in attachment.facts] == [32, 32]
    assert found.shape == alone.shape


def test_text_alone_passes_through(model: DeepSeekOcr) -> None:
    inputs = {"input_ids": torch.tensor([[0, 40, 41]]), "attention_mask": torch.ones(1, 3, dtype=torch.long)}
    alone = generate(model, inputs)
    attachment = attach(model.network)
    assert torch.equal(generate(model, inputs), alone)
    assert attachment.facts == []


def test_what_cannot_be_is_said(model: DeepSeekOcr) -> None:
    inputs = processed(model, PAGES[:1], "tiny")
    with pytest.raises(UsageError, match="not attached"):
        detach(model.network)
    with pytest.raises(UsageError, match=r"cannot be attached to a Linear \(it can to: UnlimitedOcr"):
        attach(nn.Linear(1, 1))  # type: ignore[arg-type]
    attach(model.network)
    with pytest.raises(UsageError, match="attached to this model already"):
        attach(model.network)
    with pytest.raises(UsageError, match="needs input_ids"):
        generate(model, {name: value for name, value in inputs.items() if name != "input_ids"})
    inputs["input_ids"][0, 10] = 5
    with pytest.raises(UsageError, match=r"image tokens, \[72\], do not fit .* pictures, \[73\]"):
        generate(model, inputs)
    inputs["input_ids"] = torch.full((1, 400), IMAGE)
    with pytest.raises(UsageError, match=r"image tokens, \[400\], do not fit"):
        generate(model, inputs | {"attention_mask": torch.ones(1, 400, dtype=torch.long)})
    two = processed(model, PAGES[:2], "tiny")
    two["input_ids"][0, 2], two["input_ids"][1, -1] = 5, IMAGE
    with pytest.raises(UsageError, match=r"\[72, 74\], do not fit .* \[73, 73\]"):
        generate(model, two)


def test_another_random_model_works_too(tmp_path: Path) -> None:
    folder = write_random_checkpoint(tmp_path / "other", seed=4, config=random_config())
    model = load_model(str(folder), device="cpu")
    assert isinstance(model, DeepSeekOcr)
    attach(model.network)
    assert generate(model, processed(model, PAGES[:1], "small")).shape[0] == 1


def test_the_caller_s_tensors_are_left_alone_and_its_lengths_count_as_ever(model: DeepSeekOcr) -> None:
    inputs = processed(model, PAGES[:1], "tiny")
    inputs["attention_mask"] = inputs["attention_mask"].bool()
    before = {name: value.clone() for name, value in inputs.items() if isinstance(value, torch.Tensor)}
    longest = inputs["input_ids"].shape[1] + 5
    bounds = {"max_new_tokens": None, "min_new_tokens": None, "max_length": longest, "min_length": longest}
    alone = generate(model, inputs, **bounds)
    attach(model.network, PruneConfig(ratio=0.5))
    found = generate(model, inputs, **bounds)
    assert found.shape == alone.shape == (1, longest)
    assert all(torch.equal(inputs[name], value) for name, value in before.items())
    found += 1  # an ordinary tensor, to do with as one likes
    settings = GenerationConfig(max_new_tokens=3, min_new_tokens=3, do_sample=False, pad_token_id=1)
    ids = inputs.pop("input_ids")
    assert model.network.generate(ids, settings, **inputs).shape == (1, ids.shape[1] + 3)
