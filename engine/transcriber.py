"""The offline pipeline: inputs -> transcripts, as they finish.

Audio is read ahead of need and decoded by other processes; stage 1 encodes here, batch by batch; stage 2 decodes, on a
GPU in processes of its own. One loop moves the clips on: it encodes whenever stage 2 wants more, hands over each batch
(on a GPU when the one after it has been queued, so that the GPU never waits), and finds the word times of what has
finished meanwhile. Where an LLM ends its text before the speech ends, the rest of the clip goes through both stages by
itself. However long the list, memory is bounded by the clips that wait for a batch, stage 2's `max_pending` and what is
read ahead.
"""

import contextlib
import gc
import logging
import time
from collections.abc import Collection, Generator, Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Literal

import torch

from .alignment import TextAligner, WordAligner
from .answers import Written, answer_of, review, transcript_of
from .audio import DEFAULT_LIMITS, SAMPLE_RATE, AudioLimits, Waveform
from .batching import BatchPool
from .channels import Channels, check_channels
from .checks import check_choice
from .clip import Clip, Encoding, request_of, with_before
from .clip_prompt import first_prompt, pick_hotwords, picks_hotwords
from .decoder.base import POLL_S, DecodeParams, Decoder, Hypothesis
from .errors import ASRError, AudioError, ConfigError, DecodeError, InternalError
from .families.base import AcousticModel, EncodedBatch, EncodedUtterance, ModelFamily, Request
from .inputs import AudioInput
from .isolation import alone, caught, isolated
from .model_lock import ModelLock
from .prompt import PromptEmbedder
from .reading import AudioReaders
from .recordings import ClipAudio, Recordings, Result
from .segments import DEFAULT_SEGMENTATION, Part, Segmentation, join_texts
from .text import LLMTokenizer
from .threads import one_thread
from .timeline import NullTimeline, Timeline
from .transcript import Transcript

ALIGN_CLIPS, ALIGN_WAIT_S = 64, 0.05  # finished texts are timed together, so many or what comes in so long
SAFE_REPETITION_PENALTY = 1.2  # of the second try, after a text that went round in circles
READ_WAIT_S = 0.01  # for audio, before what has finished meanwhile is looked at

Results = Generator[Result, None, None]

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class TranscribeOptions:
    """What one run asks for, beyond what each input says of itself."""

    request: Request
    params: DecodeParams
    timestamps: bool = True
    check: bool = True  # weigh each text against what the CTC head hears, see trust.py
    fallback: Literal["ctc"] | None = None  # what replaces a text that the CTC head contradicts
    batch_size: int = 256  # most clips in one stage 1 batch
    limits: AudioLimits = DEFAULT_LIMITS
    allow_urls: bool = True
    segmentation: Segmentation = DEFAULT_SEGMENTATION
    token_log_probs: bool = False  # give the tokens of each text
    channels: Channels = "mix"  # of an input that says nothing of its own
    salvage: bool = False  # transcribe what can be decoded of a truncated or damaged file

    def __post_init__(self) -> None:
        check_choice("fallback", self.fallback, (None, "ctc"))
        if self.fallback is not None and not self.check:
            raise ConfigError(f"fallback={self.fallback!r} needs check=True, which finds what to replace")
        if self.batch_size < 1:
            raise ConfigError(f"batch_size must be at least 1, got {self.batch_size}")
        check_channels(self.channels)

    @property
    def needs_ctc(self) -> bool:
        return self.timestamps or self.check

    def for_reading(self, item: AudioInput) -> AudioInput:
        """The input with what these options say of how it is decoded, where it says nothing itself."""
        channels = self.channels if item.channels is None else item.channels
        salvage = self.salvage if item.salvage is None else item.salvage
        return replace(item, channels=channels, salvage=salvage)


