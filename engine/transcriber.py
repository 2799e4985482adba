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
import threading
import time
from collections.abc import Collection, Generator, Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Literal

import torch
from torch import Tensor

from .alignment import TextAligner, WordAligner
from .answers import Written, answer_of, review, transcript_of
from .audio import DEFAULT_LIMITS, SAMPLE_RATE, AudioLimits, Waveform
from .batching import BatchPool
from .channels import Channels, check_channels
from .config import check_choice
from .decoder.base import POLL_S, DecodeParams, Decoder, Hypothesis
from .errors import ASRError, AudioError, ConfigError, DecodeError, PromptTooLongError
from .families.base import AcousticModel, EncodedBatch, ModelFamily, Request
from .inputs import AudioInput
from .prompt import EmbeddedPrompt, PromptEmbedder
from .reading import AudioReaders
from .recordings import ClipAudio, Recordings, Result
from .segments import DEFAULT_SEGMENTATION, Part, Segmentation, join_parts, join_texts
from .text import LLMTokenizer
from .threads import one_thread
from .timeline import Timeline
from .transcript import Transcript

ALIGN_CLIPS, ALIGN_WAIT_S = 64, 0.05  # finished texts are timed together, so many or what comes in so long
SAFE_REPETITION_PENALTY = 1.2  # of the second try, after a text that went round in circles
READ_WAIT_S = 0.01  # for audio, before what has finished meanwhile is looked at

Results = Generator[Result, None, None]


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


