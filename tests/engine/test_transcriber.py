"""The loop over both stages: they overlap, results come as they finish, and no order of work changes a text."""

import contextlib
import itertools
import random
import threading
from collections import Counter
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.fake_model import fake_transcriber, samples, text_of
from tests.pipeline import Clip
from twostage_asr.engine import AutoModelVLLM, ConfigError, transcribe_options
from twostage_asr.engine.acoustic.base import StageOneOptions
from twostage_asr.engine.audio import readers
from twostage_asr.engine.audio.inputs import AudioInput, expand_inputs, iterate_inputs
from twostage_asr.engine.audio.loading import load_blocks
from twostage_asr.engine.audio.waveform import Waveform
from twostage_asr.engine.families import family_named
from twostage_asr.engine.manifest import EngineManifest
from twostage_asr.engine.timeline import Timeline
from twostage_asr.engine.transcriber import Transcriber
from twostage_asr.engine.words import processes
from twostage_asr.engine.worker_process import receive


@pytest.fixture(scope="module")
def sources(clips: list[Clip]) -> list[str]:
    return [clip["source"] for clip in clips]


@pytest.fixture(scope="module")
def expected(vllm_model: AutoModelVLLM, sources: list[str]) -> dict[str, str]:
    """Each clip alone: encoded alone, decoded alone."""
    return {source: vllm_model.generate(source)[0].text for source in sources}


def in_small_batches(transcriber: Transcriber, **changes: int) -> Transcriber:
    return replace(transcriber, max_batch_frames=changes.get("max_batch_frames", 200))


@pytest.mark.parametrize("seed", [0, 1])
@pytest.mark.parametrize(("max_batch_frames", "max_pending"), [(4000, 256), (200, 3), (1, 1)])
def test_no_order_or_size_of_work_changes_a_text(
    vllm_model: AutoModelVLLM,
    expected: dict[str, str],
    monkeypatch: pytest.MonkeyPatch,
    max_batch_frames: int,
    max_pending: int,
    seed: int,
) -> None:
    transcriber = in_small_batches(vllm_model.transcriber, max_batch_frames=max_batch_frames)
    monkeypatch.setattr(transcriber.decoder, "_max_pending", max_pending)
    order = list(expected) * 2
    random.Random(seed).shuffle(order)
    results = dict(transcriber.run(expand_inputs(order), transcribe_options()))
    assert [results[i].text for i in range(len(order))] == [expected[source] for source in order]


