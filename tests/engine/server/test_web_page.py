"""The routes of the web page: what it loads, what it is told, and what it may ask for."""

import ast
import gc
import itertools
import json
import re
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import requests
import soundfile
from websockets.sync.client import connect

from tests.audio_clips import encode
from tests.engine.server.conftest import Running, running
from tests.engine.server.fakes import fake_running, pcm
from tests.fake_model import fake_transcriber, samples
from tests.paths import CHECKPOINTS, ROOT
from twostage_asr.engine.errors import ConfigError
from twostage_asr.engine.server import page_content, web_page
from twostage_asr.engine.server.failures import Refusal
from twostage_asr.engine.server.page_content import FILES, ModelNote, PageContent, find_samples
from twostage_asr.engine.server.web_page import PEAKS_PER_S, peaks_of
from twostage_asr.engine.transcript import Segment, SpeakerTurn, Transcript, Word
from twostage_asr.engine.vad.splitting import Cut, Piece
from twostage_asr.engine.writers import WRITERS

WORDS = (Word("Hi", 0.0, 0.4, 0.9, speaker="SPK0"), Word("Ana", 0.5, 1.0, 0.4, speaker="SPK0"))
SEGMENT = Segment(0.0, 1.0, "Hi, Ana.", WORDS, 0.65, speaker="SPK0")
TRANSCRIPT = Transcript(
    "a", "Hi, Ana.", "en", WORDS, (SEGMENT,), 1.0, 0.65, turns=(SpeakerTurn(0.0, 1.0, "SPK0"),), finish_reason="stop"
)


def export(server: Running, content: str, form: str = "srt") -> requests.Response:
    return requests.post(f"{server.http}/page/exports/{form}", files={"transcript": ("t.json", content)}, timeout=60)


def lines(server: Running, content: bytes, **fields: Any) -> list[dict[str, Any]]:
    answer = requests.post(
        f"{server.http}/page/transcripts", files={"file": ("a.wav", content)}, data=fields, timeout=60
    )
    return [json.loads(line) for line in answer.text.splitlines()]


def test_every_file_of_the_page_is_small_and_loads_nothing_from_elsewhere(faked: Running) -> None:
    """Every file that the scripts and the page name is served, with the type that browsers require."""
    named: set[str] = set()
    for path, content in FILES.items():
        text = content.decode().replace("http://www.w3.org/2000/svg", "")
        named |= {f"/page/{name}" for name in re.findall(r'"(?:\./|page/)([\w-]+\.\w+)"', text)}
        assert text.count("\n") <= 400 and "://" not in text, path
        answer = requests.get(faked.http + path, timeout=60)
        kind = {".js": "text/javascript", ".css": "text/css", ".html": "text/html", ".svg": "image/svg+xml"}
        assert answer.content == content and answer.headers["content-type"].startswith(kind[Path(path).suffix])
    assert len(named) > 8 and named <= FILES.keys()
    policy = requests.get(f"{faked.http}/", timeout=60).headers["content-security-policy"]
    assert "script-src 'self'" in policy and "unsafe" not in policy


def test_the_page_is_open_and_what_it_asks_for_needs_a_key(tmp_path: Path) -> None:
    model: Any = SimpleNamespace(transcriber=fake_transcriber(tmp_path))
    with running(model, api_keys=("secret",)) as server:
        assert all(requests.get(server.http + path, timeout=60).ok for path in ("/", *FILES))
        assert requests.get(f"{server.http}/page/about", timeout=60).status_code == 401
        assert export(server, TRANSCRIPT.to_json()).status_code == 401
        key = {"Authorization": "Bearer secret"}
        assert requests.get(f"{server.http}/page/about", headers=key, timeout=60).json()["takes_files"]


def test_the_samples_are_those_of_the_directory_and_nothing_else(tmp_path: Path) -> None:
    (tmp_path / "a b.wav").write_bytes(b"audio")
    (tmp_path / "notes.txt").write_bytes(b"private")
    (tmp_path / "folder.wav").mkdir()
    note = ModelNote.of(str(CHECKPOINTS["low_frame_rate"]))
    model: Any = SimpleNamespace(transcriber=fake_transcriber(tmp_path))
    with running(model, page=PageContent(note, find_samples(tmp_path))) as server:
        about = requests.get(f"{server.http}/page/about", timeout=60).json()
        assert about["samples"] == ["a b.wav"] and "CC BY-SA 4.0" in about["note"]["note"]
        assert about["languages"] == [{"code": "en", "name": "English"}, {"code": "zh", "name": "Chinese"}]
        assert requests.get(f"{server.http}/page/samples/a%20b.wav", timeout=60).content == b"audio"
        for name in ("notes.txt", "..%2Fnotes.txt", "%2Fetc%2Fpasswd"):
            assert requests.get(f"{server.http}/page/samples/{name}", timeout=60).status_code == 404


@pytest.mark.parametrize("content", ["[]", '{"nmae": "x"}', '{"sentences": [1]}'])
def test_a_note_that_cannot_be_used_is_named(tmp_path: Path, content: str) -> None:
    (tmp_path / "about.json").write_text(content)
    with pytest.raises(ConfigError, match=r"about\.json"):
        ModelNote.of(str(tmp_path))


@pytest.mark.parametrize("name", ["nowhere", "empty"])
def test_a_directory_without_samples_is_named(tmp_path: Path, name: str) -> None:
    (tmp_path / "empty").mkdir()
    with pytest.raises(ConfigError, match=name):
        find_samples(tmp_path / name)


