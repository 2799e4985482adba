"""Who speaks when: speaker embeddings of short windows, grouped into speakers.

In: the samples of a recording's stretches of speech, and its timed words. Out: turns, and words and segments with a
speaker. model.py embeds windows, clustering.py groups them, turns.py makes turns of them, labelling.py gives words and
segments their speakers. tracker.py does the same for live audio, one stretch at a time.
"""

from .clustering import SpeakerCount, cluster
from .diarize import Diarized, Stretch, diarize
from .enrolment import KnownSpeakers
from .model import SpeakerModel
from .tracker import SpeakerTracker

__all__ = [
    "Diarized",
    "KnownSpeakers",
    "SpeakerCount",
    "SpeakerModel",
    "SpeakerTracker",
    "Stretch",
    "cluster",
    "diarize",
]
