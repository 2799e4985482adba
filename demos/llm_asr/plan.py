"""Sentences -> what demos/micro/speak.py says: python demos/llm_asr/plan.py TEXTS.txt --out PLAN.jsonl

Needs espeak-ng's library, which knows how English is pronounced. A plan is text: each sentence, and the ids of its
phonemes with the marks that make Kokoro pause. Sentences with fewer than LEAST or more than MOST of them are left out.
"""

import argparse
import ctypes
import json
import re
import sys
from pathlib import Path
from typing import Any

sys.path.append(str(Path(__file__).parents[1] / "micro"))
from accents import ENGLISH_VOICES
from espeak import EspeakError, load_library
from kokoro import plan_line

LEAST, MOST = 5, 220
_ACCENT = b"gmw/en-US"
_NO_AUDIO = 1  # AUDIO_OUTPUT_RETRIEVAL of speak_lib.h
_UTF8, _IPA = 1, 2
_MARKS = re.compile(r"\s*([,.?!;:]+)\s*")


class Phonemiser:
    """espeak-ng's phonemes in IPA, as Kokoro's ids."""

    def __init__(self) -> None:
        self._library: Any = load_library()
        if self._library.espeak_Initialize(_NO_AUDIO, 0, None, 0) <= 0:
            raise EspeakError("espeak-ng found no voice data; install the package espeak-ng-data")
        self._library.espeak_SetVoiceByName(_ACCENT)
        self._library.espeak_TextToPhonemes.restype = ctypes.c_char_p
        symbols = (Path(__file__).parent / "kokoro_symbols.json").read_text("utf-8")
        self._ids: dict[str, int] = json.loads(symbols)

    def __call__(self, text: str) -> list[int]:
        """Marks stay where they are; sounds that Kokoro does not know are left out."""
        parts = _MARKS.split(text)
        said = [part if place % 2 else self._say(part) for place, part in enumerate(parts)]
        spaced = "".join(f"{part} " if place % 2 else part for place, part in enumerate(said)).strip()
        return [self._ids[each] for each in spaced if each in self._ids]

    def _say(self, text: str) -> str:
        rest = ctypes.c_char_p(text.encode())
        clauses = []
        while rest.value:
            found = self._library.espeak_TextToPhonemes(ctypes.byref(rest), _UTF8, _IPA)
            clauses.append(found.decode().strip())
        return " ".join(clauses).replace("oː", "ɔː")  # Kokoro was trained with the latter


def plan(texts: list[str]) -> list[str]:
    """The plan's lines."""
    phonemiser, lines = Phonemiser(), []
    for text in texts:
        ids = phonemiser(text)
        if LEAST <= len(ids) <= MOST:
            lines.append(plan_line("英文", ENGLISH_VOICES, [[text, text, text, None, False]], [ids]))
    return lines


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("texts", type=Path)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--held-out", type=Path, help="gets the last lines instead, for the voices that are kept back")
    parser.add_argument("--kept", type=int, default=200, help="of these lines")
    arguments = parser.parse_args()
    lines = plan(arguments.texts.read_text("utf-8").splitlines())
    if arguments.held_out:
        arguments.held_out.write_text("\n".join(lines[-arguments.kept :]) + "\n", "utf-8")
        lines = lines[: -arguments.kept]
    arguments.out.write_text("\n".join(lines) + "\n", "utf-8")
    print(f"{len(lines)} sentences")


if __name__ == "__main__":
    main()
