"""The text around the audio: counted before it is looked up, kept within a bound, never kept when refused."""

from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

from tests.fake_model import FakeTokenizer
from twostage_asr.engine import PromptTooLongError, prompt
from twostage_asr.engine.prompt import EMBEDDING_NAME, PromptEmbedder, PromptText

WIDTH = 4
ROW_BYTES = 4 * WIDTH


class CountedTable:
    """Which tokens were looked up."""

    def __init__(self, embedder: PromptEmbedder) -> None:
        self._table = embedder._table
        self.looked_up: list[str] = []
        embedder._table = self  # type: ignore[assignment]

    def __call__(self, token_ids: Any) -> torch.Tensor:
        self.looked_up.append(bytes(token_ids).decode())
        return self._table(token_ids)


@pytest.fixture
def embedder(tmp_path: Path) -> PromptEmbedder:
    save_file({EMBEDDING_NAME: torch.arange(256.0)[:, None].repeat(1, WIDTH)}, tmp_path / "model.safetensors")
    tokenizer: Any = FakeTokenizer()
    return PromptEmbedder(tmp_path, tokenizer, torch.float32, max_text_bytes=100)


@pytest.fixture
def table(embedder: PromptEmbedder) -> CountedTable:
    return CountedTable(embedder)


def refuse(num_tokens: int) -> None:
    raise PromptTooLongError(f"{num_tokens} tokens")


def test_rows_are_those_of_the_tokens_around_the_audio(embedder: PromptEmbedder) -> None:
    embedded = embedder.embed(PromptText("ab", "c"))
    audio = torch.zeros(2, WIDTH)
    assert embedded.around(audio)[:, 0].tolist() == [97, 98, 0, 0, 99]
    answer = embedder.answer_ids("d")
    assert embedded.before(answer, embedder.embed_answer(answer)).around(audio)[:, 0].tolist() == [
        97,
        98,
        0,
        0,
        99,
        100,
    ]


def test_a_prompt_is_embedded_once(embedder: PromptEmbedder, table: CountedTable) -> None:
    seen: list[int] = []
    first, second = (embedder.embed(PromptText("ab", "c"), seen.append) for _ in range(2))
    assert first is second
    assert (table.looked_up, seen) == (["ab", "c"], [3, 3])


def test_what_is_refused_is_neither_looked_up_nor_kept(embedder: PromptEmbedder, table: CountedTable) -> None:
    with pytest.raises(PromptTooLongError, match="3 tokens"):
        embedder.embed(PromptText("ab", "c"), refuse)
    assert not table.looked_up and not embedder._kept
    embedder.embed(PromptText("ab", "c"))
    with pytest.raises(PromptTooLongError, match="3 tokens"):  # also when it is known
        embedder.embed(PromptText("ab", "c"), refuse)


def test_long_text_is_refused_before_it_is_tokenised(embedder: PromptEmbedder, monkeypatch: pytest.MonkeyPatch) -> None:
    embedder.embed(PromptText("\N{EURO SIGN}" * 33, "\n"))
    monkeypatch.setattr(embedder, "_tokenizer", None)
    with pytest.raises(PromptTooLongError, match=r"takes 101 bytes, at most 100 are allowed \(max_prompt_bytes\)"):
        embedder.embed(PromptText("\N{EURO SIGN}" * 33, "\n\n"))


def test_kept_prompts_take_a_bounded_number_of_bytes(
    embedder: PromptEmbedder, table: CountedTable, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(prompt, "PROMPT_CACHE_BYTES", 5 * ROW_BYTES)
    for text in ("aa", "bb", "aa", "cc", "dddddd", "aa", "bb"):
        embedder.embed(PromptText(text, ""))
        assert sum(kept.num_bytes for kept in embedder._kept.values()) == embedder._kept_bytes <= 5 * ROW_BYTES
    assert [text for text in table.looked_up if text] == ["aa", "bb", "cc", "dddddd", "bb"]  # bb was used longest ago
