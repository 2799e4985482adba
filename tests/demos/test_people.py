"""Recordings of people: their texts, the words cut out of them, and new strings of these."""

import json
import random
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch
from everyday import is_reserved
from natural import people_clips
from people import SAMPLE_RATE, Recording, _at_sound, learned_words, sentence_of
from people_sets import FSDD_HELD_OUT, FSDD_SPEAKERS, an4, fsdd, speech_commands
from train.compose import _coded
from train.people import change, cut_words, draw, join


def tone(seconds: float) -> np.ndarray:
    return np.sin(np.arange(round(seconds * SAMPLE_RATE)) / 5).astype(np.float32)


def said(text: str, *, confidence: float = 1.0) -> Recording:
    """Words of 0.25 s, with 0.1 s of silence before each and after the last one."""
    words = tuple(text.split())
    silence = np.zeros(SAMPLE_RATE // 10, np.float32)
    samples = np.concatenate([part for _ in words for part in (silence, tone(0.25))] + [silence])
    starts = np.arange(len(words)) * 0.35 + 0.1
    edges = np.stack([starts, starts + 0.25], 1).astype(np.float32)
    return Recording("a", words, samples, edges, (confidence,) * len(words))


def write(folder: Path, *recordings: Recording) -> None:
    """As people.py does."""
    lines = []
    for number, recording in enumerate(recordings):
        soundfile.write(folder / f"{number}.flac", recording.samples, SAMPLE_RATE)
        words = [[word, *map(float, edge), 1.0] for word, edge in zip(recording.words, recording.edges, strict=True)]
        lines.append(json.dumps({"file": f"{number}.flac", "speaker": "a", "words": words}))
    (folder / "manifest.jsonl").write_text("\n".join(lines))


@pytest.mark.parametrize(
    ("spoken", "written", "plain"),
    [
        ("enter nine oh six", "Enter 906.", "Enter nine oh six."),
        ("j p e g four", "J P E G 4.", "J P E G four."),
        ("e d fifty six", "E D 56.", "E D fifty six."),
        ("turn on a light", "Turn on a light.", "Turn on a light."),
        ("a seven", "A 7.", "A seven."),
        ("may", "May.", "May."),
    ],
)
def test_a_text_is_written_as_the_grammars_write_it(spoken: str, written: str, plain: str) -> None:
    sentence = sentence_of(spoken.split(), learned_words([]) | {"enter"})
    assert sentence is not None
    assert (sentence.text(itn=True), sentence.text(itn=False)) == (written, plain)
    assert sentence.words == tuple(spoken.split())


@pytest.mark.parametrize("spoken", ["one fifty", "oh", "may second", "rubout four", "six thirty five"])
def test_what_has_no_one_way_to_be_written_is_left_out(spoken: str) -> None:
    assert sentence_of(spoken.split(), learned_words([])) is None


def test_a_word_that_enough_people_say_is_learned() -> None:
    assert "rubout" in learned_words([(str(number), ("rubout",)) for number in range(8)])
    assert "rubout" not in learned_words([("one", ("rubout",)) for _ in range(8)])


def test_words_are_cut_out_at_their_edges_and_only_if_they_are_sure() -> None:
    first, second = cut_words(said("four b"))
    assert (first.words, second.words) == (("four",), ("b",))
    assert len(second.samples) == pytest.approx(0.31 * SAMPLE_RATE, abs=2)
    assert second.edges[0] == pytest.approx([0.03, 0.28], abs=0.001)
    assert cut_words(said("four b", confidence=0.1)) == []


def test_a_string_has_the_times_of_its_words_also_when_it_is_faster() -> None:
    joined = join(cut_words(said("four b")), [0.0, 0.1])
    assert joined.words == ("four", "b")
    assert joined.edges == pytest.approx(np.array([[0.03, 0.28], [0.44, 0.69]]), abs=0.001)
    assert change(joined, 1.25).edges == pytest.approx(joined.edges / 1.25)
    assert len(change(joined, 1.25).samples) == pytest.approx(len(joined.samples) / 1.25, abs=2)


def test_a_faster_recording_is_higher() -> None:
    samples = np.sin(2 * np.pi * 500 * np.arange(8_000) / SAMPLE_RATE).astype(np.float32)
    changed = change(Recording("a", ("one",), samples, np.array([[0.1, 0.4]], np.float32), (1.0,)), 1.25)
    count = len(changed.samples)
    assert np.abs(np.fft.rfft(changed.samples)).argmax() * SAMPLE_RATE / count == pytest.approx(625, abs=2)


def test_the_edges_of_a_single_word_are_those_of_its_sound() -> None:
    waveform = np.concatenate([np.zeros(1600, np.float32), tone(0.2), np.zeros(1600, np.float32)])
    assert _at_sound(waveform, "one") == [["one", pytest.approx(0.1), pytest.approx(0.3), 1.0]]


def test_everything_drawn_has_a_text_and_times_within_its_samples(tmp_path: Path) -> None:
    write(tmp_path, said("four two b"), said("one"), said("may second"))
    drawn = list(draw(tmp_path, random.Random(0)))
    texts = {sentence.spoken for sentence, _, _, _ in drawn if sentence is not None}
    assert {"four two b", "one", "four", "two", "b", "may"} <= texts
    assert not any("second" in text for text in texts)
    for sentence, edges, samples, voice in drawn:
        assert sentence is not None
        assert (len(edges), voice) == (len(sentence.words), "human_a")
        assert 0 <= edges.min() < edges.max() <= len(samples) / SAMPLE_RATE + 0.01
    assert any(len(sentence.words) > 1 and not is_reserved(sentence) for sentence, _, _, _ in drawn if sentence)


def test_people_kept_back_are_examined_as_they_are(tmp_path: Path) -> None:
    recording = said("four two b")
    write(tmp_path, recording)
    clips = {clip.recipe.spoken: clip for clip in people_clips(tmp_path)}
    assert clips.keys() == {"four two b", "four", "two", "b"}
    assert {clip.condition for clip in clips.values()} == {"en_people"}
    assert len(clips["four two b"].waveform) == len(recording.samples) + round(0.6 * SAMPLE_RATE)
    assert clips["four"].words == [("four", pytest.approx(0.33, abs=0.01), pytest.approx(0.58, abs=0.01))]


def test_the_data_sets_keep_their_speakers_apart(tmp_path: Path) -> None:
    (tmp_path / "recordings").mkdir()
    for speaker in (FSDD_SPEAKERS[0], FSDD_HELD_OUT[0]):
        (tmp_path / "recordings" / f"7_{speaker}_0.wav").touch()
    (row,) = fsdd(tmp_path, FSDD_SPEAKERS)
    assert (row.text, row.speaker) == ("seven", "fsdd-lucas")
    (tmp_path / "etc").mkdir()
    (tmp_path / "etc" / "an4_train.transcription").write_text("<s> J E A N </s> (cen2-fejs-b)\n\n")
    (tmp_path / "etc" / "an4_test.transcription").write_text("NO (an416-fjlp-b)\n")
    (heard,), (kept,) = an4(tmp_path, held_out=False), an4(tmp_path, held_out=True)
    assert (heard.text, heard.speaker) == ("j e a n", "an4-fejs")
    assert kept.file == tmp_path / "wav" / "an4test_clstk" / "fjlp" / "an416-fjlp-b.sph"


def test_a_tested_speaker_of_speech_commands_is_never_heard(tmp_path: Path) -> None:
    names = ("go/aa_nohash_0", "go/bb_nohash_0", "go/bb_nohash_1", "off/bb_nohash_0", "off/cc_nohash_0")
    for name in (*(f"{name}.wav" for name in names), "_background_noise_/pink_noise.wav"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    (tmp_path / "testing_list.txt").write_text("go/bb_nohash_0.wav\n")
    heard, (kept,) = speech_commands(tmp_path, held_out=False), speech_commands(tmp_path, held_out=True)
    assert [(row.text, row.speaker) for row in heard] == [("go", "gsc-aa"), ("off", "gsc-cc")]
    assert (kept.text, kept.speaker, kept.file) == ("go", "gsc-bb", tmp_path / "go" / "bb_nohash_0.wav")


def test_of_a_word_of_speech_commands_the_same_few_recordings_are_always_drawn(tmp_path: Path) -> None:
    listed = [f"{word}/{speaker:08x}_nohash_0.wav" for word in ("go", "off") for speaker in range(30)]
    (tmp_path / "testing_list.txt").write_text("\n".join(listed))
    rows = speech_commands(tmp_path, held_out=True)
    assert rows == speech_commands(tmp_path, held_out=True)
    assert [row.text for row in rows] == ["go"] * 20 + ["off"] * 20
    assert len({row.speaker for row in rows}) > 20, "both words are of the same speakers"
    with pytest.raises(SystemExit, match="no recordings of Speech Commands"):
        speech_commands(tmp_path, held_out=False)


def test_a_telephone_codes_what_it_is_asked_to_and_keeps_it_recognisable() -> None:
    waveforms = torch.stack([torch.sin(2 * torch.pi * 277 * torch.arange(4_800) / 4_800)] * 2)
    plain, coded = _coded(waveforms, torch.tensor([[False], [True]]))
    assert torch.equal(plain, waveforms[0])
    error = float((coded - waveforms[1]).square().mean() / waveforms[1].square().mean())
    assert 1e-5 < error < 1e-3
    assert float(torch.fft.rfft(coded)[1_300:].abs().max()) < 0.5
