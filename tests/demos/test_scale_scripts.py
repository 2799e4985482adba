"""The scripts behind the figures of jobs.md: what they count on."""

import logging
import time
from collections.abc import Iterator
from pathlib import Path

from demos.benchmark_devices import Engines
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


def test_the_benchmark_knows_from_the_log_which_engines_have_loaded() -> None:
    """The lines are those of loader.py and process_decoder.py; with several devices, each begins with its device."""
    engines = Engines()
    assert engines.have_loaded  # without vLLM, none is waited for

    def said(line: str) -> tuple[dict[str, tuple[int, int]], bool]:
        engines.emit(logging.LogRecord("", logging.INFO, "", 0, line, None, None))
        return engines.counts, engines.have_loaded

    chosen = "1 vLLM engine(s), 4 when prompts wait; 16 cores; they share the GPU by MPS"
    assert said(f"cuda:0: {chosen}") == ({"cuda:0": (1, 4)}, False)
    said(f"cuda:1: {chosen}")
    said("cuda:0: 1024 prompts wait; 3 more vLLM engines are loading")
    said("cuda:0: 4 vLLM engines decode")
    assert said("cuda:1: 3 vLLM engines decode") == ({"cuda:0": (4, 4), "cuda:1": (3, 4)}, False)
    late = "cuda:1: a further vLLM engine did not load, 3 go on: no memory"
    assert said(late) == ({"cuda:0": (4, 4), "cuda:1": (3, 3)}, True)
    alone = Engines()
    alone.emit(logging.LogRecord("", logging.INFO, "", 0, chosen, None, None))
    assert alone.counts == {"the device": (1, 4)}
