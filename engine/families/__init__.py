"""What is particular to a family of models: what is said to its LLM, how its answers read, how stage 1 is built.

In: the name in engine.json. Out: a ModelFamily. Read base.py first; a new family is one file here, beside its modules
in encoders/ and its table of tensors in convert/.
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
    """Raises CheckpointError for a family that this version does not know."""
    if name == "qwen3_forced_aligner":
        raise CheckpointError("a forced aligner writes no text: give it as forced_aligner=, beside a model that does")
    if name not in FAMILIES:
        raise CheckpointError(f"the converted model is of family {name!r}; this version knows {', '.join(FAMILIES)}")
    return FAMILIES[name]
