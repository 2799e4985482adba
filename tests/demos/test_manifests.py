"""The bundled clips are what their manifests say, and what their recipes would make again."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
from clip_sets import test_clips as make_test_clips
from demo_clips import DEMO_CLIPS, NATURAL_CLIPS
from evaluate import without_punctuation
from synthesize import DEMO_DIR, TESTS_DIR, manifest_line

MAX_BYTES = {DEMO_DIR: 2_000_000, TESTS_DIR: 1_000_000}
LONGEST_S = 15.0  # the low-frame-rate checkpoint hears no further
FIELDS = {"source", "key", "text", "spoken", "language", "hotwords", "itn", "voice", "words"}


def rows_of(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / "manifest.jsonl").read_text("utf-8").splitlines()]


ALL = [
    pytest.param(folder, row, id=f"{folder.parts[-3]}-{row['key']}") for folder in MAX_BYTES for row in rows_of(folder)
]


@pytest.mark.parametrize("folder", MAX_BYTES, ids=["demo", "tests"])
def test_folder_holds_the_listed_files_alone_and_stays_small(folder: Path) -> None:
    files = {path.name for path in folder.iterdir()}
    assert files == {row["source"] for row in rows_of(folder)} | {"manifest.jsonl"}
    assert sum(path.stat().st_size for path in folder.iterdir()) < MAX_BYTES[folder]


@pytest.mark.parametrize("folder", MAX_BYTES, ids=["demo", "tests"])
def test_keys_are_unique_and_clips_of_one_file_say_the_same(folder: Path) -> None:
    rows = rows_of(folder)
    assert len({row["key"] for row in rows}) == len(rows)
    first = {row["source"]: row for row in reversed(rows)}
    for row in rows:
        assert (row["spoken"], row["words"]) == (first[row["source"]]["spoken"], first[row["source"]]["words"])


@pytest.mark.parametrize(("folder", "row"), ALL)
def test_fields_are_valid(folder: Path, row: dict[str, Any]) -> None:
    assert row.keys() == FIELDS
    assert row["language"] in ("英文", "中文", None)
    assert isinstance(row["itn"], bool)
    assert all(hotword in row["text"] for hotword in row["hotwords"])


@pytest.mark.parametrize(("folder", "row"), ALL)
def test_audio_is_16_khz_mono_16_bit(folder: Path, row: dict[str, Any]) -> None:
    info = soundfile.info(folder / row["source"])
    assert (info.samplerate, info.channels, info.subtype) == (16_000, 1, "PCM_16")
    assert 0.5 < info.duration < LONGEST_S


@pytest.mark.parametrize(("folder", "row"), ALL)
def test_words_are_the_spoken_ones_in_order_within_the_clip(folder: Path, row: dict[str, Any]) -> None:
    words = [word for word, _, _ in row["words"]]
    assert words == (row["spoken"].split() if row["spoken"].isascii() else list(row["spoken"]))
    times = [time for _, start, end in row["words"] for time in (start, end)]
    assert times == sorted(times)
    assert all(start < end for _, start, end in row["words"])
    assert all(0 < time < soundfile.info(folder / row["source"]).duration for time in times)


@pytest.mark.parametrize(("folder", "row"), [param for param in ALL if param.values[1]["words"]])
def test_speech_lies_where_the_words_are(folder: Path, row: dict[str, Any]) -> None:
    waveform, rate = soundfile.read(folder / row["source"])
    spoken = np.zeros(len(waveform), bool)
    for _, start, end in row["words"]:
        spoken[round(start * rate) : round(end * rate)] = True
    inside, outside = np.mean(waveform[spoken] ** 2), np.mean(waveform[~spoken] ** 2)
    assert inside > 8 * outside  # the noisy clip has 10 dB, the others are silent outside


@pytest.mark.parametrize(("folder", "row"), ALL)
def test_text_without_normalisation_and_hotwords_is_what_was_said(folder: Path, row: dict[str, Any]) -> None:
    same = without_punctuation(row["text"]) == without_punctuation(row["spoken"])
    assert same or row["itn"] or row["hotwords"]


@pytest.mark.parametrize(
    ("folder", "recipes"),
    [(DEMO_DIR, [*DEMO_CLIPS, *NATURAL_CLIPS]), (TESTS_DIR, make_test_clips())],
    ids=["demo", "tests"],
)
def test_recipes_describe_the_bundled_clips(folder: Path, recipes: list[Any]) -> None:
    rows = rows_of(folder)
    made = [manifest_line(recipe, row["words"], ".flac") for recipe, row in zip(recipes, rows, strict=True)]
    assert made == rows


def test_test_clips_cover_every_prompt_option() -> None:
    rows = rows_of(TESTS_DIR)
    assert len(rows) == 24
    for language in ("英文", "中文", None):
        for itn in (True, False):
            assert any((row["language"], row["itn"]) == (language, itn) for row in rows)
    hotworded = [row["spoken"].isascii() for row in rows if row["hotwords"]]
    assert {True, False} == set(hotworded)
    assert any(not row["words"] for row in rows)
