"""What a converter knows of the LLM inside a checkpoint, before it reads a weight."""

import pytest

from tests.engine.decoder.tiny_llms import make_llm
from twostage_asr.convert.llm import HEAD, llm_shapes


@pytest.mark.parametrize("name", ["qwen3", "qwen2", "llama", "llama3"])
def test_the_tensors_of_an_llm_are_those_that_transformers_has(name: str) -> None:
    model = make_llm(name)
    expected = {key: tuple(tensor.shape) for key, tensor in model.state_dict().items()}
    assert llm_shapes(model.config.to_dict()) == expected
    assert HEAD in expected
