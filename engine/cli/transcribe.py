"""`twostage-asr transcribe`: transcribe files into a folder; an interrupted run can be resumed."""

import argparse
import sys
from collections.abc import Iterator, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path

from ..audio.channels import Channels
from ..audio.inputs import AudioInput, Input, audio_files, expand_inputs
from ..audio.loading import load, load_blocks
from ..console import spare_loaded_objects, tell_loading
from ..decoder.sharing import share_gpu_ahead
from ..errors import ASRError, AudioError, ConfigError
from ..isolation import alone
from ..options import GenerateOptions
from ..transcript import Transcript
from ..vad import VoiceActivityModel, load_vad
from ..writers import WRITERS
from .batch_job import OutputFolder
from .command import (
    INTERRUPTED,
    add_devices_option,
    add_model_options,
    converted_model,
    model_options,
    request_options,
)
from .file_options import add_file_options, file_options, formats, subtitle_shape
from .parser import Commands, add_switch, new_parser
from .progress import Counts, Progress

MOST_NAMED = 10  # most passed-over files that are named


def add_parser(commands: Commands) -> None:
    parser = new_parser(
        commands,
        "transcribe",
        help="transcribe files, and write transcripts and subtitles",
        usage="FILE [FILE ...] --model MODEL",
        examples=(
            "twostage-asr transcribe talk.mp3 --model FunAudioLLM/Fun-ASR-Nano-2512 --format srt",
            "twostage-asr transcribe talks/ --model my_model --format srt,jsonl --output-dir out --resume",
            "twostage-asr transcribe call.wav --model my_model --speakers --hotwords Zhang 'John Smyth'",
        ),
    )
    parser.add_argument(
        "inputs",
        nargs="*",
        metavar="FILE",
        help="audio or video file, URL, wav.scp or .jsonl list, or a folder, which is searched to its depths",
    )
    parser.add_argument(
        "--format", type=formats, default=["txt"], metavar="NAMES", help=f"such as srt,json; of {', '.join(WRITERS)}"
    )
    parser.add_argument(
        "--output-dir", type=Path, default=Path(), metavar="DIR", help="where to write (default: the working directory)"
    )
    parser.add_argument(
        "-v",
        "--verbose",
        action=argparse.BooleanOptionalAction,
        default=False,
        help="name the files of folders that are passed over (default: off)",
    )
    add_switch(parser, "--resume", default=False, help="skip what an earlier run has written")
    add_switch(parser, "--plot", default=False, help="a picture (PNG) of each: waveform, speech, segments and words")
    add_model_options(parser)
    add_devices_option(parser)
    add_file_options(parser)
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    if not args.inputs:
        args.error("which files?" + (" --hotwords takes all words up to the next option" if args.hotwords else ""))
    if args.plot:
        from .plot import require_matplotlib

        require_matplotlib("plot")
    request_options(args)  # reads the hotwords, before anything that takes long
    items, passed_over = _items(args.inputs)
    _tell_passed_over(passed_over, names=args.verbose)
    shape = subtitle_shape(args)
    is_interrupted = False
    with OutputFolder(args.output_dir, args.format, items, resume=args.resume, shape=shape) as folder:
        todo = [item for key, item in items.items() if not folder.is_done(key)]
        _tell_done(len(items) - len(todo), len(items), folder)
        if not todo:
            return 0
        counts = Counts(len(todo))
        try:
            _transcribe(args, todo, folder, counts)
        except KeyboardInterrupt:
            is_interrupted = True
    if counts.num_files or not is_interrupted:
        written = ", ".join([*args.format, *(["png"] if args.plot else [])])
        print("\n".join(counts.summary(f"{args.output_dir} ({written})")))
    for key, reason in counts.failed.items():
        print(f"FAILED {key}: {reason}", file=sys.stderr)
    if is_interrupted:
        print("interrupted; the same command with --resume goes on from here", file=sys.stderr)
        return INTERRUPTED
    return 1 if counts.failed else 0


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


