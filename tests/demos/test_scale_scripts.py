"""The scripts behind the figures of jobs.md: what they count on."""

import time
from collections.abc import Iterator
from pathlib import Path

from demos.feed_devices import GROUP, StandIn, inputs
from demos.kill_and_resume import compare
from twostage_asr.engine.audio.inputs import AudioInput
from twostage_asr.engine.run_options import transcribe_options


def test_a_stand_in_finishes_every_input_and_takes_its_time() -> None:
    items, rate = inputs("wav", 5 * GROUP), 20_000.0

    def given() -> Iterator[AudioInput | None]:
        for item in items:
            yield None  # no input has come for a moment
            yield item

    begun = time.monotonic()
    results = dict(StandIn(rate).run(given(), transcribe_options()))
    assert time.monotonic() - begun >= 4 * GROUP / rate
    assert [results[place].key for place in range(len(items))] == [item.key for item in items]


def test_jobs_that_differ_by_more_than_rounding_are_not_the_same(tmp_path: Path) -> None:
    def job(name: str, *lines: str) -> Path:
        (tmp_path / name / "transcripts").mkdir(parents=True)
        (tmp_path / name / "transcripts" / "000000.jsonl").write_text("".join(f"{line}\n" for line in lines))
        return tmp_path / name

    whole = job("whole", '{"text": "a", "confidence": 0.5}', '{"text": "b", "confidence": 0.5}')
    rounded = job("rounded", '{"text": "a", "confidence": 0.5000001}', '{"text": "b", "confidence": 0.5}')
    other = job("other", '{"text": "a", "confidence": 0.5}', '{"text": "c", "confidence": 0.5}')
    assert compare(whole, whole) == "2 of 2 lines are equal byte for byte"
    assert compare(whole, rounded).startswith("1 of 2 lines are equal byte for byte, the others but for numbers")
    assert compare(whole, other) == "output DIFFERS in 1 lines"
