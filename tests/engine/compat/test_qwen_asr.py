"""qwen-asr's interface: its inputs, its results, its rules for long audio and for what does not match."""

import base64
import io
import json
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import soundfile as sf

from tests import tiny_models
from tests.peers.qwen_asr_golden_waves import waves
from tests.tones import SAMPLE_RATE, clip
from twostage_asr.engine import ASRError, AutoModelVLLM, ConfigError, Qwen3ASRModel, Qwen3ForcedAligner
from twostage_asr.engine.compat.qwen_asr import cut_at_quiet, merge_languages

GOLDEN = json.loads((Path(__file__).parents[1] / "families" / "qwen_asr_golden.json").read_text(encoding="utf-8"))


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Qwen3ASRModel]:
    base = tmp_path_factory.mktemp("qwen_asr")
    tiny_models.qwen3_asr(base / "asr")
    tiny_models.qwen3_forced_aligner(base / "aligner")
    aligner = Qwen3ForcedAligner.from_pretrained(base / "aligner", device="cpu", dtype="fp32")
    engine = AutoModelVLLM(base / "asr", backend="torch", dtype="fp32", encoder_dtype="fp32")
    with Qwen3ASRModel(engine, aligner, max_new_tokens=8) as loaded:
        yield loaded


@pytest.mark.parametrize(("name", "wave", "limit_s"), waves())
def test_long_audio_is_cut_where_the_package_cuts_it(name: str, wave: np.ndarray, limit_s: float) -> None:
    pieces = cut_at_quiet(wave, limit_s, sample_rate=1000)
    starts = np.cumsum([0, *map(len, pieces)])[:-1].tolist()
    assert [[start, len(piece)] for start, piece in zip(starts, pieces, strict=True)] == GOLDEN["chunks"][name]
    assert np.array_equal(np.concatenate(pieces), wave)


@pytest.mark.parametrize(("names", "expected"), GOLDEN["merge_languages"])
def test_languages_are_merged_as_the_package_does(names: list[str], expected: str) -> None:
    assert merge_languages(names) == expected


def test_every_kind_of_input_gives_the_same_result(model: Qwen3ASRModel, tmp_path: Path) -> None:
    samples = clip(1.0)
    sf.write(tmp_path / "a.wav", samples, SAMPLE_RATE, subtype="FLOAT")
    buffer = io.BytesIO()
    sf.write(buffer, samples, SAMPLE_RATE, format="WAV", subtype="FLOAT")
    encoded = base64.b64encode(buffer.getvalue()).decode()
    inputs = [str(tmp_path / "a.wav"), (samples, SAMPLE_RATE), f"data:audio/wav;base64,{encoded}"]
    results = model.transcribe(inputs, language="English")
    assert results == [results[0]] * 3
    assert (results[0].language, results[0].time_stamps) == ("English", None)


def test_base64_without_a_slash_is_audio(model: Qwen3ASRModel) -> None:
    buffer = io.BytesIO()
    sf.write(buffer, np.zeros(SAMPLE_RATE, np.float32), SAMPLE_RATE, format="WAV", subtype="PCM_16")
    encoded = base64.b64encode(buffer.getvalue()).decode()
    assert "/" not in encoded
    assert len(model.transcribe(encoded)) == 1


def test_each_input_has_its_own_language_and_context(model: Qwen3ASRModel) -> None:
    audio = (clip(1.0), SAMPLE_RATE)
    both = model.transcribe([audio, audio], language=["zh", "English"], context=["", "about cats"])
    alone = [
        model.transcribe(audio, language="Chinese")[0],
        model.transcribe(audio, language="en", context="about cats")[0],
    ]
    assert both == alone
    assert [result.language for result in both] == ["Chinese", "English"]
    assert both[0].text != both[1].text


def test_time_stamps_come_from_the_aligner(model: Qwen3ASRModel) -> None:
    audio = (clip(2.0), SAMPLE_RATE)
    (result,) = model.transcribe(audio, language="English", return_time_stamps=True)
    if result.time_stamps is None:
        pytest.fail("the tiny model wrote no word: choose another seed")
    assert all(item.text for item in result.time_stamps)
    times = [t for item in result.time_stamps for t in (item.start_time, item.end_time)]
    assert times == sorted(times)


def test_parts_of_long_audio_are_joined_with_their_offsets(
    model: Qwen3ASRModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("twostage_asr.engine.compat.qwen_asr.MAX_TIMED_CHUNK_S", 6.0)
    whole = np.concatenate([clip(6.0, 1), np.zeros(1600, np.float32), clip(2.0, 2)])
    (result,) = model.transcribe((whole, SAMPLE_RATE), language="English", return_time_stamps=True)
    first, second = cut_at_quiet(whole, 6.0)
    parts = model.transcribe([(first, SAMPLE_RATE), (second, SAMPLE_RATE)], language="English", return_time_stamps=True)
    assert result.text == "".join(part.text for part in parts)
    offset = len(first) / SAMPLE_RATE
    stamps = [part.time_stamps or [] for part in parts]
    expected = [i.start_time for i in stamps[0]] + [round(i.start_time + offset, 3) for i in stamps[1]]
    assert [item.start_time for item in result.time_stamps or []] == expected


def test_what_does_not_match_is_refused(model: Qwen3ASRModel) -> None:
    audio = (clip(1.0), SAMPLE_RATE)
    with pytest.raises(ConfigError, match="audio=3, context=2, language=3"):
        model.transcribe([audio] * 3, context=["a", "b"])
    with pytest.raises(ConfigError, match="'Klingon' is unknown"):
        model.transcribe(audio, language="Klingon")
    with pytest.raises(ASRError, match=r"nowhere\.wav"):
        model.transcribe([audio, "nowhere.wav"])
    assert model.transcribe([]) == []
    without = Qwen3ASRModel(model._model)
    with pytest.raises(ConfigError, match="return_time_stamps needs forced_aligner="):
        without.transcribe(audio, return_time_stamps=True)
