"""The commands, on transformers: files in, transcripts out, exit codes that scripts can trust."""

import argparse
import io
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any, ClassVar

import numpy as np
import pytest
import soundfile

from tests.engine.streaming.scripted import LoudIsSpeech
from tests.engine.streaming.voiced import talk
from tests.fake_model import fake_transcriber
from tests.fake_voices import FakeVoices
from tests.pipeline import Clip
from twostage_asr import __main__ as program
from twostage_asr.engine import AutoModelVLLM, ConfigError, Segment, Transcript, Word
from twostage_asr.engine.audio.decode import decode_audio
from twostage_asr.engine.audio.inputs import AudioInput
from twostage_asr.engine.audio.waveform import SAMPLE_RATE
from twostage_asr.engine.cli import build_parser, evaluate, main, serve, stream, transcribe
from twostage_asr.engine.cli.command import add_request_options, request_options
from twostage_asr.engine.cli.error_rates import error_rates
from twostage_asr.engine.streaming import LiveSpeakers, Partial
from twostage_asr.engine.writers import WRITERS

PNG_MAGIC = b"\x89PNG"


@pytest.fixture(scope="module")
def model(engine_dirs: dict[str, Path]) -> list[str]:
    """The options that choose the micro checkpoint on transformers."""
    return ["--model", str(engine_dirs["low_frame_rate"]), "--backend", "torch", "--dtype", "fp32"]


@pytest.fixture
def folder(clips: list[Clip], tmp_path: Path) -> Path:
    """Two clips, one of them deeper, and a file that is no audio."""
    deep = tmp_path / "in" / "deep"
    deep.mkdir(parents=True)
    shutil.copy(clips[0]["source"], deep / "a.flac")
    shutil.copy(clips[1]["source"], tmp_path / "in" / "b.flac")
    (tmp_path / "in" / "bad.wav").write_bytes(b"RIFF")
    return tmp_path / "in"


