"""Error rates of texts: CER, WER and MER over many utterances, with one stated normalisation.

    normalise("It costs ２０ Yuan—don't!")  ->  "it costs 20 yuan dont"

Normalisation, of reference and hypothesis alike: Unicode NFKC; case folded; apostrophes removed; every other character
of Unicode's classes P (punctuation) and S (symbols) and every white space becomes a space; spaces joined. `normalised=
False` compares texts as they are written, up to white space.

The rates differ in what they count, and are (insertions + deletions + substitutions) / units of the reference:
- CER: characters, spaces left out;
- WER: words, as spaces divide them: for languages that are written so;
- MER: characters of scripts that are divided by character (Chinese, kana), words of all others: for mixed speech.
"""

import json
import unicodedata
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from kaldialign import edit_distance

from ..errors import ConfigError
from ..text_files import read_lines
from ..words.split import split_words

_APOSTROPHES = "'’＇ʼ"


@dataclass(frozen=True, slots=True, kw_only=True)
class ErrorCounts:
    """Edits between references and hypotheses, and how long the references are."""

    insertions: int = 0
    deletions: int = 0
    substitutions: int = 0
    num_units: int = 0

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
        """A fraction, above 1 where much was inserted; None without any reference."""
        return self.errors / self.num_units if self.num_units else None


def normalise(text: str) -> str:
    """See the top of this file."""
    folded = unicodedata.normalize("NFKC", text).casefold()
    kept = (c for c in folded if c not in _APOSTROPHES)
    return " ".join("".join(" " if unicodedata.category(c)[0] in "PS" else c for c in kept).split())


def characters(text: str) -> list[str]:
    """What CER counts."""
    return list("".join(text.split()))


def words(text: str) -> list[str]:
    """What WER counts."""
    return text.split()


def mixed_units(text: str) -> list[str]:
    """What MER counts."""
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
    """(reference, hypothesis) pairs -> counts over all of them, by the names in UNITS."""
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


def read_texts(path: Path) -> dict[str, str]:
    """Text by key: of a .jsonl file from its fields "key" and "text", else from Kaldi's lines `key text`.

    Raises:
        ConfigError: no such file, a line that cannot be understood, or a key that occurs twice.
    """
    if not path.is_file():
        raise ConfigError(f"{path}: no such file")
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
