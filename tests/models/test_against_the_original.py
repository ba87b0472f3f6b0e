"""Decoder and encoder compute what the original code computed on the same random weights."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor
from transformers import UnlimitedOcrForConditionalGeneration

from rtprune.models import Views
from rtprune.models.deepseek_ocr import DeepSeekOcr
from rtprune.pruning import TokenLayout
from tests import reference
from tests.checkpoints import character_tokenizer, random_config
from tests.models.networks import greedy, on_meta


def close(found: Tensor, expected: NDArray[np.floating[Any]]) -> None:
    """Relative Frobenius error below 1e-5 (measured between original and native class: 1e-6)."""
    assert tuple(found.shape) == expected.shape
    error = np.linalg.norm(found.double().numpy() - expected) / np.linalg.norm(expected)
    assert error < 1e-5


def network_of(config: Mapping[str, Any], weights: Mapping[str, NDArray[np.float32]]) -> DeepSeekOcr:
    network, report = UnlimitedOcrForConditionalGeneration.from_pretrained(
        None,
        config=DeepSeekOcr.configuration(config),
        state_dict={name: torch.from_numpy(values) for name, values in weights.items()},
        dtype=torch.float32,
        output_loading_info=True,
    )
    assert not any(report.values())
    return DeepSeekOcr(network, character_tokenizer(), name="reference", revision="0")


@pytest.fixture(scope="module")
def truth(shared_data: Path) -> dict[str, NDArray[Any]]:
    with np.load(shared_data / "deepseek-ocr" / "reference" / "decoder_reference.npz") as arrays:
        return dict(arrays)


@pytest.fixture(scope="module")
def original(truth: dict[str, NDArray[Any]]) -> DeepSeekOcr:
    """The original's decoder behind a tiny encoder; the weights are those the reference was computed with."""
    config = random_config()
    config["language_config"] = json.loads(str(truth["config_json"])) | {"bos_token_id": 0, "eos_token_id": 511}
    weights = {name: reference.weight(name, tuple(tensor.shape)) for name, tensor in on_meta(config).items()}
    vision = ("sam_model", "vision_model", "projector", "image_newline", "view_seperator")
    decoder = {name: values for name, values in weights.items() if not any(part in name for part in vision)}
    assert reference.digest(decoder) == str(truth["weights_sha256"])
    return network_of(config, weights)


class TestDecoder:
    @pytest.mark.parametrize("case", ["plain", "gapped"])
    def test_prefill_and_steps_agree(self, case: str, truth: dict[str, NDArray[Any]], original: DeepSeekOcr) -> None:
        noise = reference.generator("input.decoder.embeds").standard_normal((1, 96, 128), dtype=np.float32)
        embeds = torch.from_numpy(noise * np.float32(0.5))
        positions = torch.from_numpy(truth["gapped.position_ids"]) if case == "gapped" else torch.arange(96)[None]
        with torch.inference_mode():
            prefill = original.network(inputs_embeds=embeds, position_ids=positions, use_cache=True).logits
        close(prefill[0], truth[f"{case}.prefill_logits"])

        logits, cache = original.decoder(embeds, positions[None])
        steps, tokens = [], []
        for step in range(1, 17):
            steps.append(logits[0, -1])
            tokens.append(int(logits[0, -1].argmax()))
            embedded = original.embed(torch.tensor([tokens[-1:]]))
            logits, cache = original.decoder(embedded, positions[None, :, -1:] + step, past_key_values=cache)
        close(torch.stack(steps), truth[f"{case}.step_logits"])
        assert tokens == truth[f"{case}.greedy_tokens"].tolist()

    def test_greedy_answers_agree_to_their_end(self, truth: dict[str, NDArray[Any]], original: DeepSeekOcr) -> None:
        expected = truth["generate_no_ngram_ban"].tolist()
        assert expected[-1] == min(original.end_token_ids)
        prompt = original.embed(torch.from_numpy(truth["prompt_ids"]))[0]
        assert greedy(original, [prompt], [torch.arange(len(prompt))], len(expected)) == [expected]

    def test_attention_reaches_beyond_128_tokens(self, truth: dict[str, NDArray[Any]], original: DeepSeekOcr) -> None:
        ids = torch.from_numpy(truth["prompt_ids"])
        answer = original.network.generate(
            ids,
            attention_mask=torch.ones_like(ids),
            do_sample=False,
            max_new_tokens=200,
            pad_token_id=1,
            no_repeat_ngram_size=3,
        )
        assert answer[0, ids.shape[1] :].tolist() == truth["generate_ngram3"].tolist()
        assert len(truth["generate_ngram3"]) == 200


@pytest.mark.slow
def test_the_full_size_encoder_agrees_with_the_original(shared_data: Path) -> None:
    """SAM, CLIP and projector at full size, at 640, and at 1024 with two tiles of 640. Takes about 5 GB of memory.

    The reference's third picture, 1024 without tiles, would take half a minute more, and go no other way than these.
    """
    with np.load(shared_data / "deepseek-ocr" / "reference" / "vision_reference.npz") as arrays:
        truth = dict(arrays)
    config = {
        "language_config": json.loads(str(truth["decoder_config_json"])) | {"bos_token_id": 0, "eos_token_id": 1},
        "image_token_id": int(truth["image_token_id"]),
    }
    shapes = {name: tuple(tensor.shape) for name, tensor in on_meta(config).items()}
    shapes |= dict.fromkeys(DeepSeekOcr.family.unused_tensors, (1024, 3, 14, 14))
    weights = {name: reference.weight(name, shape) for name, shape in shapes.items()}
    assert reference.digest(weights) == str(truth["weights_sha256"])
    model = network_of(config, weights)
    del weights

    views = []
    for case, side, count in (("g640", 640, 0), ("g1024_t2x1", 1024, 2)):
        drawn = [torch.from_numpy(reference.view(f"{case}.tile{index}", 640)) for index in range(count)]
        layout = TokenLayout.deepseek_ocr(side // 64, (2, 1) if drawn else None)
        global_view = torch.from_numpy(reference.view(f"{case}.global", side))
        tiles, grid = (torch.stack(drawn), (2, 1)) if drawn else (None, (1, 1))
        views.append(Views("", global_view, tiles, grid, layout, (0, 0, side, side), (side, side)))
    for case, view, tokens in zip(("g640", "g1024_t2x1"), views, model.encode(views), strict=True):
        assert list(tokens.shape) == truth[f"{case}.shape"].tolist() == [view.layout.length, 1280]
        close(tokens[::7, ::16], truth[f"{case}.features_sub"])
        close(tokens.double().norm(dim=1), truth[f"{case}.row_norms"])
        ends = model.embed(torch.tensor([0, 5, 6, 7, 8]))
        prompt = torch.cat([ends[:1], tokens, ends[1:]])
        logits, _ = model.decoder(prompt[None], torch.arange(len(prompt))[None, None])
        close(logits[0, -1], truth[f"{case}.last_logits"])
