"""The options of a transcription, by the names that users give them: written down once, for every way in.

`generate`, `generate_iter`, the live sessions, the facades in compat/, the server and the command line all take these
keywords. A type checker or an editor sees a wrong name; at run time it is a ConfigError that names the nearest known
one. transcribe_options() in run_options.py checks them and makes TranscribeOptions of them, whose parts hold the
defaults.
"""

from collections.abc import Iterable
from pathlib import Path
from typing import Literal, TypedDict

from .audio.channels import Channels
from .audio.waveform import AudioLimits


class RequestOptions(TypedDict, total=False):
    """How speech is written down, for files and for live audio alike; defaults are in brackets.

    language (None): a name ("中文", "Chinese") or ISO code ("zh"); None, "" or "auto" leaves it to the model.
    hotwords (None): words that the model shall prefer where it hears them; thousands, where it has a CTC head.
    itn (True): write numbers, dates and amounts in figures.
    context (""): free text that the speech is about, where the model's prompt has a place for it (Qwen3-ASR).
    timestamps (True): find word times.
    check (True): weigh each text against what the encoder's CTC head hears: text without speech is dropped, loops are
        decoded once more, contradictions are marked.
    fallback (None): "ctc" puts what the CTC head hears in the place of a text that it contradicts.
    max_new_tokens (512): longest answer, in tokens.
    temperature (0.0): 0 is greedy.
    top_p (1.0): sample from the most probable tokens that together have this probability.
    repetition_penalty (1.0): above 1, tokens that the answer has already are less probable.
    seed (None): of sampling, when the temperature is above 0.
    """

    language: str | None
    hotwords: Iterable[str] | None
    itn: bool
    context: str | None
    timestamps: bool
    check: bool
    fallback: Literal["ctc"] | None
    max_new_tokens: int
    temperature: float
    top_p: float
    repetition_penalty: float
    seed: int | None


class SegmentOptions(TypedDict, total=False):
    """How recordings are cut; defaults are in brackets.

    vad ("auto"): "auto" cuts recordings that are longer than the model hears well where silero-vad hears a pause;
        "silero", or the directory of an fsmn-vad checkpoint, looks for speech in all of them; None cuts none.
    max_segment_s (None): longest segment; None is what the model hears well in one pass.
    silence_schedule (None): [(ms, ms), ...]: up to this age of a segment, so much silence ends it; None is FunASR's.
    dynamic_silence (True): False: 800 ms of silence end a segment of any age.
    """

    vad: str | Path | None
    max_segment_s: float | None
    silence_schedule: Iterable[tuple[float, float]] | None
    dynamic_silence: bool


class GenerateOptions(RequestOptions, SegmentOptions, total=False):
    """Those of RequestOptions and SegmentOptions, and what is for many files; defaults are in brackets.

    batch_size (256): most clips encoded together.
    limits (AudioLimits()): how long and large an input may be, and what it may cost to decode.
    channels ("mix"): "mix" hears the mean of all channels; a number hears that channel alone, counted from 0; "split"
        transcribes each by itself, as of a call with a speaker on each: segments and words say which.
    salvage (False): transcribe what can be decoded of a truncated or damaged file, with a warning, not an error.
    """

    batch_size: int
    limits: AudioLimits
    channels: Channels
    salvage: bool
