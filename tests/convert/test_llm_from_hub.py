"""An LLMASR checkpoint whose LLM is on a hub: its weights are fetched only where model.pt has none."""

from pathlib import Path

import pytest

from tests.tiny_llm_asr import write_checkpoint, write_llm
from twostage_asr.convert import llm_asr
from twostage_asr.engine.hub.model_files import RepositoryFiles


@pytest.mark.parametrize("with_llm", [True, False])
def test_the_weights_of_an_llm_are_fetched_only_where_model_pt_has_none(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, with_llm: bool
) -> None:
    checkpoint, on_hub = tmp_path / "checkpoint", tmp_path / "hub"
    write_llm(checkpoint / "llm")
    write_checkpoint(checkpoint, "Linear", {"audio_encoder.conv1.weight": (64, 80, 3)}, with_llm=with_llm)
    (checkpoint / "llm").rename(on_hub)
    asked: list[tuple[str, str, bool]] = []

    def resolve_model(model: str, *, hub: str, files: RepositoryFiles) -> Path:
        asked.append((model, hub, bool(files.weights)))
        return on_hub

    monkeypatch.setattr(llm_asr, "resolve_model", resolve_model)
    sources = llm_asr.list_sources(checkpoint)
    assert asked == [("llm", "hf", not with_llm)]
    assert ("hub/model.safetensors" in sources) is not with_llm
