"""FunASR's JSON WebSocket, with the messages that the clients of its runtime send."""

import asyncio
import json
import logging
from collections.abc import Iterator
from itertools import pairwise
from types import SimpleNamespace
from typing import Any

import pytest
import websockets

from tests.audio_clips import encode
from tests.engine.server.conftest import Running
from tests.engine.server.fakes import fake_running, full_until_the_end, pcm, words_of
from twostage_asr.engine import ConfigError, UnsupportedAudioError
from twostage_asr.engine.server.funasr_websocket import Settings, _sentences, _Whole
from twostage_asr.engine.streaming import samples_of
from twostage_asr.engine.transcript import Segment, Word

# As funasr_wss_client.py sends it: 60 ms a piece.
FIRST = {
    "mode": "2pass",
    "chunk_size": [5, 10, 5],
    "chunk_interval": 10,
    "encoder_chunk_look_back": 4,
    "decoder_chunk_look_back": 0,
    "audio_fs": 16000,
    "wav_name": "demo",
    "wav_format": "pcm",
    "is_speaking": True,
    "hotwords": '{"阿里巴巴": 20}',
    "itn": True,
}
STRIDE = 1920


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    with fake_running(tmp_path_factory.mktemp("model")) as server:
        yield server


async def talk(
    socket: Any, content: bytes, end: dict[str, Any] | None = None, *, pause_s: float = 0.0, **changes: Any
) -> list[dict[str, Any]]:
    """One recording: everything that the server says to it. After `pause_s` of it, an answer is waited for."""
    said: list[dict[str, Any]] = []
    await socket.send(json.dumps(FIRST | changes, ensure_ascii=False))
    for start in range(0, len(content), STRIDE):
        await socket.send(content[start : start + STRIDE])
        if pause_s and not said and start >= pause_s * 32_000:
            said.append(json.loads(await socket.recv()))
    await socket.send(json.dumps({"is_speaking": False} | (end or {})))
    said.append(json.loads(await socket.recv()))
    while not said[-1]["is_final"] and "is_end" not in said[-1]:
        said.append(json.loads(await socket.recv()))
    return said


def converse(server: Running, content: bytes, *arguments: Any, **changes: Any) -> Any:
    async def one() -> list[dict[str, Any]]:
        async with (
            asyncio.timeout(60),
            websockets.connect(server.ws, subprotocols=["binary"], ping_interval=None) as socket,  # type: ignore[list-item]
        ):
            assert socket.subprotocol == "binary"
            return await talk(socket, content, *arguments, **changes)

    return asyncio.run(one())


def shown_by_client(said: list[dict[str, Any]]) -> list[str]:
    """What funasr_wss_client.py shows after each message of mode "2pass"."""
    shown, online, offline = [], "", ""
    for message in said:
        if message["mode"] == "2pass-online":
            online += message["text"]
            shown.append(offline + online)
        else:
            online, offline = "", offline + message["text"]
            shown.append(offline)
    return shown


def test_2pass_shows_growing_text_and_then_each_segment_with_its_times(server: Running) -> None:
    said = converse(server, pcm(2.4, 4.0, 1.0, 4.0), pause_s=2.0)
    assert {message["wav_name"] for message in said} == {"demo"}
    assert [message["is_final"] for message in said] == [False] * (len(said) - 1) + [True]
    assert said[0]["mode"] == "2pass-online" and said[0]["text"].startswith("w0")
    passes = [message for message in said if message["mode"] == "2pass-offline" and message["text"]]
    assert len(passes) == 2
    shown = shown_by_client(said)
    assert all(later.startswith(earlier) for earlier, later in pairwise(shown))
    assert shown[-1] == "".join(message["text"] for message in passes)
    assert passes[1]["text"].startswith(" w0 ")
    times = json.loads(passes[1]["timestamp"])
    assert len(times) == len(passes[1]["text"].split()) and all(start < end for start, end in times)
    assert 6_000 < times[0][0] < 6_500
    (sentence,) = passes[1]["stamp_sents"]
    assert (sentence["text_seg"], sentence["ts_list"]) == (passes[1]["text"].strip(), times)


def test_segments_close_by_funasrs_table(server: Running) -> None:
    passes = {
        pause: [m for m in converse(server, pcm(1.0, pause, 1.0, 2.4)) if m["mode"] == "2pass-offline" and m["text"]]
        for pause in (1.4, 2.4)  # our own rules close a segment at both
    }
    assert {pause: len(texts) for pause, texts in passes.items()} == {1.4: 1, 2.4: 2}


