"""The fake decoder keeps to the protocol that the real ones keep to (tests/engine/decoder/test_decoders.py)."""

import socket
import threading
import time

import pytest
import torch

from tests.fake_decoder import FakeDecoder
from tests.pipeline import decode, token_ids
from twostage_asr.engine import AudioError, DecodeError, PromptTooLongError
from twostage_asr.engine.decoder.base import DecodeParams, Decoder, Hypothesis

PARAMS = DecodeParams(max_new_tokens=20)


def prompt(number: int) -> torch.Tensor:
    return torch.full((3, 4), float(number))


def counting(**options: int) -> FakeDecoder:
    """Prompt 7 is answered 1, 2, 3 ... 7."""
    return FakeDecoder(lambda rows: range(1, int(rows.max()) + 1), **options)


def test_answers_belong_to_their_prompts_in_any_company() -> None:
    decoder: Decoder = counting()
    prompts = [prompt(number) for number in (5, 1, 9)]
    together = decode(decoder, prompts, PARAMS)
    assert token_ids(together) == [tuple(range(1, n + 1)) for n in (5, 1, 9)]
    assert together == [decode(decoder, [one], PARAMS)[0] for one in prompts]
    assert {hypothesis.finish_reason for hypothesis in together} == {"stop"}


def test_text_grows_a_few_tokens_a_poll_and_short_answers_come_first() -> None:
    decoder = counting(tokens_per_poll=4)
    short, long = decoder.submit(prompt(3), PARAMS), decoder.submit(prompt(9), PARAMS, stream_tokens=True)
    assert decoder.partial_tokens(long) == ()
    assert [i for i, _ in decoder.poll()] == [short]
    assert decoder.partial_tokens(long) == (1, 2, 3, 4)
    assert (decoder.poll(), decoder.num_pending) == ([], 1)
    assert [i for i, _ in decoder.poll()] == [long] and decoder.poll() == []


def test_limits_hold() -> None:
    decoder = counting(max_model_len=10)
    with pytest.raises(PromptTooLongError):
        decoder.submit(prompt(1), DecodeParams(max_new_tokens=8))
    with pytest.raises(AudioError, match="NaN"):
        decoder.submit(prompt(1) * float("nan"), DecodeParams(max_new_tokens=7))
    (cut,) = decode(decoder, [prompt(9)], DecodeParams(max_new_tokens=2))
    (padded,) = decode(decoder, [prompt(2)], DecodeParams(max_new_tokens=5, ignore_eos=True))
    assert (cut.token_ids, cut.finish_reason) == ((1, 2), "length")
    assert (padded.token_ids, padded.finish_reason) == ((1, 2, 1, 2, 1), "length")


def test_what_is_cancelled_is_gone() -> None:
    decoder = counting()
    first, second, third = (decoder.submit(prompt(1), PARAMS) for _ in range(3))
    decoder.cancel([second, 99])
    assert [i for i, _ in decoder.poll()] == [first, third]
    decoder.submit(prompt(1), PARAMS)
    decoder.cancel()
    assert (decoder.num_pending, decoder.poll()) == (0, [])


def test_a_held_decoder_waits_for_whoever_wakes_it_and_goes_on_when_released(monkeypatch: pytest.MonkeyPatch) -> None:
    decoder = counting()
    wait = decoder._is_running.wait

    def wait_and_be_released(wait_s: float) -> bool:
        threading.Thread(target=decoder.release).start()
        return wait(wait_s)

    monkeypatch.setattr(decoder._is_running, "wait", wait_and_be_released)
    prompt_id = decoder.submit(prompt(1), PARAMS)
    decoder.hold()
    woken, waker = socket.socketpair()
    with woken, waker:
        waker.send(b"\0")
        started = time.monotonic()
        assert decoder.poll(wait_s=60, wake=woken.fileno()) == []
    assert decoder.poll(wait_s=60) == []
    assert time.monotonic() - started < 30
    assert [i for i, _ in decoder.poll()] == [prompt_id]


def test_it_fails_as_a_whole_or_for_one_prompt() -> None:
    bad = Hypothesis((), (), "stop", error="no answer")
    decoder = FakeDecoder(lambda rows: bad if rows.max() == 6 else [1])
    assert decode(decoder, [prompt(6), prompt(5)], PARAMS) == [bad, Hypothesis((1,), (-0.1,), "stop")]
    decoder.submit(prompt(1), PARAMS)
    decoder.fail("it died")
    for _ in range(2):  # also while it has nothing to do
        with pytest.raises(DecodeError, match="it died"):
            decoder.poll()
    assert decoder.num_pending == 0
