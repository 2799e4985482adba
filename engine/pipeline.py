"""The five steps that take a clip through both stages: prepare, encode, submit, collect, finish.

    audio          -> prepare -> a Clip with its prompt, or an error result
    batch of clips -> encode  -> starts stage 1 on the batch, then submits the batch before it
                      submit  -> hands stage 2 the prompt embeddings: prefix, audio, suffix
                      collect -> gathers the hypotheses that stage 2 has finished, to be finished in batches
                      finish  -> transcripts. A text that loops is decoded once more. Speech that a text leaves out at
                                 its end becomes a clip of its own, which goes through all steps.

Each step yields the results that are ready, as (number of the clip, transcript). A clip that fails gives an error
result, and the others go on (isolation.py). transcriber.py runs these steps for one list of inputs, service.py for
many callers.
"""

import logging
import time
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import partial

from .acoustic.base import EncodedBatch, EncodedUtterance
from .answers import DecodedClip, answer_of, finalize, transcript_of
from .audio.inputs import AudioInput
from .audio.waveform import SAMPLE_RATE, Waveform
from .clip import Clip, Encoding, Result, request_of, with_before
from .clip_prompt import draft_of, first_prompt, pick_hotwords, picks_hotwords
from .decoder.base import POLL_S, DecodeParams, Hypothesis, recover_gpu
from .errors import ASRError, AudioError, InternalError
from .isolation import alone, caught, isolated
from .model import LoadedModel
from .run_options import TranscribeOptions
from .segments import Part, join_texts
from .timeline import Timeline
from .transcript import Transcript

ALIGN_CLIPS, ALIGN_WAIT_S = 64, 0.05  # texts are finished in batches: once there are 64, or 50 ms after the first
SAFE_REPETITION_PENALTY = 1.2  # of the second decode, after a text that loops

logger = logging.getLogger(__name__)


