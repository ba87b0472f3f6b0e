from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import pytest
import torch
from PIL import Image

from rtprune.engine import Engine, PageResult, Timings
from rtprune.errors import RTPruneError, UsageError
from rtprune.models import Views
from rtprune.models.deepseek_ocr import DeepSeekOcr
from rtprune.pruning import METHODS, PruneConfig, TokenLayout
from rtprune.settings import ReadSettings
from tests.models.networks import greedy

Draw = Callable[..., Image.Image]


def engine(model: DeepSeekOcr, **settings: Any) -> Engine:
    return Engine(model, ReadSettings(**{"mode": "tiny", "task": "text", "max_output_tokens": 24} | settings))


def without_times(results: Sequence[PageResult]) -> list[PageResult]:
    """What must not depend on company: all but the times, and rounding in what is real-valued."""
    compared = []
    for result in results:
        facts = result.facts
        if facts is not None and facts.similarity is not None:
            facts = replace(facts, similarity=round(facts.similarity, 5), ratio=round(facts.ratio, 5))
        sure = result.confidence
        if sure is not None:
            sure = replace(sure, mean=round(sure.mean, 3), weakest=round(sure.weakest, 3))
        compared.append(replace(result, facts=facts, timings=Timings(), confidence=sure))
    return compared


@pytest.mark.parametrize("prune", ["off", "dynamic", 0.5])
def test_a_page_reads_the_same_in_any_company(model: DeepSeekOcr, draw: Draw, prune: str | float) -> None:
    reader = engine(model, prune=prune)
    pages = [draw(seed, (200 + 150 * seed, 400)) for seed in range(4)]
    together = without_times(reader.read(pages))
    alone = without_times([reader.read([page])[0] for page in pages])
    assert together == alone
    assert without_times(reader.read(pages[::-1])) == together[::-1]
    assert all(result.text for result in together)


def test_pages_with_and_without_tiles_read_the_same_in_any_company(model: DeepSeekOcr, draw: Draw) -> None:
    reader = engine(model, mode="gundam", max_output_tokens=12)
    pages = [draw(1, (300, 400)), draw(2, (900, 500)), draw(3, (700, 1400))]
    together = without_times(reader.read(pages))
    assert together == without_times([reader.read([page])[0] for page in pages])
    assert [result.facts.tokens_before for result in together if result.facts] == [273, 273 + 10 * 21, 273 + 20 * 11]


def test_a_ratio_of_nothing_equals_no_pruning(model: DeepSeekOcr, draw: Draw) -> None:
    page = draw(1)
    (off,) = engine(model, prune="off").read([page])
    (nothing,) = engine(model, prune=0.0).read([page])
    (features,) = model.encode([model.prepare(page, "tiny")])
    prompt = model.prompt("text")
    unpruned = torch.cat([model.embed(prompt.before), features, model.embed(prompt.after)])
    (ids,) = greedy(model, [unpruned], [torch.arange(len(unpruned))], off.output_tokens)
    assert off.text == nothing.text == model.parse(model.detokenize(ids)).text
    assert off.facts is not None
    assert off.facts.tokens_before == off.facts.tokens_after == 73


