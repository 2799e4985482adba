"""The service: whoever asks, from however many threads, gets what the offline loop writes; dropped work is gone."""

import asyncio
import contextlib
import os
import threading
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from tests.fake_decoder import FakeDecoder
from tests.fake_model import FakeAcoustic, FakeAligner, ReadAlready, fake_transcriber, samples, text_of, write_answer
from tests.pipeline import Clip
from tests.processes import wait_until
from twostage_asr.engine import (
    AutoModelVLLM,
    ConfigError,
    DecodeError,
    QueueFullError,
    ServiceClosedError,
    Transcript,
    TranscriptionService,
    UnsupportedAudioError,
    transcribe_options,
)
from twostage_asr.engine.acoustic.base import EncodedBatch
from twostage_asr.engine.acoustic.cuda_graphs import MAX_CLIPS
from twostage_asr.engine.audio.decode import Waveform, decode_audio
from twostage_asr.engine.audio.inputs import AudioInput, expand_inputs
from twostage_asr.engine.pipeline import Pipeline
from twostage_asr.engine.run_options import TranscribeOptions
from twostage_asr.engine.server.recognizer import Recognizer
from twostage_asr.engine.server.settings import ServerSettings
from twostage_asr.engine.timeline import Timeline
from twostage_asr.engine.vad import load_vad
from twostage_asr.engine.vad.splitting import Cut, Piece
from twostage_asr.engine.words.aligner import Alignment

LONG_ANSWER = 400  # tokens


@pytest.fixture
def service(vllm_model: AutoModelVLLM) -> Iterator[TranscriptionService]:
    service = TranscriptionService(vllm_model.transcriber)
    yield service
    service.close()


@pytest.fixture(scope="module")
def waveforms(clips: list[Clip]) -> list[Waveform]:
    return [decode_audio(Path(clip["source"])) for clip in clips]


@pytest.fixture(scope="module")
def options(clips: list[Clip]) -> list[TranscribeOptions]:
    return [transcribe_options(language=c["language"], hotwords=c["hotwords"], itn=c["itn"]) for c in clips]


@pytest.fixture(scope="module")
def expected(
    vllm_model: AutoModelVLLM, waveforms: list[Waveform], options: list[TranscribeOptions]
) -> list[Transcript]:
    """What the offline loop writes for each clip alone."""
    model = vllm_model.transcriber
    return [
        transcript
        for waveform, own in zip(waveforms, options, strict=True)
        for _, transcript in model.run(expand_inputs(("audio", waveform, 16000)), own)
    ]


def endless(**changes: Any) -> TranscribeOptions:
    """An answer that only ends after LONG_ANSWER tokens."""
    options = transcribe_options(timestamps=False)
    return replace(options, params=replace(options.params, max_new_tokens=LONG_ANSWER, ignore_eos=True, **changes))


def unfinished_in_vllm(model: AutoModelVLLM) -> int:
    decoder: Any = model.transcriber.decoder
    num: int = decoder._engine.engine_core.engine_core.scheduler.get_num_unfinished_requests()
    return num


def test_32_threads_get_what_the_offline_loop_writes(
    service: TranscriptionService,
    waveforms: list[Waveform],
    options: list[TranscribeOptions],
    expected: list[Transcript],
) -> None:
    places = [*range(len(waveforms))] * 4
    with ThreadPoolExecutor(32) as callers:
        got = callers.map(lambda i: service.submit(waveforms[i], options[i]).result(60), places)
    for place, transcript in zip(places, got, strict=True):
        whole = expected[place]
        assert (transcript.text, transcript.finish_reason) == (whole.text, whole.finish_reason)
        assert [(w.text, w.start, w.end) for w in transcript.words or ()] == [
            (w.text, w.start, w.end) for w in whole.words or ()
        ]
        assert transcript.confidence == pytest.approx(whole.confidence, abs=1e-3)  # sums of floats, in batches


def test_an_event_loop_may_wait_for_it(
    service: TranscriptionService, waveforms: list[Waveform], options: list[TranscribeOptions]
) -> None:
    async def all_of_them() -> list[Transcript]:
        return list(
            await asyncio.gather(
                *(
                    asyncio.wrap_future(service.submit(waveform, own, key=str(i)))
                    for i, (waveform, own) in enumerate(zip(waveforms, options, strict=True))
                )
            )
        )

    transcripts = asyncio.run(all_of_them())
    assert [transcript.key for transcript in transcripts] == [str(i) for i in range(len(waveforms))]


def test_text_so_far_grows_into_the_text(
    service: TranscriptionService, waveforms: list[Waveform], options: list[TranscribeOptions]
) -> None:
    for waveform, own in zip(waveforms[:4], options, strict=False):
        seen: list[str] = []
        whole = service.submit(waveform, own, on_text=seen.append).result(60).text
        assert len(seen) > 3
        assert all(whole.startswith(text) for text in seen)
        assert sorted(seen, key=len) == seen


