"""Whatever is raised on behalf of one input fails that input alone: in every step, offline, in the service, live.

Each test makes one step raise for the clip POISON and for no other, on a model of rules (tests/fake_model.py).
"""

import itertools
import logging
import threading
import weakref
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from tests.engine.streaming.listening import finals, hear
from tests.engine.streaming.scripted import LoudIsSpeech
from tests.fake_model import FakeAcoustic, ReadAlready, fake_transcriber, number_of, samples, text_of, write_answer
from twostage_asr.engine import (
    DecodeError,
    InternalError,
    LiveOptions,
    OutOfMemoryError,
    StreamingSession,
    Transcript,
    TranscriptionService,
    answers,
    pipeline,
    recordings,
    transcribe_options,
)
from twostage_asr.engine.acoustic.base import EncodedBatch
from twostage_asr.engine.audio.inputs import AudioInput, expand_inputs
from twostage_asr.engine.audio.waveform import SAMPLE_RATE
from twostage_asr.engine.decoder.base import Hypothesis
from twostage_asr.engine.isolation import isolated
from twostage_asr.engine.pipeline import Pipeline
from twostage_asr.engine.transcriber import Transcriber
from twostage_asr.engine.vad import SegmentRules
from twostage_asr.engine.vad.splitting import Cut, Piece

POISON = 66
NUMBERS = [11, 22, POISON, 44, 55]
OPTIONS = transcribe_options()
Install = Callable[[pytest.MonkeyPatch, Transcriber, Exception], None]


@pytest.fixture
def model(tmp_path: Path) -> Iterator[Transcriber]:
    model = fake_transcriber(tmp_path)
    yield model
    model.close()


def raising_for(function: Callable[..., Any], is_poison: Callable[..., bool], error: Exception) -> Callable[..., Any]:
    def faulty(*args: Any, **options: Any) -> Any:
        if is_poison(*args, **options):
            raise error
        return function(*args, **options)

    return faulty


# --- one fault a step: what must raise, and how it knows the clip


def in_prepare(patch: pytest.MonkeyPatch, model: Transcriber, error: Exception) -> None:
    def is_poison(self: Pipeline, index: int, item: AudioInput, audio: Any, *rest: object) -> bool:
        return number_of(audio) == POISON

    patch.setattr(Pipeline, "_prepared", raising_for(Pipeline._prepared, is_poison, error))


def holds_poison(waveforms: Sequence[np.ndarray], **_: object) -> bool:
    return POISON in map(number_of, waveforms)


def in_encode(patch: pytest.MonkeyPatch, model: Transcriber, error: Exception) -> None:
    patch.setattr(model.acoustic, "encode", raising_for(model.acoustic.encode, holds_poison, error))


def when_encoded(patch: pytest.MonkeyPatch, model: Transcriber, error: Exception) -> None:
    """As on a GPU, where what is queued fails later."""

    def is_poison(batch: EncodedBatch) -> bool:
        return bool((batch.audio_embeds == POISON).any())

    patch.setattr(EncodedBatch, "utterances", raising_for(EncodedBatch.utterances, is_poison, error))


def in_submit(patch: pytest.MonkeyPatch, model: Transcriber, error: Exception) -> None:
    def is_poison(prompt: torch.Tensor, *_: object, **__: object) -> bool:
        return bool(prompt.max() == POISON)

    patch.setattr(model.decoder, "submit", raising_for(model.decoder.submit, is_poison, error))


def in_collect(patch: pytest.MonkeyPatch, model: Transcriber, error: Exception) -> None:
    def rule(prompt: torch.Tensor) -> Sequence[int] | Hypothesis:
        if prompt.max() == POISON:
            return Hypothesis((), (), "stop", error=f"{type(error).__name__}: {error}")
        return write_answer(prompt)

    patch.setattr(model.decoder, "_rule", rule)


def in_align(patch: pytest.MonkeyPatch, model: Transcriber, error: Exception) -> None:
    def is_poison(hidden: object, texts: Sequence[str], *_: object, **__: object) -> bool:
        return text_of(POISON) in texts

    patch.setattr(model.aligner, "align", raising_for(model.aligner.align, is_poison, error))  # type: ignore[union-attr]