def test_no_process_that_times_words_changes_a_transcript(
    vllm_model: AutoModelVLLM,
    engine_dirs: dict[str, Path],
    sources: list[str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    asked = []
    monkeypatch.setattr(processes, "MIN_SHARE", 1)
    monkeypatch.setattr(processes, "receive", lambda socket: asked.append(socket) or receive(socket))
    engine_dir = engine_dirs["low_frame_rate"]
    manifest = EngineManifest.read(engine_dir)
    fp32 = {"dtype": torch.float32, "embeds_dtype": torch.float32}
    options = StageOneOptions(device=torch.device("cpu"), **fp32, word_processes=2)
    _, aligner = family_named(manifest.family).build_acoustic_model(engine_dir, manifest, options)
    assert aligner is not None
    with contextlib.closing(aligner):
        aligner.start_processes()
        transcriber = replace(vllm_model.transcriber, aligner=aligner)
        inputs = [*sources * 2, str(tmp_path / "nowhere.wav")]
        found = dict(transcriber.run(expand_inputs(inputs), transcribe_options()))
    assert len(asked) >= 4  # both questions to both processes
    expected = vllm_model.generate(inputs)
    assert any(len(transcript.words or ()) > 5 for transcript in expected)
    for index, theirs in enumerate(expected):
        ours = found[index]
        assert (ours.text, ours.status, ours.warnings, ours.error) == (
            theirs.text, theirs.status, theirs.warnings, theirs.error,
        )  # fmt: skip
        for word, other in zip(ours.words or (), theirs.words or (), strict=True):
            assert word.text == other.text
            times = word.start, word.end, word.confidence
            assert times == pytest.approx((other.start, other.end, other.confidence), abs=0.002)


def test_stage_2_decodes_while_stage_1_encodes(vllm_model: AutoModelVLLM, sources: list[str]) -> None:
    timeline = Timeline()
    transcriber = in_small_batches(vllm_model.transcriber)
    list(transcriber.run(expand_inputs(sources * 4), transcribe_options(), timeline))
    encoded = [span for span in timeline.spans if span.stage == "encode" and span.num_clips]
    decoded = [span for span in timeline.spans if span.stage == "decode"]
    assert len(encoded) > 4
    assert min(span.end for span in decoded) < encoded[-1].start
    assert sum(span.num_clips for span in encoded) == len(decoded) == 4 * len(sources)
    assert {span.stage for span in timeline.spans} == {"read", "encode", "decode", "align"}
    assert all(span.start <= span.end for span in timeline.spans)


def test_stage_2_never_holds_more_than_a_batch_too_many(
    vllm_model: AutoModelVLLM, sources: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    decoder = vllm_model.transcriber.decoder
    monkeypatch.setattr(decoder, "_max_pending", 4)
    most = 0
    for _ in in_small_batches(vllm_model.transcriber).run(expand_inputs(sources * 4), transcribe_options(batch_size=2)):
        most = max(most, decoder.num_pending)
    assert 2 <= most <= 4 + 2


def test_generate_iter_is_generate(vllm_model: AutoModelVLLM, sources: list[str]) -> None:
    whole = vllm_model.generate([*sources, "nowhere.wav"])
    assert list(vllm_model.generate_iter([*sources, "nowhere.wav"])) == whole
    as_they_finish = list(vllm_model.generate_iter([*sources, "nowhere.wav"], ordered=False))
    assert Counter(r.text for r in as_they_finish) == Counter(r.text for r in whole)
    assert as_they_finish[0].status == "error"  # found out first


def test_results_come_before_the_last_input_is_taken(vllm_model: AutoModelVLLM, sources: list[str]) -> None:
    num_taken = 0

    def endless() -> Iterator[str]:
        nonlocal num_taken
        for source in itertools.cycle(sources):
            num_taken += 1
            yield source

    results = vllm_model.generate_iter(endless(), batch_size=8)
    keys = [next(results).key for _ in range(3)]
    assert keys == [Path(source).stem for source in sources[:3]]
    assert num_taken < 2400
    results.close()  # type: ignore[attr-defined]


def test_progress_of_a_generator_has_no_end(
    vllm_model: AutoModelVLLM, sources: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    vllm_model.generate(sources[:2], progress=True)
    assert "2/2" in capsys.readouterr().err
    vllm_model.generate(iter(sources[:2]), progress=True)
    assert "2clip" in capsys.readouterr().err


def test_an_error_of_the_callers_generator_is_the_callers(vllm_model: AutoModelVLLM, sources: list[str]) -> None:
    def broken() -> Iterator[str]:
        yield sources[0]
        raise KeyError("mine")

    with pytest.raises(KeyError, match="mine"):
        vllm_model.generate(broken())
    assert vllm_model.generate(sources[0])[0].status == "ok"


def test_results_come_while_the_next_input_is_being_read(
    vllm_model: AutoModelVLLM, sources: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The second one is read when the first one is there, or never."""
    is_wanted = threading.Event()

    def slow(item: AudioInput, **options: Any) -> Iterator[Waveform]:
        assert item.source != Path(sources[1]) or is_wanted.wait(60)
        return load_blocks(item, **options)

    monkeypatch.setattr(readers, "load_blocks", slow)
    results = vllm_model.transcriber.run(expand_inputs(sources[:2]), transcribe_options(batch_size=1))
    assert next(results)[0] == 0
    is_wanted.set()
    assert [index for index, _ in results] == [1]


def test_closing_drops_the_rest_and_leaves_the_model_usable(
    vllm_model: AutoModelVLLM, sources: list[str], expected: dict[str, str]
) -> None:
    results = vllm_model.generate_iter(sources * 10, batch_size=4)
    assert next(results).text == expected[sources[0]]
    results.close()  # type: ignore[attr-defined]
    assert vllm_model.transcriber.decoder.num_pending == 0
    assert [r.text for r in vllm_model.generate(sources[:3])] == [expected[s] for s in sources[:3]]


def test_ctrl_c_leaves_no_prompt_in_the_decoder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    transcriber = fake_transcriber(tmp_path)
    decoder = transcriber.decoder
    submit = decoder.submit

    def interrupted(*args: Any, **options: Any) -> int:
        submit(*args, **options)
        raise KeyboardInterrupt

    monkeypatch.setattr(decoder, "submit", interrupted)
    with pytest.raises(KeyboardInterrupt):
        list(transcriber.run(iterate_inputs(samples(1)), transcribe_options()))
    monkeypatch.setattr(decoder, "submit", submit)
    ((_, transcript),) = transcriber.run(iterate_inputs(samples(2)), transcribe_options())
    assert transcript.text == text_of(2)


def test_wrong_options_are_refused_at_once(vllm_model: AutoModelVLLM, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"unknown argument 'hotword' \(did you mean 'hotwords'\?\)"):
        vllm_model.generate_iter("a.wav", hotword=["x"])
    with pytest.raises(ConfigError, match="'Klingon' is unknown"):
        vllm_model.generate_iter("a.wav", language="Klingon")
    with pytest.raises(ConfigError, match="no such list file"):
        vllm_model.generate_iter(tmp_path / "none.scp")
