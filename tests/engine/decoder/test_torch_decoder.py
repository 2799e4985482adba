"""Our own LLM writes what transformers writes, however its prompts come together, and no prompt harms another."""

import json
import socket
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file

from tests.engine.decoder.tiny_llms import (
    decoder_of,
    expected_answer,
    make_llm,
    some_prompts,
    source_of,
)
from tests.interpreted import interpret
from tests.pipeline import decode, token_ids
from twostage_asr.engine.arena import Rows
from twostage_asr.engine.decoder import torch_decoder
from twostage_asr.engine.decoder.base import DecodeParams, LLMSource
from twostage_asr.engine.decoder.runner import PassOutput, padded_shape
from twostage_asr.engine.decoder.torch_decoder import TorchDecoder, choose_tokens
from twostage_asr.engine.errors import CheckpointError

KERNELS = Path(__file__).parent / "interpreted_steps.py"
PROMPTS = some_prompts(7)
LENGTH = 16
PARAMS = DecodeParams(max_new_tokens=LENGTH, ignore_eos=True)


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> LLMSource:
    return source_of(make_llm("qwen3"), tmp_path_factory.mktemp("qwen3"))


@pytest.fixture(scope="module")
def decoder(source: LLMSource) -> TorchDecoder:
    return decoder_of(source)


@pytest.mark.parametrize("name", ["qwen3", "qwen2", "llama", "llama3"])
def test_it_writes_what_transformers_writes(name: str, tmp_path: Path) -> None:
    model = make_llm(name)
    answers = decode(decoder_of(source_of(model, tmp_path)), PROMPTS, PARAMS)
    for prompt, answer in zip(PROMPTS, answers, strict=True):
        expected_ids, expected_log_probs = expected_answer(model, prompt, LENGTH)
        assert list(answer.token_ids) == expected_ids
        assert answer.log_probs == pytest.approx(expected_log_probs, abs=1e-4)
        assert answer.finish_reason == "length"
    assert len(set(token_ids(answers))) == len(PROMPTS)


def test_answers_end_with_any_end_token_at_steps_of_their_own(source: LLMSource, decoder: TorchDecoder) -> None:
    whole = token_ids(decode(decoder, PROMPTS, PARAMS))
    ends = (whole[0][3], whole[1][9])
    model_info = source.info.model_copy(update={"eos_token_ids": ends})
    other = decoder_of(LLMSource(source.directory, model_info, source.dtype, 256))
    ended = decode(other, PROMPTS, DecodeParams(max_new_tokens=LENGTH))
    for answer, tokens in zip(ended, whole, strict=True):
        place = next((i for i, token in enumerate(tokens) if token in ends), None)
        assert answer.token_ids == tokens[:place]
        assert answer.finish_reason == ("length" if place is None else "stop")
    assert len({len(answer.token_ids) for answer in ended}) > 1


@pytest.mark.parametrize("max_sequences", [1, 2, 32])
def test_the_number_of_sequences_changes_no_token(source: LLMSource, decoder: TorchDecoder, max_sequences: int) -> None:
    answers = decode(decoder_of(source, max_sequences), PROMPTS, PARAMS)
    assert token_ids(answers) == token_ids(decode(decoder, PROMPTS, PARAMS))


def test_a_prompt_that_is_sampled_leaves_the_others_greedy(decoder: TorchDecoder) -> None:
    sampled = DecodeParams(max_new_tokens=LENGTH, temperature=1.5, seed=3)
    asked = [(prompt, sampled if number % 2 else PARAMS) for number, prompt in enumerate(PROMPTS)]
    alone = [decode(decoder, [prompt], params)[0] for prompt, params in asked]
    ids = [decoder.submit(prompt, params) for prompt, params in asked]
    done = {}
    while decoder.num_pending:
        done.update(decoder.poll())
    assert [done[i].token_ids for i in ids] == token_ids(alone)
    assert alone[1].token_ids != decode(decoder, [PROMPTS[1]], PARAMS)[0].token_ids


