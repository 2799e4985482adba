"""What speaks against a text: loops, and what the encoder's own CTC head hears in the same audio.

An LLM that is given no speech, or audio that it does not understand, writes fluent sentences all the same. The CTC head
reads the same encoder but cannot: it says for every frame what is heard there, or that nothing is. So

- where it hears nothing at all, or something else than the text, and a VAD less speech than such a text takes, the text
  is dropped;
- where it hears something else and there is speech, the text is marked, or replaced on request;
- a text that goes round in circles, while the head does not, is decoded once more; if that loops as well, it is marked;
- where a text ends while the head goes on (words/aligner.py finds where), the rest is decoded by itself, and
  weighed like any other (transcriber.py): LLMs stop at a long pause, or where the language changes.

CTC texts are spoken form without marks ("ninety" for 90). Words with numerals are therefore no evidence either way.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np
from kaldialign import edit_distance

from .audio.waveform import Waveform
from .transcript import TranscriptWarning
from .vad import load_vad
from .words.split import WrittenWord, spoken_word

if TYPE_CHECKING:
    from .decoder.base import Hypothesis

DISAGREEMENT = 0.5  # from which a text is marked; names that hotwords spell in another way stay well below
MOST_BYTES_PER_S = 40.0  # of text in UTF-8; held-out speech, even the fastest, stays below 30
_LOOP_SUPPORT = 0.3  # disagreement up to which the head hears the repetition as well
_LOOP_TOKENS = 8  # that repeat what stands before them
_LOOP_TIMES = 3  # with the head against the text
_LOOP_TIMES_ALONE = 8  # with nothing to compare it with, unless the text never ended


@dataclass(frozen=True, slots=True, kw_only=True)
class Verdict:
    """What is to be done about one text."""

    is_loop: bool = False
    is_dropped: bool = False
    disagrees: bool = False
    warnings: tuple[TranscriptWarning, ...] = ()


def check_text(
    text: str, ctc_text: str | None, distance: float | None, hypothesis: "Hypothesis", speech_s: Callable[[], float]
) -> Verdict:
    """Weigh a text.

    Args:
        ctc_text: what the CTC head makes of the same audio; None if there is no such head.
        distance: disagreement() of the two.
        hypothesis: what the LLM wrote.
        speech_s: asks a VAD for seconds of speech; called where that can decide something.
    """
    if ctc_text is None:
        distance = 0.0
    disagrees = distance is not None and distance >= DISAGREEMENT
    times = loop_times(hypothesis.token_ids)
    if ctc_text is None:
        is_loop = times >= (_LOOP_TIMES if hypothesis.finish_reason == "length" else _LOOP_TIMES_ALONE)
    else:
        is_loop = times >= _LOOP_TIMES and (distance is None or distance > _LOOP_SUPPORT)
    is_doubted = disagrees or distance is None
    # How long a loop is says nothing; another try may hear the speech.
    if text and is_doubted and (not ctc_text or (not is_loop and len(text.encode()) > MOST_BYTES_PER_S * speech_s())):
        found = f"the CTC head hears {_quoted(ctc_text)}" if ctc_text else "the CTC head hears nothing"
        message = f"no speech is heard that could be this text ({found}); {_quoted(text)} was dropped"
        return Verdict(is_dropped=True, warnings=(TranscriptWarning("no_speech", message),))
    warnings = []
    if is_loop:
        warnings.append(TranscriptWarning("repetition", f"the same words come {times} times in a row"))
    if disagrees:
        message = f"the CTC head hears {_quoted(ctc_text)}: {distance:.0%} of the text and of that differ"
        warnings.append(TranscriptWarning("disagreement", message))
    return Verdict(is_loop=is_loop, disagrees=disagrees, warnings=tuple(warnings))


def with_ctc_text(verdict: Verdict, text: str) -> Verdict:
    """What is said of a text that was replaced by what the CTC head hears."""
    message = f"the text is what the CTC head hears; the model wrote {_quoted(text)}"
    return replace(verdict, is_loop=False, warnings=(TranscriptWarning("ctc_text", message),))


def disagreement(text: str, words: Sequence[WrittenWord], ctc_text: str) -> float | None:
    """Edits from a text, split into `words`, to what the CTC head heard, over edits and characters in common: 0 to 1.

    Both are compared in spoken form without spaces, character by character. Words with numerals are left out; because
    it is unknown how much of `ctc_text` they stand for, what `ctc_text` has beyond such a text does not count. None if
    the text has no other words and something was heard.
    """
    plain = [word for word in words if not word.has_numerals]
    has_numerals = len(plain) < len(words)
    spoken = "".join(spoken_word(word.text) for word in plain)
    said, ctc = ("".join(each.split()) for each in (spoken, ctc_text.lower()))
    if not ctc:
        return 1.0 if text.strip() else 0.0
    if not said:
        return None if has_numerals else 1.0
    if said == ctc:
        return 0.0
    first = _num_common(said, ctc)
    last = _num_common(said[first:][::-1], ctc[first:][::-1])
    counts = edit_distance(said[first : len(said) - last], ctc[first : len(ctc) - last])
    changed = counts["sub"] + counts["del"]
    in_common = len(said) - changed
    edits = changed + (0 if has_numerals else counts["ins"])
    return float(edits / max(edits + in_common, 1))


def loop_times(token_ids: Sequence[int]) -> int:
    """How often the most repeated run of tokens follows itself, 1 if none repeats at any length."""
    if len(token_ids) - len(set(token_ids)) < _LOOP_TOKENS:
        return 1
    ids = np.array(token_ids)
    most = 1
    for period in range(1, len(ids) // 2 + 1):
        breaks = np.flatnonzero(np.concatenate([[True], ids[period:] != ids[:-period], [True]]))
        longest = int(np.diff(breaks).max()) - 1  # tokens in a row that are what stands `period` before them
        if longest >= _LOOP_TOKENS:
            most = max(most, longest // period + 1)
    return most


def seconds_of_speech(waveform: Waveform) -> float:
    """What silero-vad takes for speech in (N,) float32 samples at 16 kHz."""
    stream = load_vad().new_stream()
    return float((stream.push(waveform) >= stream.threshold).sum()) * stream.frame_s


def _num_common(a: str, b: str) -> int:
    """Characters at the beginning that both have."""
    return next((i for i, (x, y) in enumerate(zip(a, b, strict=False)) if x != y), min(len(a), len(b)))


def _quoted(text: str | None) -> str:
    """Enough of it for a message."""
    text = " ".join((text or "").split())
    return repr(text if len(text) <= 60 else text[:57] + "...")
