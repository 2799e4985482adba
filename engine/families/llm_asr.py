"""LLMASR: Whisper's encoder, an adaptor, and a Qwen or Vicuna LLM, trained with FunASR's recipes."""

from ...encoders.llm_asr import LLMASRTower, LLMASRTowerConfig
from ..prompt import PromptText
from .base import Answer, Request
from .towers import TowerFamily

INSTRUCTION = "Transcribe speech to text."


class LLMASR(TowerFamily):
    """The family of checkpoints whose config.yaml names the class LLMASR."""

    name = "llm_asr"
    languages: tuple[str, ...] = ()
    best_length_s = 30.0  # longer audio is encoded in windows of 30 s; FunASR truncates it to 30 s
    tower, config, part = LLMASRTower, LLMASRTowerConfig, "encoder of LLMASR"

    def prompt_text(self, request: Request) -> PromptText:
        """The prompt that FunASR's `inference` builds; the audio comes last."""
        request.refuse("LLMASR", "language", "hotwords", "itn", "context")
        prefix = f"USER: \nINSTRUCTION: {INSTRUCTION}\nINPUT: "
        return PromptText(prefix=prefix, suffix="", begins_text=True)

    def parse_answer(self, answer: str, request: Request) -> Answer:
        """The whole answer is text. FunASR keeps only the part after the last ": ", and loses text that has one."""
        return Answer(answer.strip(), None)
