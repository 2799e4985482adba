"""The names of the qwen-asr package, so that a program needs to change only its import line.

    from qwen_asr import Qwen3ASRModel, parse_asr_output

becomes `from twostage_asr.engine.compat.qwen_asr import ...`. `Qwen3ASRModel.transcribe` has the package's arguments
and results. Long audio is cut by the package's rule: about every 1200 s, or every 180 s with time stamps, at the
quietest place within 5 s of that. There are three differences: integers are scaled by their full range instead of their
own peak, ISO codes are accepted as languages, and Korean is tokenised without the package's dictionary.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import numpy as np
import torch

from ..audio.decode import SAMPLE_RATE, Waveform
from ..audio.inputs import AudioInput, Inputs, as_list, expand_inputs
from ..audio.loading import load
from ..audio.urls import decode_base64
from ..auto import AutoModelVLLM
from ..checks import argument_names, check_arguments, check_type, checked_texts, say_unused
from ..closing import Closing
from ..config import EngineOptions
from ..errors import ConfigError
from ..families.qwen3_asr import KNOWN_LANGUAGES, Qwen3ASR, parse_asr_output
from ..run_options import transcribe_options
from ..streaming.qwen import ASRStreamingState, QwenStreams
from ..words.forced_aligner import ForcedAlignItem, ForcedAlignResult, Qwen3ForcedAligner

__all__ = [
    "ASRStreamingState",
    "ASRTranscription",
    "ForcedAlignItem",
    "ForcedAlignResult",
    "Qwen3ASRModel",
    "Qwen3ForcedAligner",
    "parse_asr_output",
]

MAX_CHUNK_S, MAX_TIMED_CHUNK_S = 1200.0, 180.0
SEARCH_S, QUIET_S = 5.0, 0.1  # how far around the limit a cut is searched; length of the quiet stretch
GPU_MODEL_LEN = 24_576  # 1205 s of audio take 15,665 positions; context and answer take the rest
CPU_PROMPT_LEN = 4096  # positions of the prompt: about five minutes of audio
MOST_CLIPS = 256  # batch size if it is left to the engine
MIN_BASE64 = 257  # characters; a string of this length without a slash is too long for a file name


@dataclass(frozen=True, slots=True)
class ASRTranscription:
    """The result for one input."""

    language: str  # "" if none was detected; joined by commas if the parts of long audio have different ones
    text: str
    time_stamps: ForcedAlignResult | None = None


class Qwen3ASRModel(Closing):
    """Qwen3-ASR with qwen-asr's interface."""

    def __init__(
        self,
        model: AutoModelVLLM,
        aligner: Qwen3ForcedAligner | None = None,
        *,
        max_inference_batch_size: int = 32,
        max_new_tokens: int = 512,
    ) -> None:
        """Wrap a loaded `model` and `aligner`. A batch size below 1 leaves the choice to the engine."""
        check_arguments(
            Qwen3ASRModel.__init__, max_inference_batch_size=max_inference_batch_size, max_new_tokens=max_new_tokens
        )
        if not isinstance(model.transcriber.family, Qwen3ASR):
            raise ConfigError(f"a Qwen3-ASR is needed, got a model of family {model.transcriber.family.name!r}")
        self._model = model
        self._aligner = aligner
        self._batch_size = MOST_CLIPS if max_inference_batch_size < 1 else max_inference_batch_size
        self._max_new_tokens = max_new_tokens
        self._streams = QwenStreams(model.transcriber, max_new_tokens=max_new_tokens)

    @classmethod
    def from_pretrained(
        cls,
        model: str | Path,
        *,
        forced_aligner: str | Path | None = None,
        forced_aligner_kwargs: Mapping[str, Any] | None = None,
        max_inference_batch_size: int = 32,
        max_new_tokens: int = 512,
        **engine: Any,
    ) -> Self:
        """Load Qwen3-ASR and, if given, its forced aligner.

        Args:
            model: directory or hub id.
            forced_aligner: directory or hub id of a Qwen3-ForcedAligner, which time stamps need.
            forced_aligner_kwargs: arguments of Qwen3ForcedAligner.from_pretrained.
            max_inference_batch_size: most clips encoded together; a value below 1 leaves the choice to the engine.
            max_new_tokens: longest answer, in tokens.
            engine: arguments of AutoModelVLLM; also transformers' `device_map`, which sets `device`, and
                `attn_implementation`, which has no effect. `dtype` applies to both stages, unless `encoder_dtype` is
                given. By default, max_model_len suffices for 1205 s of audio on a GPU, and for about five minutes on a
                CPU.
        """
        check_arguments(
            Qwen3ASRModel.from_pretrained, forced_aligner_kwargs=forced_aligner_kwargs, max_new_tokens=max_new_tokens
        )
        aligner = None
        if forced_aligner is not None:
            aligner = Qwen3ForcedAligner.from_pretrained(forced_aligner, **forced_aligner_kwargs or {})
        own_len = GPU_MODEL_LEN if torch.cuda.is_available() else CPU_PROMPT_LEN + max_new_tokens
        return cls(
            AutoModelVLLM(model, **{"max_model_len": own_len, **_engine_options(engine)}),
            aligner,
            max_inference_batch_size=max_inference_batch_size,
            max_new_tokens=max_new_tokens,
        )

    @classmethod
    def LLM(  # noqa: N802 - the package's name
        cls,
        model: str | Path,
        *,
        forced_aligner: str | Path | None = None,
        forced_aligner_kwargs: Mapping[str, Any] | None = None,
        max_inference_batch_size: int = -1,
        max_new_tokens: int = 4096,
        **engine: Any,
    ) -> Self:
        """`from_pretrained` with the package's defaults for vLLM, and with vLLM's arguments by their own names.

        Arguments of AutoModelVLLM (gpu_memory_utilization, tensor_parallel_size, dtype, ...) are passed to it. All
        others become entries of its `vllm`.
        """
        own = {
            *argument_names(AutoModelVLLM.__init__),
            *EngineOptions.__annotations__,
            "device_map",
            "attn_implementation",
        }
        vllm = {name: value for name, value in engine.items() if name not in own}
        options = {name: value for name, value in engine.items() if name in own}
        check_type("vllm", options.get("vllm"), Mapping | None)
        if vllm:
            options["vllm"] = {**vllm, **(options.get("vllm") or {})}
        return cls.from_pretrained(
            model,
            forced_aligner=forced_aligner,
            forced_aligner_kwargs=forced_aligner_kwargs,
            max_inference_batch_size=max_inference_batch_size,
            max_new_tokens=max_new_tokens,
            **options,
        )

    def transcribe(
        self,
        audio: Inputs,
        context: str | Iterable[str] = "",
        language: str | Iterable[str | None] | None = None,
        return_time_stamps: bool = False,
    ) -> list[ASRTranscription]:
        """Transcribe one input or several. Unlike in `generate`, an input that fails raises an error for all of them.

        Args:
            audio: path, URL, base64, (samples, sample_rate) or any other input of `generate`, or an iterable of them.
            context: what the speech is about, one for each input or one for all.
            language: a name or ISO code, one for each input or one for all; with None or "" the model detects it.
            return_time_stamps: find word times with the forced aligner.

        Raises:
            ConfigError: the numbers of inputs, contexts and languages differ, a language is unknown, or time stamps are
                requested without an aligner.
            ASRError: an input that cannot be transcribed.
        """
        self._streams.require_none()
        check_arguments(Qwen3ASRModel.transcribe, return_time_stamps=return_time_stamps)
        if audio is None:
            raise ConfigError("audio is None; a path, URL, base64, (samples, sample_rate) or a list of them is needed")
        sources = as_list(audio)
        contexts, asked = _for_each("context", context, len(sources)), _for_each("language", language, len(sources))
        if not len(sources) == len(contexts) == len(asked):
            raise ConfigError(
                f"Batch size mismatch: audio={len(sources)}, context={len(contexts)}, language={len(asked)}"
            )
        names = [KNOWN_LANGUAGES.prompt_name(one) for one in asked]
        if return_time_stamps and self._aligner is None:
            raise ConfigError("return_time_stamps needs forced_aligner=...")
        limit_s = MAX_TIMED_CHUNK_S if return_time_stamps else MAX_CHUNK_S
        waveforms = [_load(source) for source in sources]
        chunks = [(i, chunk) for i, one in enumerate(waveforms) for chunk in cut_at_quiet(one, limit_s)]
        heard = self._transcribe([(chunk, contexts[i] or "", names[i]) for i, chunk in chunks])
        stamps = self._time_stamps([chunk for _, chunk in chunks], heard) if return_time_stamps else None
        return [
            _merged(
                [heard[k] for k in own],
                None if stamps is None else [stamps[k] for k in own],
                [chunks[k][1] for k in own],
            )
            for own in ([k for k, (j, _) in enumerate(chunks) if j == i] for i in range(len(sources)))
        ]

    def init_streaming_state(
        self,
        context: str = "",
        language: str | None = None,
        unfixed_chunk_num: int = 2,
        unfixed_token_num: int = 5,
        chunk_size_sec: float = 2.0,
    ) -> ASRStreamingState:
        """Open a live stream; several may be open at once.

        Args:
            context: what the speech is about.
            language: a name or ISO code; with None the model detects it.
            unfixed_chunk_num: number of chunks at the beginning of a speech segment whose text is decoded again from
                its start.
            unfixed_token_num: number of tokens at the end of each text that are decoded again with the next chunk.
            chunk_size_sec: seconds of audio between two updates of the text.

        Raises:
            ConfigError: a number is out of range, or the language is unknown.
        """
        check_arguments(Qwen3ASRModel.init_streaming_state, chunk_size_sec=chunk_size_sec)
        return self._streams.start(
            context=context,
            language=language,
            unfixed_chunk_num=unfixed_chunk_num,
            unfixed_token_num=unfixed_token_num,
            chunk_size_sec=chunk_size_sec,
        )

    def streaming_transcribe(self, pcm16k: Any, state: ASRStreamingState) -> ASRStreamingState:
        """Add samples, (N,) at 16 kHz: int16, or floats in [-1, 1]. Updates the state's language and text."""
        check_arguments(Qwen3ASRModel.streaming_transcribe, state=state)
        self._streams.hear(pcm16k, state)
        return state

    def finish_streaming_transcribe(self, state: ASRStreamingState) -> ASRStreamingState:
        """End a stream; the state's text is final afterwards."""
        check_arguments(Qwen3ASRModel.finish_streaming_transcribe, state=state)
        self._streams.finish(state)
        return state

    def close(self) -> None:
        """Stop vLLM and free the memory; idempotent."""
        self._streams.close()
        self._model.close()

    def _transcribe(self, chunks: Sequence[tuple[Waveform, str, str | None]]) -> list[tuple[str, str]]:
        """(language, text) of each chunk, in order. Raises the first error of a chunk."""
        inputs = [
            AudioInput(key=str(k), source=chunk, sample_rate=SAMPLE_RATE, context=context, language=language)
            for k, (chunk, context, language) in enumerate(chunks)
        ]
        options = transcribe_options(
            timestamps=False, max_new_tokens=self._max_new_tokens, batch_size=self._batch_size, vad=None
        )
        found = dict(self._model.transcriber.run(inputs, options))
        for transcript in found.values():
            if error := transcript.exception():
                raise error
        return [(found[k].language or "", found[k].text) for k in range(len(chunks))]

    def _time_stamps(self, chunks: Sequence[Waveform], heard: Sequence[tuple[str, str]]) -> list[ForcedAlignResult]:
        assert self._aligner is not None, "looked at before any work"
        return self._aligner.align_waveforms(chunks, [text for _, text in heard], [language for language, _ in heard])