def test_an_answer_prefix_is_what_the_answer_begins_with(
    service: TranscriptionService,
    waveforms: list[Waveform],
    options: list[TranscribeOptions],
    expected: list[Transcript],
) -> None:
    for waveform, own, whole in zip(waveforms[:6], options, expected, strict=False):
        words = whole.text.split()
        half = " ".join(words[: len(words) // 2])
        assert service.submit(waveform, own, answer_prefix=half).result(60).text == whole.text
    other = service.submit(waveforms[0], options[0], answer_prefix="They laughed").result(60).text
    assert other.startswith("They laughed")


def test_cancelled_work_leaves_vllm(
    service: TranscriptionService, vllm_model: AutoModelVLLM, waveforms: list[Waveform]
) -> None:
    """While the other answer goes on, which is where it is asked how many there are."""
    decoding, cancelled = threading.Event(), threading.Event()
    unfinished: list[int] = []

    def wait_for_the_end(_: str) -> None:
        decoding.set()
        assert cancelled.wait(60)

    kept = service.submit(waveforms[0], endless(), on_text=lambda _: unfinished.append(unfinished_in_vllm(vllm_model)))
    dropped = [service.submit(waveforms[1], endless(), on_text=wait_for_the_end) for _ in range(5)]
    assert decoding.wait(60)
    assert all(future.cancel() for future in dropped)
    cancelled.set()
    assert kept.result(60).finish_reason == "length"
    assert unfinished.count(1) > LONG_ANSWER // 2, "vLLM goes on with what nobody waits for"
    assert service.num_jobs == 0


def test_one_bad_input_or_caller_costs_nobody_else(
    service: TranscriptionService, waveforms: list[Waveform], expected: list[Transcript]
) -> None:
    def raises(text: str) -> None:
        raise RuntimeError("my mistake")

    own = transcribe_options(language="英文")
    broken = service.submit(waveforms[0], own, on_text=raises)
    nan = service.submit(np.full(16000, np.nan, np.float32), own)
    too_long = service.submit(np.zeros(16000 * 400, np.float32), transcribe_options(max_new_tokens=4000))
    good = service.submit(waveforms[0], own)
    with pytest.raises(RuntimeError, match="my mistake"):
        broken.result(60)
    assert (nan.result(60).status, too_long.result(60).status) == ("error", "error")
    assert good.result(60).text == expected[0].text
    with pytest.raises(ConfigError, match="'Klingon' is unknown"):
        service.submit(waveforms[0], transcribe_options(language="Klingon"))


def test_a_full_queue_says_so_and_recovers(
    vllm_model: AutoModelVLLM, waveforms: list[Waveform], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nothing is encoded before it is."""
    is_full, acoustic = threading.Event(), vllm_model.transcriber.acoustic
    encode = acoustic.encode

    def encode_late(*batch: Any, **options: Any) -> EncodedBatch:
        assert is_full.wait(60)
        return encode(*batch, **options)

    monkeypatch.setattr(acoustic, "encode", encode_late)
    service = TranscriptionService(vllm_model.transcriber, max_waiting=4)
    try:
        own = transcribe_options()
        futures = [service.submit(waveforms[0], own) for _ in range(4)]
        with pytest.raises(QueueFullError, match="4 clips are waiting already, at most 4 may"):
            for _ in range(10):
                futures.append(service.submit(waveforms[0], own))
        is_full.set()
        assert len({future.result(60).text for future in futures}) == 1
        assert service.submit(waveforms[0], own).result(60).status == "ok"
    finally:
        is_full.set()
        service.close()


def test_a_burst_is_decoded_while_the_rest_of_it_is_encoded(
    vllm_model: AutoModelVLLM, waveforms: list[Waveform], monkeypatch: pytest.MonkeyPatch
) -> None:
    """It comes while a first clip is being encoded, so that all of it is there for the next batch."""
    acoustic, timeline, begun, is_there = (
        vllm_model.transcriber.acoustic,
        Timeline(),
        threading.Event(),
        threading.Event(),
    )
    encode = acoustic.encode

    def encode_late(*batch: Any, **options: Any) -> EncodedBatch:
        begun.set()
        assert is_there.wait(60)
        return encode(*batch, **options)

    monkeypatch.setattr(acoustic, "encode", encode_late)
    service = TranscriptionService(vllm_model.transcriber, timeline=timeline)
    try:
        own = transcribe_options(max_new_tokens=1)
        futures = [service.submit(waveforms[0][:8000], own)]
        assert begun.wait(60)
        futures += [service.submit(waveforms[0][:8000], own) for _ in range(MAX_CLIPS + 8)]
        is_there.set()
        for future in futures:
            future.result(60)
    finally:
        is_there.set()
        service.close()
    _, first, rest = (span for span in timeline.spans if span.stage == "encode" and span.num_clips)
    assert (first.num_clips, rest.num_clips) == (MAX_CLIPS, 8)
    assert any(first.end <= span.start < rest.end for span in timeline.spans if span.stage == "decode")


def test_closing_drains_or_drops(
    vllm_model: AutoModelVLLM, waveforms: list[Waveform], monkeypatch: pytest.MonkeyPatch
) -> None:
    acoustic = vllm_model.transcriber.acoustic
    encode = acoustic.encode

    def encode_after_close(*batch: Any, **options: Any) -> EncodedBatch:
        wait_until(lambda: service._closes_at is not None)
        return encode(*batch, **options)

    service = TranscriptionService(vllm_model.transcriber)
    finished = [service.submit(waveform, transcribe_options()) for waveform in waveforms]
    with pytest.raises(ConfigError, match="at work for another service"):
        TranscriptionService(vllm_model.transcriber)
    service.close(drain_s=600)
    assert all(future.result(0).status == "ok" for future in finished)
    service = TranscriptionService(vllm_model.transcriber)
    with monkeypatch.context() as late:
        late.setattr(acoustic, "encode", encode_after_close)
        dropped: Future[Transcript] = service.submit(waveforms[0], endless())
        service.close()
    service.close()
    with pytest.raises(ServiceClosedError):
        dropped.result(0)
    with pytest.raises(ServiceClosedError):
        service.submit(waveforms[0], transcribe_options())
    assert unfinished_in_vllm(vllm_model) == 0
    assert vllm_model.generate([(waveforms[0], 16000)])[0].status == "ok"


# --- on a model of rules


def test_few_jobs_do_not_wait_for_others(tmp_path: Path) -> None:
    service = TranscriptionService(fake_transcriber(tmp_path), batch_wait_s=60.0)
    try:
        for number in (5, 6):
            assert service.submit(samples(number), transcribe_options()).result(60).text == text_of(number)
    finally:
        service.close()


class OnGPU(FakeAcoustic):
    """Clips of 2 s are encoded once `end` is set, as on a GPU that takes its time."""

    def __init__(self) -> None:
        super().__init__()
        self.has_begun, self.end = threading.Event(), threading.Event()

    def encode(self, waveforms: Any, *, with_ctc: bool) -> EncodedBatch:
        encoded = super().encode(waveforms, with_ctc=with_ctc)
        if len(waveforms[0]) < 32_000:
            return encoded
        self.has_begun.set()
        done: Any = SimpleNamespace(query=self.end.is_set, synchronize=lambda: self.end.wait(60))
        return replace(encoded, done=done)


def test_answers_go_on_while_stage_1_is_at_work(tmp_path: Path) -> None:
    decoder, acoustic = FakeDecoder(write_answer), OnGPU()
    service = TranscriptionService(fake_transcriber(tmp_path, acoustic=acoustic, decoder=decoder))
    try:
        decoder.hold()
        first = service.submit(samples(5), transcribe_options())
        while not decoder.num_pending:
            assert not first.done()
        second = service.submit(samples(6, seconds=2.0), transcribe_options())
        assert acoustic.has_begun.wait(60)
        decoder.release()
        assert first.result(60).text == text_of(5)
        assert not second.done()
        acoustic.end.set()
        assert second.result(60).text == text_of(6)
    finally:
        acoustic.end.set()
        service.close()


def test_what_are_no_samples_and_no_text_is_refused_where_it_is_given(tmp_path: Path) -> None:
    service = TranscriptionService(fake_transcriber(tmp_path))
    own: Any = transcribe_options()
    bad: list[Any] = [[0.0], np.zeros(8), np.zeros((2, 8), np.float32), np.float32(1.0), b"\0\0\0\0", None]
    try:
        for waveform in bad:
            with pytest.raises(UnsupportedAudioError, match=r"must be an array of \(N,\) float32, got "):
                service.submit(waveform, own)
        with pytest.raises(UnsupportedAudioError, match="at least 2 samples, got 1"):
            service.submit(samples(5)[:1], own)
        with pytest.raises(ConfigError, match=r"answer_prefix holds U\+D800 at position 1"):
            service.submit(samples(5), own, answer_prefix="x\ud800")
        assert service.submit(samples(5), own).result(60).text == text_of(5)
    finally:
        service.close()


def test_a_prompt_that_is_too_long_is_one_error_and_is_not_kept(tmp_path: Path) -> None:
    model = fake_transcriber(tmp_path)
    service = TranscriptionService(model)
    try:
        long, longer = (
            service.submit(samples(5), transcribe_options(hotwords=["w" * size])).result(60)
            for size in (4_000, 9_000_000)
        )
        assert "the model length is 4096" in (long.error or "")
        assert "9,000,002 bytes, at most 65,536 are allowed" in (longer.error or "")
        assert not model.embedder._kept
    finally:
        service.close()


def test_more_files_than_select_can_name_may_be_open(tmp_path: Path) -> None:
    with open(os.devnull) as file, contextlib.ExitStack() as opened:
        for _ in range(1_100):
            opened.callback(os.close, os.dup(file.fileno()))
        service = TranscriptionService(fake_transcriber(tmp_path))
        try:
            assert service.submit(samples(5), transcribe_options()).result(60).text == text_of(5)
            assert not service.failed
        finally:
            service.close()


def test_the_model_is_free_again_however_its_service_ends(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An engine that is dead cannot even drop its work."""
    decoder = FakeDecoder(lambda _: [65])
    model = fake_transcriber(tmp_path, decoder=decoder)
    service = TranscriptionService(model)
    decoder.hold()
    future = service.submit(samples(5), transcribe_options())

    def cancel(pipeline: Pipeline) -> None:
        raise DecodeError("it is dead")

    monkeypatch.setattr(Pipeline, "cancel", cancel)
    monkeypatch.setattr(threading, "excepthook", lambda args: None)
    decoder.fail("it died")
    with pytest.raises(DecodeError, match="it died"):
        future.result(60)
    service.close()
    assert model.lock.acquire(blocking=False)  # it is free
    model.lock.release()


def test_a_callback_cannot_close_the_service_that_calls_it(tmp_path: Path) -> None:
    """The first clip is held until its callback is there, which else this thread might call."""
    decoder = FakeDecoder(write_answer)
    model = fake_transcriber(tmp_path, decoder=decoder)
    service = TranscriptionService(model)
    said, is_done = list[str](), threading.Event()

    def close(_: object) -> None:
        for each in (service, model):
            with pytest.raises(ConfigError, match="close it in another thread") as error:
                each.close()
            said.append(str(error.value))
        is_done.set()

    decoder.hold()
    service.submit(samples(5), transcribe_options()).add_done_callback(close)
    decoder.release()
    assert is_done.wait(60) and len(said) == 2
    assert service.submit(samples(6), transcribe_options()).result(60).text == text_of(6)
    model.close()
    with pytest.raises(ConfigError, match="this model is closed"):
        service.submit(samples(7), transcribe_options())


class HearsSomethingElse(FakeAligner):
    def _alignment(self, text: str, duration: float) -> Alignment:
        return Alignment((), ctc_text="something else", disagreement=0.9)


def test_a_segment_that_a_vad_has_cut_is_speech_here_as_it_is_offline(tmp_path: Path) -> None:
    """A text that the CTC head contradicts is dropped where a VAD hears no speech, which nobody asks it of a segment.

    silero-vad hears none in these samples.
    """
    model = fake_transcriber(tmp_path, aligner=HearsSomethingElse())
    cuts = [Cut(0.0, samples(11)), Cut(2.0, samples(22))]
    reading = ReadAlready([Piece(cuts, 4.0, is_last=True), samples(33)])
    items = [AudioInput(key=key, source=b"") for key in ("audio", "audio")]
    own = transcribe_options()
    offline = dict(fake_transcriber(tmp_path, aligner=HearsSomethingElse(), readers=reading).run(items, own))

    async def served() -> list[Transcript]:
        recognizer = Recognizer.of(model, ServerSettings(), vad=load_vad())
        try:
            recording = Piece(cuts, 4.0, is_last=True)
            whole = Piece.whole(samples(33))
            return [await recognizer.transcribe(recording, own), await recognizer.transcribe(whole, own)]
        finally:
            recognizer.close()

    assert asyncio.run(served()) == [offline[0], offline[1]]
    assert [(r.text, {w.code for w in r.warnings}) for r in (offline[0], offline[1])] == [
        (f"{text_of(11)} {text_of(22)}", {"disagreement"}), ("", {"no_speech"})
    ]  # fmt: skip


def test_nothing_is_recorded_where_nobody_looks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A million clips would take 120 MB."""
    model, own = fake_transcriber(tmp_path), transcribe_options()

    def record(timeline: Timeline, *_: object) -> None:
        raise AssertionError("recorded")

    with monkeypatch.context() as patch:
        patch.setattr(Timeline, "add", record)
        assert [transcript.status for _, transcript in model.run(expand_inputs([samples(5)]), own)] == ["ok"]
        service = TranscriptionService(model)
        try:
            assert service.submit(samples(5), own).result(60).status == "ok"
        finally:
            service.close()
    timeline = Timeline()
    assert len(list(model.run(expand_inputs([samples(5)]), own, timeline))) == 1
    assert {span.stage for span in timeline.spans} == {"read", "encode", "decode", "align"}