def in_judge(patch: pytest.MonkeyPatch, model: Transcriber, error: Exception) -> None:
    patch.setattr(
        answers, "check_text", raising_for(answers.check_text, lambda text, *_: text == text_of(POISON), error)
    )


def in_finish(patch: pytest.MonkeyPatch, model: Transcriber, error: Exception) -> None:
    def is_poison(written: Any, best_length_s: float) -> bool:
        return written.answer.text == text_of(POISON)

    patch.setattr(pipeline, "transcript_of", raising_for(pipeline.transcript_of, is_poison, error))


STEPS = [in_prepare, in_encode, when_encoded, in_submit, in_collect, in_align, in_judge, in_finish]
ERRORS = [
    ValueError("a value of no use"),
    RuntimeError("CUDA error: something else"),
    MemoryError("no room for an array"),
    "\ud800".encode,  # UnicodeEncodeError
    torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 GiB."),
]


def made(error: Exception | Callable[[], bytes]) -> Exception:
    if isinstance(error, Exception):
        return error
    try:
        error()
    except UnicodeEncodeError as raised:
        return raised
    raise AssertionError


@pytest.fixture(params=STEPS, ids=lambda step: step.__name__)
def step(request: pytest.FixtureRequest) -> Install:
    install: Install = request.param
    return install


@pytest.fixture(params=ERRORS, ids=["value", "runtime", "memory", "unicode", "cuda memory"])
def error(request: pytest.FixtureRequest) -> Exception:
    return made(request.param)


def require_one_failure(results: dict[int, Transcript], error: Exception) -> None:
    for number, transcript in results.items():
        if number == POISON:
            assert (transcript.status, transcript.text, transcript.words) == ("error", "", None)
            assert f"{type(error).__name__}: {error}" in (transcript.error or "")
        else:
            assert (transcript.status, transcript.text, transcript.error) == ("ok", text_of(number), None)


def offline(model: Transcriber, numbers: Sequence[int]) -> dict[int, Transcript]:
    results = dict(model.run(expand_inputs([samples(number) for number in numbers]), OPTIONS))
    return {number: results[place] for place, number in enumerate(numbers)}


def served(service: TranscriptionService, numbers: Sequence[int]) -> dict[int, Transcript]:
    futures = [service.submit(samples(number), OPTIONS) for number in numbers]
    return {number: future.result(60) for number, future in zip(numbers, futures, strict=True)}


# --- the matrix


def test_offline_one_clip_fails_and_the_others_are_right(
    model: Transcriber, step: Install, error: Exception, caplog: pytest.LogCaptureFixture
) -> None:
    with pytest.MonkeyPatch.context() as patch, caplog.at_level(logging.ERROR):
        step(patch, model, error)
        require_one_failure(offline(model, NUMBERS), error)
    logged = [record for record in caplog.records if record.exc_info]
    assert len(logged) == (0 if step is in_collect else 1), "one traceback a failure"
    assert offline(model, [POISON])[POISON].text == text_of(POISON)


def test_in_the_service_one_request_fails_and_the_others_are_right(
    model: Transcriber, step: Install, error: Exception
) -> None:
    service = TranscriptionService(model, batch_wait_s=0.02)
    try:
        with pytest.MonkeyPatch.context() as patch:
            step(patch, model, error)
            require_one_failure(served(service, NUMBERS), error)
        assert not service.failed
        assert served(service, [POISON])[POISON].text == text_of(POISON)
    finally:
        service.close()
    assert offline(model, [11])[11].status == "ok"