@dataclass(slots=True, eq=False)
class Clip:
    """One input on its way, or one segment of a long one."""

    index: int  # what its transcript is yielded with
    item: AudioInput
    waveform: Waveform | None  # until it is encoded, or checked
    duration: float  # s
    request: Request
    options: TranscribeOptions
    prompt: EmbeddedPrompt
    answer_ids: tuple[int, ...] = ()  # what the answer is made to begin with; a part of the prompt
    is_followed: bool = False  # its text is looked at while it is written
    is_speech: bool = False  # a VAD has heard some
    is_second_try: bool = False  # its first text went round in circles
    before: tuple[Part, ...] = ()  # of the same input, transcribed before this rest of it
    start: float = 0.0  # s, of this rest
    audio_embeds: Tensor | None = None
    ctc_hidden: Tensor | None = None
    submitted: float = 0.0  # time.perf_counter()


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
    lock: threading.Lock
    forced_aligner: TextAligner | None = None  # in place of `aligner`

    def run(
        self, inputs: Iterable[AudioInput], options: TranscribeOptions, timeline: Timeline | None = None
    ) -> Results:
        """Yield (place in `inputs`, transcript) in the order in which they finish; closing drops the rest.

        An input that cannot be transcribed yields a transcript of status "error". `timeline` records the run.

        Raises:
            ConfigError: at once, a language that the family does not know.
            DecodeError: while iterating, the LLM's engine failed; it must be built anew.
        """
        self.family.prompt_text(options.request)
        return self._run(inputs, Run(self, options, timeline or Timeline()))

    def _run(self, inputs: Iterable[AudioInput], run: "Run") -> Results:
        with self.lock, one_thread(active=self.device.type != "cpu"):
            try:
                yield from run.results(inputs)
            finally:
                run.cancel()

    def close(self) -> None:
        """End the processes and free the models; idempotent."""
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
    encoding: tuple[list[Clip], EncodedBatch] | None = None  # queued on the GPU, not yet with stage 2
    decoding: dict[int, Clip] = field(default_factory=dict)  # by the decoder's id
    finished: list[tuple[Clip, Hypothesis]] = field(default_factory=list)  # that wait for their word times
    align_at: float = 0.0  # when these get them, by time.monotonic()

    def __post_init__(self) -> None:
        self.recordings = Recordings(self.options.request.language)

    def results(self, inputs: Iterable[AudioInput]) -> Iterator[Result]:
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
                pool.add(self.model.acoustic.num_frames(round(clip.duration * SAMPLE_RATE)), clip)
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
        if self.encoding is not None and self.encoding[1].is_done:
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
        model, default = self.model, options.request
        duration = len(audio) / SAMPLE_RATE
        request = Request(
            language=default.language if item.language is None else item.language,
            hotwords=default.hotwords if item.hotwords is None else item.hotwords,
            itn=default.itn if item.itn is None else item.itn,
            context=default.context if item.context is None else item.context,
        )
        try:
            prompt = model.embedder.embed(model.family.prompt_text(request))
            answer_ids: tuple[int, ...] = ()
            if answer_prefix:
                answer_ids, rows = model.embedder.embed_answer(answer_prefix)
                prompt = prompt.before(answer_ids, rows)
            num_positions = len(prompt) + model.acoustic.num_audio_tokens(len(audio))
            model.decoder.limits.check_length(num_positions, options.params.max_new_tokens)
        except (ConfigError, PromptTooLongError) as error:
            return _failed(item.key, duration, error)
        return Clip(index, item, audio, duration, request, options, prompt, answer_ids)

    def encode(self, batch: list[Clip]) -> Iterator[Result]:
        """Start stage 1 on a batch and hand the one before it to stage 2."""
        waveforms = [clip.waveform for clip in batch if clip.waveform is not None]
        with self.timeline.span("encode", len(batch)):
            with_ctc = any(clip.options.needs_ctc for clip in batch)
            encoded = self.model.acoustic.encode(waveforms, with_ctc=with_ctc)
        for clip in batch:
            if not self._needs_waveform(clip):
                clip.waveform = None
        yield from self.submit()
        self.encoding = (batch, encoded)

    def _needs_waveform(self, clip: Clip) -> bool:
        """Whether an encoded clip may be listened to once more: by a VAD, a forced aligner, or the LLM, to its end."""
        return clip.options.check or (self.model.forced_aligner is not None and clip.options.timestamps)

    def submit(self) -> Iterator[Result]:
        """Hand the encoded batch to stage 2; yields what that would not take."""
        if self.encoding is None:
            return
        (batch, encoded), self.encoding = self.encoding, None
        with self.timeline.span("encode", 0):
            utterances = encoded.utterances()
        for clip, utterance in zip(batch, utterances, strict=True):
            clip.audio_embeds, clip.ctc_hidden = utterance.audio_embeds, utterance.ctc_hidden
            yield from self._decode(clip, clip.options.params)

    def _decode(self, clip: Clip, params: DecodeParams) -> Iterator[Result]:
        """Hand an encoded clip to stage 2; yields the error result if that would not take it."""
        assert clip.audio_embeds is not None
        try:
            prompt = clip.prompt.around(clip.audio_embeds)
            prompt_id = self.model.decoder.submit(prompt, params, follow=clip.is_followed)
        except (DecodeError, PromptTooLongError) as error:
            yield clip.index, _with_before(clip, _failed(clip.item.key, clip.duration, error))
        else:
            clip.submitted = time.perf_counter()
            self.decoding[prompt_id] = clip

    def collect(self, *, wait_s: float = POLL_S, wake: int | None = None) -> Iterator[Result]:
        """See what stage 2 has finished; yields transcripts once some have waited to be timed together."""
        for prompt_id, hypothesis in self.model.decoder.poll(wait_s=wait_s, wake=wake):
            clip = self.decoding.pop(prompt_id)
            self.timeline.add("decode", clip.submitted, 1)
            if not self.finished:
                self.align_at = time.monotonic() + self.align_wait_s
            self.finished.append((clip, hypothesis))
        is_due = time.monotonic() >= self.align_at or len(self.finished) >= ALIGN_CLIPS or not self.decoding
        if self.finished and is_due:
            finished, self.finished = self.finished, []
            yield from self._finish(finished)

    def text_so_far(self, clip: Clip, token_ids: Sequence[int]) -> str:
        """What is written for a clip when its answer has come to these tokens."""
        return join_texts(
            [*(part.transcript.text for part in clip.before), answer_of(self.model, clip, token_ids).text]
        )

    def _finish(self, finished: Sequence[tuple[Clip, Hypothesis]]) -> Iterator[Result]:
        """Time the words of some clips and weigh their texts; those that loop are decoded once more, and so is what is
        left out at the end of a text."""
        with self.timeline.span("align", len(finished)):
            answers = review(self.model, finished)
        rests: list[Clip] = []
        for written in answers:
            clip = written.clip
            if written.needs_second_try:
                clip.is_second_try = True
                yield from self._decode(clip, replace(clip.options.params, repetition_penalty=SAFE_REPETITION_PENALTY))
                continue
            transcript = transcript_of(written, self.model.family.best_length_s)
            rest = self._rest(written, transcript)
            if rest is None:
                yield clip.index, _with_before(clip, transcript)
            else:
                rests.append(rest)
        if rests:
            yield from self.encode(rests)

    def _rest(self, written: Written, transcript: Transcript) -> Clip | None:
        """What a text leaves out at its end, as a clip."""
        clip = written.clip
        if written.rest_start is None or clip.waveform is None:
            return None
        first = round(written.rest_start * SAMPLE_RATE)
        start = first / SAMPLE_RATE
        rest = self.prepare(clip.index, clip.item, clip.waveform[first:], clip.options)
        assert isinstance(rest, Clip)  # the same request with less audio
        rest.is_followed, rest.is_speech = clip.is_followed, clip.is_speech
        rest.before = (*clip.before, Part(clip.start, replace(transcript, duration=start)))
        rest.start = clip.start + start
        return rest


def _with_before(clip: Clip, transcript: Transcript) -> Transcript:
    """The transcript of a clip after what was transcribed of the same input before."""
    if not clip.before:
        return transcript
    parts = (*clip.before, Part(clip.start, transcript))
    duration = clip.start + clip.duration
    return join_parts(clip.item.key, parts, duration=duration, language=clip.request.language)


def _failed(key: str, duration: float, error: ASRError) -> Transcript:
    return Transcript(key, duration=duration, status="error", error=str(error))
