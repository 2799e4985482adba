"""expand_inputs reads list files and nothing else; load turns any source into a waveform or an AudioError."""

import base64
import io
import itertools
import json
import tempfile
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import quote

import av
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.audio_clips import encode, sweep
from twostage_asr.engine.audio import ffmpeg, urls
from twostage_asr.engine.audio.decode import AudioLimits, decode_audio
from twostage_asr.engine.audio.ffmpeg import AUDIO_SUFFIXES
from twostage_asr.engine.audio.inputs import AudioInput, audio_files, expand_inputs, iterate_inputs
from twostage_asr.engine.audio.loading import load, load_blocks
from twostage_asr.engine.errors import AudioTooLongError, ConfigError, UnsupportedAudioError

ONE_SECOND = np.zeros(16_000, np.float32)
WAV = encode(sweep(1.0, 16_000), 16_000, "WAV", "PCM_16")
WAVEFORM = decode_audio(WAV)


def keys(items: list[AudioInput]) -> list[str]:
    return [item.key for item in items]


# --- what users pass


def test_paths_are_not_looked_at() -> None:
    items = expand_inputs(["missing/a.wav", Path("b.tar.mp3"), "日本.m4a", "no_suffix"])
    assert keys(items) == ["a", "b.tar", "日本", "no_suffix"]
    assert [item.source for item in items] == [
        Path("missing/a.wav"),
        Path("b.tar.mp3"),
        Path("日本.m4a"),
        Path("no_suffix"),
    ]
    assert all(item.sample_rate is item.language is item.hotwords is None for item in items)


def test_one_input_needs_no_list() -> None:
    for one in ("a.wav", Path("a.wav"), WAV, ONE_SECOND, (ONE_SECOND, 8_000), ("k", ONE_SECOND, 8_000)):
        (alone,), (listed,) = expand_inputs(one), expand_inputs([one])
        assert (alone.key, alone.source, alone.sample_rate) == (listed.key, listed.source, listed.sample_rate)


def test_nothing_gives_nothing() -> None:
    assert expand_inputs([]) == []


def test_samples_and_bytes() -> None:
    tensor = torch.zeros(16_000)
    items = expand_inputs(
        [ONE_SECOND, (ONE_SECOND, 8_000), ("key", tensor, np.int64(44_100)), WAV, bytearray(WAV), tensor]
    )
    assert keys(items) == ["audio_0", "audio_1", "key", "audio_3", "audio_4", "audio_5"]
    assert [item.sample_rate for item in items] == [None, 8_000, 44_100, None, None, None]
    lengths = [len(load(item)) for item in items]
    assert lengths == [16_000, 32_000, 5_805, 16_000, 16_000, 16_000]  # 5,804.99 samples


def test_stereo_samples_are_averaged() -> None:
    (item,) = expand_inputs((np.stack([ONE_SECOND + 1, ONE_SECOND]), 16_000))
    assert np.array_equal(load(item), np.full(16_000, 0.5, np.float32))


@given(st.lists(st.sampled_from(["a", "a_1", "a_2", "a_1_1", "b", ""])))
def test_keys_are_unique_and_the_first_owner_keeps_its_key(names: list[str]) -> None:
    found = keys(expand_inputs([(name, ONE_SECOND, 16_000) for name in names]))
    assert len(set(found)) == len(found) == len(names)
    for index, (name, key) in enumerate(zip(names, found, strict=True)):
        assert key == name if name not in names[:index] else key.startswith(f"{name}_")


def test_suffixes_count_and_avoid_given_keys() -> None:
    assert keys(expand_inputs(["x/a.wav", "y/a.mp3", "a_1.wav", "z/a.wav"])) == ["a", "a_2", "a_1", "a_3"]


# --- file objects, dicts, and other iterables than lists


def test_file_objects(tmp_path: Path) -> None:
    path = tmp_path / "talk.wav"
    path.write_bytes(WAV)
    with path.open("rb") as file, tempfile.TemporaryFile() as nameless:
        nameless.write(b"skipped" + WAV)
        nameless.seek(7)
        items = expand_inputs([file, io.BytesIO(WAV), nameless])
        assert keys(items) == ["talk", "audio_1", "audio_2"]
        assert all(np.array_equal(load(item), WAVEFORM) for item in items)
    (item,) = expand_inputs(io.BytesIO(WAV))  # it has lines, and is one input all the same
    assert np.array_equal(np.concatenate(list(load_blocks(item))), WAVEFORM)


