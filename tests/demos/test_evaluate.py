"""The error rates that the tables show."""

import json
from pathlib import Path

import pytest
from evaluate import (
    Clip,
    Score,
    edit_distance,
    is_written,
    read_hypotheses,
    read_manifest,
    score,
    table,
    without_punctuation,
)
from hypothesis import given
from hypothesis import strategies as st

TEXTS = st.text("abc。二 ", max_size=12)


@pytest.mark.parametrize(
    ("reference", "hypothesis", "distance"),
    [
        ("kitten", "sitting", 3),
        ("请联系张三。", "请联系章三。", 1),
        ("", "abc", 3),
        ("abc", "", 3),
        ("Set the volume to 25.", "Set the volume to 25", 1),
    ],
)
def test_edit_distance_of_known_pairs(reference: str, hypothesis: str, distance: int) -> None:
    assert edit_distance(reference, hypothesis) == distance


@pytest.mark.parametrize(
    ("name", "text", "found"),
    [
        ("Brown", "Call Brown.", True),
        ("Brown", "Call Browne.", False),
        ("Ann", "Call Joann Brown.", False),
        ("Ann Brown", "Ann Brown is here.", True),
        ("章三", "请联系章三。", True),
        ("章三", "请联系张三。", False),
    ],
)
def test_a_name_is_written_only_as_a_whole(name: str, text: str, found: bool) -> None:
    assert is_written(name, text) == found


@given(TEXTS, TEXTS, TEXTS)
def test_edit_distance_is_a_metric(a: str, b: str, c: str) -> None:
    assert edit_distance(a, a) == 0
    assert (edit_distance(a, b) == 0) == (a == b)
    assert edit_distance(a, b) == edit_distance(b, a)
    assert edit_distance(a, c) <= edit_distance(a, b) + edit_distance(b, c)


@given(TEXTS, TEXTS)
def test_edit_distance_lies_between_the_difference_and_the_maximum_of_the_lengths(a: str, b: str) -> None:
    assert abs(len(a) - len(b)) <= edit_distance(a, b) <= max(len(a), len(b))


@given(TEXTS, st.integers(0, 12), st.sampled_from("abc"))
def test_one_inserted_character_costs_one(text: str, place: int, character: str) -> None:
    assert edit_distance(text, text[:place] + character + text[place:]) == 1


def test_score_weighs_clips_by_their_length() -> None:
    counts = score([("abcdefgh", "abcdefgx"), ("二", "二"), ("", "a")])
    assert counts == Score(errors=2, characters=9, exact=1, clips=3)
    assert counts.cer == 2 / 9
    assert score([("", "")]).cer is None


def test_without_punctuation_keeps_letters_digits_and_signs() -> None:
    assert without_punctuation("Call John  Smith.") == "call john smith"
    assert without_punctuation("今天北京的天气怎么样？") == "今天北京的天气怎么样"
    assert without_punctuation("It costs $25.") == "it costs $25"


def clip(key: str, text: str, spoken: str) -> Clip:
    return Clip(key=key, text=text, spoken=spoken)


def test_table_groups_by_what_was_spoken_and_counts_case_and_punctuation_apart() -> None:
    clips = [clip("a", "Abc.", "abc"), clip("b", "25。", "二十五"), clip("c", "", "")]
    lines = table(clips, {"a": "abc", "b": "25。", "c": ""}).splitlines()
    assert lines[2:] == [
        "| English | 1 | 50.00 | 0.0 | 0.00 | 100.0 | - |",
        "| Mandarin | 1 | 0.00 | 100.0 | 0.00 | 100.0 | - |",
        "| silence | 1 | - | 100.0 | - | 100.0 | - |",
    ]


def test_manifest_and_hypotheses_are_read(tmp_path: Path) -> None:
    row = {"source": "a.wav", "key": "a", "text": "请联系章三。", "spoken": "请联系张三", "language": "中文"}
    (tmp_path / "m.jsonl").write_text(json.dumps(row | {"hotwords": ["章三"], "itn": False}) + "\n", "utf-8")
    (read,) = read_manifest(tmp_path / "m.jsonl")
    assert read == Clip(key="a", text="请联系章三。", spoken="请联系张三")
    (tmp_path / "h.jsonl").write_text('{"key": "a", "text": "x", "token_ids": [1]}\n', "utf-8")
    assert read_hypotheses(tmp_path / "h.jsonl") == {"a": "x"}