def test_a_folder_becomes_a_folder_of_transcripts(
    model: list[str], folder: Path, tmp_path: Path, clips: list[Clip], capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    others = "\n".join(f"word{i}" for i in range(5000))
    (tmp_path / "words.txt").write_text(f"\ufeff张三\n\nJohn Smyth\n{others}\n", encoding="utf-8")
    arguments = [
        "transcribe",
        str(folder),
        *model,
        "--format",
        "srt,textgrid,jsonl",
        "--output-dir",
        str(out),
        "--plot",
    ]
    assert main([*arguments, "--hotwords-file", str(tmp_path / "words.txt"), "--language", "en-US"]) == 1
    written = {path.relative_to(out).as_posix() for path in out.rglob("*.*")}
    assert written == {f"{n}.{s}" for n in ("deep/a", "b") for s in ("srt", "TextGrid", "png")} | {"transcripts.jsonl"}
    lines = (out / "transcripts.jsonl").read_text(encoding="utf-8").splitlines()
    results = {r.key: r for r in map(Transcript.from_json, lines)}
    assert {key: r.status for key, r in results.items()} == {"deep/a": "ok", "b": "ok", "bad": "error"}
    assert results["deep/a"].text == clips[0]["text"]
    assert (out / "deep/a.png").read_bytes().startswith(PNG_MAGIC)
    printed = capsys.readouterr()
    assert f"deep/a: {clips[0]['text']}" in printed.out
    assert "3 files" in printed.out and "RTFx" in printed.out and "1 failed" in printed.out
    assert "FAILED bad: " in printed.err and "bad: " not in printed.out.replace("FAILED", "")
    assert f"written: {out} (srt, TextGrid, jsonl, png)" in printed.out

    (folder / "bad.wav").unlink()
    assert main([*arguments, "--resume"]) == 0
    assert "2 of 2 files are done already" in capsys.readouterr().out
    (out / "b.srt").unlink()
    assert main([*arguments, "--resume"]) == 0
    assert "1 file," in capsys.readouterr().out and (out / "b.srt").is_file()


def test_an_interrupted_job_says_how_to_go_on(
    model: list[str], folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    generate_iter = AutoModelVLLM.generate_iter

    def interrupted(self: AutoModelVLLM, *args: object, **options: object) -> object:
        results = generate_iter(self, *args, **options)  # type: ignore[arg-type]
        yield next(results)
        raise KeyboardInterrupt

    monkeypatch.setattr(AutoModelVLLM, "generate_iter", interrupted)
    arguments = ["transcribe", str(folder), *model, "--format", "jsonl", "--output-dir", str(tmp_path / "out")]
    assert main(arguments) == 130
    printed = capsys.readouterr()
    assert "1 file," in printed.out and "--resume goes on from here" in printed.err
    assert len((tmp_path / "out" / "transcripts.jsonl").read_text(encoding="utf-8").splitlines()) == 1


def test_ctrl_c_while_the_commands_are_imported_leaves_no_traceback(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    class Interrupted(ModuleType):
        def __getattr__(self, name: str) -> object:
            raise KeyboardInterrupt

    monkeypatch.setitem(sys.modules, "twostage_asr.engine.cli", Interrupted("cli"))
    assert program.main() == 130
    assert capsys.readouterr().err == "twostage-asr: interrupted\n"


class WritesKeys:
    """In place of AutoModelVLLM: the text of each input is its key."""

    def __init__(self, **options: object) -> None:
        self.asked.update(options)

    asked: ClassVar[dict[str, object]] = {}  # of the model, the last time

    def __enter__(self) -> "WritesKeys":
        return self

    def __exit__(self, *_: object) -> None:
        pass

    def generate_iter(self, items: list[AudioInput], **options: object) -> Iterator[Transcript]:
        self.asked.update(options)
        yield from (Transcript(item.key, text=f"text of {item.key}") for item in items)


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> dict[str, object]:
    """What is asked of a model that is no model."""
    found: dict[str, object] = {}
    monkeypatch.setattr("twostage_asr.engine.auto.AutoModelVLLM", WritesKeys)
    monkeypatch.setattr(WritesKeys, "asked", found)
    monkeypatch.setattr(transcribe, "_checked_model", lambda args, options: args.model)
    return found


def write_audio(path: Path) -> Path:
    """A tenth of a second of silence."""
    soundfile.write(path, np.zeros(1600, np.float32), SAMPLE_RATE)
    return path


def test_how_audio_is_read_is_asked_of_the_engine(tmp_path: Path, asked: dict[str, object]) -> None:
    write_audio(tmp_path / "a.wav")
    arguments = ["transcribe", str(tmp_path), "--model", "m", "--output-dir", str(tmp_path / "out")]
    assert main([*arguments, "--salvage", "--channels", "split"]) == 0
    assert (asked["salvage"], asked["channels"]) == (True, "split")
    asked.clear()
    assert main(arguments) == 0
    assert not asked.get("salvage")


def test_who_speaks_is_asked_of_the_engine(
    tmp_path: Path, asked: dict[str, object], capsys: pytest.CaptureFixture[str]
) -> None:
    voice = write_audio(tmp_path / "a=b.wav")
    arguments = ["transcribe", str(voice), "--model", "m", "--format", "rttm", "--output-dir", str(tmp_path / "out")]
    known = ["--known-speaker", f"Ana Li={voice}", "--known-speaker", f"Ben={voice}"]
    campplus = tmp_path / "campplus"
    campplus.mkdir()
    (campplus / "campplus.pt").touch()  # which is found, and not read before the model asks for it
    assert main([*arguments, "--speakers", "--max-speakers", "3", *known, "--speaker-model", str(campplus)]) == 0
    names = ("speakers", "max_speakers", "known_speakers", "speaker_model")
    assert {name: asked.get(name) for name in names} == {
        "speakers": True,
        "max_speakers": 3,
        "known_speakers": {"Ana Li": voice, "Ben": voice},
        "speaker_model": str(campplus),
    }
    asked.clear()
    for wrong, said in (
        (["--num-speakers", "2"], "--num-speakers: give --speakers as well"),
        (known[:2], "--known-speaker: give --speakers as well"),
        (["--speakers", *known[:2], *known[:2]], "each --known-speaker needs a name of its own"),
        (["--speakers", "--num-speakers", "2", "--min-speakers", "1"], "min_speakers and max_speakers cannot be given"),
        (["--speakers", "--speaker-model", str(tmp_path)], f"{tmp_path} has no weights"),
    ):
        assert main([*arguments, *wrong]) == 1
        assert said in capsys.readouterr().err
    assert not asked  # no model was loaded for these
    assert main(arguments) == 0
    assert "speakers" not in asked


def test_what_cannot_be_written_or_shown_costs_one_file(
    tmp_path: Path,
    asked: dict[str, object],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """A name that is no text, a text that a writer fails for, and audio of which no picture can be made."""
    write_audio(tmp_path / "0.wav")
    names = [b"a.wav", b"b.wav", b"\xff.wav"]
    for name in names:
        Path(os.fsdecode(os.fsencode(tmp_path) + b"/" + name)).write_bytes(b"no audio")

    def failing(transcript: Transcript) -> str:
        if transcript.key == "b":
            raise LookupError("no glyph")
        return ""

    monkeypatch.setitem(WRITERS, "srt", failing)  # type: ignore[arg-type]
    arguments = ["transcribe", str(tmp_path), "--model", "m", "--format", "srt", "--output-dir", str(tmp_path / "out")]
    assert main(arguments) == 1
    printed = capsys.readouterr()
    assert "a: text of a" in printed.out and "\\udcff: text of \\udcff" in printed.out and "1 failed" in printed.out
    assert "FAILED b: write failed for b: LookupError: no glyph" in printed.err
    assert len(list((tmp_path / "out").iterdir())) == 3
    assert main([*arguments, "--plot"]) == 1
    printed = capsys.readouterr()
    assert "3 failed" in printed.out and "FAILED a: " in printed.err
    assert "FAILED b: write failed" in printed.err


class WritesSegments(WritesKeys):
    """Each text is spoken in half a second a word."""

    def generate_iter(self, items: list[AudioInput], **options: object) -> Iterator[Transcript]:
        words = tuple(Word(word, i / 2, i / 2 + 0.5, 1.0) for i, word in enumerate(["one", "two", "three"]))
        segment = Segment(0.0, 1.5, "one two three", words, 1.0)
        yield from (Transcript(item.key, text=segment.text, segments=(segment,)) for item in items)


def test_subtitles_have_the_shape_and_times_the_aligner_that_are_asked_for(
    tmp_path: Path,
    asked: dict[str, object],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    write_audio(tmp_path / "a.wav")
    monkeypatch.setattr("twostage_asr.engine.auto.AutoModelVLLM", WritesSegments)
    arguments = ["transcribe", str(tmp_path / "a.wav"), "--model", "m", "--forced-aligner", "aligner", "--format"]
    shape = ["--max-line-width", "7", "--max-lines", "1", "--max-words-per-cue", "2", "--highlight-words"]
    assert main([*arguments, "vtt,txt", "--output-dir", str(tmp_path), *shape]) == 0
    assert asked["forced_aligner"] == "aligner"
    lines = (tmp_path / "a.vtt").read_text().splitlines()
    assert [line for line in lines if "<c>" in line] == ["<c>one</c> <00:00:00.500><c>two</c>", "<c>three</c>"]
    assert main([*arguments, "srt", "--max-lines", "0"]) == 1
    assert "max_lines must be at least 1, got 0" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--format", "srt,doc"], "'doc' is no format; allowed: txt, json"),
        (["--vllm", "[1]"], "needs a JSON object"),
        (["--silence-schedule", "5000"], "needs rows like 5000:1500, got '5000'"),
        (["--known-speaker", "Ana"], "needs NAME=FILE, with a file that exists, got 'Ana'"),
        (["--known-speaker", "Ana=none.wav"], "needs NAME=FILE, with a file that exists, got 'Ana=none.wav'"),
        (["--langauge", "zh"], "unknown option --langauge (did you mean --language?)"),
        (["--unheard-of=1"], "unknown option --unheard-of; see twostage-asr transcribe --help\n"),
    ],
)
def test_wrong_usage_is_code_2(arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit, match="2"):
        main(["transcribe", "a.wav", "--model", "m", *arguments])
    assert message in capsys.readouterr().err


def test_an_unknown_option_is_named_before_a_missing_one(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit, match="2"):
        main(["transcribe", "a.wav", "--modle", "m"])
    assert "unknown option --modle (did you mean --model?)" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["transcibe", "a.wav"], "unknown command transcibe (did you mean transcribe?); see twostage-asr --help"),
        (["zzz"], "unknown command zzz; known: transcribe, batch, stream, "),
        (["--verison"], "unknown option --verison (did you mean --version?); see twostage-asr --help"),
    ],
)
def test_an_unknown_command_is_named_with_the_nearest_one(
    arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit, match="2"):
        main(arguments)
    assert message in capsys.readouterr().err


