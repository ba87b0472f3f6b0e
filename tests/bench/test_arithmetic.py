"""What is counted from a configuration is what torch counts while it computes."""

from __future__ import annotations

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode
from transformers import UnlimitedOcrForConditionalGeneration

from rtprune.bench.arithmetic import Arithmetic, arithmetic_of
from rtprune.bench.prune import page
from rtprune.bench.random_model import FULL_SIZE, character_tokenizer
from rtprune.models.deepseek_ocr import DeepSeekOcr
from tests.bench.sizes import VOCABULARY, small_config


@pytest.fixture(scope="module")
def model() -> DeepSeekOcr:
    """Of plain matrix products, which torch's counter sees all of; kernels for attention on a CPU it does not."""
    config = DeepSeekOcr.configuration(small_config())
    network = UnlimitedOcrForConditionalGeneration._from_config(
        config, attn_implementation="eager", experts_implementation="eager"
    )
    return DeepSeekOcr(network, character_tokenizer(VOCABULARY), name="small", revision="small")


@pytest.mark.parametrize("mode", ["tiny", "base", "gundam"])
def test_the_encoders_flops_are_those_that_torch_counts(model: DeepSeekOcr, mode: str) -> None:
    views = model.prepare(page(), mode)
    with FlopCounterMode(display=False) as counter:
        model.encode([views])
    assert Arithmetic(model.network.config, model.dtype).encode(views) == pytest.approx(
        counter.get_total_flops(), rel=0.001
    )


def test_the_decoders_flops_are_those_that_torch_counts(model: DeepSeekOcr) -> None:
    arithmetic, prompt, answer = Arithmetic(model.network.config, model.dtype), 300, 5
    generator = torch.Generator().manual_seed(0)
    with FlopCounterMode(display=False) as counter:
        _, cache = model.decoder(
            torch.randn(1, prompt, model.hidden_size, generator=generator), torch.arange(prompt)[None, None]
        )
    found = arithmetic.page(model.prepare(page(), "tiny"), prompt, answer)
    assert found.prefill == pytest.approx(counter.get_total_flops(), rel=0.001)
    with FlopCounterMode(display=False) as counter:
        for step in range(answer - 1):
            place = torch.tensor([[[prompt + step]]])
            _, cache = model.decoder(torch.randn(1, 1, model.hidden_size, generator=generator), place, None, cache)
    assert found.decode == pytest.approx(counter.get_total_flops(), rel=0.001)


def test_the_full_size_takes_what_the_paper_says() -> None:
    arithmetic = Arithmetic(DeepSeekOcr.configuration(FULL_SIZE), torch.bfloat16)
    large = 421 + 8  # visual tokens, and a prompt as the published ones are
    assert arithmetic.prefill(large) == pytest.approx(363.0e9, rel=0.01)


def test_a_page_that_was_not_answered_takes_no_decoding(model: DeepSeekOcr) -> None:
    views = model.prepare(page(), "tiny")
    assert Arithmetic(model.network.config, model.dtype).page(views, 80, 0).decode == 0


def test_a_step_of_one_page_reads_the_weights_its_token_passes(model: DeepSeekOcr) -> None:
    text = model.network.model.language_model
    dense, sparse = text.layers[0], text.layers[1]
    parts = [
        *dense.self_attn.parameters(),
        *dense.mlp.parameters(),
        *sparse.self_attn.parameters(),
        *sparse.mlp.gate.parameters(),
        *sparse.mlp.shared_experts.parameters(),
        model.network.lm_head.weight,
    ]
    active = sum(weight.numel() for weight in parts)
    active += sum(weight.numel() for weight in sparse.mlp.experts.parameters()) // 2  # two of four experts
    expected = 4 * active + 10 * model.cache_bytes_per_token
    assert Arithmetic(model.network.config, torch.float32).step_bytes([10]) == expected


def test_more_pages_read_every_expert_once_and_their_own_keys(model: DeepSeekOcr) -> None:
    arithmetic = Arithmetic(model.network.config, torch.float32)
    many = arithmetic.step_bytes([10] * 64)
    experts = model.network.model.language_model.layers[1].mlp.experts
    touched = 4 * sum(weight.numel() for weight in experts.parameters())
    growth = touched / 2 + 63 * 10 * model.cache_bytes_per_token
    assert many - arithmetic.step_bytes([10]) == pytest.approx(growth, rel=1e-9)
    halved = Arithmetic(model.network.config, torch.bfloat16)
    assert halved.step_bytes([10] * 64) == many / 2


def test_the_share_of_experts_that_pages_touch_is_that_of_even_draws() -> None:
    arithmetic = Arithmetic(DeepSeekOcr.configuration(FULL_SIZE), torch.bfloat16)
    generator = torch.Generator().manual_seed(0)
    touched = [
        len({int(one) for _ in range(8) for one in torch.randperm(64, generator=generator)[:6]}) for _ in range(300)
    ]
    expert = 11 * 3 * 1280 * 896 * 2  # bytes of one in every sparse layer
    growth = arithmetic.step_bytes([0] * 8) - arithmetic.step_bytes([0])
    assert growth == pytest.approx((sum(touched) / len(touched) - 6) * expert, rel=0.01)


def test_another_architecture_is_not_counted(model: DeepSeekOcr, monkeypatch: pytest.MonkeyPatch) -> None:
    assert arithmetic_of(model) is not None
    monkeypatch.setattr(DeepSeekOcr, "answer_window", 128)
    assert arithmetic_of(model) is None
