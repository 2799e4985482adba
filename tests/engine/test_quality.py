"""What is held against a text, and what is done about it."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.pipeline import Clip
from twostage_asr.engine import AutoModelVLLM, ConfigError
from twostage_asr.engine.audio.inputs import expand_inputs
from twostage_asr.engine.audio.loading import load
from twostage_asr.engine.decoder.base import DecodeParams, Hypothesis
from twostage_asr.engine.quality import (
    Verdict,
    check_text,
    disagreement,
    loop_times,
    seconds_of_speech,
    with_ctc_text,
)
from twostage_asr.engine.transcript import FinishReason, Transcript
from twostage_asr.engine.words.split import split_words

# --- two texts


def distance_of(text: str, heard: str) -> float | None:
    return disagreement(text, split_words(text), heard)


@pytest.mark.parametrize(
    ("text", "heard", "least", "most"),
    [
        ("Set the volume.", "set the volume", 0, 0),
        ("We need 90 tickets.", "we need ninety tickets", 0, 0),
        ("这里有71本书。", "这里有七十一本书", 0, 0),
        ("", "", 0, 0),
        ("", "set the volume", 1, 1),
        ("Chapter two.", "", 1, 1),
        ("Chapter 2.", "it it", 0.8, 1),
        ("好。", "坏", 1, 1),
        ("Call Geoffrey Stewart.", "call jeffrey stuart", 0.1, 0.3),  # as hotwords spell them
        ("Turn on the light.", "turn on the light in the kitchen and close the door", 0.5, 0.8),
        ("The meeting starts at one.", "他丢了三十二辆汽车", 0.9, 1),
    ],
)
def test_disagreement(text: str, heard: str, least: float, most: float) -> None:
    distance = distance_of(text, heard)
    assert distance is not None and least <= distance <= most


def test_numerals_alone_are_no_evidence_unless_nothing_is_heard() -> None:
    assert distance_of("1256。", "twelve fifty six") is None
    assert distance_of("1256。", "") == 1


@given(st.text("ab 7。你"), st.text("ab 你"))
def test_disagreement_is_a_fraction_and_zero_with_itself(text: str, heard: str) -> None:
    distance = distance_of(text, heard)
    assert distance is None or 0 <= distance <= 1
    assert distance_of(heard, heard) == 0


# --- loops


def test_loops_are_counted() -> None:
    assert loop_times([1, 2, 3, 4, 5]) == 1
    assert loop_times([7, *[1, 2, 3] * 5, 8]) == 5
    assert loop_times([9] * 12) == 12
    assert loop_times([*range(20), *range(20)]) == 2
    assert loop_times([1, 1, 2, 3, 1, 4, 5, 1, 6]) == 1  # words that come again


@given(st.lists(st.integers(0, 3), max_size=60))
def test_no_loop_is_overlooked_and_none_made_up(ids: list[int]) -> None:
    longest = 1
    for period in range(1, len(ids) // 2 + 1):
        for start in range(len(ids)):
            count = 0
            while start + period + count < len(ids) and ids[start + count] == ids[start + period + count]:
                count += 1
            if count >= 8:
                longest = max(longest, count // period + 1)
    assert loop_times(ids) == longest


# --- verdicts


def hypothesis(token_ids: list[int], finish_reason: FinishReason = "stop") -> Hypothesis:
    return Hypothesis(tuple(token_ids), (0.0,) * len(token_ids), finish_reason)


def codes(
    text: str, heard: str | None, token_ids: list[int], *, speech: bool = True, finish: FinishReason = "stop"
) -> object:
    distance = None if heard is None else distance_of(text, heard)
    verdict = check_text(text, heard, distance, hypothesis(token_ids, finish), lambda: 1.0 if speech else 0.1)
    return [warning.code for warning in verdict.warnings], verdict.is_dropped, verdict.is_loop


LOOP = [1, 2, 3] * 6


def test_what_is_done_about_a_text() -> None:
    nothing = ([], False, False)
    assert codes("Hello there.", "hello there", [1, 2]) == nothing
    assert codes("Hello there.", None, [1, 2]) == nothing
    assert codes("", "", []) == nothing
    # No speech: the head hears nothing, or something else where the VAD hears nothing.
    assert codes("Hello there.", "", [1, 2], speech=True) == (["no_speech"], True, False)
    assert codes("Hello there.", "it", [1, 2], speech=False) == (["no_speech"], True, False)
    assert codes("Hello there.", "it", [1, 2], speech=True) == (["disagreement"], False, False)
    assert codes("Hello there.", "hello there", [1, 2], speech=False) == nothing  # nobody asks the VAD
    assert codes("", "hello there", []) == (["disagreement"], False, False)
    assert codes("1256.", "it", [1, 2], speech=False) == (["no_speech"], True, False)
    assert codes("1256.", "it", [1, 2], speech=True) == nothing
    # Loops: not where the head hears them as well.
    assert codes("no no no no", "no no no no", LOOP) == nothing
    assert codes("to be or not", "to be", LOOP) == (["repetition", "disagreement"], False, True)
    assert codes("to be", None, [1, 2, 3] * 8) == (["repetition"], False, True)
    assert codes("to be", None, LOOP) == nothing
    assert codes("to be", None, LOOP, finish="length") == (["repetition"], False, True)


def verdict_of(text: str, heard: str | None, distance: float, times: int = 1, *, speech_s: float = 9.0) -> Verdict:
    return check_text(text, heard, distance, hypothesis([1, 2, 3, 4] * times), lambda: speech_s)


@pytest.mark.parametrize(("distance", "marked"), [(0.49, False), (0.5, True)])
def test_a_text_is_marked_from_half_a_disagreement_on(distance: float, marked: bool) -> None:
    assert verdict_of("Hello there.", "it", distance).disagrees == marked


@pytest.mark.parametrize(("distance", "is_loop"), [(0.3, False), (0.31, True)])
def test_a_loop_that_the_head_hears_for_the_most_part_is_none(distance: float, is_loop: bool) -> None:
    assert verdict_of("la la la", "la la", distance, 5).is_loop == is_loop


@pytest.mark.parametrize(
    ("heard", "times", "is_loop"), [("it", 2, False), ("it", 3, True), (None, 7, False), (None, 8, True)]
)
def test_how_often_a_loop_goes_round(heard: str | None, times: int, is_loop: bool) -> None:
    assert verdict_of("round and round", heard, 0.4, times).is_loop == is_loop


@pytest.mark.parametrize(("speech_s", "dropped"), [(0.99, True), (1.0, False)])
def test_a_contradicted_text_of_more_than_40_bytes_a_second_of_speech_is_dropped(
    speech_s: float, dropped: bool
) -> None:
    assert verdict_of("x" * 40, "it", 0.9, speech_s=speech_s).is_dropped == dropped


def test_a_reader_is_told_what_was_heard_instead() -> None:
    """Texts are quoted up to 60 characters."""
    (dropped,) = verdict_of("a" * 61, "", 1.0).warnings
    quoted = "a" * 57 + "..."
    assert (
        dropped.message
        == f"no speech is heard that could be this text (the CTC head hears nothing); {quoted!r} was dropped"
    )
    repeated, differs = verdict_of("b " * 9, "a" * 60, 0.75, 5).warnings
    assert repeated.message == "the same words come 5 times in a row"
    assert differs.message == f"the CTC head hears {'a' * 60!r}: 75% of the text and of that differ"
    replaced = with_ctc_text(verdict_of("b " * 9, "it", 0.75, 5), "b\n b")
    assert replaced.disagrees and not replaced.is_loop
    assert [(w.code, w.message) for w in replaced.warnings] == [
        ("ctc_text", "the text is what the CTC head hears; the model wrote 'b b'")
    ]


def test_silero_tells_speech_from_noise(clips: list[Clip]) -> None:
    spoken = next(clip for clip in clips if clip["text"])
    (item,) = expand_inputs(spoken["source"])
    first, last = spoken["words"][0][1], spoken["words"][-1][2]
    assert seconds_of_speech(load(item)) == pytest.approx(last - first, abs=0.5)
    noise = np.random.default_rng(0).standard_normal(48_000).astype(np.float32)
    assert seconds_of_speech(0.1 * noise) == 0
    assert seconds_of_speech(np.zeros(2, np.float32)) == 0
    assert seconds_of_speech(np.zeros(0, np.float32)) == 0


@pytest.mark.parametrize("decibels", [0, -15, -30, -45])
def test_speech_is_heard_at_every_level(clips: list[Clip], decibels: int) -> None:
    (item,) = expand_inputs(next(clip for clip in clips if clip["text"])["source"])
    speech = load(item)
    quiet = (speech * 10 ** (decibels / 20)).astype(np.float32)
    assert seconds_of_speech(quiet) == pytest.approx(seconds_of_speech(speech), abs=0.033)


# --- with the model


@pytest.fixture(scope="module")
def tones() -> list[tuple[str, np.ndarray, int]]:
    """Nobody speaks: the model is given tones, clicks, and noise that wanders."""
    rng = np.random.default_rng(0)
    time = np.arange(5 * 16_000) / 16_000
    made = {
        "melody": sum(np.sin(2 * np.pi * f * time) * (np.sin(3 * time * f / 400) > 0) for f in (220, 330, 554, 880))
        / 5,
        "tone": 0.3 * np.sin(2 * np.pi * 440 * time),
        "clicks": rng.standard_normal(len(time)) * (rng.random(len(time)) < 0.001),
        "rumble": np.cumsum(rng.standard_normal(len(time))) / 30 % 2 - 1,
    }
    return [(name, samples.astype(np.float32), 16_000) for name, samples in made.items()]


def test_where_nobody_speaks_there_is_no_text(
    vllm_model: AutoModelVLLM, tones: list[tuple[str, np.ndarray, int]], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A decoder that invents a text for whatever it is given."""
    decoder = vllm_model.transcriber.decoder
    poll, invented = decoder.poll, hypothesis(vllm_model.transcriber.tokenizer.encode("the light is on"))
    monkeypatch.setattr(decoder, "poll", lambda **kwargs: [(i, invented) for i, _ in poll(**kwargs)])
    assert [r.text for r in vllm_model.generate(tones, check=False)] == ["the light is on"] * len(tones)
    for result in vllm_model.generate(tones):
        assert (result.text, result.words, result.segments) == ("", (), ())
        assert "no_speech" in {w.code for w in result.warnings}


