"""Guesses are made where there is something to go by, and cost little where there is not."""

from __future__ import annotations

import random

import pytest

from rtprune.engine.drafting import MOST, Drafter


def decoding(drafter: Drafter, answer: list[int]) -> tuple[int, int, int]:
    """Let ``answer`` be what the decoder says: its steps, tokens guessed, guesses agreed with."""
    said: list[int] = answer[:1]
    steps = guessed_all = agreed_all = 0
    while len(said) < len(answer):
        guessed = drafter.guess(said)
        rest = answer[len(said) :]
        agreed = next((i for i, pair in enumerate(zip(guessed, rest, strict=False)) if pair[0] != pair[1]), None)
        agreed = min(len(guessed), len(rest) - 1) if agreed is None else agreed
        said = said + rest[: agreed + 1]
        drafter.learn(said, len(guessed), agreed)
        steps, guessed_all, agreed_all = steps + 1, guessed_all + len(guessed), agreed_all + agreed
    return steps, guessed_all, agreed_all


def prose(seed: int, length: int = 600) -> list[int]:
    """Words of a small vocabulary, as tokens of letters."""
    chance = random.Random(seed)
    words = [[chance.randrange(30) for _ in range(chance.randrange(2, 9))] for _ in range(200)]
    return [letter for _ in range(length // 5) for letter in [*chance.choice(words), 30]][:length]


def test_a_layer_that_is_the_answer_saves_nearly_all_steps() -> None:
    text = prose(0)
    steps, guessed, agreed = decoding(Drafter(text), text)
    assert steps <= len(text) / MOST + 5
    assert agreed == len(text) - 1 - steps
    assert agreed >= 0.97 * guessed


def test_it_finds_its_place_again_after_words_that_differ() -> None:
    text = prose(1)
    answer = list(text)
    for at in range(50, len(answer), 60):
        answer[at : at + 3] = [31, 32]  # a word read otherwise, of another length
    steps, _, _ = decoding(Drafter(text), answer)
    assert steps < len(answer) / 4


def test_a_layer_in_another_order_still_helps() -> None:
    text = prose(2)
    columns = [text[:300], text[300:]]
    steps, _, _ = decoding(Drafter(columns[1] + columns[0]), text)
    assert steps < len(text) / 5


@pytest.mark.parametrize("seed", range(5))
def test_a_foreign_layer_is_soon_left_alone(seed: int) -> None:
    answer, foreign = prose(10 + seed, 1000), [token + 100 for token in prose(20 + seed, 1000)]
    without = decoding(Drafter(), answer)
    steps, guessed, _ = decoding(Drafter(foreign), answer)
    assert steps <= without[0] + 5
    assert guessed <= without[1] + 10 * MOST


def test_repetition_is_guessed_from_the_answer_itself() -> None:
    row = [1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12]
    steps, _, agreed = decoding(Drafter(), row * 20)
    assert steps < len(row) + 20 * len(row) / 6
    assert agreed > 150


def test_nothing_is_guessed_from_nothing() -> None:
    assert decoding(Drafter(), list(range(300))) == (299, 0, 0)
    assert Drafter([]).guess([1, 2, 3]) == []
