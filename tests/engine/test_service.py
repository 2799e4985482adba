"""The service: whoever asks, from however many threads, gets what the offline loop writes; dropped work is gone."""

import asyncio
import threading
import time
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.pipeline import Clip
from twostage_asr.engine import (
    AutoModelVLLM,
    ConfigError,
    QueueFullError,
    ServiceClosedError,
    Transcript,
    TranscriptionService,
)
from twostage_asr.engine.audio import Waveform, decode_audio
from twostage_asr.engine.auto import transcribe_options
from twostage_asr.engine.cuda_graphs import MAX_CLIPS
from twostage_asr.engine.inputs import expand_inputs
from twostage_asr.engine.timeline import Timeline
from twostage_asr.engine.transcriber import TranscribeOptions

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
    decoding = threading.Event()
    kept = service.submit(waveforms[0], endless())
    dropped = [service.submit(waveforms[1], endless(), on_text=lambda _: decoding.set()) for _ in range(5)]
    assert decoding.wait(30)
    assert all(future.cancel() for future in dropped)
    deadline = time.monotonic() + 5
    while unfinished_in_vllm(vllm_model) > 1:
        assert time.monotonic() < deadline, "vLLM goes on with what nobody waits for"
        time.sleep(0.01)
    assert not kept.done()
    assert kept.result(60).finish_reason == "length"
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


def test_a_full_queue_says_so_and_recovers(vllm_model: AutoModelVLLM, waveforms: list[Waveform]) -> None:
    service = TranscriptionService(vllm_model.transcriber, max_waiting=4, batch_wait_s=0.2)
    try:
        own = transcribe_options()
        futures = [service.submit(waveforms[0], own) for _ in range(4)]
        with pytest.raises(QueueFullError, match="4 clips are waiting already, at most 4 may"):
            for _ in range(10):
                futures.append(service.submit(waveforms[0], own))
        assert len({future.result(60).text for future in futures}) == 1
        assert service.submit(waveforms[0], own).result(60).status == "ok"
    finally:
        service.close()


def test_a_burst_is_decoded_while_the_rest_of_it_is_encoded(
    vllm_model: AutoModelVLLM, waveforms: list[Waveform]
) -> None:
    timeline = Timeline()
    service = TranscriptionService(vllm_model.transcriber, batch_wait_s=0.2, timeline=timeline)
    try:
        own = transcribe_options(max_new_tokens=1)
        for future in [service.submit(waveforms[0][:8000], own) for _ in range(MAX_CLIPS + 8)]:
            future.result(60)
    finally:
        service.close()
    encoded = [span for span in timeline.spans if span.stage == "encode" and span.num_clips]
    assert [span.num_clips for span in encoded] == [MAX_CLIPS, 8]
    assert min(span.start for span in timeline.spans if span.stage == "decode") < encoded[1].end


def test_closing_drains_or_drops(vllm_model: AutoModelVLLM, waveforms: list[Waveform]) -> None:
    service = TranscriptionService(vllm_model.transcriber)
    finished = [service.submit(waveform, transcribe_options()) for waveform in waveforms]
    with pytest.raises(ConfigError, match="at work for another service"):
        TranscriptionService(vllm_model.transcriber)
    service.close(drain_s=60)
    assert all(future.result(0).status == "ok" for future in finished)
    service = TranscriptionService(vllm_model.transcriber)
    dropped: Future[Transcript] = service.submit(waveforms[0], endless())
    service.close()
    service.close()
    with pytest.raises(ServiceClosedError):
        dropped.result(0)
    with pytest.raises(ServiceClosedError):
        service.submit(waveforms[0], transcribe_options())
    assert unfinished_in_vllm(vllm_model) == 0
    assert vllm_model.generate([(waveforms[0], 16000)])[0].status == "ok"
