"""Drafts change no token, and save steps as far as they agree with the answer."""

from collections.abc import Sequence
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.engine.decoder.tiny_llms import decoder_of, make_llm, some_prompts, source_of
from tests.pipeline import decode, token_ids
from tests.tiny_models import write_tokenizer
from twostage_asr.engine import AutoModelVLLM
from twostage_asr.engine.bench.agreeing import AGREEMENT, AgreeingDecoder, AgreeingDraft
from twostage_asr.engine.decoder.base import DecodeParams, Hypothesis
from twostage_asr.engine.decoder.drafts import Draft
from twostage_asr.engine.decoder.runner import NUM_DRAFTED
from twostage_asr.engine.decoder.torch_decoder import TorchDecoder
from twostage_asr.engine.text import LLMTokenizer

END = 7
PROMPTS = some_prompts(5)
PARAMS = DecodeParams(max_new_tokens=30, ignore_eos=True)


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory: pytest.TempPathFactory) -> LLMTokenizer:
    """One token for each byte."""
    directory = tmp_path_factory.mktemp("tokenizer")
    write_tokenizer(directory, ("<|end|>",))
    return LLMTokenizer(directory)


@pytest.fixture(scope="module")
def decoder(tmp_path_factory: pytest.TempPathFactory) -> TorchDecoder:
    return decoder_of(source_of(make_llm("qwen3"), tmp_path_factory.mktemp("qwen3")))


class Listed(Draft):
    """A draft that is a list of tokens, at the place that the answer has reached."""

    def __init__(self, token_ids: Sequence[int]) -> None:
        self._token_ids, self._count = token_ids, 0

    def propose(self, count: int, end_id: int) -> list[int]:
        return list(self._token_ids[self._count : self._count + count])

    def write(self, token_ids: Sequence[int]) -> None:
        self._count += len(token_ids)


def drafted(decoder: TorchDecoder, drafts: Sequence[Draft | None], params: DecodeParams = PARAMS) -> list[Hypothesis]:
    ids = [decoder.submit(p, params, draft=lambda d=d: d) for p, d in zip(PROMPTS, drafts, strict=True)]  # type: ignore[misc]
    done: dict[int, Hypothesis] = {}
    while decoder.num_pending:
        done.update(decoder.poll())
    return [done[i] for i in ids]


def ahead(tokenizer: LLMTokenizer, text: str, written: str, count: int = 100) -> str:
    """What a draft of `text` proposes behind `written`; the end token reads as "#"."""
    draft = Draft(text, tokenizer)
    draft.write(tokenizer.encode(written))
    proposed = draft.propose(count, END)
    return tokenizer.decode(proposed[:-1] if proposed[-1:] == [END] else proposed) + "#" * (proposed[-1:] == [END])


@pytest.mark.parametrize(
    ("text", "written", "expected"),
    [
        ("the light is on", "", "The light is on.#"),
        ("the light is on", "The light", " is on.#"),
        ("the light is on", "The light, is", " on.#"),
        ("the light is on it is day", "The light is on.", " It is day.#"),
        ("the light is on", "A lamp is", " on.#"),  # found again by the last token
        ("it is not on it is off", "It is on", " it is off.#"),
        ("the light is on", "The light is on", ".#"),
        ("the light is on", "The light is on.", "#"),
        ("今天天气很好我们走", "今天，天气", "很好我们走。#"),
        ("Hello, world. All is", "Hello, world", ". All is.#"),
        ("", "", "#"),
    ],
)
def test_a_draft_goes_on_where_the_answer_is(tokenizer: LLMTokenizer, text: str, written: str, expected: str) -> None:
    assert ahead(tokenizer, text, written) == expected


@given(st.text(max_size=30), st.text(max_size=30), st.integers(0, 12))
def test_any_text_may_be_a_draft_of_any_answer(tokenizer: LLMTokenizer, text: str, written: str, count: int) -> None:
    draft = Draft(text, tokenizer)
    for token_id in tokenizer.encode(written):
        draft.write([token_id])
        assert len(draft.propose(count, END)) <= count


@pytest.mark.parametrize("wrong", [0, 1, 4, 1000])
def test_drafts_change_no_token(decoder: TorchDecoder, wrong: int) -> None:
    """Of the drafted tokens every so many is wrong: none, all, every fourth; and the last has no draft."""
    plain = decode(decoder, PROMPTS, PARAMS)
    before = decoder.counts
    texts = [[t ^ (wrong > 0 and i % wrong == 0) for i, t in enumerate(answer.token_ids)] for answer in plain[:-1]]
    answers = drafted(decoder, [*map(Listed, texts), None])
    for answer, expected in zip(answers, plain, strict=True):
        assert answer.token_ids == expected.token_ids
        assert answer.log_probs == pytest.approx(expected.log_probs, abs=1e-4)
    steps, tokens = decoder.counts.steps - before.steps, decoder.counts.tokens - before.tokens
    assert tokens == len(PROMPTS) * (PARAMS.max_new_tokens - 1)
    if wrong == 0:
        assert steps == 4 * 4 + 29  # 29 tokens, nine at a step
    if wrong == 1:
        assert steps == tokens and decoder.counts.accepted == before.accepted


def test_an_answer_ends_within_a_draft(decoder: TorchDecoder, tmp_path: Path) -> None:
    plain = decode(decoder, PROMPTS, PARAMS)
    end = plain[0].token_ids[6]
    other = decoder_of(source_of(make_llm("qwen3"), tmp_path, eos=(end,)))
    expected = decode(other, PROMPTS, DecodeParams(max_new_tokens=30))
    answers = drafted(other, [Listed(answer.token_ids) for answer in plain], DecodeParams(max_new_tokens=30))
    assert [(a.token_ids, a.finish_reason) for a in answers] == [(e.token_ids, e.finish_reason) for e in expected]
    assert answers[0].finish_reason == "stop"


