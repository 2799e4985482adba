"""`twostage-asr transcribe`: transcribe files into a folder; an interrupted run can be resumed."""

import argparse
import sys
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path

from tqdm import tqdm

from ..audio.channels import Channels
from ..audio.inputs import AudioInput, Input, audio_files, expand_inputs
from ..audio.loading import load
from ..console import spare_loaded_objects
from ..errors import ASRError, ConfigError
from ..isolation import alone
from ..transcript import Transcript
from ..vad import VoiceActivityModel, load_vad
from ..writers import WRITERS
from .batch_job import OutputFolder
from .command import (
    INTERRUPTED,
    Commands,
    add_devices_option,
    add_model_options,
    model_options,
)
from .file_options import add_file_options, file_options, formats, subtitle_shape

MOST_NAMED = 10  # most passed-over files that are named


def add_parser(commands: Commands) -> None:
    parser = commands.add_parser("transcribe", help="transcribe files, and write transcripts and subtitles")
    parser.add_argument(
        "inputs",
        nargs="+",
        metavar="FILE",
        help="audio or video file, URL, wav.scp or .jsonl list, or a folder, which is searched to its depths",
    )
    parser.add_argument(
        "--format", type=formats, default=["txt"], metavar="NAMES", help=f"such as srt,json; of {', '.join(WRITERS)}"
    )
    parser.add_argument("--output-dir", type=Path, default=Path(), metavar="DIR", help="default: this folder")
    parser.add_argument("-v", "--verbose", action="store_true", help="name the files of folders that are passed over")
    parser.add_argument("--resume", action="store_true", help="skip what an earlier run has written")
    parser.add_argument(
        "--plot", action="store_true", help="a picture (PNG) of each: waveform, speech, segments and words"
    )
    add_model_options(parser)
    add_devices_option(parser)
    add_file_options(parser)
    parser.set_defaults(run=run)


@dataclass(slots=True)
class Summary:
    """The figures of one run. Times are those of time.perf_counter()."""

    started: float = field(default_factory=time.perf_counter)
    loaded: float | None = None  # when the model had been loaded
    is_interrupted: bool = False
    num_files: int = 0
    num_passed_over: int = 0  # files of folders that, by their names, are not audio
    audio_s: float = 0.0
    failed: dict[str, str] = field(default_factory=dict)  # key -> reason
    warnings: Counter[str] = field(default_factory=Counter)  # warning code -> number of transcripts that have it

    def add(self, transcript: Transcript) -> None:
        self.num_files += 1
        self.audio_s += transcript.duration
        if transcript.status == "error":
            self.failed[transcript.key] = transcript.error or ""
        self.warnings.update({warning.code for warning in transcript.warnings})

    def __str__(self) -> str:
        now = time.perf_counter()
        loaded = now if self.loaded is None else self.loaded
        wall = now - loaded
        return (
            f"{self.num_files} files, {self.audio_s:.1f} s of audio in {wall:.2f} s"
            + (f": RTFx {self.audio_s / wall:.1f}" if self.num_files else "")
            + f"; loading took {loaded - self.started:.1f} s; {len(self.failed)} failed"
            + (f"; {self.num_passed_over} files passed over" if self.num_passed_over else "")
            + "".join(f"; {count} with {code}" for code, count in sorted(self.warnings.items()))
        )


def run(args: argparse.Namespace) -> int:
    if args.plot:
        from .plot import require_matplotlib

        require_matplotlib("plot")
    items, passed_over = _items(args.inputs)
    if args.verbose:
        _name_passed_over(passed_over)
    shape = subtitle_shape(args)
    with OutputFolder(args.output_dir, args.format, items, resume=args.resume, shape=shape) as folder:
        todo = [item for key, item in items.items() if not folder.is_done(key)]
        if len(todo) < len(items):
            print(f"{len(items) - len(todo)} of {len(items)} files are done already")
        if not todo:
            return 0
        summary = Summary(num_passed_over=len(passed_over))
        try:
            _transcribe(args, todo, folder, summary)
        except KeyboardInterrupt:
            summary.is_interrupted = True
    print(summary)
    for key, reason in summary.failed.items():
        print(f"FAILED {key}: {reason}", file=sys.stderr)
    if summary.is_interrupted:
        print("interrupted; the same command with --resume goes on from here", file=sys.stderr)
        return INTERRUPTED
    return 1 if summary.failed else 0


def _items(inputs: Sequence[str]) -> tuple[dict[str, AudioInput], list[Path]]:
    """The inputs by key, and the files of folders that are passed over. Raises ConfigError if there are no inputs."""
    given: list[Input] = []
    passed_over: list[Path] = []
    for source in inputs:
        if Path(source).is_dir():
            folder = audio_files(Path(source))
            given += folder.inputs
            passed_over += folder.passed_over
        else:
            given.append(source)
    items = {item.key: item for item in expand_inputs(given)}
    if not items:
        raise ConfigError("the lists that were given hold no audio")
    return items, passed_over


def _name_passed_over(paths: Sequence[Path]) -> None:
    for path in paths[:MOST_NAMED]:
        print(f"passed over: {path}")
    if len(paths) > MOST_NAMED:
        print(f"passed over: {len(paths) - MOST_NAMED} more")


def _transcribe(args: argparse.Namespace, todo: Sequence[AudioInput], folder: OutputFolder, summary: Summary) -> None:
    """Load the model and write each transcript as soon as it is finished."""
    from ..auto import AutoModelVLLM
    from ..speakers.loading import find_weights

    options = file_options(args)
    if args.speakers:
        find_weights(args.speaker_model)  # fail before the LLM loads, which takes minutes
    items = {item.key: item for item in todo}
    vad = load_vad("silero" if args.vad in ("auto", "none") else args.vad) if args.plot else None
    with (
        AutoModelVLLM(**model_options(args)) as model,
        tqdm(total=len(todo), desc="files", unit="file", disable=None) as files,
        tqdm(desc="audio", unit="s", unit_scale=True, disable=None) as audio,
    ):
        spare_loaded_objects()
        summary.loaded = time.perf_counter()
        for transcript in model.generate_iter(list(todo), ordered=False, **options):
            transcript = folder.write(transcript)
            summary.add(transcript)
            if vad is not None and transcript.status == "ok":
                picture = partial(_plot, transcript, _drawn(items[transcript.key], args), folder, vad)
                if isinstance(error := alone("plot", transcript.key, picture), ASRError):
                    summary.failed[transcript.key] = str(error)
            files.update()
            audio.update(transcript.duration)
            tqdm.write(f"{transcript.key}: {transcript.text or transcript.error or ''}", file=sys.stdout)


def _plot(transcript: Transcript, item: AudioInput, folder: OutputFolder, vad: VoiceActivityModel) -> None:
    from .plot import plot_transcript

    plot_transcript(transcript, load(item), folder.picture_path(transcript.key), vad=vad)


def _drawn(item: AudioInput, args: argparse.Namespace) -> AudioInput:
    """The input as its plot shows it: as it was transcribed, but with split channels mixed into one curve."""
    channels: Channels = "mix" if args.channels in (None, "split") else args.channels
    return replace(item, channels=channels, salvage=args.salvage)