@dataclass(slots=True, eq=False)
class Pipeline:
    """Clips on their way through the loaded model."""

    model: LoadedModel
    timeline: Timeline
    align_wait_s: float = ALIGN_WAIT_S
    encoding: Encoding | None = None  # the batch in stage 1, not yet submitted to stage 2
    decoding: dict[int, Clip] = field(default_factory=dict)  # the clips in stage 2, by the decoder's prompt id
    finished: list[tuple[Clip, Hypothesis]] = field(default_factory=list)  # decoded, and waiting for finish()
    align_at: float = 0.0  # time.monotonic() at which they are finished at the latest

    @property
    def is_idle(self) -> bool:
        """Whether neither stage has a clip."""
        return self.encoding is None and not self.decoding

    def prepare(
        self,
        index: int,
        item: AudioInput,
        audio: Waveform | AudioError,
        options: TranscribeOptions,
        *,
        answer_prefix: str = "",
        is_speech: bool = False,
        draft: str = "",
        is_followed: bool = False,
    ) -> Clip | Transcript:
        """A clip ready for stage 1, or an error result if it cannot be made. Clip explains the arguments."""
        if isinstance(audio, AudioError):
            return Transcript.failed(item.key, audio)
        prepared = alone("prepare", item.key, partial(self._prepared, index, item, audio, options, answer_prefix))
        if not isinstance(prepared, Clip):
            return Transcript.failed(item.key, prepared, duration=len(audio) / SAMPLE_RATE)
        prepared.is_speech, prepared.draft, prepared.is_followed = is_speech, draft, is_followed
        return prepared

    def _prepared(
        self, index: int, item: AudioInput, audio: Waveform, options: TranscribeOptions, answer_prefix: str = ""
    ) -> Clip:
        """Make a clip and its prompt. Raises ConfigError or PromptTooLongError."""
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

    def start(self, batch: list[Clip]) -> Iterator[Result]:
        """Encode a batch, after waiting until stage 2 has room for more prompts."""
        decoder = self.model.decoder
        while decoder.num_pending >= decoder.max_pending:
            yield from self.collect()
        yield from self.encode(batch)
        yield from self.collect(wait_s=0)

    def advance(self) -> Iterator[Result]:
        """Move on what either stage has finished, without waiting."""
        if self.encoding is not None and self.encoding.is_done:
            yield from self.submit()
        yield from self.collect(wait_s=0)

    def encode(self, batch: list[Clip]) -> Iterator[Result]:
        """Start stage 1 on a batch, then submit the batch before it, so that a GPU always has the next batch queued."""
        with self.timeline.span("encode", len(batch)):
            started = caught(partial(self._start_encoding, batch))
        encoding = Encoding(batch, None if isinstance(started, Exception) else started)
        if isinstance(started, Exception):
            logger.warning("encode did not start for %d clips, it is tried again: %s", len(batch), repr(started))
        del started  # an exception's traceback would keep the tensors of stage 1 alive
        yield from self.submit()
        self.encoding = encoding

    def _start_encoding(self, clips: Sequence[Clip]) -> EncodedBatch:
        waveforms = [clip.waveform for clip in clips if clip.waveform is not None]
        with_ctc = any(clip.options.needs_ctc or picks_hotwords(self.model, clip.request) for clip in clips)
        return self.model.acoustic.encode(waveforms, with_ctc=with_ctc)

    def submit(self) -> Iterator[Result]:
        """Hand the encoded batch to stage 2; yields an error result for each clip that either stage refuses."""
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
            if not (clip.options.check or clip.options.timestamps):  # it is for the VAD, word times and a second pass
                clip.waveform = None
            if picks_hotwords(self.model, clip.request):
                picked = alone("pick hotwords", clip, partial(pick_hotwords, self.model, clip), recover=self._recover)
                if isinstance(picked, ASRError):
                    yield self._failure(clip, picked)
                    continue
            yield from self._decode(clip, clip.options.params)

    def submit_encoded(self) -> Iterator[Result]:
        """The same, unless it would wait for a GPU while stage 2 can go on with other clips."""
        if self.encoding is None or self.encoding.is_done or not self.decoding:
            yield from self.submit()

    def _utterances(self, encoding: Encoding) -> list[EncodedUtterance | ASRError]:
        """The encoded clips. A batch that fails, as when memory runs out, is encoded again in halves."""

        def work(clips: Sequence[Clip]) -> list[EncodedUtterance]:
            is_started = clips is encoding.clips and encoding.encoded is not None
            encoded = encoding.encoded if is_started else self._start_encoding(clips)
            assert encoded is not None
            return encoded.utterances()

        return isolated("encode", encoding.clips, work, recover=self._recover)

    def _recover(self) -> None:
        recover_gpu(self.model.device, "stage 1")

    def _decode(self, clip: Clip, params: DecodeParams) -> Iterator[Result]:
        """Hand an encoded clip to stage 2; yields an error result if the decoder refuses it."""
        decoder, embeds = self.model.decoder, clip.audio_embeds
        assert embeds is not None
        draft = partial(draft_of, self.model, clip)
        submit = partial(decoder.submit, params=params, stream_tokens=clip.is_followed, draft=draft)
        prompt_id = alone("submit", clip, lambda: submit(clip.prompt.around(embeds)))
        if isinstance(prompt_id, ASRError):
            yield self._failure(clip, prompt_id)
            return
        clip.submitted = time.perf_counter()
        self.decoding[prompt_id] = clip

    def collect(self, *, wait_s: float = POLL_S, wake: int | None = None) -> Iterator[Result]:
        """Take what stage 2 has finished; yields transcripts once a batch of texts is due to be finished together."""
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
            yield from self.finish(finished)

    def finish(self, finished: Sequence[tuple[Clip, Hypothesis]]) -> Iterator[Result]:
        """Align and check a batch of texts.

        A text that loops is decoded once more. Speech that a text leaves out at its end is encoded as a new clip.
        """
        with self.timeline.span("align", len(finished)):
            answers = isolated(
                "align", finished, partial(finalize, self.model), name=lambda pair: str(pair[0]), recover=self._recover
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

    def _finish_one(self, written: DecodedClip) -> Transcript | Clip:
        """The transcript of a clip; or, if its text ends before the speech does, a clip of that rest."""
        transcript = transcript_of(written, self.model.family.best_length_s)
        rest = self._rest(written, transcript)
        return with_before(written.clip, transcript) if rest is None else rest

    def _rest(self, written: DecodedClip, transcript: Transcript) -> Clip | None:
        """A clip of the speech that a text leaves out at its end; None if there is none."""
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
        """The error result of a clip, joined to what was already transcribed of the same input."""
        failed = Transcript.failed(clip.item.key, error, duration=clip.duration)
        joined = alone("finish", clip, partial(with_before, clip, failed))
        return clip.index, joined if isinstance(joined, Transcript) else failed

    def cancel(self) -> None:
        """Drop all clips that are in stage 2, one included that Ctrl-C has left there without its number."""
        self.decoding.clear()
        self.model.decoder.cancel()

    def drop(self, indices: Collection[int]) -> None:
        """Drop those of these clips that are in stage 2."""
        dropped = [prompt_id for prompt_id, clip in self.decoding.items() if clip.index in indices]
        self.model.decoder.cancel(dropped)
        for prompt_id in dropped:
            del self.decoding[prompt_id]

    def text_so_far(self, clip: Clip, token_ids: Sequence[int]) -> str:
        """The partial text of a clip whose answer consists of these tokens so far."""
        before = (part.transcript.text for part in clip.before)
        return join_texts([*before, answer_of(self.model, clip, token_ids).text])