def test_samples_are_as_frequent_as_they_are_probable() -> None:
    probs = torch.tensor([0.5, 0.3, 0.15, 0.05])
    params, generator = DecodeParams(temperature=1.0, top_p=0.9), torch.Generator().manual_seed(0)
    chosen = choose_tokens(probs.log().expand(20_000, 4), torch.zeros(20_000, 0).long(), params, generator)
    shares = torch.bincount(chosen.flatten(), minlength=4) / len(chosen)
    torch.testing.assert_close(shares, torch.tensor([0.5, 0.3, 0.15, 0.0]) / 0.95, rtol=0, atol=0.02)


def test_the_least_temperature_is_as_good_as_greedy() -> None:
    """The logits that it divides must not become infinite."""
    logits = torch.tensor([[1.0, 30.0, -20.0]])
    for temperature in (1e-3, 1e-40):
        chosen = choose_tokens(logits, torch.zeros(1, 0).long(), DecodeParams(temperature=temperature), None)
        assert chosen.tolist() == [[1]]


def test_nan_is_sampled_without_an_exception() -> None:
    """torch.multinomial raises one, which on a GPU ends the work of all prompts; its log-probability shows the NaN."""
    logits = torch.full((1, 8), torch.nan)
    assert choose_tokens(logits, torch.zeros(1, 0).long(), DecodeParams(temperature=1.0), None).shape == (1, 1)


def test_followed_prompts_show_their_tokens(decoder: TorchDecoder) -> None:
    prompt_id = decoder.submit(PROMPTS[2], PARAMS, stream_tokens=True)
    decoder.poll()
    assert len(decoder.partial_tokens(prompt_id)) == 2
    decoder.cancel([prompt_id])


def test_what_others_left_in_the_cache_does_no_harm(source: LLMSource, decoder: TorchDecoder) -> None:
    other = decoder_of(source)
    other._runner._llm._cache.fill_(torch.nan)
    assert token_ids(decode(other, PROMPTS, PARAMS)) == token_ids(decode(decoder, PROMPTS, PARAMS))


@pytest.mark.parametrize("fault", ["raises", "NaN"])
def test_a_fault_of_one_prompt_is_its_own(source: LLMSource, monkeypatch: pytest.MonkeyPatch, fault: str) -> None:
    decoder = decoder_of(source)
    expected = token_ids(decode(decoder, PROMPTS[:4], PARAMS))
    step, bad = decoder._runner.step, expected[2][5]

    def faulty(rows: Sequence[Sequence[int]], places: Any) -> PassOutput:
        found = step(rows, places)
        for number, row in enumerate(rows):
            if row[0] == bad and places[number].size == len(PROMPTS[2]) + LENGTH:
                if fault == "raises":
                    raise RuntimeError("of this prompt")
                found.log_probs[number][0] = float("nan")
        return found

    monkeypatch.setattr(decoder._runner, "step", faulty)
    answers = decode(decoder, PROMPTS[:4], PARAMS)
    assert [answer.error is None for answer in answers] == [True, True, False, True]
    assert [token_ids(answers)[i] for i in (0, 1, 3)] == [expected[i] for i in (0, 1, 3)]


def test_prompts_wait_for_rows_of_the_cache(source: LLMSource, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch_decoder, "ROWS_PER_SEQUENCE", 1)
    decoder = decoder_of(source)  # 256 rows
    params = DecodeParams(max_new_tokens=140)
    assert decoder.num_fitting([100, 150, 7]) == 2
    ids = [decoder.submit(prompt, params) for prompt in PROMPTS[:3]]
    decoder.poll()
    assert [len(decoder.partial_tokens(i)) for i in ids] == [2, 0, 0]
    assert decoder.num_fitting([200]) == 0
    decoder.cancel(ids[:1])
    decoder.poll()
    assert [len(decoder.partial_tokens(i)) for i in ids[1:]] == [2, 0]


