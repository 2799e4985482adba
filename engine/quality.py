"""Find hallucinated text: repetition loops, and texts that the encoder's own CTC head contradicts.

An LLM writes fluent sentences even if the audio has no speech, or speech that it does not understand. The CTC head
reads the same encoder output but cannot invent text: it emits a token or blank for each frame. Hence these rules:

- A text is dropped if the head hears nothing, or if the head contradicts it and a VAD finds less speech than a text of
  this length takes.
- A text that the head contradicts, where a VAD does find the speech, gets a warning, or is replaced on request.
- A text that loops while the head's does not is decoded once more. If the second text loops too, it gets a warning.
- If the text ends before the head's does, the rest of the clip is decoded as a clip of its own (pipeline.py), because
  LLMs tend to stop at a long pause or where the language changes. words/aligner.py finds where the rest begins.

CTC texts are in spoken form, without punctuation ("ninety" for 90). Words with numerals are therefore not compared.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np
from kaldialign import edit_distance

from .audio.waveform import Waveform
from .transcript import TranscriptWarning
from .vad import load_silero
from .words.split import WrittenWord, spoken_word

if TYPE_CHECKING:
    from .decoder.base import Hypothesis

DISAGREEMENT = 0.5  # least disagreement that gives a warning; hotwords that change the spelling of names give far less
MOST_BYTES_PER_S = 40.0  # of text in UTF-8, per second of speech; the fastest held-out speech stays below 30
_SPEECH_LEVEL = 0.05  # root mean square of the samples that the VAD gets, where full scale is 1
_SURE_SPEECH = 0.7  # least probability; segments open at a lower one, because they must not miss anything
_LOOP_SUPPORT = 0.3  # up to this disagreement, the head has heard the repetition as well
_LOOP_TOKENS = 8  # least number of tokens in a row that repeat what stands before them
_LOOP_TIMES = 3  # repeats that make a loop, if the head does not confirm them
_LOOP_TIMES_ALONE = 8  # the same without a CTC head; _LOOP_TIMES are enough if max_new_tokens cut the text


@dataclass(frozen=True, slots=True, kw_only=True)
class Verdict:
    """The result of checking one text."""

    is_loop: bool = False
    is_dropped: bool = False
    disagrees: bool = False
    warnings: tuple[TranscriptWarning, ...] = ()


def check_text(
    text: str, ctc_text: str | None, distance: float | None, hypothesis: "Hypothesis", speech_s: Callable[[], float]
) -> Verdict:
    """Check a text by the rules above.

    Args:
        text: the parsed answer.
        ctc_text: the CTC head's text of the same audio; None if there is no such head.
        distance: disagreement() of the two; None if they cannot be compared.
        hypothesis: the tokens that `text` was parsed from.
        speech_s: gives the seconds of speech in the clip. It runs a VAD, so it is called only if the answer matters.
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
    # The length of a loop says nothing about the speech, so a loop is decoded once more rather than dropped.
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
    """The verdict on `text` once it has been replaced by the CTC head's text."""
    message = f"the text is what the CTC head hears; the model wrote {_quoted(text)}"
    return replace(verdict, is_loop=False, warnings=(TranscriptWarning("ctc_text", message),))


def disagreement(text: str, words: Sequence[WrittenWord], ctc_text: str) -> float | None:
    """How much a text, split into `words`, differs from the CTC head's text: edits / (edits + characters in common).

    The result lies in [0, 1]. Characters are compared, in spoken form and without spaces. Words with numerals are left
    out. It is unknown how much of `ctc_text` they stand for, so insertions do not count if there are any. The result is
    None if the text has only such words and `ctc_text` is not empty.
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
    """How many times the most repeated run of tokens occurs back to back; 1 if there is no loop.

    A run may have any length. A loop needs _LOOP_TOKENS tokens in a row that repeat what stands before them.
    """
    if len(token_ids) - len(set(token_ids)) < _LOOP_TOKENS:
        return 1
    ids = np.array(token_ids)
    most = 1
    for period in range(1, len(ids) // 2 + 1):
        breaks = np.flatnonzero(np.concatenate([[True], ids[period:] != ids[:-period], [True]]))
        longest = int(np.diff(breaks).max()) - 1  # tokens in a row that equal the one `period` places before them
        if longest >= _LOOP_TOKENS:
            most = max(most, longest // period + 1)
    return most


def seconds_of_speech(waveform: Waveform) -> float:
    """Seconds that silero-vad takes for speech in (N,) float32 samples at 16 kHz.

    The network misses quiet speech, so the samples are first brought to the level of a speaker close to a microphone.
    """
    level = float(np.sqrt(np.mean(np.square(waveform, dtype=np.float64)))) if len(waveform) else 0.0
    stream = load_silero().new_stream(with_gain=False)
    probabilities = stream.push(waveform * np.float32(_SPEECH_LEVEL / level) if level else waveform)
    return float((probabilities >= _SURE_SPEECH).sum()) * stream.frame_s


def _num_common(a: str, b: str) -> int:
    """Length of the common prefix."""
    return next((i for i, (x, y) in enumerate(zip(a, b, strict=False)) if x != y), min(len(a), len(b)))


def _quoted(text: str | None) -> str:
    """The text on one line, shortened for a message."""
    text = " ".join((text or "").split())
    return repr(text if len(text) <= 60 else text[:57] + "...")
