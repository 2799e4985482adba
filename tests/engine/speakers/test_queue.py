"""SpeakerQueue: jobs of many callers share batches, a job that fails or is not wanted costs no other."""

import threading

import pytest

from tests.fake_model import samples
from tests.fake_voices import BROKEN, FakeVoices, GatedVoices
from twostage_asr.engine.errors import ConfigError, HubError, InternalError, ServiceClosedError
from twostage_asr.engine.speakers import queue
from twostage_asr.engine.speakers.queue import SpeakerQueue

WHOLE = [(0, 16_000)]


def test_what_comes_meanwhile_is_embedded_together_and_what_is_cancelled_is_not() -> None:
    gate = GatedVoices()
    jobs = SpeakerQueue(gate, on_gpu=False)
    first = jobs.embed(samples(1), WHOLE)
    assert gate.begun.wait(60)
    others = [jobs.embed(samples(number), WHOLE) for number in (2, BROKEN, 4)]
    assert jobs.embed(samples(3), WHOLE).cancel()
    gate.free.set()
    assert first.result(60).argmax() == 1
    assert (others[0].result(60).argmax(), others[2].result(60).argmax()) == (2, 4)
    with pytest.raises(InternalError, match="s of speech"):
        others[1].result(60)
    assert gate.batches[:2] == [1, 3]
    jobs.close()


def test_every_window_has_its_row() -> None:
    gate = GatedVoices()
    jobs = SpeakerQueue(gate, on_gpu=False)
    jobs.embed(samples(1), WHOLE)
    assert gate.begun.wait(60)
    one, two = jobs.embed(samples(5), [(0, 8_000), (8_000, 16_000)]), jobs.embed(samples(9), WHOLE)  # of one batch
    gate.free.set()
    assert (one.result(60).argmax(1).tolist(), two.result(60).argmax(1).tolist()) == ([5, 5], [9])
    assert jobs.embed(samples(5), ()).result(60).shape[0] == 0
    jobs.close()


def test_jobs_wait_for_a_full_batch_or_a_flush() -> None:
    voices = FakeVoices()
    jobs = SpeakerQueue(voices, on_gpu=False, least_windows=2)
    first = jobs.embed(samples(1), WHOLE)
    assert jobs.is_idle
    assert jobs.embed(samples(2), WHOLE).result(60).argmax() == 2
    assert first.result(60).argmax() == 1
    third = jobs.embed(samples(3), WHOLE)
    jobs.flush()
    assert third.result(60).argmax() == 3
    assert voices.batches == [2, 1]
    jobs.close()


def test_a_batch_has_no_more_windows_than_it_may(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(queue, "BATCH_WINDOWS", 3)
    voices = FakeVoices()
    jobs = SpeakerQueue(voices, on_gpu=False, least_windows=100)
    futures = [jobs.embed(samples(number), WHOLE * size) for number, size in ((1, 2), (2, 2), (3, 5), (4, 1))]
    jobs.flush()
    assert [len(future.result(60)) for future in futures] == [2, 2, 5, 1]
    assert voices.batches == [2, 2, 5, 1]
    jobs.close()


def test_a_closed_queue_takes_nothing_and_leaves_no_future_open() -> None:
    gate = GatedVoices()
    jobs = SpeakerQueue(gate, on_gpu=False)
    first = jobs.embed(samples(1), WHOLE)
    assert gate.begun.wait(60)
    left = jobs.embed(samples(2), WHOLE)
    closing = threading.Thread(target=jobs.close)
    closing.start()
    gate.free.set()
    closing.join(60)
    assert first.result(0).argmax() == 1
    assert left.done() and isinstance(left.exception(), ServiceClosedError | None)
    with pytest.raises(ServiceClosedError):
        jobs.embed(samples(3), WHOLE)


def test_a_model_that_cannot_be_loaded_is_asked_for_again_only_later(monkeypatch: pytest.MonkeyPatch) -> None:
    class Failing:
        asked = 0

        def get(self) -> FakeVoices:
            self.asked += 1
            if self.asked == 1:
                raise HubError("not there")
            return FakeVoices()

    failing = Failing()
    jobs = SpeakerQueue(failing, on_gpu=False)
    for _ in range(2):
        with pytest.raises(HubError, match="not there"):
            jobs.embed(samples(1), WHOLE).result(60)
    assert failing.asked == 1
    monkeypatch.setattr(queue, "RETRY_S", 0.0)
    assert jobs.embed(samples(1), WHOLE).result(60).argmax() == 1
    jobs.close()


def test_a_model_without_speakers_says_so() -> None:
    jobs = SpeakerQueue(None, on_gpu=False)
    with pytest.raises(ConfigError, match="without a speaker model"):
        jobs.embed(samples(1), WHOLE)
    jobs.close()


def test_the_model_is_warmed_up_once_before_jobs_with_windows() -> None:
    class Cold(FakeVoices):
        def warm_up(self) -> None:
            super().warm_up()
            assert not self.batches
            raise RuntimeError("no memory for it")

    voices = Cold()
    jobs = SpeakerQueue(voices, on_gpu=False)
    assert not len(jobs.embed(samples(1), ()).result(60))
    assert jobs.embed(samples(2), WHOLE).result(60).argmax() == 2
    jobs.prepare()
    jobs.close()
    assert (voices.num_warm_ups, voices.batches) == (1, [1])


def test_a_model_is_prepared_before_there_is_a_job() -> None:
    voices = FakeVoices()
    jobs = SpeakerQueue(voices, on_gpu=False, least_windows=100)
    jobs.prepare()
    late = jobs.embed(samples(2), WHOLE)
    jobs.flush()
    assert late.result(60).argmax() == 2
    assert voices.num_warm_ups == 1
    jobs.close()
