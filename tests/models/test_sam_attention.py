"""Relative positions as part of wider tokens give what the bias written out gives."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from torch._subclasses import FakeTensorMode
from transformers import UnlimitedOcrForConditionalGeneration

from rtprune.bench.random_model import FULL_SIZE
from rtprune.models.deepseek_ocr import DeepSeekOcr
from rtprune.models.sam_attention import without_bias
from tests.operations import Operations

SMALL = {"hidden_size": 48, "num_hidden_layers": 3, "num_attention_heads": 3, "mlp_dim": 64, "window_size": 5}


@pytest.fixture(scope="module")
def encoder() -> Any:
    """A small SAM of two windowed layers and a global one, whose relative positions matter."""
    config = DeepSeekOcr.configuration(
        copy.deepcopy(dict(FULL_SIZE)) | {"vision_config": {"sam_config": SMALL | {"global_attn_indexes": [1]}}}
    )
    config.text_config.num_hidden_layers, config.text_config.vocab_size = 1, 50
    with torch.random.fork_rng(), torch.device("meta"):
        network = UnlimitedOcrForConditionalGeneration(config)
    sam = network.model.vision_tower.sam_encoder.to_empty(device="cpu").eval()
    chance = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for name, weight in sam.named_parameters():
            weight.normal_(0, 0.5 if "rel_pos" in name else 0.15, generator=chance)
    return sam


@pytest.mark.parametrize("side", [160, 320, 512])  # 10, 20 and 32 patches: windows of five fill two of them evenly
def test_features_are_those_of_transformers_own_attention(encoder: Any, side: int) -> None:
    pixels = torch.randn(2, 3, side, side, generator=torch.Generator().manual_seed(side))
    ours = copy.deepcopy(encoder)
    without_bias(ours)
    with torch.inference_mode():
        wanted = encoder(pixels).last_hidden_state
        found = ours(pixels).last_hidden_state
        again = ours(pixels).last_hidden_state
    scale = float(wanted.abs().max())
    torch.testing.assert_close(found / scale, wanted / scale, atol=1e-5, rtol=1e-5)
    assert torch.equal(found, again), "its tables are kept"
    assert "forward" not in vars(encoder.layers[0].attn), "only this one object is changed"


def test_a_full_size_batch_depends_on_no_number_of_the_device() -> None:
    """Eight pages at 1280 pixels; what is written out of the bias alone would be 8 GB a layer."""
    with torch.inference_mode(), FakeTensorMode():
        config = DeepSeekOcr.configuration(copy.deepcopy(dict(FULL_SIZE)))
        config.text_config.num_hidden_layers = 1
        network: Any = UnlimitedOcrForConditionalGeneration._from_config(config, dtype=torch.bfloat16)
        without_bias(network)
        pixels = torch.zeros(8, 3, 1280, 1280, dtype=torch.bfloat16)
        network.get_image_features(pixel_values=pixels)
        with Operations() as operations:
            network.get_image_features(pixel_values=pixels)
    assert not {"nonzero", "local_scalar_dense", "item"} & operations.counts.keys()
    assert operations.counts.total() <= CEILING, operations.counts


CEILING = 630  # operations of encoding a batch: both encoders, the projector and each page's newlines
