"""What FunASR 1.4.16 makes of some clips, written to files: the numbers that ours are compared with.

    python tests/peers/funasr_reference.py CHECKPOINT_DIR CLIPS.jsonl OUT_DIR [--text-only] [--max-new-tokens 512]

Runs in a process of its own: funasr imports numba, after which vLLM cannot start. It imports nothing of twostage_asr.

CLIPS.jsonl, one object a line:
    key        names the clip in the output (default: its line number, from 0)
    source     path of an audio file; a relative one is looked up beside CLIPS.jsonl
    language   the prompt's name of the language, e.g. "中文"; null: not named (default null)
    hotwords   list of strings (default [])
    itn        numbers as digits (default true)
    Other keys are ignored.

OUT_DIR/results.jsonl, one object a line, in the order of the clips:
    key        as above
    prompt_ids     token ids of the prompt; the audio's places hold 0
    audio_start, audio_count   where the audio lies in prompt_ids
    token_ids      what the LLM wrote, greedy, float32, with the end token
    text           FunASR's text
    ctc_text, timestamps, ctc_timestamps   as FunASR gives them; absent if the checkpoint has no whole CTC head
    tensors        file name, beside results.jsonl; absent with --text-only

OUT_DIR/<tensors>, safetensors, float32:
    features       (T, 560) what goes into the encoder: stacked log-mel frames, dither 0
    encoder_out    (T, encoder_dim)
    adaptor_out    (T, llm_dim) all frames; the LLM reads the first audio_count
    ctc_log_probs  (T, vocab) if there is a CTC head

Habits of FunASR that this script deals with: the encoder scales its input in place, so features are copied on the way
in; the first `generate` builds its embeddings in bfloat16, the later ones in float32, so one clip is spent on a first
call; and every `generate` goes back to a private copy of the frontend, so the dither must be switched off when the
model is built. All numbers are observed in a later `generate`, not computed beside it.
"""

import argparse
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from funasr import AutoModel
from safetensors.torch import save_file
from torch import Tensor

Clip = dict[str, Any]


class Observer:
    """Keeps what passed through the model's parts in the last `generate`: tensors of the clip, and token ids."""

    def __init__(self, model: torch.nn.Module) -> None:
        self.tensors: dict[str, Tensor] = {}
        self.ids: dict[str, Any] = {}
        model.audio_encoder.register_forward_pre_hook(lambda _, args: self._keep("features", args[0]))
        model.audio_encoder.register_forward_hook(lambda _, args, out: self._keep("encoder_out", out[0]))
        model.audio_adaptor.register_forward_hook(lambda _, args, out: self._keep("adaptor_out", out[0]))
        self._wrap(model, "data_load_speech", self._keep_prompt)
        self._wrap(model.llm, "generate", lambda ids: self.ids.update(token_ids=ids[0].tolist()))
        if model.ctc_decoder is not None:
            self._wrap(model.ctc, "log_softmax", lambda out: self._keep("ctc_log_probs", out))

    def _keep(self, name: str, batch: Tensor) -> None:
        if len(batch) != 1:
            raise RuntimeError(f"{name}: expected one clip at a time, got {len(batch)}")
        self.tensors[name] = batch[0].detach().float().clone(memory_format=torch.contiguous_format)

    def _keep_prompt(self, loaded: dict[str, Tensor]) -> None:
        self.ids["prompt_ids"] = loaded["source_ids"][0].tolist()
        self.ids["audio_start"] = int(loaded["fbank_beg"][0, 0])
        self.ids["audio_count"] = int(loaded["fake_token_len"][0, 0])

    @staticmethod
    def _wrap(owner: Any, name: str, look: Callable[[Any], None]) -> None:
        original = getattr(owner, name)

        def observed(*args: Any, **kwargs: Any) -> Any:
            result = original(*args, **kwargs)
            look(result)
            return result

        setattr(owner, name, observed)


def read_clips(path: Path) -> list[Clip]:
    clips = []
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines()):
        clip = {"key": str(number), "language": None, "hotwords": [], "itn": True} | json.loads(line)
        clips.append(clip | {"source": str(path.parent / clip["source"])})
    if not clips:
        raise ValueError(f"{path} holds no clips")
    return clips


def generate(auto: Any, clip: Clip, max_new_tokens: int) -> dict[str, Any]:
    options = {"hotwords": clip["hotwords"], "itn": clip["itn"], "max_length": max_new_tokens, "disable_pbar": True}
    if clip["language"] is not None:
        options["language"] = clip["language"]
    (result,) = auto.generate(input=[clip["source"]], **options)
    return dict(result)


def main() -> None:
    parser = argparse.ArgumentParser(description="Write FunASR's numbers for some clips.")
    parser.add_argument("checkpoint", type=Path)
    parser.add_argument("clips", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("--text-only", action="store_true", help="write no tensors")
    parser.add_argument("--max-new-tokens", type=int, default=512)
    parser.add_argument("--threads", type=int, default=2)
    args = parser.parse_args()
    clips = read_clips(args.clips)
    args.out.mkdir(parents=True, exist_ok=True)
    torch.set_num_threads(args.threads)
    auto = AutoModel(
        model=str(args.checkpoint),
        device="cpu",
        ncpu=args.threads,
        disable_update=True,
        log_level="ERROR",
        frontend_conf={"dither": 0.0},
    )
    observer = Observer(auto.model)
    generate(auto, clips[0], max_new_tokens=1)
    with (args.out / "results.jsonl").open("w", encoding="utf-8") as results:
        for number, clip in enumerate(clips):
            result = generate(auto, clip, args.max_new_tokens)
            line = {"key": clip["key"], **observer.ids}
            line |= {
                name: result[name] for name in ("text", "ctc_text", "timestamps", "ctc_timestamps") if name in result
            }
            if not args.text_only:
                line["tensors"] = f"{number:05d}.safetensors"
                save_file(observer.tensors, args.out / line["tensors"])
            results.write(json.dumps(line, ensure_ascii=False) + "\n")


if __name__ == "__main__":
    main()