def test_a_live_session_fails_in_one_segment_and_another_in_none(
    model: Transcriber, step: Install, error: Exception
) -> None:
    service = TranscriptionService(model)
    live = LiveOptions(vad=LoudIsSpeech(), chunk_ms=500, rules=SegmentRules(silence_schedule=((float("inf"), 300.0),)))
    silence = np.zeros(SAMPLE_RATE // 2, np.float32)
    pcm = np.concatenate([part for number in (11, POISON, 44) for part in (samples(number), silence)])
    try:
        with pytest.MonkeyPatch.context() as patch:
            step(patch, model, error)
            said = finals(hear(StreamingSession(service, OPTIONS, live), pcm, 8000))
            other = finals(hear(StreamingSession(service, OPTIONS, live), samples(55), 8000))
        assert [final.transcript.status for final in said] == ["ok", "error", "ok"]
        assert [final.text for final in said + other] == [text_of(11), "", text_of(44), text_of(55)]
        assert str(error) in (said[1].transcript.error or "")
    finally:
        service.close()


# --- texts that are shown while they are written, and recordings that are joined


def test_a_text_so_far_that_cannot_be_read_fails_its_request_alone(model: Transcriber) -> None:
    service = TranscriptionService(model, batch_wait_s=0.02)

    def is_poison(self: Pipeline, clip: Any, *_: object) -> bool:
        return number_of(clip.waveform) == POISON

    try:
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(
                Pipeline, "text_so_far", raising_for(Pipeline.text_so_far, is_poison, ValueError("unreadable"))
            )
            futures = {n: service.submit(samples(n), OPTIONS, on_text=lambda text: None) for n in NUMBERS}
            with pytest.raises(InternalError, match="unreadable"):
                futures.pop(POISON).result(60)
            assert {n: future.result(60).text for n, future in futures.items()} == {n: text_of(n) for n in futures}
        assert served(service, [POISON])[POISON].status == "ok"
    finally:
        service.close()


def test_a_future_that_its_caller_has_ended_costs_nobody_else(
    model: Transcriber, monkeypatch: pytest.MonkeyPatch
) -> None:
    ended, encode = threading.Event(), model.acoustic.encode

    def encode_then(*args: Any, **options: Any) -> EncodedBatch:
        assert ended.wait(60)
        return encode(*args, **options)

    monkeypatch.setattr(model.acoustic, "encode", encode_then)
    service = TranscriptionService(model, batch_wait_s=0.02)
    try:
        futures = [service.submit(samples(number), OPTIONS) for number in NUMBERS]
        futures[1].set_result(Transcript("mine"))
        ended.set()
        assert [future.result(60).text for future in futures] == [
            text_of(number) if i != 1 else "" for i, number in enumerate(NUMBERS)
        ]
        assert served(service, [POISON])[POISON].text == text_of(POISON)
    finally:
        ended.set()
        service.close()


def test_a_recording_that_cannot_be_joined_fails_alone(tmp_path: Path) -> None:
    def is_poison(key: str, *_: object, **__: object) -> bool:
        return key == "bad"

    recording = Piece([Cut(0.0, samples(11)), Cut(2.0, samples(22))], 4.0, is_last=True)
    model = fake_transcriber(tmp_path, readers=ReadAlready([recording, recording, samples(44)]))
    items = [AudioInput(key=key, source=b"") for key in ("good", "bad", "short")]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(recordings, "join_parts", raising_for(recordings.join_parts, is_poison, KeyError("segment")))
        good, bad, short = (transcript for _, transcript in sorted(model.run(items, OPTIONS)))
    assert (good.text, short.text) == (f"{text_of(11)} {text_of(22)}", text_of(44))
    assert (bad.status, bad.text, bad.duration) == ("error", "", 4.0) and "KeyError" in (bad.error or "")


# --- memory


class Allocates(FakeAcoustic):
    """Each attempt holds memory until nothing refers to it any more; there is room for one."""

    def __init__(self, room_s: float) -> None:
        super().__init__(room_s)
        self._held: list[weakref.ref[FakeAcoustic]] = []

    def encode(self, waveforms: Sequence[np.ndarray], *, with_ctc: bool) -> EncodedBatch:
        assert not any(held() for held in self._held), "an earlier attempt is still held"
        allocated = FakeAcoustic()
        self._held.append(weakref.ref(allocated))
        return super().encode(waveforms, with_ctc=with_ctc)


def test_a_batch_that_does_not_fit_is_halved(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    acoustic = Allocates(room_s=3.0)
    model = fake_transcriber(tmp_path, acoustic=acoustic)
    numbers = list(range(1, 17))
    results = offline(model, numbers)
    assert {n: r.text for n, r in results.items()} == {n: text_of(n) for n in numbers}
    assert max(map(len, acoustic.batches)) == 2 and sorted(itertools.chain(*acoustic.batches)) == numbers
    assert not [record for record in caplog.records if record.levelno >= logging.ERROR]


def test_a_clip_that_does_not_fit_alone_says_how_long_it_is(tmp_path: Path) -> None:
    model = fake_transcriber(tmp_path, acoustic=FakeAcoustic(room_s=5.0))
    results = dict(model.run(expand_inputs([samples(1), ("long", samples(2, 7.0), SAMPLE_RATE), samples(3)]), OPTIONS))
    assert [results[i].status for i in range(3)] == ["ok", "error", "ok"]
    assert results[1].error == (
        "encode: 'long' (7.0 s of audio) does not fit into the memory that is left: "
        "OutOfMemoryError: CUDA out of memory. Tried to allocate 7 MiB."
    )


def test_nothing_of_a_failed_attempt_is_kept_while_the_next_is_made() -> None:
    """What a traceback refers to would be on the GPU."""
    alive: list[int] = []

    class Tensor:
        def __init__(self) -> None:
            alive.append(id(self))

        def __del__(self) -> None:
            alive.remove(id(self))

    def work(numbers: Sequence[int]) -> list[int]:
        assert not alive
        allocated = Tensor()
        if len(numbers) > 1:
            raise torch.OutOfMemoryError(f"CUDA out of memory: {allocated}")
        return [number * 2 for number in numbers]

    assert isolated("double", [1, 2, 3, 4, 5], work, recover=lambda: None if not alive else pytest.fail()) == [
        2, 4, 6, 8, 10
    ]  # fmt: skip


def test_the_error_says_whether_memory_was_short() -> None:
    def failing(error: Exception) -> object:
        def work(_: Sequence[str]) -> list[str]:
            raise error

        (failure,) = isolated("step", ["it"], work)
        return type(failure)

    cpu = RuntimeError("DefaultCPUAllocator: not enough memory: you tried to allocate 8 bytes.")
    assert [failing(made(error)) for error in [*ERRORS, cpu]] == [
        InternalError, InternalError, OutOfMemoryError, InternalError, OutOfMemoryError, OutOfMemoryError
    ]  # fmt: skip


# --- the end of the engine is no clip's


def test_a_dead_engine_ends_the_run_with_its_reason(model: Transcriber) -> None:
    model.decoder.fail("the process ended, exit status -9")  # type: ignore[attr-defined]
    with pytest.raises(DecodeError, match="exit status -9"):
        offline(model, NUMBERS)
    assert model.lock.acquire(blocking=False)  # it is free
    model.lock.release()


def test_a_dead_engine_ends_all_requests_with_its_reason(model: Transcriber) -> None:
    service = TranscriptionService(model)
    model.decoder.hold()  # type: ignore[attr-defined]
    futures: list[Future[Transcript]] = [service.submit(samples(number), OPTIONS) for number in NUMBERS]
    model.decoder.fail("exit status -9")  # type: ignore[attr-defined]
    for future in futures:
        with pytest.raises(DecodeError, match="exit status -9"):
            future.result(60)
    service.close()
    assert service.failed
    with pytest.raises(DecodeError):
        service.submit(samples(11), OPTIONS)


@pytest.mark.parametrize("step", [in_encode, when_encoded, in_align], ids=lambda step: step.__name__)
def test_a_gpu_that_has_failed_ends_the_run(model: Transcriber, step: Install, monkeypatch: pytest.MonkeyPatch) -> None:
    """After some errors no CUDA call of a process succeeds: every clip would fail, for ever."""

    def recover(self: Pipeline) -> None:
        raise DecodeError("the GPU of stage 1 failed: an illegal memory access was encountered")

    step(monkeypatch, model, RuntimeError("CUDA error"))
    monkeypatch.setattr(Pipeline, "_recover", recover)
    with pytest.raises(DecodeError, match="illegal memory access"):
        offline(model, NUMBERS)
