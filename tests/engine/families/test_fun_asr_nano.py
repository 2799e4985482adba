"""Fun-ASR-Nano's one prompt, letter by letter: that of FunASR's own inference in PyTorch."""

import pytest

from twostage_asr.engine.families import FAMILIES
from twostage_asr.engine.families.base import Request

SYSTEM = "<|im_start|>system\nYou are a helpful assistant.<|im_end|>\n<|im_start|>user\n"
HOTWORDS = (
    "请结合上下文信息，更加准确地完成语音转写任务。如果没有相关信息，我们会留空。\n\n\n"
    "**上下文信息：**\n\n\n热词列表：[张三, John Smyth]\n"
)


@pytest.mark.parametrize(
    ("request_", "said"),
    [
        (Request(), "语音转写："),
        (Request(language="zh"), "语音转写成中文："),
        (Request(language="en", itn=False), "语音转写成英文，不进行文本规整："),
        (Request(itn=False), "语音转写，不进行文本规整："),
        (Request(hotwords=("张三", "John Smyth")), f"{HOTWORDS}语音转写："),
        (Request(language="ja", hotwords=("张三", "John Smyth")), f"{HOTWORDS}语音转写成日文："),
    ],
)
def test_the_prompt_is_funasrs(request_: Request, said: str) -> None:
    prompt = FAMILIES["fun_asr_nano"].prompt_text(request_)
    assert (prompt.prefix, prompt.suffix) == (SYSTEM + said, "<|im_end|>\n<|im_start|>assistant\n")
    assert not prompt.begins_text