def test_checking_changes_no_text_that_was_spoken(vllm_model: AutoModelVLLM, clips: list[Clip]) -> None:
    sources = [clip["source"] for clip in clips][:6]
    checked, unchecked = vllm_model.generate(sources), vllm_model.generate(sources, check=False)
    assert [(r.text, r.words) for r in checked] == [(r.text, r.words) for r in unchecked]
    untimed = vllm_model.generate(sources, timestamps=False)
    assert [(r.text, r.words) for r in untimed] == [(r.text, None) for r in unchecked]


def looping(
    vllm_model: AutoModelVLLM, clip: Clip, monkeypatch: pytest.MonkeyPatch, **options: object
) -> tuple[Transcript, list[DecodeParams]]:
    """Transcribe a clip with a decoder that goes round in circles, unless it is asked not to by a penalty."""
    decoder = vllm_model.transcriber.decoder
    asked: list[DecodeParams] = []
    submit, poll = decoder.submit, decoder.poll
    words = vllm_model.transcriber.tokenizer.encode("the light is on ")

    def submit_and_note(prompt: object, params: DecodeParams, **kwargs: object) -> int:
        asked.append(params)
        return submit(prompt, params, **kwargs)  # type: ignore[arg-type]

    def poll_in_circles(**kwargs: object) -> list[tuple[int, Hypothesis]]:
        found = poll(**kwargs)  # type: ignore[arg-type]
        circles = hypothesis(words * 9, "length")
        return [(i, circles if asked[-1].repetition_penalty == 1.0 or options.get("always") else h) for i, h in found]

    monkeypatch.setattr(decoder, "submit", submit_and_note)
    monkeypatch.setattr(decoder, "poll", poll_in_circles)
    fallback = options.get("fallback")
    (result,) = vllm_model.generate(clip["source"], fallback=fallback)  # type: ignore[arg-type]
    return result, asked