def test_options_may_be_shortened_and_files_may_look_like_options(tmp_path: Path) -> None:
    model = ["--mod", str(tmp_path / "none"), "--output-d", str(tmp_path)]
    assert main(["transcribe", *model, "--", "--modle.wav"]) == 1


def test_no_command_lists_the_commands(capsys: pytest.CaptureFixture[str]) -> None:
    assert main([]) == 2
    assert "transcribe files, and write transcripts and subtitles" in capsys.readouterr().err


def test_an_error_is_one_line_and_code_1(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    audio = str(write_audio(tmp_path / "a.wav"))
    assert main(["transcribe", audio, "--model", str(tmp_path / "none"), "--output-dir", str(tmp_path)]) == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("twostage-asr: ") and "none does not exist" in line
    assert main(["transcribe", audio, "--model", "m", "--hotwords-file", str(tmp_path / "none")]) == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith(f"twostage-asr: {tmp_path / 'none'}: No such file or directory; check the name")
    assert main(["eval", str(tmp_path / "none.txt"), str(tmp_path / "none.txt")]) == 1
    assert "no such file" in capsys.readouterr().err


def test_align_times_a_known_text(
    engine_dirs: dict[str, Path], clips: list[Clip], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    clip = clips[1]
    (tmp_path / "text.txt").write_text(clip["text"], encoding="utf-8")
    model = ["--model", str(engine_dirs["low_frame_rate"])]
    assert main(["align", clip["source"], str(tmp_path / "text.txt"), *model]) == 0
    rows = [line.split() for line in capsys.readouterr().out.splitlines()]
    assert [row[4].casefold() for row in rows] == [word for word, _, _ in clip["words"]]
    for row, (_, start, _) in zip(rows, clip["words"], strict=True):
        assert float(row[2]) == pytest.approx(start, abs=0.06)
    wrong = [
        "align",
        clip["source"],
        "今天北京的天气怎么样",
        *model,
        "--format",
        "json",
        "--output",
        str(tmp_path / "a.json"),
    ]
    assert main(wrong) == 1
    assert json.loads((tmp_path / "a.json").read_text(encoding="utf-8"))["warnings"][0]["code"] == "no_word_times"
    odd = os.fsdecode(os.fsencode(tmp_path) + b"/\xff.flac")  # a name that is no Unicode
    shutil.copy(clip["source"], odd)
    wrong[1] = odd
    assert main(wrong) == 1
    assert json.loads((tmp_path / "a.json").read_text(encoding="utf-8"))["key"] == "\udcff"


def test_eval_counts_errors(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "ref.txt").write_text("a 今天天气\nb Hello, world!\n", encoding="utf-8")
    (tmp_path / "hyp.jsonl").write_text('{"key": "b", "text": "hello world"}\n{"key": "a", "text": "今天天"}\n')
    files = [str(tmp_path / "ref.txt"), str(tmp_path / "hyp.jsonl")]
    assert main(["eval", *files, "--worst", "2"]) == 0
    printed = capsys.readouterr().out
    assert "CER   7.14 %  1 errors in 14: 0 substituted, 1 deleted, 0 inserted" in printed
    assert "MER  16.67 %" in printed and "a: 1 errors" in printed and "b: " not in printed
    assert main(["eval", *files, "--raw"]) == 0
    assert "WER 100.00 %" in capsys.readouterr().out
    (tmp_path / "hyp.jsonl").write_text('{"key": "b", "text": ""}\n')
    assert main(["eval", *files]) == 1
    assert "nothing was counted: " in (said := capsys.readouterr().err) and "no text for 1 of 2 keys" in said


@pytest.mark.parametrize("as_json", [False, True])
def test_stream_shows_a_file(
    model: list[str], clips: list[Clip], as_json: bool, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["stream", clips[1]["source"], *model, "--no-itn", *(["--json"] if as_json else [])]) == 0
    lines = capsys.readouterr().out.splitlines()
    if not as_json:
        assert len(lines) == 1 and lines[0].endswith(f"] {clips[1]['text']}")
        return
    events = [json.loads(line) for line in lines]
    assert [event["type"] for event in events][-2:] == ["partial", "final"]
    assert events[-1]["transcript"]["text"] == clips[1]["text"]


def test_stream_hears_samples_on_standard_input(
    model: list[str], clips: list[Clip], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    pcm = (decode_audio(Path(clips[1]["source"])) * 32767).astype("<i2").tobytes()
    monkeypatch.setattr("sys.stdin", SimpleNamespace(buffer=io.BytesIO(pcm + b"x")))  # half a sample too many
    assert main(["stream", "-", *model, "--no-itn"]) == 0
    assert clips[1]["text"] in capsys.readouterr().out


def test_long_recordings_are_cut_as_the_options_say(
    model: list[str], clips: list[Clip], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pause = np.zeros(SAMPLE_RATE, np.float32)
    spoken = [clip for clip in clips if clip["language"] == "英文" and clip["itn"] and not clip["hotwords"]][:2]
    parts = [part for clip in spoken for part in (decode_audio(Path(clip["source"])), pause)]
    soundfile.write(tmp_path / "two.wav", np.concatenate(parts), SAMPLE_RATE)
    arguments = ["transcribe", str(tmp_path / "two.wav"), *model, "--format", "json", "--output-dir", str(tmp_path)]
    for options, num_segments in ((["--vad", "silero", "--silence-schedule", "inf:400"], 2), (["--vad", "none"], 1)):
        assert main([*arguments, *options]) == 0
        result = Transcript.from_json((tmp_path / "two.json").read_text(encoding="utf-8"))
        assert len(result.segments) == num_segments
        assert result.text == " ".join(clip["text"] for clip in spoken)


def test_stream_shows_the_rest_when_it_is_interrupted(
    model: list[str], clips: list[Clip], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def blocks(source: str, *, realtime: bool) -> Iterator[Any]:
        yield decode_audio(Path(source))
        raise KeyboardInterrupt

    monkeypatch.setattr(stream, "_blocks", blocks)
    assert main(["stream", clips[1]["source"], *model, "--no-itn"]) == 0
    assert clips[1]["text"] in capsys.readouterr().out


@pytest.mark.parametrize("as_json", [False, True])
def test_stream_names_the_speakers(
    as_json: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    transcriber = fake_transcriber(tmp_path)
    loaded = SimpleNamespace(transcriber=transcriber, close=transcriber.close)
    monkeypatch.setattr("twostage_asr.engine.streaming.sdk.AutoModelVLLM", lambda model, **_: loaded)
    monkeypatch.setattr("twostage_asr.engine.streaming.sdk.load_vad", lambda name: LoudIsSpeech())
    monkeypatch.setattr("twostage_asr.engine.speakers.loading.find_weights", Path)
    monkeypatch.setattr(LiveSpeakers, "relabel", lambda self: {"Ana": "Ana", "SPK0": "SPK0", "SPK1": "SPK0"})
    pause = (0, 2.0)
    audio = {"talk": talk((5, 4.0), (9, 4.0), pause, (3, 3.0), pause, (5, 3.0)), "ana": talk((9, 3.0))}
    for name, samples in audio.items():
        soundfile.write(tmp_path / f"{name}.wav", samples, SAMPLE_RATE)
    named = ["--speakers", "--known-speaker", f"Ana={tmp_path / 'ana.wav'}", *(["--json"] if as_json else [])]
    assert main(["stream", str(tmp_path / "talk.wav"), "--model", "any", *named]) == 0
    *finals, last = [line for line in capsys.readouterr().out.splitlines() if "partial" not in line]
    if as_json:
        segments = [segment for line in finals for segment in json.loads(line)["transcript"]["segments"]]
        assert [segment["speaker"] for segment in segments] == ["SPK0", "Ana", "SPK1", "SPK0"]
        assert json.loads(last) == {"type": "relabelled", "speakers": {"SPK1": "SPK0"}}
        return
    assert [line.split("] ")[1] for line in finals] == ["SPK0: clip", "Ana: 9.", "SPK1: clip 3.", "SPK0: clip 5."]
    assert last == "SPK1 is SPK0"


def test_serve_enrols_the_speakers_that_it_knows(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    soundfile.write(tmp_path / "ana.wav", talk((9, 3.0)), SAMPLE_RATE)
    monkeypatch.setattr("twostage_asr.engine.speakers.loading.load_speaker_model", lambda name, device: FakeVoices())
    known = ["--known-speaker", f"Ana={tmp_path / 'ana.wav'}"]
    parser, _ = build_parser()
    enrolled = serve._enrolled(parser.parse_args(["serve", "any", *known]))
    assert enrolled is not None and enrolled.names == ("Ana",) and enrolled.embeddings[0, 9] == 1.0
    assert serve._enrolled(parser.parse_args(["serve", "any"])) is None
    with pytest.raises(ConfigError, match="a name of its own"):
        serve._enrolled(parser.parse_args(["serve", "any", *known, *known]))


def test_a_machine_without_a_temporary_folder_is_told_of_tmpdir(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(tempfile, "_candidate_tempdir_list", lambda: ["/nonexistent"])
    monkeypatch.setattr(tempfile, "tempdir", None)
    monkeypatch.setattr(stream, "_blocks", lambda *args, **options: tempfile.gettempdir())
    assert main(["stream", "a.wav", "--model", "m"]) == 1
    assert "['/nonexistent']; let TMPDIR be a folder" in capsys.readouterr().err


class FakeMicrophone:
    """Records three blocks as soon as it is opened."""

    active = True

    def __init__(self, *, callback: Any, finished_callback: Any, **options: Any) -> None:
        assert options == {"samplerate": 16_000, "channels": 1, "dtype": "int16", "blocksize": 1600}
        self._callback, self._finished_callback = callback, finished_callback

    def __enter__(self) -> None:
        for block in (b"ab", b"cd", b"ef"):
            self._callback(memoryview(block), 1, None, None)

    def __exit__(self, *error: object) -> None:
        pass


class LostMicrophone(FakeMicrophone):
    """Is unplugged after these blocks, between which audio was lost."""

    active = False

    def __enter__(self) -> None:
        super().__enter__()
        self._callback(memoryview(b"gh"), 1, None, "input overflow")
        self._finished_callback()


def microphone(monkeypatch: pytest.MonkeyPatch, kind: type[FakeMicrophone]) -> Iterator[bytes]:
    fake = SimpleNamespace(RawInputStream=kind, PortAudioError=RuntimeError)
    monkeypatch.setitem(sys.modules, "sounddevice", fake)
    return stream._blocks("mic", realtime=False)


def test_what_a_microphone_recorded_meanwhile_comes_together(monkeypatch: pytest.MonkeyPatch) -> None:
    assert next(microphone(monkeypatch, FakeMicrophone)) == b"abcdef"


@pytest.fixture
def python_interrupts() -> Iterator[None]:
    """Ctrl-C raises KeyboardInterrupt, as in a program that nothing else handles signals in."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.mark.usefixtures("python_interrupts")
def test_what_a_microphone_recorded_before_an_interrupt_is_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    blocks = microphone(monkeypatch, FakeMicrophone)
    next(blocks)
    stream_of = blocks.gi_frame.f_locals["stream"]  # type: ignore[attr-defined]
    stream_of._callback(memoryview(b"gh"), 1, None, None)
    signal.raise_signal(signal.SIGINT)  # while the model is at work
    assert list(blocks) == [b"gh"]
    with pytest.raises(KeyboardInterrupt):
        signal.raise_signal(signal.SIGINT)


def test_a_microphone_that_is_lost_ends_the_recording(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert list(microphone(monkeypatch, LostMicrophone)) == [b"abcdefgh"]
    said = capsys.readouterr().err
    assert "the microphone has gone" in said and "audio was lost 1 times" in said


def test_a_microphone_that_cannot_be_opened_is_said_before_the_model_is_loaded(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def refuse(**options: Any) -> None:
        raise OSError("Invalid sample rate")

    monkeypatch.setitem(sys.modules, "sounddevice", SimpleNamespace(RawInputStream=refuse, PortAudioError=OSError))
    assert main(["stream", "mic", "--model", "nowhere/near"]) == 1
    assert "no microphone can be opened: Invalid sample rate" in capsys.readouterr().err


def test_what_a_program_wrote_before_an_interrupt_is_heard(monkeypatch: pytest.MonkeyPatch) -> None:
    reading, writing = os.pipe()
    with os.fdopen(reading, "rb") as source, os.fdopen(writing, "wb", 0) as sink:
        monkeypatch.setattr("sys.stdin", SimpleNamespace(buffer=source, fileno=source.fileno))
        sink.write(bytes(2 * 3200) + b"\1" * 100)
        blocks = stream._blocks("-", realtime=False)
        next(blocks)
        signal.raise_signal(signal.SIGINT)  # while the model is at work; the program goes on
        assert list(blocks) == [bytes(3200), b"\1" * 100]


def test_a_file_on_standard_input_is_not_heard_as_samples(
    model: list[str], clips: list[Clip], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    content = Path(clips[1]["source"]).read_bytes()
    monkeypatch.setattr("sys.stdin", SimpleNamespace(buffer=io.BytesIO(content)))
    assert main(["stream", "-", *model]) == 1
    assert "-f s16le" in capsys.readouterr().err


def test_a_live_line_that_has_wrapped_is_cleared_whole(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("sys.stdout.isatty", lambda: True)
    monkeypatch.setenv("COLUMNS", "9")
    show = stream._LiveLine()
    show([Partial(0, 0.0, 1.0, "abcdefghi", "", "en")])  # fills its row, and does not wrap
    show([Partial(0, 0.0, 2.0, "", "字字字字字字字字字", "zh")])  # four to a row
    show([Partial(0, 0.0, 3.0, "a", "", "en")])
    cleared = re.findall(r"\r((?:\x1b\[\d+A)?)\x1b\[J", capsys.readouterr().out)
    assert cleared == ["", "", "\x1b[2A"]


def test_a_missing_microphone_is_said_before_the_model_is_loaded(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(sys.modules, "sounddevice", None)
    assert main(["stream", "mic", "--model", "nowhere/near"]) == 1
    assert 'pip install ".[mic]"' in capsys.readouterr().err


def test_the_commands_are_listed_without_torch() -> None:
    code = "import sys, twostage_asr.engine.cli; print(sorted({'torch', 'vllm', 'transformers'} & set(sys.modules)))"
    assert subprocess.check_output([sys.executable, "-c", code], text=True).strip() == "[]"


# --- before a model is loaded


def test_hotwords_files_are_read_in_common_encodings(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "a.wav").write_bytes(b"x")
    words = tmp_path / "words.txt"
    words.write_text("张三\n", encoding="utf-16")
    parser = argparse.ArgumentParser()
    add_request_options(parser)
    assert request_options(parser.parse_args(["--hotwords-file", str(words)]))["hotwords"] == ["张三"]
    words.write_bytes("张三\n".encode("gbk"))
    arguments = ["transcribe", str(tmp_path / "a.wav"), "--model", "none", "--output-dir", str(tmp_path)]
    assert main([*arguments, "--hotwords-file", str(words)]) == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert f"{words}, line 1: not UTF-8: byte 0 is 0xd5" in line


def test_files_that_are_passed_over_are_counted_and_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for index in range(12):
        (tmp_path / f"{index:02}.doc").write_bytes(b"x")
    (tmp_path / "a.m4b").write_bytes(b"x")
    out = tmp_path / "out"
    out.mkdir()
    (out / "a.txt").write_text("done", encoding="utf-8")
    arguments = ["transcribe", str(tmp_path), "--model", "none", "--output-dir", str(out), "--resume"]
    assert main([*arguments, "-v"]) == 0
    printed = capsys.readouterr().out.splitlines()
    assert printed[0] == f"passed over: {tmp_path / '00.doc'}" and "passed over: 3 more" in printed
    assert main(arguments) == 0
    assert "not audio, by their names: 13 in the folders; --verbose names them" in capsys.readouterr().err


@pytest.mark.parametrize("text", ["left", "-1", "1.5", ""])
def test_channels_that_cannot_be(text: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["transcribe", "a.wav", "--model", "none", f"--channels={text}"])
    assert 'channels must be "mix", "split" or' in capsys.readouterr().err


def test_nothing_is_loaded_where_no_file_can_be_read(
    tmp_path: Path, asked: dict[str, object], capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "bad.wav").write_bytes(b"RIFF")
    arguments = ["transcribe", str(tmp_path / "nosuch.wav"), str(tmp_path / "bad.wav"), "--model", "m"]
    assert main([*arguments, "--output-dir", str(tmp_path / "out")]) == 1
    printed = capsys.readouterr()
    assert "2 files; no model was loaded" in printed.out and "written" not in printed.out
    assert printed.err.count("nosuch.wav: No such file") == 1 and "FAILED bad: " in printed.err
    write_audio(tmp_path / "a.wav")
    (tmp_path / "out").rmdir()
    assert not asked
    assert main([*arguments[:2], str(tmp_path / "a.wav"), *arguments[2:], "--output-dir", str(tmp_path / "out")]) == 1
    assert "a: text of a" in capsys.readouterr().out and asked["model"] == "m"


def test_a_wrong_request_is_found_before_a_model_is_loaded(
    engine_dirs: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("twostage_asr.engine.auto.AutoModelVLLM", None)
    arguments = [str(write_audio(tmp_path / "a.wav")), "--model", str(engine_dirs["low_frame_rate"])]
    assert main(["transcribe", *arguments, "--output-dir", str(tmp_path), "--language", "Klingon"]) == 1
    assert "language 'Klingon' is unknown; allowed: " in capsys.readouterr().err


def test_a_file_that_hotwords_would_take_is_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    audio = str(write_audio(tmp_path / "a.wav"))
    assert main(["transcribe", audio, "--model", "m", "--hotwords", "A", audio]) == 1
    assert f"--hotwords has taken the file {audio} for a word" in capsys.readouterr().err
    with pytest.raises(SystemExit, match="2"):
        main(["transcribe", "--model", "m", "--hotwords", "A", audio])
    assert "which files? --hotwords takes all words up to the next option" in capsys.readouterr().err


def test_a_resumed_run_that_finds_nothing_says_how_files_are_known(
    tmp_path: Path, asked: dict[str, object], capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "in" / "deep").mkdir(parents=True)
    write_audio(tmp_path / "in" / "deep" / "a.wav")
    options = ["--model", "m", "--output-dir", str(tmp_path / "out"), "--resume"]
    assert main(["transcribe", str(tmp_path / "in"), *options]) == 0
    assert "belongs to these inputs" not in capsys.readouterr().err
    assert main(["transcribe", str(tmp_path / "in" / "deep"), *options]) == 0
    assert "none of the transcripts there belongs to these inputs" in capsys.readouterr().err


def test_lines_without_keys_are_compared_by_their_numbers(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    files = [tmp_path / "ref.txt", tmp_path / "hyp.txt"]
    for path, text in zip(files, ("the cat sat", "the cat sit"), strict=True):
        path.write_text(text + "\n")
    assert main(["eval", *map(str, files)]) == 0
    assert "the first word of a line is its key, as 'the'; --lines: there are no keys" in capsys.readouterr().out
    assert main(["eval", *map(str, files), "--lines"]) == 0
    printed = capsys.readouterr().out
    assert "WER  33.33 %" in printed and "the first word" not in printed


def test_only_line_ends_divide_lines_without_keys(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "ref.txt").write_text("a\x0cb\u2028c\r\n\nd", newline="")
    (tmp_path / "hyp.txt").write_text("a b c\n\nd\n")
    assert main(["eval", str(tmp_path / "ref.txt"), str(tmp_path / "hyp.txt"), "--lines"]) == 0
    assert "3 utterances" in (printed := capsys.readouterr().out) and "WER   0.00 %" in printed


def test_eval_says_what_takes_long_and_compares_it_once(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    compared: list[Any] = []

    def counted(pairs: Any, **how: Any) -> Any:
        compared.append(pairs)
        return error_rates(pairs, **how)

    monkeypatch.setattr(evaluate, "error_rates", counted)
    monkeypatch.setattr(evaluate, "PAIRS_PER_S", 1.0)
    (tmp_path / "ref.txt").write_text("short one\nlong 1234567 8\n")
    assert main(["eval", str(tmp_path / "ref.txt"), str(tmp_path / "ref.txt"), "--worst", "1"]) == 0
    assert capsys.readouterr().err.startswith("long: 8 characters are compared with 8, which takes about 64 s; ")
    assert compared == [[("one", "one")], [("1234567 8", "1234567 8")]]


def test_eval_shows_no_negative_number_of_utterances() -> None:
    with pytest.raises(SystemExit, match="2"):
        main(["eval", "ref.txt", "hyp.txt", "--worst", "-1"])


@pytest.mark.parametrize("closed", ["stdin", "stdout", "stderr"])
def test_a_closed_standard_stream_is_the_null_device(
    closed: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "ref.txt").write_text("k a\n")
    monkeypatch.setattr(sys, closed, None)
    assert main(["eval", str(tmp_path / "ref.txt"), str(tmp_path / "ref.txt")]) == 0
    with getattr(sys, closed) as stream:
        assert stream.name == os.devnull


def test_align_takes_no_name_of_a_file_for_a_text(
    clips: list[Clip], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for name, reason in (("talk.srt", "texts are read from .txt files alone"), ("talk.TXT", "not UTF-8")):
        (tmp_path / name).write_bytes(b"\xff")
        assert main(["align", clips[0]["source"], str(tmp_path / name), "--model", "m"]) == 1
        assert reason in capsys.readouterr().err


def test_each_command_asks_for_a_model_in_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    for arguments in (["transcribe", "a.wav"], ["stream", "a.wav"], ["align", "a.wav", "b"], ["convert"], ["serve"]):
        with pytest.raises(SystemExit, match="2"):
            main(arguments)
        (line,) = capsys.readouterr().err.splitlines()
        assert line.startswith("twostage-asr: which model? ")


def test_zsh_completes_each_file_and_values_behind_an_equals_sign(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["completion", "zsh"]) == 0
    script = capsys.readouterr().out
    assert '"*:audio or video file' in script and '"(*)' not in script
    assert re.search(r'"--hub=\[.*\]:hub:\(ms hf\)"', script) and re.search(r'"\*--known-speaker=\[', script)
    assert re.search(r'\{--hotwords-file,--hotword-file\}"=\[', script) and '--no-resume}"[' in script