def test_a_directory_with_too_many_samples_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(page_content, "MAX_SAMPLES", 1)
    for name in ("a.wav", "b.wav"):
        (tmp_path / name).touch()
    with pytest.raises(ConfigError, match="has 2 files"):
        find_samples(tmp_path)


def test_the_checkpoint_is_written_with_the_note_that_it_has() -> None:
    written = ast.parse((ROOT / "demos/micro/train/export.py").read_text(encoding="utf-8")).body[-1]
    assert isinstance(written, ast.Assign)
    note = ast.literal_eval(written.value)
    assert json.loads((CHECKPOINTS["low_frame_rate"] / "about.json").read_text()) == note


def test_segments_are_told_as_they_are_done(faked: Running) -> None:
    spoken, _ = soundfile.read(ROOT / "demos/micro/clips/en_call.flac", dtype="float32")
    told = lines(faked, encode(np.stack([spoken, spoken / 2]), 16_000, "WAV", "PCM_16"), channels="split")
    assert told[0]["event"] == "read" and told[0]["duration"] == pytest.approx(len(spoken) / 16_000)
    parts = told[1:-1]
    segments = [segment for part in parts for segment in part["segments"]]
    assert told[-1]["event"] == "done" and {segment["channel"] for segment in segments} == {0, 1}
    assert sorted(map(str, segments)) == sorted(map(str, told[-1]["transcript"]["segments"]))
    assert {part["event"] for part in parts} == {"segment"} and [part["progress"] for part in parts][-1] == 1.0


def test_who_speaks_can_be_asked_for(faked: Running) -> None:
    done = lines(faked, encode(samples(5, 4.0), 16_000, "WAV", "PCM_16"), spk="true")[-1]["transcript"]
    assert done["segments"][0]["speaker"] == "SPK0" and done["turns"]


def test_live_text_says_which_part_of_it_stays(tmp_path: Path) -> None:
    with fake_running(tmp_path) as server:
        server.recognizer.live = replace(server.recognizer.live, rollback_chars=3)
        heard: list[dict[str, Any]] = []
        with connect(server.ws) as socket:
            socket.send("START")
            while len(heard) < 3:
                socket.send(pcm(1.0))
                while not (message := json.loads(socket.recv(10))).get("partial"):
                    pass
                heard.append(message)
    for before, after in itertools.pairwise(heard):
        assert len(before["partial_confirmed"]) < len(before["partial"])
        assert all(each["partial"].startswith(before["partial_confirmed"]) for each in (before, after))
    assert heard[-1]["partial_confirmed"]


def test_peaks_are_the_loudest_samples_and_silence_where_no_segment_is() -> None:
    loud = np.full(16_000, -0.5, np.float32)
    peaks = np.frombuffer(peaks_of(Piece([Cut(1.0, loud), Cut(1.5, 2 * loud, 1)], 3.2, is_last=True)), np.uint8)
    assert len(peaks) == 3.2 * PEAKS_PER_S
    assert (
        set(peaks[:50]) == {0} and set(peaks[50:75]) == {127} and set(peaks[75:125]) == {255} and not peaks[125:].any()
    )


@pytest.mark.parametrize("form", WRITERS)
def test_an_export_is_what_the_command_line_writes(faked: Running, form: str) -> None:
    assert export(faked, TRANSCRIPT.to_json(), form).text == WRITERS[form](TRANSCRIPT)


def test_transcripts_of_too_many_bytes_or_values_are_refused(faked: Running, monkeypatch: pytest.MonkeyPatch) -> None:
    content = TRANSCRIPT.to_json()
    with monkeypatch.context() as patch:
        patch.setattr(faked.recognizer, "settings", replace(faked.recognizer.settings, max_json_bytes=len(content) - 1))
        assert export(faked, content).json()["error"]["code"] == "body_too_large"
    assert export(faked, content).ok
    monkeypatch.setattr(web_page, "MAX_TRANSCRIPT_VALUES", 5)
    assert export(faked, content).json()["error"]["code"] == "body_too_complex"


def test_the_text_of_an_export_is_that_of_its_segments(faked: Running) -> None:
    """The page corrects segments alone."""
    shown = TRANSCRIPT.to_dict() | {"text": "old", "words": None}
    assert json.loads(export(faked, json.dumps(shown), "json").text) == TRANSCRIPT.to_dict()


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"segments": 5}, "segments"),
        ({"segments": [{"start": 0}]}, "segments.0"),
        ({"segments": [{**SEGMENT, "words": [{**WORDS[0], "text": "\u0301"}]}]}, "visible"),
        ({"duration": "x"}, "duration"),
        ({"segments": [{**SEGMENT, "words": [{**WORDS[0], "text": ""}]}]}, "visible"),
        ({"turns": [{"start": -1.0, "end": 1.0, "speaker": "A"}]}, "times must have"),
        ({"turns": [{"start": 0.0, "end": 1e300, "speaker": "A"}]}, "times must have"),
    ],
)
def test_what_is_no_transcript_is_refused_with_the_field(faked: Running, changes: dict[str, Any], said: str) -> None:
    answer = export(faked, json.dumps(TRANSCRIPT.to_dict() | changes))
    assert answer.status_code == 400 and said in answer.json()["error"]["message"]


def test_the_collector_of_cycles_runs_again_after_an_export_that_is_refused() -> None:
    with pytest.raises(Refusal):
        web_page._written("srt", b"{}")
    assert gc.isenabled()
