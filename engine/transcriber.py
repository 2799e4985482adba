"""The offline loop: a list of inputs -> their transcripts, as they finish.

Threads and processes read and decode audio ahead of need (audio/readers.py). Stage 1 encodes here, in batches. Stage 2
decodes the answers; on a GPU it runs in processes of its own. The loop encodes whenever stage 2 has room, and submits a
batch only after the next one is queued, so that the GPU is never idle. Meanwhile it finds the word times of finished
texts.

Memory does not grow with the list: it is bounded by the clips that wait for a batch, by stage 2's `max_pending`, and by
the audio that is read ahead.
"""

import contextlib
from collections.abc import Generator, Iterable, Iterator
from dataclasses import dataclass

from .acoustic.threads import each_in_one_thread
from .audio.inputs import AudioInput
from .batching import BatchPool
from .clip import Clip, Result
from .errors import AudioError
from .model import LoadedModel
from .pipeline import Pipeline
from .recordings import Recordings
from .run_options import TranscribeOptions
from .speakers.stage import SpeakerStage
from .timeline import NullTimeline, Timeline

READ_WAIT_S = 0.01  # longest wait for audio before the loop looks at what both stages have finished

Results = Generator[Result, None, None]


@dataclass(frozen=True, slots=True, kw_only=True)
class Transcriber(LoadedModel):
    """A loaded model that transcribes lists of inputs."""

    def run(
        self, inputs: Iterable[AudioInput | None], options: TranscribeOptions, timeline: Timeline | None = None
    ) -> Results:
        """Yield (index in `inputs`, transcript) in the order in which they finish; closing it drops the rest.

        An input that cannot be transcribed yields a transcript of status "error". `timeline` records the run. None
        among the inputs, which has no index, says that none has come yet, so that the work on the others goes on.

        Raises:
            ConfigError: at once, if the family does not know the language, the model is closed or was loaded by
                another process, or a known speaker's clip cannot be used. While iterating, if this thread already uses
                the model, or the model was closed.
            AudioError, CheckpointError, HubError: at once, if a known speaker's clip cannot be read, or speakers are
                asked for and there is no speaker model.
            DecodeError: while iterating, if the LLM's engine failed; it must be built anew.
        """
        self.lock.require_open()
        self.family.prompt_text(options.request)
        return self._run(inputs, options, Pipeline(self, timeline or NullTimeline()), self._speaker_stage(options))

    def _speaker_stage(self, options: TranscribeOptions) -> SpeakerStage | None:
        """Loads the speaker model the first time that a run asks for speakers."""
        if options.speakers is None:
            return None
        self.speaker_model()  # raises if there is none
        assert self.speakers is not None
        on_gpu = self.device.type != "cpu"
        return SpeakerStage(self.speakers, options.speakers, on_gpu=on_gpu, allow_urls=options.allow_urls)

    def _run(
        self,
        inputs: Iterable[AudioInput | None],
        options: TranscribeOptions,
        pipeline: Pipeline,
        speakers: SpeakerStage | None,
    ) -> Results:
        with self.lock.running(), speakers or contextlib.nullcontext():
            try:
                with contextlib.closing(_transcribed_inputs(pipeline, inputs, options, speakers)) as results:
                    for result in each_in_one_thread(results, active=self.device.type != "cpu"):
                        with self.lock.suspended():
                            yield result
            finally:
                if self.lock.is_open:
                    pipeline.cancel()


def _transcribed_inputs(
    pipeline: Pipeline, inputs: Iterable[AudioInput | None], options: TranscribeOptions, speakers: SpeakerStage | None
) -> Results:
    """Each input's index and transcript, once all of its clips are transcribed."""
    recordings = Recordings(options.request.language)

    def done() -> Iterator[Result]:
        if speakers is None:
            yield from recordings.take()
            return
        for index, transcript in recordings.take():
            speakers.finish(index, transcript)
        yield from speakers.done()

    for number, transcript in _transcribed_clips(pipeline, recordings, inputs, options, speakers):
        if speakers is not None:
            speakers.told(*recordings.place(number), is_spoken=any(part.text for part in transcript.segments))
        recordings.finish(number, transcript)
        yield from done()
    yield from done()
    if speakers is not None:
        yield from speakers.rest()


def _transcribed_clips(
    pipeline: Pipeline,
    recordings: Recordings,
    inputs: Iterable[AudioInput | None],
    options: TranscribeOptions,
    speakers: SpeakerStage | None,
) -> Iterator[Result]:
    """The loop over both stages."""
    model = pipeline.model
    pool: BatchPool[Clip] = BatchPool(max_frames=model.max_batch_frames, max_size=options.batch_size)
    reading = model.readers.read(
        (None if item is None else options.for_reading(item) for item in inputs),
        limits=options.limits,
        allow_urls=options.allow_urls,
        cutting=options.segmentation.cutting(model.family.best_length_s),
        wait_s=READ_WAIT_S,
    )
    with contextlib.closing(reading):
        for read in pipeline.timeline.waits("read", reading):
            if read is None:  # no audio within READ_WAIT_S
                yield from pipeline.advance()
                continue
            for number, item, audio, is_speech in recordings.add(*read):
                clip = pipeline.prepare(number, item, audio, options, is_speech=is_speech)
                if speakers is not None and not isinstance(audio, AudioError):
                    index, start, channel = recordings.place(number)
                    speakers.add(index, start, audio, channel)
                if isinstance(clip, Clip):
                    pool.add(clip.num_frames, clip)
                else:
                    yield number, clip
            while pool.is_ready:
                yield from pipeline.start(pool.take())
            yield from _until_there_is_room(pipeline, speakers)
    if speakers is not None:
        speakers.flush()
    while pool:
        yield from pipeline.start(pool.take(last=True))
    while not pipeline.is_idle:
        yield from pipeline.submit()
        yield from pipeline.collect()


def _until_there_is_room(pipeline: Pipeline, speakers: SpeakerStage | None) -> Iterator[Result]:
    """Both stages go on while the speaker model catches up."""
    while speakers is not None and speakers.is_full:
        speakers.catch_up(READ_WAIT_S)
        yield from pipeline.advance()
