"""A list of thousands of hotwords reaches the LLM as the few that the CTC head hears, whoever asks."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from torch import Tensor

from tests.fake_decoder import FakeDecoder
from tests.fake_model import FakeAligner, FakeFamily, ReadAlready, fake_transcriber, samples, text_of, write_answer
from twostage_asr.engine import PromptTooLongError, TranscriptionService
from twostage_asr.engine.audio.inputs import AudioInput
from twostage_asr.engine.families.base import Request
from twostage_asr.engine.prompt import PromptText
from twostage_asr.engine.run_options import TranscribeOptions, transcribe_options
from twostage_asr.engine.transcriber import Transcriber
from twostage_asr.engine.words.hotwords import MAX_HOTWORDS_IN_PROMPT

MANY = tuple(f"word{i}" for i in range(5000))


class HearsItsNumber(FakeAligner):
    """Of any list, the word that ends in the clip's number; nothing can be heard of clip 66."""

    def __init__(self) -> None:
        self.num_asked = 0

    def heard_hotwords(self, hidden: Tensor, hotwords: Sequence[str]) -> tuple[str, ...]:
        self.num_asked += 1
        number = round(float(hidden.max()))
        if number == 66:
            raise IndexError("index 66 is out of range")
        return tuple(word for word in hotwords if word == f"word{number}")


class KeepsPrompts(FakeFamily):
    """What was asked of each prompt, in order."""

    def __init__(self) -> None:
        self.asked: list[Request] = []

    def prompt_text(self, request: Request) -> PromptText:
        self.asked.append(request)
        return super().prompt_text(request)


def model_of(tmp_path: Path, numbers: Sequence[int] = (7,), **changes: Any) -> Transcriber:
    readers = ReadAlready([samples(number) for number in numbers])
    parts = {"aligner": HearsItsNumber(), "family": KeepsPrompts(), "readers": readers}
    return fake_transcriber(tmp_path, **parts | changes)


def run(model: Transcriber, numbers: Sequence[int], options: TranscribeOptions) -> list[Any]:
    results = dict(model.run([AudioInput(key=str(n), source="") for n in numbers], options))
    return [results[place] for place in range(len(numbers))]


def last_hotwords(model: Transcriber) -> tuple[str, ...]:
    family: Any = model.family
    return family.asked[-1].hotwords


@pytest.mark.parametrize("asked", [{}, {"timestamps": False, "check": False}])
def test_a_run_gives_the_llm_what_is_heard(tmp_path: Path, asked: dict[str, bool]) -> None:
    model = model_of(tmp_path)
    (result,) = run(model, [7], transcribe_options(hotwords=MANY, **asked))
    assert (result.text, last_hotwords(model)) == (text_of(7), ("word7",))


@pytest.mark.parametrize("answer_prefix", ["", "clip"])
def test_so_does_a_service_also_where_the_text_is_followed(tmp_path: Path, answer_prefix: str) -> None:
    model = model_of(tmp_path)
    service = TranscriptionService(model)
    seen: list[str] = []
    options = transcribe_options(hotwords=MANY)
    future = service.submit(samples(8), options, answer_prefix=answer_prefix, on_text=seen.append)
    assert future.result(60).text.endswith(text_of(8))
    service.close()
    assert (last_hotwords(model), bool(seen)) == (("word8",), True)


def test_what_an_input_asks_for_itself_is_picked_from_as_well(tmp_path: Path) -> None:
    model = model_of(tmp_path)
    list(model.run([AudioInput(key="a", source="", hotwords=MANY)], transcribe_options()))
    assert last_hotwords(model) == ("word7",)


@pytest.mark.parametrize("count", [0, 1, MAX_HOTWORDS_IN_PROMPT])
def test_a_list_that_fits_is_given_whole_and_nothing_is_asked(tmp_path: Path, count: int) -> None:
    aligner = HearsItsNumber()
    model = model_of(tmp_path, aligner=aligner)
    list(model.run([AudioInput(key="a", source="")], transcribe_options(hotwords=MANY[-count:] if count else ())))
    assert (len(last_hotwords(model)), aligner.num_asked) == (count, 0)


def test_a_clip_in_which_nothing_can_be_heard_fails_alone(tmp_path: Path) -> None:
    model = model_of(tmp_path, [7, 66, 8])
    results = run(model, [7, 66, 8], transcribe_options(hotwords=MANY))
    assert [result.status == "error" for result in results] == [False, True, False]
    assert "pick hotwords failed" in results[1].error


def test_a_model_without_a_ctc_head_says_that_it_cannot_pick(tmp_path: Path) -> None:
    model = model_of(tmp_path, aligner=None, no_times_reason="no head")
    (result,) = run(model, [7], transcribe_options(hotwords=MANY))
    assert result.error_code == PromptTooLongError.code
    assert "All 5,000 hotwords" in result.error and "no CTC head" in result.error


def test_what_is_picked_must_fit_as_well(tmp_path: Path) -> None:
    aligner: Any = FakeAligner()
    aligner.heard_hotwords = lambda _, hotwords: hotwords[-1:]
    model = model_of(tmp_path, aligner=aligner, decoder=FakeDecoder(write_answer, max_model_len=600))
    (fits,) = run(model, [7], transcribe_options(hotwords=[*MANY, "word"]))
    assert fits.text == text_of(7)
    (result,) = run(model, [7], transcribe_options(hotwords=[*MANY, "word" * 25]))
    assert result.error_code == PromptTooLongError.code and "no CTC head" not in result.error