def _tell_passed_over(paths: Sequence[Path], *, names: bool) -> None:
    for path in paths[:MOST_NAMED] if names else ():
        print(f"passed over: {path}")
    if names and len(paths) > MOST_NAMED:
        print(f"passed over: {len(paths) - MOST_NAMED} more")
    if paths and not names:
        print(f"not audio, by their names: {len(paths)} in the folders; --verbose names them", file=sys.stderr)


def _tell_done(num_done: int, num_items: int, folder: OutputFolder) -> None:
    if num_done:
        print(f"{num_done} of {num_items} files are done already")
    elif folder.is_resumed and folder.has_others:
        print(
            "none of the transcripts there belongs to these inputs; files are known by their paths below the folder "
            "that is given, so give the same one as before",
            file=sys.stderr,
        )


def _transcribe(args: argparse.Namespace, todo: Sequence[AudioInput], folder: OutputFolder, counts: Counts) -> None:
    """Load the model, if any input is worth it, and write each transcript as soon as it is finished."""
    unreadable = {item.key: error for item, error in _unreadable(todo, args)}
    for key, error in unreadable.items():
        counts.add(folder.write(Transcript.failed(key, error)))
    readable = {item.key: item for item in todo if item.key not in unreadable}
    if not readable:
        return
    options = file_options(args)
    tell_loading(args.model)
    share_gpu_ahead(args)
    from ..auto import AutoModelVLLM
    from ..speakers.loading import find_weights

    if args.speakers:
        find_weights(args.speaker_model)
    engine_dir = _checked_model(args, options)
    vad = load_vad("silero" if args.vad in ("auto", "none") else args.vad) if args.plot else None
    with AutoModelVLLM(**{**model_options(args), "model": engine_dir}) as model:
        spare_loaded_objects()
        counts.loaded = counts.clock()
        with Progress(counts) as progress:
            for transcript in model.generate_iter(list(readable.values()), ordered=False, **options):
                transcript = folder.write(transcript)
                progress.add(transcript)
                if transcript.status == "error":
                    continue  # the end of the run names it
                if vad is not None:
                    picture = partial(_plot, transcript, _drawn(readable[transcript.key], args), folder, vad)
                    if isinstance(failure := alone("plot", transcript.key, picture), ASRError):
                        counts.failed[transcript.key] = str(failure)
                progress.tell([f"{transcript.key}: {transcript.text}"], is_result=True)


def _unreadable(todo: Sequence[AudioInput], args: argparse.Namespace) -> Iterator[tuple[AudioInput, AudioError]]:
    """Inputs that are known to fail before a model is loaded: files that do not exist, and all up to the first audio.

    So a run in which nothing can be read ends at once.
    """
    has_audio = False
    for item in todo:
        if not isinstance(item.source, Path):
            has_audio = True  # URLs are read once, when their turn comes
        elif not item.source.exists() or not has_audio:
            try:
                next(iter(load_blocks(_drawn(item, args))))
                has_audio = True
            except AudioError as error:
                yield item, error


def _checked_model(args: argparse.Namespace, options: GenerateOptions) -> Path:
    """The directory of the converted model. Raises ConfigError for a request that its prompt has no place for."""
    from ..families import family_named
    from ..manifest import EngineManifest
    from ..run_options import transcribe_options

    request = transcribe_options(**options).request
    engine_dir = converted_model(args)
    family_named(EngineManifest.read(engine_dir).family).prompt_text(request)
    return engine_dir


def _plot(transcript: Transcript, item: AudioInput, folder: OutputFolder, vad: VoiceActivityModel) -> None:
    from .plot import plot_transcript

    plot_transcript(transcript, load(item), folder.picture_path(transcript.key), vad=vad)


def _drawn(item: AudioInput, args: argparse.Namespace) -> AudioInput:
    """The input as it is transcribed, but with split channels mixed into one curve."""
    channels: Channels = "mix" if args.channels in (None, "split") else args.channels
    return replace(item, channels=channels, salvage=args.salvage)
