"""generate(speakers=True), with a speaker model whose voices are the loudness of the clips."""

from collections.abc import Generator, Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.fake_decoder import FakeDecoder
from tests.fake_model import HIDDEN_SIZE, ReadAlready, fake_transcriber, samples, write_answer
from tests.fake_voices import BROKEN, FakeVoices, GatedVoices
from twostage_asr.engine import AudioError, ConfigError, Transcript, transcribe_options
from twostage_asr.engine.audio.inputs import AudioInput, expand_inputs
from twostage_asr.engine.audio.read_ahead import Audio
from twostage_asr.engine.decoder.base import Hypothesis
from twostage_asr.engine.run_options import SpeakerSettings
from twostage_asr.engine.speakers import stage
from twostage_asr.engine.speakers.queue import BATCH_WINDOWS
from twostage_asr.engine.speakers.stage import SpeakerStage
from twostage_asr.engine.vad.splitting import Cut, Piece


@dataclass
class Lazy:
    model: FakeVoices = field(default_factory=FakeVoices)
    asked: int = 0

    def get(self) -> FakeVoices:
        self.asked += 1
        return self.model


def meeting(numbers: Sequence[int], seconds: float = 4.0) -> Piece:
    cuts = [Cut(10.0 * place, samples(number, seconds)) for place, number in enumerate(numbers)]
    return Piece(cuts, 10.0 * len(numbers), is_last=True)


def run(directory: Path, audio: list[Any], lazy: Lazy, **options: Any) -> list[Transcript]:
    transcriber = fake_transcriber(directory, readers=ReadAlready(audio), speakers=lazy)
    inputs = expand_inputs([samples(1)] * len(audio))
    results = dict(transcriber.run(inputs, transcribe_options(check=False, **options)))
    return [results[index] for index in range(len(audio))]


def test_words_segments_and_turns_have_speakers(tmp_path: Path) -> None:
    (transcript,) = run(tmp_path, [meeting([5, 9, 5])], Lazy(), speakers=True)
    assert [segment.speaker for segment in transcript.segments] == ["SPK0", "SPK1", "SPK0"]
    assert [word.speaker for word in transcript.words or ()] == ["SPK0"] * 2 + ["SPK1"] * 2 + ["SPK0"] * 2
    assert [(turn.start, turn.end, turn.speaker) for turn in transcript.turns or ()] == [
        (0.0, 4.0, "SPK0"),
        (10.0, 14.0, "SPK1"),
        (20.0, 24.0, "SPK0"),
    ]


def test_speakers_change_no_text(tmp_path: Path) -> None:
    audio = [meeting([5, 9, 5]), np.concatenate([samples(5, 3.0), samples(9, 3.0)])]
    with_speakers = run(tmp_path, audio, Lazy(), speakers=True)
    assert [each.text for each in with_speakers] == [each.text for each in run(tmp_path, audio, Lazy())]


def test_a_segment_is_split_where_the_speaker_changes(tmp_path: Path) -> None:
    (transcript,) = run(tmp_path, [np.concatenate([samples(5, 4.0), samples(9, 4.0)])], Lazy(), speakers=True)
    parts = [(segment.text, segment.speaker, segment.start, segment.end) for segment in transcript.segments]
    assert parts == [("clip", "SPK0", 0.0, 4.0), ("9.", "SPK1", 4.0, 8.0)]


def test_who_does_not_ask_for_speakers_loads_no_model(tmp_path: Path) -> None:
    lazy = Lazy()
    (transcript,) = run(tmp_path, [meeting([5])], lazy)
    assert (lazy.asked, transcript.turns, transcript.segments[0].speaker) == (0, None, None)


def test_clips_of_many_inputs_share_batches(tmp_path: Path) -> None:
    lazy = Lazy()
    run(tmp_path, [meeting([5, 9]) for _ in range(10)], lazy, speakers=True)
    assert len(lazy.model.batches) < 10


def test_a_known_voice_has_its_name(tmp_path: Path) -> None:
    known = {"Ana": samples(9), "Ben": samples(7)}
    (transcript,) = run(tmp_path, [meeting([5, 9])], Lazy(), speakers=True, known_speakers=known)
    assert [segment.speaker for segment in transcript.segments] == ["SPK0", "Ana"]


def test_a_clip_that_cannot_be_embedded_is_a_warning(tmp_path: Path) -> None:
    broken, whole = run(tmp_path, [meeting([5, BROKEN]), meeting([5])], Lazy(), speakers=True)
    assert [warning.code for warning in broken.warnings] == ["no_speakers"]
    assert (broken.status, broken.segments[0].speaker, whole.warnings) == ("ok", "SPK0", ())


@pytest.mark.parametrize("seconds", [0.05, 0.3, 2.0])
def test_short_audio_has_one_speaker(tmp_path: Path, seconds: float) -> None:
    (transcript,) = run(tmp_path, [samples(5, seconds)], Lazy(), speakers=True)
    assert {word.speaker for word in transcript.words or ()} == {"SPK0"}


def test_turns_say_their_channel(tmp_path: Path) -> None:
    call = Piece([Cut(0.0, samples(5, 4.0), 0), Cut(2.0, samples(9, 4.0), 1)], 6.0, is_last=True)
    (transcript,) = run(tmp_path, [call], Lazy(), speakers=True)
    assert [(turn.start, turn.speaker, turn.channel) for turn in transcript.turns or ()] == [
        (0.0, "SPK0", 0),
        (2.0, "SPK1", 1),
    ]
    assert Transcript.from_json(transcript.to_json()) == transcript


def test_nobody_speaks_in_a_recording_without_speech(tmp_path: Path) -> None:
    (transcript,) = run(tmp_path, [Piece([], 60.0, is_last=True)], Lazy(), speakers=True)
    assert (transcript.status, transcript.turns) == ("ok", ())


