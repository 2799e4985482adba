"""The bundled held-out clips are what their manifest says, and what their recipes would make again."""

import json
from typing import Any

import pytest
import soundfile
from evaluate import without_punctuation
from heldout import CONDITIONS, draw_clips
from names import is_heard_in
from synthesize import BUNDLED_HELD_OUT, HELD_OUT_DIR, manifest_line
from voices import HELD_OUT_VARIANTS

from tests.demos.stand_in import use_stand_in

MAX_BYTES = 6_000_000
LONGEST_S = 30.0
ROWS: list[dict[str, Any]] = [
    json.loads(line) for line in (HELD_OUT_DIR / "manifest.jsonl").read_text("utf-8").splitlines()
]
EACH = pytest.mark.parametrize("row", ROWS, ids=[row["key"] for row in ROWS])


def test_folder_holds_every_condition_and_stays_small() -> None:
    counts = {name: sum(row["condition"] == name for row in ROWS) for name in CONDITIONS}
    assert counts == BUNDLED_HELD_OUT
    assert {path.name for path in HELD_OUT_DIR.iterdir()} == {row["source"] for row in ROWS} | {"manifest.jsonl"}
    assert sum(path.stat().st_size for path in HELD_OUT_DIR.iterdir()) < MAX_BYTES


@EACH
def test_audio_is_16_khz_mono_16_bit(row: dict[str, Any]) -> None:
    info = soundfile.info(HELD_OUT_DIR / row["source"])
    assert (info.samplerate, info.channels, info.subtype) == (16_000, 1, "PCM_16")
    assert info.duration < LONGEST_S
    assert all(0 <= start < end <= info.duration for _, start, end in row["words"])


@EACH
def test_texts_voices_and_names_are_what_the_condition_says(row: dict[str, Any]) -> None:
    assert bool(row["words"]) == bool(row["text"]) == (CONDITIONS[row["condition"]].grammar is not None)
    if not row["words"]:
        return
    assert row["voice"].split()[0].split("+")[1] in HELD_OUT_VARIANTS
    if not row["itn"] and not row["condition"].endswith("_hotword"):
        written, spoken = (
            without_punctuation(text).replace("'", "").replace(" ", "") for text in (row["text"], row["spoken"])
        )
        assert written == spoken
    if "name" in row:
        assert row["name"] in row["text"]
        heard = [hotword for hotword in row["hotwords"] if is_heard_in(hotword, row["name"])]
        assert heard == ([row["name"]] if row["condition"].endswith("_hotword") else [])


def test_recipes_describe_the_bundled_clips(monkeypatch: pytest.MonkeyPatch) -> None:
    use_stand_in(monkeypatch)
    for name, count in BUNDLED_HELD_OUT.items():
        if name.endswith("_long"):  # drawn again until the length fits, which needs the true voice
            continue
        rows = [row for row in ROWS if row["condition"] == name]
        for clip, row in zip(draw_clips(CONDITIONS[name], count), rows, strict=True):
            made = manifest_line(clip.recipe, [], ".flac")
            assert made == {key: row[key] for key in made} | {"words": []}
            assert clip.name == row.get("name")