@dataclass(frozen=True, slots=True, kw_only=True)
class Transcriber:
    """Both stages of one loaded model."""

    family: ModelFamily
    acoustic: AcousticModel
    aligner: WordAligner | None
    no_times_reason: str  # why `aligner` is None
    tokenizer: LLMTokenizer
    embedder: PromptEmbedder
    decoder: Decoder
    readers: AudioReaders
    device: torch.device  # of stage 1
    max_batch_frames: int  # encoder frames of a stage 1 batch, padding included
    lock: ModelLock
    forced_aligner: TextAligner | None = None  # in place of `aligner`

    def run(
        self, inputs: Iterable[AudioInput], options: TranscribeOptions, timeline: Timeline | None = None
    ) -> Results:
        """Yield (place in `inputs`, transcript) in the order in which they finish; closing drops the rest.

        An input that cannot be transcribed yields a transcript of status "error". `timeline` records the run.

        Raises:
            ConfigError: at once, a language that the family does not know, or a model that is closed or was loaded by
                another process. While iterating, a model that this thread uses already, or that was closed.
            DecodeError: while iterating, the LLM's engine failed; it must be built anew.
        """
        self.lock.require_open()
        self.family.prompt_text(options.request)
        return self._run(inputs, Run(self, options, timeline or NullTimeline()))

    def _run(self, inputs: Iterable[AudioInput], run: "Run") -> Results:
        with self.lock.running(), one_thread(active=self.device.type != "cpu"):
            try:
                with contextlib.closing(run.results(inputs)) as results:
                    for result in results:
                        with self.lock.suspended():
                            yield result
            finally:
                if not self.lock.is_closed:
                    run.cancel()

    def close(self) -> None:
        """End the processes and free the models; idempotent. In a process that was forked, they are its parent's."""
        if not self.lock.close():
            return
        self.readers.close()
        self.decoder.close()
        if self.aligner is not None:
            self.aligner.close()
        gc.unfreeze()  # what load_transcriber() took out of the collector's sight