def test_speakers_without_word_times(tmp_path: Path) -> None:
    (transcript,) = run(tmp_path, [meeting([5, 9])], Lazy(), speakers=True, timestamps=False)
    assert [segment.speaker for segment in transcript.segments] == ["SPK0", "SPK1"]


def test_a_transcript_with_speakers_survives_json(tmp_path: Path) -> None:
    (transcript,) = run(tmp_path, [meeting([5, 9])], Lazy(), speakers=True)
    assert Transcript.from_json(transcript.to_json()) == transcript


@pytest.mark.parametrize(
    "options",
    [
        {"num_speakers": 2},
        {"speakers": True, "num_speakers": 2, "max_speakers": 3},
        {"speakers": True, "min_speakers": 3, "max_speakers": 2},
        {"speakers": True, "num_speakers": 0},
        {"speakers": True, "known_speakers": {" ": samples(1)}},
    ],
)
def test_contradictions_are_refused(options: dict[str, Any]) -> None:
    with pytest.raises(ConfigError):
        transcribe_options(**options)


def test_a_reference_without_speech_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="Ana"):
        run(tmp_path, [meeting([5])], Lazy(), speakers=True, known_speakers={"Ana": samples(9, 0.1)})


def test_a_long_reference_is_refused(tmp_path: Path) -> None:
    with pytest.raises(AudioError, match=r"known speaker 'Ana'.* 60"):
        run(tmp_path, [meeting([5])], Lazy(), speakers=True, known_speakers={"Ana": samples(9, 61.0)})


def test_a_reference_at_a_url_is_refused_where_urls_are(tmp_path: Path) -> None:
    settings = SpeakerSettings(known={"Ana": "https://example.org/ana.wav"})
    with pytest.raises(AudioError, match=r"known speaker 'Ana'"):
        SpeakerStage(FakeVoices(), settings, allow_urls=False)


def test_a_transcript_without_speakers_does_not_mention_turns(tmp_path: Path) -> None:
    (transcript,) = run(tmp_path, [meeting([5])], Lazy())
    assert "turns" not in transcript.to_dict()


def test_inputs_that_finish_while_the_model_is_busy_share_its_next_batch(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stage, "PATIENCE_S", 0.0)
    model = GatedVoices()
    with SpeakerStage(model, SpeakerSettings()) as speakers:
        for index in range(4):
            speakers.add(index, 0.0, samples(5), None)
            speakers.finish(index, Transcript(str(index), duration=1.0))
            assert not list(speakers.done())  # it waits for nothing
            assert model.begun.wait(60)
        model.free.set()
        assert [index for index, _ in speakers.rest()] == [0, 1, 2, 3]
    assert model.batches == [1, 3]


def test_the_last_clips_are_embedded_while_stage_2_decodes(tmp_path: Path) -> None:
    model = GatedVoices()
    model.free.set()

    class Waiting(FakeDecoder):
        def poll(self, *, wait_s: float = 0.0, wake: int | None = None) -> list[tuple[int, Hypothesis]]:
            assert model.begun.wait(60)
            return super().poll(wait_s=wait_s, wake=wake)

    transcriber = fake_transcriber(
        tmp_path,
        readers=ReadAlready([samples(5)]),
        speakers=Lazy(model),
        decoder=Waiting(write_answer, hidden_size=HIDDEN_SIZE),
    )
    options = transcribe_options(check=False, speakers=True)
    ((_, transcript),) = transcriber.run(expand_inputs([samples(1)]), options)
    assert transcript.segments[0].speaker == "SPK0"


def test_a_busy_run_fills_its_batches() -> None:
    model = GatedVoices()
    with SpeakerStage(model, SpeakerSettings()) as speakers:
        for index in range(BATCH_WINDOWS + 10):
            speakers.add(index, 0.0, samples(5), None)
            speakers.finish(index, Transcript(str(index), duration=1.0))
        model.free.set()
        assert len(list(speakers.rest())) == BATCH_WINDOWS + 10
    assert model.batches == [BATCH_WINDOWS, 10]


def test_audio_does_not_pile_up_before_a_slow_model(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stage, "MAX_WAITING_S", 10.0)
    model = FakeVoices()

    class Counting(ReadAlready):
        def read(self, items: Iterable[AudioInput], **_: object) -> Generator[tuple[int, AudioInput, Audio]]:
            for number, *read in super().read(items):
                assert number - sum(model.batches) <= 10
                yield number, *read

    transcriber = fake_transcriber(tmp_path, readers=Counting([samples(5)] * 30), speakers=Lazy(model))
    results = list(transcriber.run(expand_inputs([samples(1)] * 30), transcribe_options(check=False, speakers=True)))
    assert {transcript.segments[0].speaker for _, transcript in results} == {"SPK0"}


def test_stage_2_goes_on_while_the_speakers_catch_up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stage, "MAX_WAITING_S", 0.5)
    model = GatedVoices()

    class Answering(FakeDecoder):
        def poll(self, *, wait_s: float = 0.0, wake: int | None = None) -> list[tuple[int, Hypothesis]]:
            if found := super().poll(wait_s=wait_s, wake=wake):
                model.free.set()  # which the speakers of the first clip wait for
            return found

    transcriber = fake_transcriber(
        tmp_path,
        readers=ReadAlready([samples(5)] * 2),
        speakers=Lazy(model),
        decoder=Answering(write_answer, hidden_size=HIDDEN_SIZE),
    )
    options = transcribe_options(check=False, speakers=True, batch_size=1)
    results = list(transcriber.run(expand_inputs([samples(1)] * 2), options))
    assert [transcript.segments[0].speaker for _, transcript in results] == ["SPK0", "SPK0"]