@pytest.mark.parametrize("params", [{"temperature": 1.0, "seed": 1}, {"repetition_penalty": 1.3}])
def test_only_greedy_answers_are_drafted(decoder: TorchDecoder, params: dict[str, float]) -> None:
    asked, before = DecodeParams(max_new_tokens=20, ignore_eos=True, **params), decoder.counts.drafted  # type: ignore[arg-type]
    answers = drafted(decoder, [Listed([5] * 20)] * len(PROMPTS), asked)
    assert [a.token_ids for a in answers] == [a.token_ids for a in decode(decoder, PROMPTS, asked)]
    assert decoder.counts.drafted == before


def test_a_draft_that_cannot_be_made_costs_nothing_but_time(decoder: TorchDecoder) -> None:
    def fails() -> Draft:
        raise RuntimeError

    prompt_id = decoder.submit(PROMPTS[0], PARAMS, draft=fails)
    done: dict[int, Hypothesis] = {}
    while decoder.num_pending:
        done.update(decoder.poll())
    assert done[prompt_id].token_ids == decode(decoder, PROMPTS[:1], PARAMS)[0].token_ids


@pytest.mark.parametrize("method", ["propose", "write"])
def test_a_draft_that_breaks_is_done_without(
    decoder: TorchDecoder, monkeypatch: pytest.MonkeyPatch, method: str
) -> None:
    plain = decode(decoder, PROMPTS, PARAMS)
    drafts = [Listed(answer.token_ids) for answer in plain]

    def breaks(*_: object) -> list[int]:
        raise RuntimeError

    monkeypatch.setattr(drafts[1], method, breaks)
    assert [answer.token_ids for answer in drafted(decoder, drafts)] == [answer.token_ids for answer in plain]


def test_the_ctc_heads_text_saves_steps(torch_models: dict[str, AutoModelVLLM], clips: list[dict[str, str]]) -> None:
    """On the bundled clips of the micro checkpoint."""
    model = torch_models["low_frame_rate"]
    decoder = model.transcriber.decoder
    assert isinstance(decoder, TorchDecoder)
    before = decoder.counts
    drafted = model.generate([clip["source"] for clip in clips])
    steps, tokens = decoder.counts.steps - before.steps, decoder.counts.tokens - before.tokens
    assert tokens / steps > 1.8
    plain = model.generate([clip["source"] for clip in clips], timestamps=False, check=False)
    assert [transcript.text for transcript in plain] == [transcript.text for transcript in drafted]


@pytest.mark.parametrize("agreement, fewest, most", [(1.0, 5.0, 10.0), (0.65, 2.0, 4.0), (0.0, 1.0, 1.0)])
def test_drafts_of_a_benchmark_agree_as_often_as_they_shall(
    decoder: TorchDecoder, agreement: float, fewest: float, most: float
) -> None:
    plain = token_ids(decode(decoder, PROMPTS, PARAMS))
    steps, tokens = decoder.counts.steps, decoder.counts.tokens
    answers = token_ids(decode(AgreeingDecoder(decoder, agreement, has_ctc=True), PROMPTS, PARAMS))
    assert fewest <= (decoder.counts.tokens - tokens) / (decoder.counts.steps - steps) <= most
    assert [len(answer) for answer in answers] == [len(answer) for answer in plain]
    assert (answers == plain) == (agreement == 0)


def mean_steps(num_tokens: int, agreement: float) -> float:
    """How many steps write so many tokens: each keeps the drafted ones before the first that does not agree."""
    steps = [0.0]
    for left in range(1, num_tokens + 1):
        drafted = min(NUM_DRAFTED, left - 1)
        kept = [agreement**count * (1 - agreement) for count in range(drafted)] + [agreement**drafted]
        steps.append(1 + sum(share * steps[left - 1 - count] for count, share in enumerate(kept)))
    return steps[-1]


@pytest.mark.parametrize("num_tokens", [16, 19, 40])
def test_answers_of_a_benchmark_take_as_many_steps_as_their_drafts_are_worth(
    decoder: TorchDecoder, num_tokens: int
) -> None:
    params = DecodeParams(max_new_tokens=num_tokens, ignore_eos=True)
    prompts = some_prompts(300, longest=12)
    agreeing = AgreeingDecoder(decoder, AGREEMENT, has_ctc=True)
    steps = decoder.counts.steps
    first = token_ids(decode(agreeing, prompts, params))
    found = (decoder.counts.steps - steps) / len(prompts)
    assert found == pytest.approx(mean_steps(num_tokens - 1, AGREEMENT), rel=0.04)  # the prefill writes one token
    # One alone is answered as among others.
    assert token_ids(decode(agreeing, prompts[7:8], params)) == first[7:8]


def test_without_a_ctc_head_a_benchmark_has_drafts_of_live_texts_alone(decoder: TorchDecoder) -> None:
    drafted, accepted = decoder.counts.drafted, decoder.counts.accepted
    agreeing = AgreeingDecoder(decoder, 1.0, has_ctc=False)
    agreeing.submit(PROMPTS[0], PARAMS, draft=lambda: None)
    while agreeing.num_pending:
        agreeing.poll()
    assert decoder.counts.drafted == drafted
    agreeing.submit(PROMPTS[0], PARAMS, draft=lambda: AgreeingDraft(0.0, b""))
    while agreeing.num_pending:
        agreeing.poll()
    assert decoder.counts.accepted > accepted
