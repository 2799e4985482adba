"""What the commands of the pages find where they are run: recordings, lists and texts by the names that pages use."""

import json
import shutil
from pathlib import Path

import numpy as np

from tests.audio_clips import encode, encode_video
from tests.paths import ROOT
from twostage_asr.engine.audio.decode import decode_audio
from twostage_asr.engine.audio.waveform import SAMPLE_RATE, Waveform

CLIPS = ROOT / "demos" / "micro" / "clips"
TALK = "Call Catherine Green. The train leaves at 8:15 PM. What is the weather in Boston on Friday? The price is $240."
QUIET_S = 0.5  # between the clips of a longer recording


def write_page_files(directory: Path) -> None:
    """Write all of them, and links to the folders of the project."""
    for folder in ("demos", "tests"):
        (directory / folder).symlink_to(ROOT / folder)
    english, chinese = decode_audio(CLIPS / "en_volume.flac"), decode_audio(CLIPS / "zh_contact.flac")
    long = decode_audio(CLIPS / "en_long.flac")
    quiet = np.zeros(round(QUIET_S * SAMPLE_RATE), np.float32)
    for name in ("a", "b", "talk", "ana"):
        _write(directory / f"{name}.wav", {"a": english, "b": chinese, "talk": long, "ana": english}[name], "WAV")
    _write(directory / "meeting.mp3", np.concatenate([long, quiet, english]), "MP3")
    _write(directory / "call.wav", np.stack([english, np.resize(chinese, english.shape)]), "WAV")
    (directory / "film.mp4").write_bytes(encode_video(long, SAMPLE_RATE))
    (directory / "damaged.wav").write_bytes((directory / "talk.wav").read_bytes()[:150_000])
    (directory / "notes.wav").write_text("These are my notes.\n")
    for name in ("a.wav", "b.wav"):
        (directory / "talks" / "deep").mkdir(parents=True, exist_ok=True)
        shutil.copy(directory / name, directory / "talks" / ("deep" if name == "b.wav" else ""))
    (directory / "talk.txt").write_text("Set the volume to 25.\n")
    (directory / "hotwords.txt").write_text("张三\nJohn Smyth\n", encoding="utf-8")
    (directory / "wav.scp").write_text("first a.wav\nsecond b.wav\n")
    (directory / "list.jsonl").write_text(json.dumps({"source": "a.wav", "language": "en"}) + "\n")
    (directory / "reference.txt").write_text("a the cat sat\n")
    (directory / "hypothesis.txt").write_text("a the cat sit\n")


def _write(path: Path, samples: Waveform, container: str) -> None:
    codec = "MPEG_LAYER_III" if container == "MP3" else "PCM_16"
    path.write_bytes(encode(samples, SAMPLE_RATE, container, codec))
