"""English sentences to train on: python demos/llm_asr/texts.py OUT.txt --books FILE.txt... --written FILE.txt

One sentence a line. Books are plain text in the public domain. `--written` are lines that write_sentences.py had an
LLM write. Both are cleaned alike: only words and a few marks are left, numbers are spelled out, and nothing longer than
MOST_WORDS is kept. Some lines are cut to their first words, so that short phrases are known too.
"""

import argparse
import random
import re
from collections.abc import Iterator
from pathlib import Path

LEAST_WORDS, MOST_WORDS = 2, 24
SHORT_SHARE = 0.12  # of sentences that are cut to one to four words
_MARKS = str.maketrans({"’": "'", "‘": "'", "“": '"', "”": '"', "—": "-", "–": "-", "_": "", "*": ""})
_ABBREVIATIONS = {"Mr.": "Mister", "Mrs.": "Missus", "Dr.": "Doctor", "St.": "Saint", "&": "and", "&c.": "and so on"}
_END = re.compile(r"(?<=[.!?])[\"')]*\s+(?=[\"'(]?[A-Z])")
_ALLOWED = re.compile(r"[A-Za-z][A-Za-z ,.?!'-]*[A-Za-z][.?!]")
_SHOUTED = re.compile(r"\b[A-Z]{2,}\b")
_LISTED = re.compile(r"^\s*(\d+[.)]|[-•])\s*")


def spelled_out(text: str) -> str:
    """Plain quotation marks and dashes, no abbreviations: their full stops would end a sentence."""
    text = text.translate(_MARKS)
    for short, long in _ABBREVIATIONS.items():
        text = text.replace(short, long)
    return " ".join(text.split())


def sentences(text: str) -> Iterator[str]:
    """The sentences of a text whose lines may be wrapped; those that cannot be kept are left out."""
    for paragraph in re.split(r"\n\s*\n", text):
        for piece in _END.split(spelled_out(paragraph)):
            if (found := cleaned(piece)) is not None:
                yield found


def cleaned(text: str) -> str | None:
    """A sentence as the recogniser should write it; None if it cannot be kept, or is too short or too long."""
    found = tidied(_LISTED.sub("", text))
    return found if found is not None and LEAST_WORDS <= len(found.split()) <= MOST_WORDS else None


def tidied(text: str) -> str | None:
    """One or more sentences in plain marks; None if there are figures, capitals for a word, or foreign letters."""
    text = spelled_out(text)
    for mark in '"()':
        text = text.replace(mark, "")
    text = re.sub(r"\s*(--+|;|:| - )\s*", ", ", text)
    text = re.sub(r",[\s,]*,", ",", " ".join(text.split())).strip(" ,-'")
    text = text if text[-1:] in (".", "?", "!") else f"{text}."
    if not _ALLOWED.fullmatch(text) or _SHOUTED.search(text):
        return None
    return text[0].upper() + text[1:]


def shortened(text: str, rng: random.Random) -> str:
    """One to four words out of a sentence, as a sentence."""
    words = text.rstrip(".?!").split()
    count = rng.randrange(1, 5)
    start = rng.randrange(max(len(words) - count, 0) + 1)
    phrase = " ".join(words[start : start + count]).strip(" ,-'")
    return f"{phrase[0].upper()}{phrase[1:]}."


def collect(books: list[Path], written: list[Path], rng: random.Random) -> list[str]:
    """All sentences once, those of LLMs and books in turn for as long as both last."""
    groups = []
    for paths in (books, written):
        found = {each for path in paths for each in sentences(_blocks(path, by_line=paths is written))}
        groups.append(rng.sample(sorted(found), len(found)))
    mixed = [each for pair in zip(*groups, strict=False) for each in pair]
    mixed += [each for group in groups for each in group[len(mixed) // 2 :]]
    return [shortened(each, rng) if rng.random() < SHORT_SHARE else each for each in mixed]


def _blocks(path: Path, *, by_line: bool) -> str:
    text = path.read_text("utf-8")
    return text.replace("\n", "\n\n") if by_line else text


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path)
    parser.add_argument("--books", type=Path, nargs="*", default=[])
    parser.add_argument("--written", type=Path, nargs="*", default=[])
    parser.add_argument("--most", type=int, default=40_000)
    arguments = parser.parse_args()
    found = collect(arguments.books, arguments.written, random.Random(1))[: arguments.most]
    arguments.out.write_text("\n".join(found) + "\n", "utf-8")
    words = sum(len(each.split()) for each in found)
    print(f"{len(found)} sentences, {words} words, {len({w.lower() for t in found for w in t.split()})} different")


if __name__ == "__main__":
    main()