def cut_at_quiet(waveform: Waveform, limit_s: float, *, sample_rate: int = SAMPLE_RATE) -> list[Waveform]:
    """Cut a waveform (N,) into adjacent pieces of about `limit_s` seconds.

    Each cut is at the smallest absolute sample of the quietest QUIET_S within SEARCH_S of the limit; ties take the
    earliest. A piece may be up to SEARCH_S longer than the limit.
    """
    limit, search, quiet = (round(seconds * sample_rate) for seconds in (limit_s, SEARCH_S, QUIET_S))
    pieces, start = [], 0
    while len(waveform) - start > limit:
        left = start + limit - search
        loudness = np.abs(waveform[left : start + limit + search])
        sums = np.concatenate([[0.0], np.cumsum(loudness, dtype=np.float64)])
        first = int((sums[quiet:] - sums[:-quiet]).argmin())
        cut = left + first + int(loudness[first : first + quiet].argmin())
        pieces.append(waveform[start:cut])
        start = cut
    return [*pieces, waveform[start:]]


def merge_languages(names: Sequence[str]) -> str:
    """Languages of consecutive parts -> one string, joined by commas, without empty names and adjacent repetitions."""
    named = [name for name in names if name]
    return ",".join(name for k, name in enumerate(named) if k == 0 or name != named[k - 1])


