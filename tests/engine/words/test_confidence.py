"""Which tokens a word is made of, and what becomes of their probabilities."""

import math

import pytest

from twostage_asr.engine import AutoModelVLLM
from twostage_asr.engine.decoder.base import Hypothesis
from twostage_asr.engine.transcript import Word
from twostage_asr.engine.words import confidence
from twostage_asr.engine.words.confidence import WrittenTokens, combined, text_confidence, token_pieces


@pytest.fixture
def equal_weights(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(confidence, "CTC_WEIGHT", 0.5)


def confidences(words: list[tuple[str, float]], tokens: list[tuple[str, float]]) -> list[float]:
    """Words with what the CTC head says, tokens with the LLM's probabilities."""
    texts, heard = zip(*words, strict=True)
    pieces, probs = zip(*tokens, strict=True)
    return combined(texts, heard, WrittenTokens(pieces, [math.log(prob) for prob in probs]))


@pytest.mark.usefixtures("equal_weights")
def test_a_word_has_the_probability_of_all_its_tokens_and_of_no_other() -> None:
    tokens = [("Tur", 0.5), ("n", 0.5), (" on", 1.0), (" the light", 0.64), (".", 0.01)]
    found = confidences([("Turn", 1.0), ("on", 0.25), ("the", 1.0), ("light", 0.25)], tokens)
    assert found == pytest.approx([0.5, 0.5, 0.8, 0.4])


def test_the_llm_decides_and_the_head_has_a_twentieth_of_the_say() -> None:
    """A word of which the LLM is half sure, 0.5, where the head is not, 0.1; and the other way round."""
    found = confidences([("one", 0.1), ("two", 0.5)], [("one", 0.5), (" two", 0.1)])
    assert found == pytest.approx([0.4613, 0.1084], abs=1e-4)


@pytest.mark.usefixtures("equal_weights")
def test_words_that_come_again_are_told_apart() -> None:
    assert confidences([("no", 1.0), ("no", 1.0)], [("no", 0.25), (" no", 0.04)]) == pytest.approx([0.5, 0.2])


@pytest.mark.usefixtures("equal_weights")
def test_a_word_that_is_not_found_keeps_what_it_has() -> None:
    assert confidences([("other", 0.3), ("on", 1.0)], [(" on", 0.25)]) == pytest.approx([0.3, 0.5])


def test_a_text_is_as_sure_as_its_words_or_else_its_tokens() -> None:
    hypothesis = Hypothesis((1, 2), (math.log(0.5), math.log(0.125)), "stop")
    assert text_confidence(hypothesis, [Word("a", 0, 1, 0.2), Word("b", 1, 2, 0.6)]) == pytest.approx(0.4)
    assert text_confidence(hypothesis, None) == pytest.approx(0.25)
    assert text_confidence(Hypothesis((), (), "stop"), ()) is None


@pytest.mark.parametrize("text", ["Set the volume to 25%.", "请联系张三。", "龘𠮷 and 🙂!", ""])
def test_the_pieces_of_a_text_are_the_text(torch_models: dict[str, AutoModelVLLM], text: str) -> None:
    """Also where characters take several tokens."""
    tokenizer = torch_models["low_frame_rate"].transcriber.tokenizer
    token_ids = tokenizer.encode(text)
    pieces = token_pieces(tokenizer, token_ids)
    assert len(pieces) == len(token_ids)
    assert "".join(pieces) == tokenizer.decode(token_ids) == text