def test_file_objects_that_give_no_audio(tmp_path: Path) -> None:
    path = tmp_path / "talk.wav"
    path.write_text("text")
    with path.open(encoding="utf-8") as text:
        (item,) = expand_inputs(text)
        with pytest.raises(UnsupportedAudioError, match=r"talk\.wav: reading gives str, not bytes; open it with mode"):
            load(item)
    with pytest.raises(UnsupportedAudioError, match=r"cannot be read: .*closed file"):
        load(item)
    (item,) = expand_inputs(io.BytesIO(WAV))
    with pytest.raises(AudioTooLongError, match="BytesIO: 1,001 bytes or more, at most 1,000 allowed"):
        load(item, limits=AudioLimits(max_bytes=1000))


def test_samples_as_datasets_have_them() -> None:
    named = {"path": "clips/a.wav", "array": ONE_SECOND, "sampling_rate": 8_000}
    items = expand_inputs([{"array": ONE_SECOND, "sampling_rate": 16_000}, named, named | {"path": None}])
    assert keys(items) == ["audio_0", "a", "audio_2"]
    assert [len(load(item)) for item in items] == [16_000, 32_000, 32_000]
    assert keys(expand_inputs(named)) == ["a"]


@pytest.mark.parametrize(
    "wrong",
    [
        {},
        {"array": ONE_SECOND},
        {"array": [0.0, 0.5], "sampling_rate": 16_000},
        {"array": ONE_SECOND, "sampling_rate": None},
        {"array": ONE_SECOND, "sampling_rate": 16_000, "text": "hello"},
        {"audio": {"array": ONE_SECOND, "sampling_rate": 16_000}},
    ],
)
def test_dicts_that_are_no_input(wrong: dict[str, Any]) -> None:
    (item,) = expand_inputs([wrong])
    with pytest.raises(UnsupportedAudioError, match=r"^\{.*\} is not an input; allowed are a path"):
        load(item)


def test_tuples_of_inputs_and_tuples_that_are_one() -> None:
    assert keys(expand_inputs(("a.wav", "b.wav"))) == ["a", "b"]
    assert keys(expand_inputs((("x", ONE_SECOND, 8_000), ("y", ONE_SECOND, 8_000)))) == ["x", "y"]
    assert expand_inputs(()) == []
    for one in ((ONE_SECOND, 8_000), ("key", ONE_SECOND, 8_000), (16_000, ONE_SECOND), ("a.wav", 16_000)):
        assert len(expand_inputs(one)) == 1
    (item,) = expand_inputs((16_000, ONE_SECOND))
    with pytest.raises(UnsupportedAudioError, match=r"^\(int, ndarray\) is not an input"):
        load(item)
    (nested,) = expand_inputs([("a.wav", "b.wav")])
    with pytest.raises(UnsupportedAudioError, match=r"^\(str, str\) is not an input"):
        load(nested)


def test_no_inputs_at_all_are_an_error() -> None:
    with pytest.raises(ConfigError, match="there are no inputs, got None"):
        iterate_inputs(None)
    for nothing in ("", None):
        (item,) = expand_inputs([nothing])  # type: ignore[list-item]
        with pytest.raises(UnsupportedAudioError, match="is not an input"):
            load(item)


def test_a_generator_is_taken_from_as_it_is_needed() -> None:
    taken = []

    def endless() -> Iterator[str]:
        for number in range(10**9):
            taken.append(number)
            yield f"{number % 3}.wav"

    items = iterate_inputs(endless())
    assert not taken
    assert [item.key for item in itertools.islice(items, 5)] == ["0", "1", "2", "0_1", "1_1"]
    assert len(taken) == 5


def test_what_is_expanded_at_once_and_what_is_not(tmp_path: Path) -> None:
    for whole in ("a.wav", [], ("a.wav",), {"a.wav"}, ONE_SECOND, io.BytesIO(WAV), {"array": ONE_SECOND}):
        assert isinstance(iterate_inputs(whole), list)
    for lazy in (iter(["a.wav"]), (name for name in ["a.wav"]), {"a.wav": 1}.keys()):
        assert not isinstance(iterate_inputs(lazy), list)
        assert keys(list(iterate_inputs(lazy))) == ["a"]


def test_keys_of_a_generator_are_unique_too() -> None:
    names = ["a.wav", "a.mp3", "a_1.wav", "a.ogg", "a_1.mp3"]
    found = keys(list(iterate_inputs(iter(names))))
    assert found == ["a", "a_1", "a_1_1", "a_2", "a_1_2"]