def test_a_loop_is_decoded_once_more(
    vllm_model: AutoModelVLLM, clips: list[Clip], monkeypatch: pytest.MonkeyPatch
) -> None:
    clip = next(clip for clip in clips if clip["text"])
    expected = vllm_model.generate(clip["source"])[0]
    result, asked = looping(vllm_model, clip, monkeypatch)
    assert [params.repetition_penalty > 1 for params in asked] == [False, True]
    assert result.text == expected.text
    assert "repetition" not in {w.code for w in result.warnings}


def test_a_loop_that_remains_is_marked(
    vllm_model: AutoModelVLLM, clips: list[Clip], monkeypatch: pytest.MonkeyPatch
) -> None:
    clip = next(clip for clip in clips if clip["text"])
    result, asked = looping(vllm_model, clip, monkeypatch, always=True)
    assert len(asked) == 2
    assert {"repetition", "unfinished"} <= {w.code for w in result.warnings}
    assert result.segments[0].warnings == result.warnings


def test_what_a_text_leaves_out_at_its_end_is_decoded_by_itself(
    vllm_model: AutoModelVLLM, clips: list[Clip], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A decoder that takes its text for finished after the first of two clips with a pause between them."""
    first, second = [clip for clip in clips if clip["text"] and not clip["hotwords"] and clip["itn"]][:2]
    alone = vllm_model.generate([first["source"], second["source"]])
    begin, end = (load(item) for item in expand_inputs([first["source"], second["source"]]))
    both = np.concatenate([begin, np.zeros(16_000, np.float32), end])
    decoder = vllm_model.transcriber.decoder
    poll, early = decoder.poll, [hypothesis(vllm_model.transcriber.tokenizer.encode(alone[0].text))]

    def poll_early(**kwargs: object) -> list[tuple[int, Hypothesis]]:
        return [(i, early.pop() if early else h) for i, h in poll(**kwargs)]  # type: ignore[arg-type]

    monkeypatch.setattr(decoder, "poll", poll_early)
    (result,) = vllm_model.generate((both, 16_000))
    assert [segment.text for segment in result.segments] == [each.text for each in alone]
    assert (result.warnings, result.duration) == ((), pytest.approx(len(both) / 16_000))
    shift = len(begin) / 16_000 + 1.0
    expected = [word.start + shift for word in alone[1].words or ()]
    assert [word.start for word in result.segments[1].words or ()] == pytest.approx(expected, abs=0.05)


def test_a_contradicted_text_can_be_replaced(
    vllm_model: AutoModelVLLM, clips: list[Clip], monkeypatch: pytest.MonkeyPatch
) -> None:
    clip = next(clip for clip in clips if clip["text"] and not any(c.isdigit() for c in clip["text"]))
    result, _ = looping(vllm_model, clip, monkeypatch, always=True, fallback="ctc")
    distance = distance_of(clip["text"], result.text)
    assert distance is not None and distance < 0.5  # the circles' is 0.9
    assert result.words and result.confidence
    assert "ctc_text" in {w.code for w in result.warnings}


def test_fallbacks_that_cannot_work_are_refused(vllm_model: AutoModelVLLM) -> None:
    with pytest.raises(ConfigError, match="fallback must be one of"):
        vllm_model.generate([], fallback="vad")  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match="needs check=True"):
        vllm_model.generate([], check=False, fallback="ctc")
