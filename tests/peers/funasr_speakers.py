"""What FunASR 1.4.16's speaker models make of audio: the numbers that ours are compared with.

    python tests/peers/funasr_speakers.py CAMPPLUS.pt ERES2NETV2.pt AUDIO.npy OUT.npz

AUDIO.npy: (B, N) float32 at 16 kHz. OUT.npz: campplus and eres2netv2, (B, 192) float32. Runs in a process of its own
and imports nothing of twostage_asr.
"""

import sys

import numpy as np
import torch
from funasr.models.campplus.model import CAMPPlus
from funasr.models.campplus.utils import extract_feature
from funasr.models.eres2net.eres2netv2 import ERes2NetV2

campplus, eres2netv2, audio, out = sys.argv[1:]
features, _, _ = extract_feature(list(torch.from_numpy(np.load(audio))))
embeddings = {}
for name, model, path in (("campplus", CAMPPlus(), campplus), ("eres2netv2", ERes2NetV2(), eres2netv2)):
    model.load_state_dict(torch.load(path, weights_only=True), strict=True)
    with torch.inference_mode():
        embeddings[name] = model.eval()(features.clone()).numpy()
np.savez(out, **embeddings)