def test_a_list_file_in_a_generator(tmp_path: Path) -> None:
    """What comes after one that cannot be read is still taken."""
    items = list(iterate_inputs(iter([scp(tmp_path, "x 1.wav\ny 2.wav"), tmp_path / "none.scp", ONE_SECOND])))
    assert keys(items) == ["x", "y", "none", "audio_3"]
    with pytest.raises(UnsupportedAudioError, match=r"none\.scp: no such list file"):
        load(items[2])


# --- list files


def scp(tmp_path: Path, text: str | bytes) -> Path:
    path = tmp_path / "lists" / "wav.scp"
    path.parent.mkdir(exist_ok=True)
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return path


def jsonl(tmp_path: Path, *lines: object) -> Path:
    path = tmp_path / "list.jsonl"
    path.write_text("\n".join(line if isinstance(line, str) else json.dumps(line) for line in lines))
    return path


def test_scp(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = scp(
        tmp_path,
        "\ufeffutt1 a.wav\r\n\n  utt2\t  with space.wav \nutt3 /abs/c.wav\nutt4 http://host/d.wav\nutt5 only_here.wav",
    )
    monkeypatch.chdir(tmp_path)
    for file in ("a.wav", "lists/a.wav", "only_here.wav"):
        Path(file).write_bytes(WAV)
    items = expand_inputs(str(path))
    assert keys(items) == ["utt1", "utt2", "utt3", "utt4", "utt5"]
    assert [item.source for item in items] == [
        path.parent / "a.wav",  # beside the list, although there is one here too
        path.parent / "with space.wav",  # nowhere: the error will name this
        Path("/abs/c.wav"),
        "http://host/d.wav",
        Path("only_here.wav"),
    ]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("utt1 a.wav\nutt2", r"wav\.scp, line 2: needs a key and a path, got 'utt2'"),
        ("utt1 sox a.mp3 -t wav - |", r"line 1: pipes are not run.*sox"),
        ("utt1 | touch x", "line 1: pipes are not run"),
        (b"utt1 a.wav\n\nutt2 \xff\xfe.wav", r"line 3: not UTF-8"),
    ],
)
def test_malformed_scp(tmp_path: Path, text: str | bytes, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        expand_inputs(["a.wav", scp(tmp_path, text)])


def test_jsonl(tmp_path: Path) -> None:
    path = jsonl(
        tmp_path,
        {"source": "x/a.wav"},
        {
            "source": "b.wav",
            "key": "B",
            "language": "中文",
            "hotwords": ["张三", "a\u2028b"],
            "target": "ignored",
            "text": 1,
        },
        "",
        {"source": "https://host/c%20d.mp3?token=1", "key": None, "language": None, "hotwords": []},
        {"source": "data:,x"},
        {"source": "a.wav"},
    )
    items = expand_inputs(path)
    assert keys(items) == ["a", "B", "c d", "audio", "a_1"]
    assert items[0].source == tmp_path / "x/a.wav"
    assert (items[1].language, items[1].hotwords) == ("中文", ("张三", "a\u2028b"))
    assert (items[2].language, items[2].hotwords) == (None, ())


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("{", r"list\.jsonl, line 2: .*"),
        ("[" * 100_000, "line 2: JSON nested too deeply"),
        ('["a.wav"]', "line 2: needs a JSON object, got list"),
        ({"key": "a"}, 'line 2: "source" must be a path or URL, got None'),
        ({"source": ""}, "line 2: .source. must be"),
        ({"source": ["a.wav"]}, "line 2: .source. must be"),
        ({"source": "a.wav", "key": 7}, "line 2: 'key' must be a string, got 7"),
        ({"source": "a.wav", "language": ["zh"]}, "line 2: 'language' must be a string"),
        ({"source": "a.wav", "hotwords": "张三"}, "line 2: .hotwords. must be a list of strings"),
        ({"source": "a.wav", "hotwords": ["a", 1]}, "line 2: .hotwords. must be a list of strings"),
        ({"source": "a.wav", "channels": "left"}, 'line 2: channels must be "mix", "split" or'),
    ],
)
def test_malformed_jsonl(tmp_path: Path, line: object, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        expand_inputs(jsonl(tmp_path, {"source": "a.wav"}, line))


def test_list_files_that_are_none(tmp_path: Path) -> None:
    (tmp_path / "folder.jsonl").mkdir()
    for name in ("missing.scp", "folder.jsonl"):
        with pytest.raises(ConfigError, match="no such list file"):
            expand_inputs(str(tmp_path / name))
    (tmp_path / "empty.scp").write_text("\n \n")
    assert expand_inputs(tmp_path / "empty.scp") == []


def test_lists_and_single_inputs_mix(tmp_path: Path) -> None:
    items = expand_inputs([ONE_SECOND, scp(tmp_path, "a 1.wav\nb 2.wav"), ONE_SECOND, "a.wav"])
    assert keys(items) == ["audio_0", "a", "b", "audio_3", "a_1"]


# --- folders

# What FFmpeg's demuxers name beside audio and video: pictures, subtitles, and lists of other files.
NO_AUDIO = {"avif", "heic", "heif", "ism", "mj2", "mks"}


def test_every_suffix_of_what_can_be_read_is_looked_for() -> None:
    muxers = ("adts", "aiff", "asf", "avi", "f4v", "flv", "ipod", "mov", "mp4", "mpegts", "oga", "ogv", "opus", "spx")
    formats = [av.ContainerFormat(name, "r") for name in ffmpeg._FORMATS.split(",")]
    formats += [av.ContainerFormat(name, "w") for name in muxers]
    known = {name for each in formats for name in each.extensions} | {each.name.split(",")[0] for each in formats}
    known -= NO_AUDIO | {"matroska", "mpegts", "mov,mp4", "ipod", "adts"}
    assert {f".{name}" for name in known if len(name) <= 5} <= AUDIO_SUFFIXES


def test_a_folder_tells_what_it_passes_over(tmp_path: Path) -> None:
    for name in ("b.M4B", "deep/a.ts", "deep/notes.txt", ".DS_Store", "c.w64", "c.caf"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(b"x")
    folder = audio_files(tmp_path)
    assert keys(folder.inputs) == ["b", "c.caf", "c.w64", "deep/a"]
    assert folder.passed_over == [tmp_path / ".DS_Store", tmp_path / "deep/notes.txt"]
    (tmp_path / "deep/a.ts").unlink()
    with pytest.raises(ConfigError, match=r"holds no audio; looked for \.3g2, "):
        audio_files(tmp_path / "deep")


# --- URLs


@pytest.mark.parametrize(
    "url",
    [
        "data:audio/wav;base64," + base64.b64encode(WAV).decode(),
        "data:;base64,\n" + base64.encodebytes(WAV).decode(),
        "DATA:audio/wav;BASE64," + quote(base64.b64encode(WAV), safe=""),
        "data:audio/wav," + quote(WAV),
    ],
)
def test_data_urls(url: str) -> None:
    (item,) = expand_inputs(url)
    assert item.key == "audio_0"
    assert np.array_equal(load(item, allow_urls=False), WAVEFORM)  # it fetches nothing


@pytest.mark.parametrize(
    ("url", "message"), [("data:audio/wav;base64", "without a comma"), ("data:;base64,UklG@@@@", "is not base64")]
)
def test_malformed_data_urls(url: str, message: str) -> None:
    (item,) = expand_inputs(url)
    with pytest.raises(UnsupportedAudioError, match=message):
        load(item)


def test_data_urls_are_limited() -> None:
    (item,) = expand_inputs("data:audio/wav;base64," + base64.b64encode(WAV).decode())
    for max_bytes in (len(WAV) - 1, 100):
        with pytest.raises(AudioTooLongError):
            load(item, limits=AudioLimits(max_bytes=max_bytes))


class Server(BaseHTTPRequestHandler):
    """Answers by path; `visits` counts."""

    visits: list[str]

    def do_GET(self) -> None:
        self.visits.append(self.path)
        path = self.path.partition("?")[0].removeprefix("/")
        if path == "a.wav":
            self.answer(200, WAV)
        elif path == "endless.wav":
            self.endless()
        elif path == "claims_8_exabytes.wav":
            self.answer(200, WAV, length=2**63)
        elif path == "cut_off.wav":
            self.answer(200, WAV[:1000], length=len(WAV))
        elif path == "drip.wav":
            self.drip()
        elif path in TARGETS:
            self.answer(302, location=TARGETS[path])
        else:
            self.answer(404, b"<html>not found</html>")

    def answer(self, status: int, body: bytes = b"", *, length: int | None = -1, location: str | None = None) -> None:
        self.send_response(status)
        if length is not None:
            self.send_header("Content-Length", str(len(body) if length < 0 else length))
        if location is not None:
            self.send_header("Location", location)
        self.end_headers()
        self.wfile.write(body)

    def endless(self) -> None:
        self.answer(200, length=None)
        try:
            while True:
                self.wfile.write(WAV)
        except OSError:
            return  # the client hung up

    def drip(self) -> None:
        self.answer(200, length=1_000_000)
        try:
            while True:
                self.wfile.write(b"x")
                time.sleep(0.02)
        except OSError:
            return  # the client hung up

    def log_message(self, *args: Any) -> None:
        """Quiet."""


INSIDE = {
    "loopback": "127.0.0.2",
    "private": "10.0.0.1",
    "metadata": "169.254.169.254",
    "mapped": "[::ffff:127.0.0.1]",
    "localhost": "localhost",
}
TARGETS = {
    "once.wav": "/a.wav?again",
    "loop.wav": "/loop.wav",
    **{f"{hops}_hops.wav": f"/{hops - 1}_hops.wav" for hops in range(2, 7)},
    "1_hops.wav": "/a.wav",
    "to_file.wav": "file:///etc/passwd",
    "to_ftp.wav": "ftp://127.0.0.1/a.wav",
    "to_data.wav": "data:audio/wav;base64,AAAA",
    **{f"to_{what}.wav": f"http://{host}:9/a.wav" for what, host in INSIDE.items()},
}


@pytest.fixture(scope="module")
def server() -> Iterator[str]:
    Server.visits = []
    httpd = ThreadingHTTPServer(("127.0.0.1", 0), Server)
    threading.Thread(target=httpd.serve_forever, kwargs={"poll_interval": 0.01}).start()
    yield f"http://127.0.0.1:{httpd.server_port}"
    httpd.shutdown()
    httpd.server_close()


@pytest.fixture(autouse=True)
def no_proxy(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")


def fetch(url: str, **options: Any) -> Any:
    (item,) = expand_inputs(url)
    return load(item, **options)


def test_urls_are_fetched(server: str) -> None:
    for path in ("a.wav", "a.wav?token=secret#part", "once.wav", "5_hops.wav"):
        assert np.array_equal(fetch(f"{server}/{path}"), WAVEFORM)


def test_urls_can_be_forbidden(server: str) -> None:
    Server.visits.clear()
    with pytest.raises(UnsupportedAudioError, match="fetching URLs is off"):
        fetch(f"{server}/a.wav", allow_urls=False)
    assert not Server.visits


@pytest.mark.parametrize(
    ("path", "message"),
    [
        ("missing.wav", r"missing\.wav: HTTP status 404"),
        ("loop.wav", "redirects"),
        ("6_hops.wav", "redirects"),
        ("to_file.wav", "cannot be fetched"),
        ("to_ftp.wav", "unsupported protocol"),
        ("to_data.wav", "cannot be fetched"),
        *((f"to_{what}.wav", "not fetched from this host") for what in INSIDE),
        ("cut_off.wav", "cannot be fetched"),
    ],
)
def test_what_cannot_be_fetched(server: str, path: str, message: str) -> None:
    with pytest.raises(UnsupportedAudioError, match=message):
        fetch(f"{server}/{path}")


def test_errors_hide_what_may_be_secret(server: str) -> None:
    with pytest.raises(UnsupportedAudioError) as caught:
        fetch(server.replace("//", "//user:hunter2@") + "/missing.wav?token=hunter2")
    assert "missing.wav" in str(caught.value) and "hunter2" not in str(caught.value)


def test_downloads_are_limited(server: str) -> None:
    for path in ("claims_8_exabytes.wav", "endless.wav"):
        with pytest.raises(AudioTooLongError, match="bytes"):
            fetch(f"{server}/{path}", limits=AudioLimits(max_bytes=10 * len(WAV)))


def test_slow_downloads_end(server: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(urls, "DOWNLOAD_TIMEOUT_S", 0.3)
    with pytest.raises(UnsupportedAudioError, match="not fetched within"):
        fetch(f"{server}/drip.wav")


@given(st.text(max_size=30))
def test_any_string_is_an_input(text: str) -> None:
    """No string makes expand_inputs or load fail with anything but their own errors."""
    try:
        items = expand_inputs(text)
    except ConfigError:
        return
    (item,) = items
    with pytest.raises(UnsupportedAudioError):
        load(item, allow_urls=False)


@settings(max_examples=40)
@given(st.sampled_from(["http://", "https://"]), st.text(max_size=20))
def test_any_url_is_an_input(scheme: str, rest: str) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("ALL_PROXY", "http://127.0.0.1:1")  # nothing leaves this machine
        (item,) = expand_inputs(scheme + rest)
        with pytest.raises(UnsupportedAudioError):
            load(item)
