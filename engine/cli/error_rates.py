"""Error rates over many utterances: CER, WER and MER.

    normalise("It costs ２０ Yuan—don't!")  ->  "it costs 20 yuan dont"

Reference and hypothesis are normalised alike: Unicode NFKC; case folding; apostrophes removed; any other character of
the Unicode classes P (punctuation) and S (symbols) replaced by a space; white space joined to single spaces. With
`normalised=False`, texts are compared as written, up to white space.

A rate is (insertions + deletions + substitutions) / units of the reference. The units are:
- CER: characters, without spaces;
- WER: words between spaces, for languages that are written so;
- MER: characters in scripts without spaces (Chinese, kana), words in all others, for mixed speech.
"""

import json
import unicodedata
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from kaldialign import edit_distance

from ..errors import ConfigError
from ..text_files import LINE_END, read_lines, read_text
from ..words.split import split_words

_APOSTROPHES = "'’＇ʼ"


@dataclass(frozen=True, slots=True, kw_only=True)
class ErrorCounts:
    """Edits between references and hypotheses, and the length of the references."""

    insertions: int = 0
    deletions: int = 0
    substitutions: int = 0
    num_units: int = 0  # of the references

    def __add__(self, other: "ErrorCounts") -> "ErrorCounts":
        return ErrorCounts(
            insertions=self.insertions + other.insertions,
            deletions=self.deletions + other.deletions,
            substitutions=self.substitutions + other.substitutions,
            num_units=self.num_units + other.num_units,
        )

    @property
    def errors(self) -> int:
        return self.insertions + self.deletions + self.substitutions

    @property
    def rate(self) -> float | None:
        """A fraction, which exceeds 1 if much was inserted; None if the references are empty."""
        return self.errors / self.num_units if self.num_units else None


def normalise(text: str) -> str:
    """Normalise a text by the rules at the top of this file."""
    folded = unicodedata.normalize("NFKC", text).casefold()
    kept = (c for c in folded if c not in _APOSTROPHES)
    return " ".join("".join(" " if unicodedata.category(c)[0] in "PS" else c for c in kept).split())


def characters(text: str) -> list[str]:
    """The units of CER."""
    return list("".join(text.split()))


def words(text: str) -> list[str]:
    """The units of WER."""
    return text.split()


def mixed_units(text: str) -> list[str]:
    """The units of MER."""
    units: list[str] = []
    for part in text.split():
        written = split_words(part)
        if any(word.is_character for word in written):
            units += [word.text for word in written]
        else:
            units.append(part)
    return units


UNITS: Mapping[str, Callable[[str], list[str]]] = {"CER": characters, "WER": words, "MER": mixed_units}


def error_rates(pairs: Iterable[tuple[str, str]], *, normalised: bool = True) -> dict[str, ErrorCounts]:
    """(reference, hypothesis) pairs -> the counts over all pairs, by the names in UNITS."""
    counts = dict.fromkeys(UNITS, ErrorCounts())
    for texts in pairs:
        reference, hypothesis = map(normalise, texts) if normalised else texts
        for name, split in UNITS.items():
            counts[name] += compare(split(reference), split(hypothesis))
    return counts


def compare(reference: Sequence[object], hypothesis: Sequence[object]) -> ErrorCounts:
    """The least number of edits between two sequences of one sortable type, such as units or token ids."""
    edits = edit_distance(reference, hypothesis)
    return ErrorCounts(
        insertions=edits["ins"], deletions=edits["del"], substitutions=edits["sub"], num_units=len(reference)
    )


def read_texts(path: Path, *, by_line: bool = False) -> dict[str, str]:
    """Read texts by key: a .jsonl file has fields "key" and "text", any other file has Kaldi's lines `key text`.

    With `by_line`, a line is a text, and its number is its key; an empty line is an empty text.

    Raises:
        ConfigError: the file does not exist, a line cannot be parsed, or a key occurs twice.
    """
    if not path.is_file():
        raise ConfigError(f"{path}: no such file")
    if by_line:
        lines = LINE_END.split(read_text(path))
        lines = lines if lines[-1] else lines[:-1]  # after the end of the last line
        return {f"line {number}": line for number, line in enumerate(lines, start=1)}
    texts: dict[str, str] = {}
    for number, line in enumerate(read_lines(path), start=1):
        if not line:
            continue
        try:
            key, text = _json_line(line) if path.suffix == ".jsonl" else _kaldi_line(line)
        except (ValueError, TypeError, KeyError) as error:
            raise ConfigError(f"{path}, line {number}: needs a key and a text: {error}") from error
        if key in texts:
            raise ConfigError(f"{path}, line {number}: the key {key!r} occurs twice")
        texts[key] = text
    return texts


def _json_line(line: str) -> tuple[str, str]:
    data = json.loads(line)
    key, text = data["key"], data["text"]
    if not isinstance(key, str) or not isinstance(text, str):
        raise ValueError(f"they must be strings, got {key!r} and {text!r}")
    return key, text


def _kaldi_line(line: str) -> tuple[str, str]:
    key, *rest = line.split(maxsplit=1)
    return key, "".join(rest)
