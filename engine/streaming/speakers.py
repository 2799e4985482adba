"""LiveSpeakers: who speaks in the finals of a session, which are split where the speaker changes.

    audio of a closed segment -> embeddings of its windows, beside its decoding (TranscriptionService.embed)
    embeddings                -> turns within the segment, as for a recording (speakers/diarize.py)
    the voice of each turn    -> a name that it keeps for the session (speakers/tracker.py)

At the end of a stream, relabel() looks at all that was heard at once and says which names turned out to be one speaker.
Texts are never changed. What fails for a segment costs this segment its speakers, and a warning says so.
"""

from collections.abc import Sequence
from concurrent.futures import Future
from functools import partial

import numpy as np

from ..audio.waveform import Waveform
from ..errors import ASRError
from ..isolation import alone
from ..model import ClipService
from ..speakers.clustering import SpeakerCount
from ..speakers.diarize import diarize, stretch_of, windows_of
from ..speakers.enrolment import KnownSpeakers
from ..speakers.labelling import relabelled, speakers_of, unnamed, with_speakers
from ..speakers.model import Bounds, Embeddings
from ..speakers.tracker import SpeakerTracker
from ..transcript import Transcript


class LiveSpeakers:
    """The speakers of one session. It may serve several streams of the session, one after the other."""

    def __init__(
        self, service: ClipService, *, count: SpeakerCount | None = None, known: KnownSpeakers | None = None
    ) -> None:
        """`service`: that of the streams, whose model has a speaker model. `count`: how many speakers there are."""
        count = count or SpeakerCount()
        self._service = service
        self._tracker = SpeakerTracker(known=known, count=count)
        self._count = SpeakerCount(most=count.exact or count.most)  # a segment need not have all of the speakers
        self._embed(np.zeros(0, np.float32), ())  # has the model loaded and warmed up before the first segment ends

    def hear(self, audio: Waveform) -> Future[Embeddings]:
        """Embed the windows of a segment, (N,) float32 at 16 kHz; returns at once. The future raises any error."""
        return self._embed(audio, windows_of(len(audio)))

    def _embed(self, audio: Waveform, windows: Sequence[Bounds]) -> Future[Embeddings]:
        try:
            return self._service.embed(audio, windows)
        except ASRError as error:
            failed: Future[Embeddings] = Future()
            failed.set_exception(error)
            return failed

    def named(
        self, transcript: Transcript, start: float, num_samples: int, voices: Embeddings | ASRError
    ) -> Transcript:
        """The transcript with speakers: of a segment that begins at `start` (s) in the stream.

        `voices` is what came of hear(). The times of the transcript are from the start of the stream, as well.
        """
        if isinstance(voices, ASRError):
            return unnamed(transcript, str(voices))
        done = alone("speakers", transcript.key, partial(self._named, transcript, start, num_samples, voices))
        return unnamed(transcript, str(done)) if isinstance(done, ASRError) else done

    def relabel(self) -> dict[str, str]:
        """What each name that was given is to be replaced with: see SpeakerTracker.relabel."""
        names = alone("speakers", "all that was heard", self._tracker.relabel)
        return {} if isinstance(names, ASRError) else names

    def _named(self, transcript: Transcript, start: float, num_samples: int, rows: Embeddings) -> Transcript:
        if not transcript.text:  # noise is nobody's
            return transcript
        diarized = diarize([stretch_of(start, num_samples, rows)], self._count)
        labelled = with_speakers(transcript, diarized.turns)
        names: dict[str, str] = {}
        for speaker in speakers_of(labelled):
            seconds = sum(turn.end - turn.start for turn in labelled.turns or () if turn.speaker == speaker)
            names[speaker] = self._tracker.assign(diarized.voices[speaker], seconds)
        return relabelled(labelled, names)