def _merged(
    heard: Sequence[tuple[str, str]], stamps: Sequence[ForcedAlignResult] | None, chunks: Sequence[Waveform]
) -> ASRTranscription:
    """Merge the results of an input's parts; texts are concatenated, and times shifted by each part's start."""
    items: list[ForcedAlignItem] = []
    offset_s = 0.0
    for chunk, result in zip(chunks, stamps or (), strict=False):
        items += (
            ForcedAlignItem(one.text, round(one.start_time + offset_s, 3), round(one.end_time + offset_s, 3))
            for one in result
        )
        offset_s += len(chunk) / SAMPLE_RATE
    return ASRTranscription(
        language=merge_languages([language for language, _ in heard]),
        text="".join(text for _, text in heard),
        time_stamps=ForcedAlignResult(items) if items else None,
    )


def _engine_options(options: Mapping[str, Any]) -> dict[str, Any]:
    """Translate transformers' arguments into those of AutoModelVLLM."""
    ours = dict(options)
    say_unused(attn_implementation=ours.pop("attn_implementation", None))
    if (device := ours.pop("device_map", None)) is not None:
        ours["device"] = device
    if "dtype" in ours:
        ours.setdefault("encoder_dtype", ours["dtype"])
    return ours


def _for_each(name: str, value: object, count: int) -> list[str | None]:
    """One value for each of `count` inputs. A single string or None, or an iterable of one, applies to all inputs.

    Raises ConfigError for values that are neither strings nor None.
    """
    values = checked_texts(name, value)
    return values * count if len(values) == 1 else values


def _load(source: Any) -> Waveform:
    """Read one input; a long string without path separators is base64. Raises AudioError."""
    if isinstance(source, str) and len(source) >= MIN_BASE64 and not {"/", "\\", ":"} & set(source):
        source = decode_base64(source)
    (item,) = expand_inputs([source])
    return load(item)