@dataclass(slots=True, eq=False)
class Run:
    """Clips on their way through the loaded model: one list of inputs here, those of many callers in service.py."""

    model: Transcriber
    options: TranscribeOptions  # of the list of inputs
    timeline: Timeline
    align_wait_s: float = ALIGN_WAIT_S
    recordings: Recordings = field(init=False)
    encoding: Encoding | None = None  # the last batch, not yet with stage 2
    decoding: dict[int, Clip] = field(default_factory=dict)  # by the decoder's id
    finished: list[tuple[Clip, Hypothesis]] = field(default_factory=list)  # that wait for their word times
    align_at: float = 0.0  # when these get them, by time.monotonic()

    def __post_init__(self) -> None:
        self.recordings = Recordings(self.options.request.language)

    def results(self, inputs: Iterable[AudioInput]) -> Results:
        """Each input's place and transcript, as soon as all of it is there."""
        for number, transcript in self._clips(inputs):
            self.recordings.finish(number, transcript)
            yield from self.recordings.take()
        yield from self.recordings.take()

    def _clips(self, inputs: Iterable[AudioInput]) -> Iterator[Result]:
        """The loop over everything: clips' numbers and transcripts."""
        options, model = self.options, self.model
        pool: BatchPool[Clip] = BatchPool(max_frames=model.max_batch_frames, max_size=options.batch_size)
        reading = model.readers.read(
            map(options.for_reading, inputs),
            limits=options.limits,
            allow_urls=options.allow_urls,
            cutting=options.segmentation.cutting(model.family.best_length_s),
            wait_s=READ_WAIT_S,
        )
        with contextlib.closing(reading):
            started = time.perf_counter()
            for read in reading:
                if read is None:  # there is time for what has been done meanwhile
                    self.timeline.add("read", started, 0)
                    yield from self._go_on()
                    started = time.perf_counter()
                    continue
                yield from self._gather(pool, self.recordings.add(*read))
                while pool.is_ready:
                    batch = pool.take()
                    self.timeline.add("read", started, len(batch))
                    yield from self._start(batch)
                    started = time.perf_counter()
            self.timeline.add("read", started, len(pool))
        while pool:
            yield from self._start(pool.take(last=True))
        while self.encoding is not None or self.decoding:
            yield from self.submit()
            yield from self.collect()

    def _gather(self, pool: BatchPool[Clip], read: Iterable[ClipAudio]) -> Iterator[Result]:
        """Clips that were read into the pool; yields what is no clip."""
        for number, item, audio in read:
            clip = self.prepare(number, item, audio, self.options)
            if isinstance(clip, Clip):
                clip.is_speech = self.recordings.is_segment(number)
                pool.add(clip.num_frames, clip)
            else:
                yield number, clip

    def _start(self, batch: list[Clip]) -> Iterator[Result]:
        """A batch into both stages, when stage 2 wants more."""
        decoder = self.model.decoder
        while decoder.num_pending >= decoder.max_pending:
            yield from self.collect()
        yield from self.encode(batch)
        yield from self.collect(wait_s=0)

    def _go_on(self) -> Iterator[Result]:
        """With what stage 1 and stage 2 have finished."""
        if self.encoding is not None and self.encoding.is_done:
            yield from self.submit()
        yield from self.collect(wait_s=0)

    def cancel(self) -> None:
        """Drop what stage 2 still has."""
        if self.decoding:
            self.decoding.clear()
            self.model.decoder.cancel()

    def drop(self, indices: Collection[int]) -> None:
        """Drop these clips where stage 2 has them."""
        dropped = [prompt_id for prompt_id, clip in self.decoding.items() if clip.index in indices]
        self.model.decoder.cancel(dropped)
        for prompt_id in dropped:
            del self.decoding[prompt_id]

    def prepare(
        self,
        index: int,
        item: AudioInput,
        audio: Waveform | AudioError,
        options: TranscribeOptions,
        answer_prefix: str = "",
    ) -> Clip | Transcript:
        """A clip ready for stage 1, or the error result that says why not."""
        if isinstance(audio, AudioError):
            return _failed(item.key, 0.0, audio)
        prepared = alone("prepare", item.key, partial(self._prepared, index, item, audio, options, answer_prefix))
        return prepared if isinstance(prepared, Clip) else _failed(item.key, len(audio) / SAMPLE_RATE, prepared)

    def _prepared(
        self, index: int, item: AudioInput, audio: Waveform, options: TranscribeOptions, answer_prefix: str = ""
    ) -> Clip:
        """Raises ConfigError or PromptTooLongError."""
        model, request = self.model, request_of(item, options.request)
        num_audio_tokens = model.acoustic.num_audio_tokens(len(audio))
        answer_ids = model.embedder.answer_ids(answer_prefix) if answer_prefix else ()
        return Clip(
            index=index,
            item=item,
            waveform=audio,
            duration=len(audio) / SAMPLE_RATE,
            num_frames=model.acoustic.num_frames(len(audio)),
            request=request,
            options=options,
            prompt=first_prompt(model, request, num_audio_tokens, answer_ids, options.params.max_new_tokens),
            answer_ids=answer_ids,
        )

    def encode(self, batch: list[Clip]) -> Iterator[Result]:
        """Start stage 1 on a batch and hand the one before it to stage 2."""
        with self.timeline.span("encode", len(batch)):
            started = caught(partial(self._start_encoding, batch))
        encoding = Encoding(batch, None if isinstance(started, Exception) else started)
        if isinstance(started, Exception):
            logger.warning("encode did not start for %d clips, it is tried again: %s", len(batch), repr(started))
        del started  # the traceback of an exception keeps alive what stage 1 has allocated
        yield from self.submit()
        self.encoding = encoding

    def _start_encoding(self, clips: Sequence[Clip]) -> EncodedBatch:
        waveforms = [clip.waveform for clip in clips if clip.waveform is not None]
        with_ctc = any(clip.options.needs_ctc or picks_hotwords(self.model, clip.request) for clip in clips)
        return self.model.acoustic.encode(waveforms, with_ctc=with_ctc)

    def submit(self) -> Iterator[Result]:
        """Hand the encoded batch to stage 2; yields what could not be encoded and what stage 2 would not take."""
        if self.encoding is None:
            return
        encoding, self.encoding = self.encoding, None
        with self.timeline.span("encode", 0):
            utterances = self._utterances(encoding)
        for clip, utterance in zip(encoding.clips, utterances, strict=True):
            if isinstance(utterance, ASRError):
                yield self._failure(clip, utterance)
                continue
            clip.audio_embeds, clip.ctc_hidden = utterance.audio_embeds, utterance.ctc_hidden
            if not self._needs_waveform(clip):
                clip.waveform = None
            if picks_hotwords(self.model, clip.request):
                picked = alone("pick hotwords", clip, partial(pick_hotwords, self.model, clip), recover=self._recover)
                if isinstance(picked, ASRError):
                    yield self._failure(clip, picked)
                    continue
            yield from self._decode(clip, clip.options.params)

    def _utterances(self, encoding: Encoding) -> list[EncodedUtterance | ASRError]:
        """What stage 1 gives for each clip. A batch that it cannot do, as for want of memory, is done in halves."""

        def work(clips: Sequence[Clip]) -> list[EncodedUtterance]:
            is_started = clips is encoding.clips and encoding.encoded is not None
            encoded = encoding.encoded if is_started else self._start_encoding(clips)
            assert encoded is not None
            return encoded.utterances()

        return isolated("encode", encoding.clips, work, recover=self._recover)

    def _recover(self) -> None:
        """After a step that failed: free what the GPU's allocator holds back. Raises DecodeError for a broken GPU."""
        if self.model.device.type != "cuda":
            return
        try:
            torch.cuda.synchronize(self.model.device)
        except RuntimeError as error:  # no CUDA call of this process will succeed any more
            raise DecodeError(f"the GPU of stage 1 failed: {error}") from error
        torch.cuda.empty_cache()

    def _needs_waveform(self, clip: Clip) -> bool:
        """Whether an encoded clip may be listened to once more: by a VAD, a forced aligner, or the LLM, to its end."""
        return clip.options.check or (self.model.forced_aligner is not None and clip.options.timestamps)

    def _decode(self, clip: Clip, params: DecodeParams) -> Iterator[Result]:
        """Hand an encoded clip to stage 2; yields the error result if that would not take it."""
        decoder, embeds = self.model.decoder, clip.audio_embeds
        assert embeds is not None
        submit = partial(decoder.submit, params=params, follow=clip.is_followed)
        prompt_id = alone("submit", clip, lambda: submit(clip.prompt.around(embeds)))
        if isinstance(prompt_id, ASRError):
            yield self._failure(clip, prompt_id)
            return
        clip.submitted = time.perf_counter()
        self.decoding[prompt_id] = clip

    def collect(self, *, wait_s: float = POLL_S, wake: int | None = None) -> Iterator[Result]:
        """See what stage 2 has finished; yields transcripts once some have waited to be timed together."""
        for prompt_id, hypothesis in self.model.decoder.poll(wait_s=wait_s, wake=wake):
            clip = self.decoding.pop(prompt_id)
            self.timeline.add("decode", clip.submitted, 1)
            if hypothesis.error is not None:
                yield self._failure(clip, InternalError(hypothesis.error))
                continue
            if not self.finished:
                self.align_at = time.monotonic() + self.align_wait_s
            self.finished.append((clip, hypothesis))
        is_due = time.monotonic() >= self.align_at or len(self.finished) >= ALIGN_CLIPS or not self.decoding
        if self.finished and is_due:
            finished, self.finished = self.finished, []
            yield from self._finish(finished)

    def text_so_far(self, clip: Clip, token_ids: Sequence[int]) -> str:
        """What is written for a clip when its answer has come to these tokens."""
        before = (part.transcript.text for part in clip.before)
        return join_texts([*before, answer_of(self.model, clip, token_ids).text])

    def _finish(self, finished: Sequence[tuple[Clip, Hypothesis]]) -> Iterator[Result]:
        """Time the words of some clips and weigh their texts; those that loop are decoded once more, and so is what is
        left out at the end of a text."""
        with self.timeline.span("align", len(finished)):
            answers = isolated(
                "align", finished, partial(review, self.model), name=lambda pair: str(pair[0]), recover=self._recover
            )
        rests: list[Clip] = []
        for (clip, _), written in zip(finished, answers, strict=True):
            if isinstance(written, ASRError):
                yield self._failure(clip, written)
            elif written.needs_second_try:
                clip.is_second_try = True
                yield from self._decode(clip, replace(clip.options.params, repetition_penalty=SAFE_REPETITION_PENALTY))
            else:
                outcome = alone("finish", clip, partial(self._finish_one, written))
                if isinstance(outcome, Clip):
                    rests.append(outcome)
                else:
                    yield self._failure(clip, outcome) if isinstance(outcome, ASRError) else (clip.index, outcome)
        if rests:
            yield from self.encode(rests)

    def _finish_one(self, written: Written) -> Transcript | Clip:
        """The transcript of a clip, or a clip of the speech that its text leaves out at the end."""
        transcript = transcript_of(written, self.model.family.best_length_s)
        rest = self._rest(written, transcript)
        return with_before(written.clip, transcript) if rest is None else rest

    def _rest(self, written: Written, transcript: Transcript) -> Clip | None:
        """What a text leaves out at its end, as a clip."""
        clip = written.clip
        if written.rest_start is None or clip.waveform is None:
            return None
        first = round(written.rest_start * SAMPLE_RATE)
        start = first / SAMPLE_RATE
        rest = self._prepared(clip.index, clip.item, clip.waveform[first:], clip.options)
        rest.is_followed, rest.is_speech = clip.is_followed, clip.is_speech
        rest.before = (*clip.before, Part(clip.start, replace(transcript, duration=start)))
        rest.start = clip.start + start
        return rest

    def _failure(self, clip: Clip, error: ASRError) -> Result:
        """The error result of a clip, after what was transcribed of the same input before."""
        failed = _failed(clip.item.key, clip.duration, error)
        joined = alone("finish", clip, partial(with_before, clip, failed))
        return clip.index, joined if isinstance(joined, Transcript) else failed


def _failed(key: str, duration: float, error: ASRError) -> Transcript:
    return Transcript.failed(key, error, duration=duration)