def test_the_decoder_sees_the_surviving_positions_and_goes_on_after_the_unpruned_length(
    model: DeepSeekOcr, draw: Draw, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[list[int]] = []
    decoder = model.decoder

    def recording(embeddings: Any, positions: torch.Tensor, *rest: Any) -> Any:
        seen.extend(positions[0].tolist())
        return decoder(embeddings, positions, *rest)

    monkeypatch.setattr(model, "decoder", recording)
    (result,) = engine(model, prune=0.5, max_output_tokens=4).read([draw(3)])
    prompt = model.prompt("text")
    before, behind = prompt.before.numel(), prompt.after.numel()
    unpruned = before + 73 + behind
    prefill = seen[0]
    assert result.facts is not None
    assert len(prefill) == result.prompt_tokens == before + result.facts.tokens_after + behind
    assert result.facts.tokens_after < 73
    assert prefill == sorted(set(prefill)), "ascending, each once"
    assert prefill[:before] == list(range(before))
    assert prefill[-behind - 1 :] == list(range(unpruned - behind - 1, unpruned)), "separator, then the task"
    assert seen[1:] == [[unpruned], [unpruned + 1], [unpruned + 2]]


def test_a_bad_picture_fails_alone_and_results_keep_their_order(model: DeepSeekOcr, draw: Draw) -> None:
    reader = engine(model)
    good = [draw(1), draw(2)]
    wanted = without_times(reader.read(good))
    first, failed, last = reader.read([good[0], Image.new("RGB", (0, 7)), good[1]])
    assert without_times([first, last]) == wanted
    assert failed.status == "failed"
    assert failed.reason == "empty-picture"
    assert "0 x 7" in (failed.message or "")
    assert (failed.text, failed.finish_reason, failed.facts) == ("", None, None)


@pytest.mark.parametrize("prune", ["off", "dynamic"])
def test_features_that_are_not_finite_fail_their_page_alone(
    model: DeepSeekOcr, draw: Draw, monkeypatch: pytest.MonkeyPatch, prune: str
) -> None:
    reader = engine(model, prune=prune)
    pages = [draw(1), draw(2), draw(3)]
    wanted = without_times(reader.read(pages))
    encode = model.encode

    def spoiled(views: Sequence[Views]) -> list[torch.Tensor]:
        features = encode(views)
        return [features[0], torch.full_like(features[1], torch.nan), features[2]]

    monkeypatch.setattr(model, "encode", spoiled)
    first, failed, last = reader.read(pages)
    assert without_times([first, last]) == [wanted[0], wanted[2]]
    assert failed.status == "failed"
    assert "features must be finite" in (failed.message or "")


def test_a_gpu_too_small_for_one_page_is_no_pages_fault(
    model: DeepSeekOcr, draw: Draw, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(views: Sequence[Views]) -> list[torch.Tensor]:
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 GiB")

    monkeypatch.setattr(model, "encode", full)
    with pytest.raises(RTPruneError, match=r"too small to read even one page: CUDA out of memory \(take a smaller"):
        engine(model).read([draw(1), draw(2)])


@pytest.mark.parametrize("step", ["encode", "decoder"])
def test_a_page_that_breaks_a_batch_is_found_and_the_others_are_read(
    model: DeepSeekOcr, draw: Draw, monkeypatch: pytest.MonkeyPatch, step: str
) -> None:
    reader = engine(model, prune="off", max_output_tokens=6, reread=False)
    good = [draw(1), draw(2)]
    wanted = without_times(reader.read(good))
    poison = Image.new("RGB", (320, 400), (255, 0, 0))
    mark = model.encode([model.prepare(poison, "tiny")])[0][0]
    original = getattr(model, step)

    def breaking(given: Any, *rest: Any) -> Any:
        if step == "encode":
            poisoned = any(bool((view.global_view[0] == 1).all() and view.global_view[1].max() < 0) for view in given)
        else:
            poisoned = bool(torch.isclose(given, mark, atol=1e-5).all(dim=-1).any())
        if poisoned:
            raise RuntimeError("out of something")
        return original(given, *rest)

    monkeypatch.setattr(model, step, breaking)
    first, failed, last = reader.read([good[0], poison, good[1]])
    assert without_times([first, last]) == wanted
    assert (failed.status, failed.reason, failed.message) == ("failed", "unexpected", "RuntimeError: out of something")


def test_a_lost_device_is_not_blamed_on_the_page(
    model: DeepSeekOcr, draw: Draw, monkeypatch: pytest.MonkeyPatch
) -> None:
    def lost(views: Sequence[Views]) -> list[torch.Tensor]:
        raise torch.AcceleratorError("device-side assert")

    monkeypatch.setattr(model, "encode", lost)
    with pytest.raises(torch.AcceleratorError):
        engine(model).read([draw(1)])


def test_a_picture_without_visual_tokens_is_a_failed_page(
    model: DeepSeekOcr, draw: Draw, monkeypatch: pytest.MonkeyPatch
) -> None:
    prepare = model.prepare
    monkeypatch.setattr(
        model,
        "prepare",
        lambda picture, mode: replace(prepare(picture, mode), layout=TokenLayout(torch.tensor([1, 2]), grid=(8, 8))),
    )
    (result,) = engine(model).read([draw(1)])
    assert (result.status, result.reason) == ("failed", "no-visual-tokens")


def answering(model: DeepSeekOcr, text: str, end: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """Make the decoder's first page answer with ``text``, then the end token or the last character for ever."""
    ids = [*model._tokenizer.encode(text, add_special_tokens=False).ids]
    tail = min(model.end_token_ids) if end else ids[-1]
    asked = iter([*ids, *([tail] * 10_000)])
    decoder = model.decoder

    def scripted(*given: Any) -> Any:
        logits, cache = decoder(*given)
        logits = torch.zeros_like(logits)
        logits[..., next(asked)] = 1.0
        return logits, cache

    monkeypatch.setattr(model, "decoder", scripted)


def test_a_page_that_ends_is_ok(model: DeepSeekOcr, draw: Draw, monkeypatch: pytest.MonkeyPatch) -> None:
    answering(model, "Plain words.", True, monkeypatch)
    (result,) = engine(model).read([draw(1)])
    assert (result.status, result.finish_reason, result.text) == ("ok", "eos", "Plain words.")
    assert result.output_tokens == len("Plain words.") + 1, "the end token is one of them"


def test_a_page_that_ends_blank_is_empty(model: DeepSeekOcr, draw: Draw, monkeypatch: pytest.MonkeyPatch) -> None:
    answering(model, "  \n ", True, monkeypatch)
    (result,) = engine(model).read([draw(1)])
    assert (result.status, result.finish_reason, result.text.strip()) == ("empty", "eos", "")


def test_a_page_at_the_limit_is_truncated(model: DeepSeekOcr, draw: Draw, monkeypatch: pytest.MonkeyPatch) -> None:
    answering(model, "never ends", False, monkeypatch)
    (result,) = engine(model, max_output_tokens=8).read([draw(1)])
    assert (result.status, result.finish_reason, result.text) == ("truncated", "length", "never en")


def test_a_blank_page_that_was_cut_is_not_called_empty(
    model: DeepSeekOcr, draw: Draw, monkeypatch: pytest.MonkeyPatch
) -> None:
    answering(model, "  ", False, monkeypatch)
    (result,) = engine(model, max_output_tokens=8).read([draw(1)])
    assert (result.status, result.finish_reason, result.text) == ("truncated", "length", "")


def test_a_page_that_repeats_itself_is_cut_early(
    model: DeepSeekOcr, draw: Draw, monkeypatch: pytest.MonkeyPatch
) -> None:
    answering(model, "all the same", False, monkeypatch)
    (result,) = engine(model, max_output_tokens=4096, reread=False).read([draw(1)])
    assert (result.status, result.finish_reason) == ("loop", "loop")
    assert result.output_tokens < 150
    assert result.text.startswith("all the same")


def test_regions_come_from_the_answer(model: DeepSeekOcr, draw: Draw, monkeypatch: pytest.MonkeyPatch) -> None:
    answer = "<|ref|>title<|/ref|><|det|>[[1, 2, 30, 40]]<|/det|>\nA heading"
    answering(model, answer, True, monkeypatch)
    (result,) = engine(model, task="markdown", max_output_tokens=100).read([draw(1)])
    assert result.text == "A heading"
    assert [(region.label, region.box, region.text) for region in result.regions] == [
        ("title", (1, 2, 30, 40), "A heading")
    ]


def test_nothing_to_read_gives_nothing(model: DeepSeekOcr) -> None:
    assert engine(model).read([]) == []


@pytest.mark.parametrize("setting", [{"mode": "huge"}, {"task": "sing"}])
def test_a_mode_or_task_that_the_model_lacks_is_refused_before_reading(
    model: DeepSeekOcr, setting: dict[str, str]
) -> None:
    with pytest.raises(UsageError, match=next(iter(setting.values()))):
        engine(model, **setting)


def test_every_page_has_its_times(model: DeepSeekOcr, draw: Draw) -> None:
    for result in engine(model).read([draw(1), draw(2)]):
        times = result.timings
        assert min(times.encode_ms, times.prune_ms, times.prefill_ms, times.decode_ms) > 0


@pytest.mark.parametrize("method", list(METHODS))
def test_every_method_reads_pages_and_keeps_the_number_asked_for(model: DeepSeekOcr, draw: Draw, method: Any) -> None:
    pruning = PruneConfig(ratio=0.25, method=method)
    comparing = Engine(model, ReadSettings(mode="tiny", task="text", max_output_tokens=8), pruning)
    results = comparing.read([draw(1), draw(2, (800, 300))])
    assert [result.message for result in results] == [None, None]
    assert [result.facts.free_after for result in results if result.facts] == [48, 48]
