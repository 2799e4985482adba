"""A few prompts take the fast lane, many the large one; if that is loading, or cannot, nothing is lost or hidden."""

import threading
from collections.abc import Iterator

import pytest
import torch
from torch import Tensor

from tests.fake_decoder import FakeDecoder
from tests.pipeline import decode
from twostage_asr.engine.decoder.base import DecodeParams
from twostage_asr.engine.decoder.two_lanes import TwoLaneDecoder
from twostage_asr.engine.errors import DecodeError, PromptTooLongError

FAST, LARGE = 1, 2  # the tokens that the lanes write


class Slow(FakeDecoder):
    """It loads until it is told to end, or to fail."""

    def __init__(self) -> None:
        super().__init__(lambda prompt: [LARGE] * 6)
        self.may_end, self.error = threading.Event(), ""

    def wait_until_ready(self) -> None:
        assert self.may_end.wait(60)
        if self.error:
            raise DecodeError(self.error)

    def close(self) -> None:
        self.may_end.set()
        super().close()


@pytest.fixture
def large() -> Slow:
    return Slow()


@pytest.fixture
def fast() -> FakeDecoder:
    return FakeDecoder(lambda prompt: [FAST] * 6, max_pending=3)


@pytest.fixture
def decoder(fast: FakeDecoder, large: Slow) -> Iterator[TwoLaneDecoder]:
    decoder = TwoLaneDecoder(fast, large)  # type: ignore[arg-type]
    decoder.wait_until_ready()
    yield decoder
    decoder.close()
    assert fast.is_closed and large.is_closed


def prompts(count: int) -> list[Tensor]:
    return [torch.zeros(2, 4) for _ in range(count)]


def lanes(decoder: TwoLaneDecoder, count: int) -> list[int]:
    return [answer.token_ids[0] for answer in decode(decoder, prompts(count))]


def loaded(decoder: TwoLaneDecoder, large: Slow) -> None:
    large.may_end.set()
    decoder.wait_until_loaded()


def test_the_fast_lane_answers_while_the_other_loads(decoder: TwoLaneDecoder, large: Slow) -> None:
    assert decoder.max_pending == 3
    assert lanes(decoder, 7) == [FAST] * 7
    loaded(decoder, large)
    assert decoder.max_pending == large.max_pending


def test_the_number_of_prompts_chooses_the_lane(decoder: TwoLaneDecoder, large: Slow) -> None:
    loaded(decoder, large)
    assert lanes(decoder, 3) == [FAST] * 3
    assert lanes(decoder, 4) == [LARGE] * 4
    assert lanes(decoder, 1) == [FAST]


def test_prompts_go_where_others_are(decoder: TwoLaneDecoder, large: Slow, fast: FakeDecoder) -> None:
    """A large lane with prompts takes the next ones, and a full fast lane keeps its own."""
    loaded(decoder, large)
    for count in (2, 2, 1):
        for prompt in prompts(count):
            decoder.submit(prompt, DecodeParams())
        decoder._give_out()
    assert (fast.num_pending, large.num_pending, decoder.num_pending) == (2, 3, 5)


def test_prompts_can_be_followed_and_dropped_in_any_lane(decoder: TwoLaneDecoder, large: Slow) -> None:
    first = [decoder.submit(prompt, DecodeParams(), stream_tokens=True) for prompt in prompts(4)]
    assert decoder.partial_tokens(first[0]) == ()
    decoder.poll()
    assert decoder.partial_tokens(first[0]) == (FAST,) * 4
    decoder.cancel(first[1:])
    loaded(decoder, large)
    second = [decoder.submit(prompt, DecodeParams()) for prompt in prompts(4)]
    decoder.cancel(second[:1])
    done = [i for _ in range(3) for i, _ in decoder.poll()]
    assert sorted(done) == [first[0], *second[1:]] and decoder.num_pending == 0
    decoder.submit(prompts(1)[0], DecodeParams())
    decoder.cancel()
    assert decoder.num_pending == 0 and decoder.poll() == []


def test_an_engine_that_cannot_load_is_an_error(decoder: TwoLaneDecoder, large: Slow) -> None:
    large.error = "no memory"
    loaded(decoder, large)
    with pytest.raises(DecodeError, match="no memory"):
        decoder.poll()


def test_a_bad_prompt_is_refused_at_once(decoder: TwoLaneDecoder) -> None:
    with pytest.raises(PromptTooLongError):
        decoder.submit(torch.zeros(5000, 4), DecodeParams())
    assert decoder.num_pending == 0