@pytest.mark.parametrize("change", ["missing", "left", "unknown"])
def test_other_weights_than_the_configurations_are_refused(tmp_path: Path, change: str) -> None:
    source = source_of(make_llm("qwen3"), tmp_path)
    weights = load_file(tmp_path / "model.safetensors")
    if change == "missing":
        del weights["model.layers.1.mlp.up_proj.weight"]
    else:
        weights["model.layers.2.mlp.up_proj.weight"] = torch.zeros(2)
    save_file(weights, tmp_path / "model.safetensors")
    if change == "unknown":
        config = json.loads((tmp_path / "config.json").read_text())
        (tmp_path / "config.json").write_text(json.dumps(config | {"hidden_act": "gelu"}))
    with pytest.raises(CheckpointError, match={"missing": "no tensor", "left": "no place", "unknown": "gelu"}[change]):
        decoder_of(source)


@given(st.lists(st.tuples(st.integers(1, 40), st.booleans()), max_size=40))
def test_rows_belong_to_one_sequence_each(asked: list[tuple[int, bool]]) -> None:
    rows, taken = Rows(100), dict[int, int]()
    for size, gives_back in asked:
        first = rows.take(size)
        if first is None:
            used = sorted(row for begin, count in taken.items() for row in range(begin, begin + count))
            assert not any(all(i not in used for i in range(row, row + size)) for row in range(101 - size))
        else:
            assert first + size <= 100
            assert all(first + size <= begin or begin + count <= first for begin, count in taken.items())
            taken[first] = size
        if gives_back and taken:
            freed = next(iter(taken))
            rows.give_back(freed)
            del taken[freed]


def test_thousands_of_pieces_lie_at_the_first_gaps_that_are_large_enough() -> None:
    rows = Rows(3000)
    assert [rows.take(2) for _ in range(1500)] == list(range(0, 3000, 2))
    assert rows.take(1) is None
    for first in (2000, 100, 102, 104, 2998):
        rows.give_back(first)
    assert [rows.take(size) for size in (5, 1, 2, 2, 1)] == [100, 105, 2000, 2998, None]
    assert rows.num_taken == 1499


def test_more_graphs_are_captured_in_a_pause_alone(decoder: TorchDecoder, monkeypatch: pytest.MonkeyPatch) -> None:
    clock = [time.monotonic()]
    captured: list[float] = []
    monkeypatch.setattr(torch_decoder.time, "monotonic", lambda: clock[0])
    monkeypatch.setattr(decoder._runner, "warm_up_more", lambda: captured.append(clock[0]) or len(captured) < 5)
    decoder.submit(PROMPTS[0], DecodeParams(max_new_tokens=2, ignore_eos=True))
    while decoder.num_pending:
        decoder.poll()
    busy_until = clock[0]
    for clock[0] in (busy_until + 0.01, busy_until + 0.9, busy_until + 1.1, busy_until + 1.2):
        decoder.poll()
    assert captured == [busy_until + 1.1, busy_until + 1.2]
    theirs, ours = socket.socketpair()
    with theirs, ours:
        theirs.send(b"a prompt has come")
        decoder.poll(wake=ours.fileno())
        assert len(captured) == 3  # one part, which it has to wait for
        ours.recv(64)
        decoder.poll(wake=ours.fileno())
    assert len(captured) == 5  # all that there is


def test_graphs_have_few_shapes() -> None:
    assert padded_shape(1, 1, None) == (False, 1, 1)
    assert padded_shape(5, 9, None) == (False, 8, 9)
    assert padded_shape(3, 0, 65) == (True, 4, 96)
    assert padded_shape(1, 0, 513) is None


def test_kernels_compute_what_pytorch_computes(tmp_path: Path) -> None:
    pytest.importorskip("triton")
    source_of(make_llm("qwen3"), tmp_path)
    interpret(KERNELS, tmp_path)
