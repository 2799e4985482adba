"""Model families: how each builds stage 1, prompts its LLM and parses the answer.

In: the family's name in engine.json. Out: a ModelFamily. Read base.py first. A new family is one file here, its modules
in encoders/ and its table of tensor names in convert/.
"""

from ..errors import CheckpointError
from .base import ModelFamily
from .fun_asr_nano import FunASRMLTNano, FunASRNano
from .glm_asr import GLMASRNano
from .llm_asr import LLMASR
from .qwen3_asr import Qwen3ASR

FAMILIES: dict[str, ModelFamily] = {
    family.name: family for family in (FunASRNano(), FunASRMLTNano(), Qwen3ASR(), GLMASRNano(), LLMASR())
}


def family_named(name: str) -> ModelFamily:
    """The family of this name. Raises CheckpointError for an unknown family, and for a forced aligner."""
    if name == "qwen3_forced_aligner":
        raise CheckpointError("a forced aligner writes no text: give it as forced_aligner=, beside a model that does")
    if name not in FAMILIES:
        raise CheckpointError(f"the converted model is of family {name!r}; this version knows {', '.join(FAMILIES)}")
    return FAMILIES[name]
