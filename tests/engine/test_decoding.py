from __future__ import annotations

import pytest
import torch

from rtprune.engine.decoding import decode
from rtprune.engine.prompts import PromptEmbeddings, assemble_prompt
from rtprune.models.deepseek_ocr import DeepSeekOcr
from rtprune.pruning import PruneConfig, TokenLayout, prune


def random_prompt(model: DeepSeekOcr, seed: int, length: int, span: int) -> PromptEmbeddings:
    """``length`` random embeddings at random positions below ``span``, of which the last is taken."""
    generator = torch.Generator().manual_seed(seed)
    positions = torch.randperm(span - 1, generator=generator)[: length - 1].sort().values
    positions = torch.cat([positions, torch.tensor([span - 1])])
    return PromptEmbeddings(torch.randn(length, model.hidden_size, generator=generator), positions[None], span)


@pytest.fixture
def prompts(model: DeepSeekOcr) -> list[PromptEmbeddings]:
    shapes = [(20, 60), (7, 90), (33, 33), (20, 25), (1, 40)]
    return [random_prompt(model, seed, *shape) for seed, shape in enumerate(shapes)]


def test_a_batch_decodes_each_page_as_if_alone(
    model: DeepSeekOcr, prompts: list[PromptEmbeddings], monkeypatch: pytest.MonkeyPatch
) -> None:
    free_running = decode(model, prompts, 40)
    # An end token that some pages give early, some late and some never, so that pages leave at different steps.
    candidates = {token for answer in free_running for token in answer.ids}
    lengths = {
        token: {answer.ids.index(token) for answer in free_running if token in answer.ids} for token in candidates
    }
    end = max(sorted(candidates), key=lambda token: len(lengths[token]))
    monkeypatch.setattr(model, "end_token_ids", frozenset({end}))
    together = decode(model, prompts, 40)
    alone = [decode(model, [prompt], 40)[0] for prompt in prompts]
    assert [answer.ids for answer in together] == [answer.ids for answer in alone]
    assert [answer.finish_reason for answer in together] == [answer.finish_reason for answer in alone]
    assert len({len(answer.ids) for answer in together}) >= 3, "the test needs pages that end at different steps"
    backwards = decode(model, prompts[::-1], 40)
    assert [answer.ids for answer in backwards[::-1]] == [answer.ids for answer in together]


def test_decoding_equals_transformers_own_generate(model: DeepSeekOcr, prompts: list[PromptEmbeddings]) -> None:
    for prompt in prompts:
        wanted = model.network.generate(
            inputs_embeds=prompt.embeddings[None],
            attention_mask=torch.ones(1, len(prompt.embeddings), dtype=torch.int64),
            position_ids=prompt.positions,
            max_new_tokens=24,
            do_sample=False,
            eos_token_id=list(model.end_token_ids),
            pad_token_id=min(model.end_token_ids),
        )
        assert list(decode(model, [prompt], 24)[0].ids) == wanted[0].tolist()


def test_a_pruned_prompt_keeps_every_token_at_its_unpruned_position(model: DeepSeekOcr) -> None:
    layout = TokenLayout.deepseek_ocr(8)
    features = torch.randn(layout.length, model.hidden_size, generator=torch.Generator().manual_seed(0))
    pruned = prune(features, layout, config=PruneConfig(ratio=0.25))
    task = model.prompt("text")
    prompt = assemble_prompt(model, "text", layout, pruned)
    before, behind = task.before.numel(), task.after.numel()
    visual = [before + position for position in pruned.positions.tolist()]
    end = before + layout.length
    assert len(visual) == layout.length - 16
    assert prompt.positions.tolist() == [[*range(before), *visual, *range(end, end + behind)]]
    assert prompt.next_position == end + behind
    assert torch.equal(prompt.embeddings[:before], model.embed(task.before))
    assert torch.equal(prompt.embeddings[before : before + len(visual)], pruned.features)
    assert torch.equal(prompt.embeddings[before + len(visual) :], model.embed(task.after))


def test_no_answer_is_longer_than_the_limit(model: DeepSeekOcr, prompts: list[PromptEmbeddings]) -> None:
    answers = decode(model, prompts, 5)
    assert all(len(answer.ids) <= 5 for answer in answers)
    assert any(answer.finish_reason == "length" for answer in answers)
