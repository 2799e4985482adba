"""Audio and its known text -> word times, by stage 1 and the CTC head, without an LLM."""

from pathlib import Path

from ..acoustic.base import StageOneOptions
from ..audio.decode import SAMPLE_RATE, Waveform
from ..config import EngineConfig
from ..errors import ConfigError
from ..families import family_named
from ..manifest import EngineManifest
from ..text import clean_text
from ..transcript import Segment, Transcript, TranscriptWarning
from ..words.pauses import edges_at_sound


def align_known_text(engine_dir: Path, waveform: Waveform, text: str, *, key: str, device: str) -> Transcript:
    """The transcript of a known text, with its word times; without words, and with a warning, if it is not spoken.

    Args:
        engine_dir: a converted model.
        waveform: (N,) float32, 16 kHz.

    Raises:
        ConfigError: the model has no CTC head.
        CheckpointError: the model cannot be loaded.
    """
    manifest = EngineManifest.read(engine_dir)
    config = EngineConfig(device=device)
    torch_device = config.torch_device()
    dtype = config.torch_dtype(config.encoder_dtype, torch_device)
    options = StageOneOptions(device=torch_device, dtype=dtype, embeds_dtype=dtype)
    acoustic, aligner = family_named(manifest.family).build_acoustic_model(engine_dir, manifest, options)
    if aligner is None:
        raise ConfigError(manifest.missing.get("ctc", "this model cannot time words"))
    (utterance,) = acoustic.encode([waveform], with_ctc=True).utterances()
    text, duration = clean_text(text), len(waveform) / SAMPLE_RATE
    hidden = [] if utterance.ctc_hidden is None else [utterance.ctc_hidden]
    (alignment,) = aligner.align(hidden, [text], [duration])
    words = alignment.words and edges_at_sound(alignment.words, waveform)
    warnings = () if alignment.reason is None else (TranscriptWarning("no_word_times", alignment.reason),)
    start, end = (words[0].start, words[-1].end) if words else (0.0, duration)
    return Transcript(
        key=key,
        text=text,
        words=words,
        segments=(Segment(start, end, text, words, None),) if text else (),
        duration=duration,
        warnings=warnings,
    )
