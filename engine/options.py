"""The options of a transcription, as keywords: declared once for all entry points.

`generate`, `generate_iter`, the live sessions, the facades in compat/, the server and the command line all take them.
A type checker or an editor finds a wrong name; at run time it raises a ConfigError that suggests the nearest known one.
transcribe_options() in run_options.py checks the keywords and converts them to TranscribeOptions, which has the
defaults.
"""

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Literal, TypedDict

from .audio.channels import Channels
from .audio.inputs import Source
from .audio.waveform import AudioLimits


class RequestOptions(TypedDict, total=False):
    """How speech is written down, for files and for live audio; defaults are in brackets.

    language (None): a name ("中文", "Chinese") or ISO code ("zh"); None, "" or "auto" lets the model detect it.
    hotwords (None): words that the model should prefer if it hears them; thousands, if it has a CTC head.
    itn (True): write numbers, dates and amounts in figures.
    context (""): free text about the subject of the speech, if the model's prompt has a place for it (Qwen3-ASR).
    timestamps (True): find word times.
    check (True): check each text against the encoder's CTC head: text without speech is dropped, a loop is decoded
        once more, and a text that the head contradicts gets a warning.
    fallback (None): "ctc" replaces a text that the CTC head contradicts by the head's own text.
    max_new_tokens (512): longest answer, in tokens.
    temperature (0.0): sampling temperature; 0 is greedy.
    top_p (1.0): sample from the most probable tokens that together have this probability.
    repetition_penalty (1.0): above 1, tokens that the answer already has become less probable.
    seed (None): seed of sampling, if the temperature is above 0.
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

    vad ("auto"): "auto" cuts only recordings that are too long for one pass, at pauses that silero-vad finds; "silero",
        or the directory of an fsmn-vad checkpoint, cuts the speech out of every recording; None cuts none.
    max_segment_s (None): longest segment in seconds; None is the longest that the model hears well in one pass.
    silence_schedule (None): [(age, silence), ...] in ms: a segment of up to this age is ended by this much silence.
        None is 1000 ms at any age. FunASR's table is `twostage_asr.engine.vad.OFFLINE_SCHEDULE`.
    dynamic_silence (True): False: 800 ms of silence end a segment of any age.
    """

    vad: str | Path | None
    max_segment_s: float | None
    silence_schedule: Iterable[tuple[float, float]] | None
    dynamic_silence: bool


class SpeakerOptions(TypedDict, total=False):
    """Who speaks; defaults are in brackets.

    speakers (False): say who speaks: words and segments carry a speaker, and the transcript has turns.
    num_speakers (None): how many speakers there are; None estimates it.
    min_speakers (None), max_speakers (None): bounds of that estimate; None bounds it by 1 and 20.
    known_speakers (None): {name: audio} of people whose voices are known. Who sounds like one gets the name. The audio
        is a path, URL, bytes, file object or samples of 16 kHz; a few seconds of speech are enough.
    """

    speakers: bool
    num_speakers: int | None
    min_speakers: int | None
    max_speakers: int | None
    known_speakers: Mapping[str, Source] | None


class GenerateOptions(RequestOptions, SegmentOptions, SpeakerOptions, total=False):
    """The options of the three above, and those for files; defaults are in brackets.

    batch_size (256): most clips that are encoded together.
    limits (AudioLimits()): limits on the length and size of an input, and on the cost of decoding it.
    channels ("mix"): "mix" uses the mean of all channels; a number uses that channel alone, counted from 0; "split"
        transcribes each channel by itself, and segments and words say which one they are from.
    salvage (False): transcribe what can be decoded of a truncated or damaged file, with a warning instead of an error.
    """

    batch_size: int
    limits: AudioLimits
    channels: Channels
    salvage: bool