def test_online_texts_one_after_the_other_are_the_text(server: Running) -> None:
    said = converse(server, pcm(2.4, 4.0, 1.0), pause_s=2.0, mode="online")
    assert {message["mode"] for message in said} == {"online"}
    text = "".join(message["text"] for message in said)
    assert len(said) > 1 and said[0]["text"] and text.startswith(words_of(38_400)) and text.count("w0") == 2


@pytest.mark.parametrize("rate", [8000, 16_000])
def test_offline_takes_pcm_of_any_rate(server: Running, rate: int) -> None:
    (answer,) = converse(server, pcm(2.0, rate=rate), mode="offline", audio_fs=rate)
    assert (answer["mode"], answer["text"], answer["is_final"]) == ("offline", words_of(32_000), True)
    assert len(json.loads(answer["timestamp"])) == len(answer["text"].split())


def test_live_pcm_of_8_khz_is_heard_at_its_rate(server: Running) -> None:
    said = converse(server, pcm(2.0, 3.0, rate=8000), audio_fs=8000)
    heard = json.loads(next(m for m in said if m["mode"] == "2pass-offline")["timestamp"])
    assert 1900 < heard[-1][1] < 3000


def test_the_end_of_a_recording_waits_while_the_service_is_full(
    server: Running, monkeypatch: pytest.MonkeyPatch
) -> None:
    with full_until_the_end(server, monkeypatch):
        said = converse(server, pcm(1.0, 3.0, rate=8000), audio_fs=8000)
    assert {answer.get("code") for answer in said[:-1]} == {"server_busy"}
    assert said[-1]["text"].startswith(words_of(16_000)) and said[-1]["is_final"]


def test_offline_takes_files_and_end_marks(server: Running) -> None:
    file = encode(samples_of(pcm(1.0)), 16_000, "WAV", "PCM_16")
    (answer,) = converse(server, file, {"is_end": True}, mode="offline", wav_format="others")
    assert (answer["text"], answer["is_final"], answer["is_end"]) == (words_of(16_000), True, True)
    (answer,) = converse(server, b"no audio", {"is_end": True}, mode="offline", wav_format="mp3")
    assert (answer["text"], answer["is_final"], answer["code"]) == ("", False, "unsupported_audio")
    (answer,) = converse(server, b"no audio", mode="offline", wav_format="mp3")
    assert answer["is_final"] and answer["error"]


def test_whole_recordings_count_among_what_sessions_keep_until_they_are_answered(server: Running) -> None:
    budget = server.recognizer.session_bytes

    async def one() -> None:
        async with asyncio.timeout(60), websockets.connect(server.ws) as socket:
            await socket.send(json.dumps(FIRST | {"mode": "offline"}))
            await socket.send(pcm(1.0))
            while budget.num_bytes != 32_000:  # nothing but what the session keeps
                await asyncio.sleep(0.01)
            await socket.send(json.dumps({"is_speaking": False}))
            assert json.loads(await socket.recv())["is_final"]
            assert not budget.num_bytes

    asyncio.run(one())


def test_whole_recordings_are_read_in_their_clients_turn(server: Running) -> None:
    clients = []

    async def read(*_: Any, client: str | None = None) -> None:
        clients.append(client)
        raise UnsupportedAudioError("read far enough")

    link: Any = SimpleNamespace(client="192.0.2.1", hold=lambda num_bytes: None)
    speech: Any = SimpleNamespace(settings=server.recognizer.settings, options=server.recognizer.options, read=read)

    async def one(settings: Settings) -> None:
        whole = _Whole(link, speech, settings)
        await whole.hear(bytes(32))
        with pytest.raises(UnsupportedAudioError):
            await whole.finish()

    for wav_format in ("pcm", "others"):
        asyncio.run(one(Settings(wav_format=wav_format)))
    assert clients == ["192.0.2.1"] * 2


def test_unknown_fields_are_named_safely_and_shortly(server: Running, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "twostage_asr.sessions")
    converse(server, b"", **{"a\nb": 1, "c" * 9_000: 1})
    (line,) = [record.getMessage() for record in caplog.records if "unknown here" in record.getMessage()]
    assert "a?b" in line and len(line) < 200


