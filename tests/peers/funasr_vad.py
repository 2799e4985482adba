"""What FunASR 1.4.16's fsmn-vad scores for an audio file: the numbers that ours are compared with.

    python tests/peers/funasr_vad.py CHECKPOINT_DIR AUDIO OUT.npz

OUT.npz: scores (T, classes) float32. Runs in a process of its own and imports nothing of twostage_asr.
"""

import sys

import numpy as np
from funasr import AutoModel

checkpoint, audio, out = sys.argv[1:]
auto = AutoModel(model=checkpoint, device="cpu", disable_update=True, log_level="ERROR")
scores = []
auto.model.encoder.register_forward_hook(lambda _, args, output: scores.append(output[0].detach().numpy().copy()))
auto.generate(input=audio, disable_pbar=True)
np.savez(out, scores=np.concatenate(scores))
