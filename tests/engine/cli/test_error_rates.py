"""Error rates: counted as edits are, over all utterances, after the normalisation that is stated."""

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from twostage_asr.engine import ConfigError
from twostage_asr.engine.cli.error_rates import ErrorCounts, error_rates, mixed_units, normalise, read_texts

TEXTS = st.text("ab 你好,", max_size=8)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("It costs ２０ Yuan—don't!", "it costs 20 yuan dont"),
        ("今天，天气\u3000怎么样？", "今天 天气 怎么样"),
        ("STRASSE Straße $5", "strasse strasse 5"),
        (" -- ", ""),
    ],
)
def test_normalisation_is_what_the_page_says(text: str, expected: str) -> None:
    assert normalise(text) == expected


def test_each_rate_counts_its_own_units() -> None:
    rates = error_rates([("我住在 New York 的酒店", "我住 New Yolk 的大酒店")])
    assert {name: (c.errors, c.num_units) for name, c in rates.items()} == {
        "CER": (3, 13),  # 在 deleted, r -> l, 大 inserted
        "WER": (3, 4),
        "MER": (3, 8),
    }
    mer = rates["MER"]
    assert (mer.deletions, mer.substitutions, mer.insertions) == (1, 1, 1)
    assert mer.rate == pytest.approx(3 / 8)


def test_mixed_units_keep_words_whole() -> None:
    assert mixed_units("我的 iphone15 很nice的 тест") == ["我", "的", "iphone15", "很", "nice", "的", "тест"]


def test_rates_are_over_all_utterances_not_a_mean_of_rates() -> None:
    assert error_rates([("a", "b"), ("a a a", "a a a")])["WER"].rate == 0.25
    assert error_rates([("", "a b")])["WER"] == ErrorCounts(insertions=2)
    assert error_rates([("", "a")])["CER"].rate is None


def levenshtein(a: str, b: str) -> int:
    """By its definition."""
    if not a or not b:
        return len(a) + len(b)
    return min(levenshtein(a[1:], b[1:]) + (a[0] != b[0]), levenshtein(a[1:], b) + 1, levenshtein(a, b[1:]) + 1)


@given(st.text("abc", max_size=5), st.text("abc", max_size=5))
def test_edits_are_as_few_as_can_be(reference: str, hypothesis: str) -> None:
    counts = error_rates([(reference, hypothesis)], normalised=False)["CER"]
    assert counts.errors == levenshtein(reference, hypothesis)
    assert counts.insertions - counts.deletions == len(hypothesis) - len(reference)


@given(st.lists(st.tuples(TEXTS, TEXTS)))
def test_counts_add_up(pairs: list[tuple[str, str]]) -> None:
    whole = error_rates(pairs)
    one_by_one = [error_rates([pair]) for pair in pairs]
    for name, counts in whole.items():
        assert counts == sum((each[name] for each in one_by_one), ErrorCounts())


def test_texts_are_read_from_both_kinds_of_file(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_text('{"key": "x", "text": "你 好", "more": 1}\n\n{"key": "y", "text": ""}\n', "utf-8")
    (tmp_path / "a.txt").write_text("\ufeffx  你 好\ny\n", "utf-8")
    assert read_texts(tmp_path / "a.jsonl") == read_texts(tmp_path / "a.txt") == {"x": "你 好", "y": ""}


@pytest.mark.parametrize(
    "line", ['{"key": "x"}', "[]", '{"key": 1, "text": ""}', "{", '{"key": "x", "text": "a"}\n' * 2]
)
def test_lines_that_are_no_texts_are_refused(tmp_path: Path, line: str) -> None:
    (tmp_path / "a.jsonl").write_text(line, "utf-8")
    number = 1 + line.count("}\n{")
    with pytest.raises(ConfigError, match=f"a.jsonl, line {number}: "):
        read_texts(tmp_path / "a.jsonl")
    with pytest.raises(ConfigError, match="no such file"):
        read_texts(tmp_path / "none")