def test_recordings_follow_each_other_and_silence_is_answered(server: Running) -> None:
    async def three() -> list[str]:
        texts = []
        async with websockets.connect(server.ws) as socket:
            for index, seconds in enumerate([(1.0,), (), (0.0, 1.0)]):
                said = await talk(socket, pcm(0, *seconds[1:]) if len(seconds) != 1 else pcm(1.0), wav_name=index)
                assert said[-1]["wav_name"] == str(index)
                texts.append("".join(message["text"] for message in said if message["mode"] == "2pass-offline"))
            await socket.send(pcm(1.0))  # settings need not be repeated
            await socket.send('{"is_speaking": false, "mode": "2pass"}')
            texts.append(json.loads(await socket.recv())["text"])
        return texts

    first, nothing, silence, again = asyncio.run(three())
    assert first.startswith("w0") and again.startswith("w0") and nothing == silence == ""


@pytest.mark.parametrize(
    ("changes", "why"),
    [
        ({"mode": "3pass"}, "mode: Input should be 'offline', 'online' or '2pass'"),
        ({"audio_fs": 100}, "audio_fs is 100, allowed are 4000 to 384000 Hz"),
        ({"wav_format": "mp3"}, "takes pcm alone, got wav_format 'mp3'; use 'offline'"),
        ({"svs_lang": "Klingon"}, "language 'Klingon' is unknown"),
        ({"hotwords": "{not json"}, "not JSON"),
        ({"hotwords": ["a"] * 20_000}, "JSON of 20,"),
        ({"hotwords": "a" * 20_000}, "hotwords, context and language have 20,000 bytes"),
        ({"svs_lang": "a" * 20_000}, "hotwords, context and language have 20,000 bytes"),
        ({"wav_name": "a" * 5_000}, "wav_name: String should have at most 4096 characters"),
    ],
)
def test_settings_that_cannot_be_end_the_session_with_a_reason(
    server: Running, changes: dict[str, Any], why: str
) -> None:
    async def one() -> tuple[dict[str, Any], int]:
        async with websockets.connect(server.ws) as socket:
            await socket.send(json.dumps(FIRST | changes))
            said = json.loads(await socket.recv())
            await asyncio.wait_for(socket.wait_closed(), 60)
            return said, socket.close_code or 0

    said, code = asyncio.run(one())
    assert why in said["error"] and said["text"] == "" and code == 1008


def test_hotwords_come_in_all_the_forms_that_clients_send() -> None:
    given = ['{"阿里 巴巴": 20, "b": 1}', {"阿里 巴巴": 20, "b": 1}, ["阿里 巴巴", "b"], "阿里 巴巴,b", "阿里 巴巴\nb"]
    assert [Settings(hotwords=one).words(3) for one in given] == [["阿里 巴巴", "b"]] * 5
    assert Settings(hotwords="阿里巴巴 达摩院").words(3) == ["阿里巴巴", "达摩院"]
    assert Settings(hotwords="").words(3) == []


def test_hotwords_that_are_json_inside_of_json_have_the_same_limit() -> None:
    assert Settings(hotwords='{"a": 1, "b": 1}').words(2) == ["a", "b"]
    with pytest.raises(ConfigError, match="at most 2 and"):
        Settings(hotwords='{"a": 1, "b": 1, "c": 1}').words(2)


@pytest.mark.parametrize("field", ["wav_name", "hotwords", "svs_lang", "mode", "\ud800"])
def test_half_a_surrogate_pair_costs_its_own_session_at_most(
    server: Running, caplog: pytest.LogCaptureFixture, field: str
) -> None:
    async def one() -> int:
        async with asyncio.timeout(60), websockets.connect(server.ws) as socket:
            await socket.send(json.dumps(FIRST | {"mode": "offline", field: "\ud800"}))
            await socket.send(json.dumps({"is_speaking": False}))
            said = json.loads(await socket.recv())
            if "error" in said:
                await socket.wait_closed()
            return socket.close_code or 0

    assert asyncio.run(one()) in (0, 1000, 1008)
    assert "a session failed" not in caplog.text
    (answer,) = converse(server, pcm(1.0), mode="offline")
    assert answer["text"] == words_of(16_000)


def test_sentences_lie_between_marks() -> None:
    words = tuple(Word(char, i / 10, i / 10 + 0.1, 1.0) for i, char in enumerate("正是因为好"))
    first, last = _sentences(Segment(0.0, 0.5, "正是，因为好", words, 1.0))
    assert (first["text_seg"], first["punc"], first["start"], first["end"]) == ("正 是", "，", 0, 200)
    assert (last["text_seg"], last["punc"], last["ts_list"]) == ("因 为 好", "", [[200, 300], [300, 400], [400, 500]])
