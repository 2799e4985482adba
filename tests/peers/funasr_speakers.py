"""What FunASR 1.4.16's CAM++ and ERes2NetV2 make of clips: the numbers that ours are compared with.

    python tests/peers/funasr_speakers.py DIR

DIR/campplus.pt and DIR/eres2netv2.pt: dicts of tensors, loaded strictly. DIR/clips.npz: arrays (samples,) float32 at
16 kHz. Writes DIR/<network>.npz with, for each clip, `<name>`, the embedding, and `<name>_features`, (T, 80). Runs in a
process of its own and imports nothing of twostage_asr.
"""

import sys
from pathlib import Path

import numpy as np
import torch
from funasr.models.campplus.model import CAMPPlus
from funasr.models.campplus.utils import extract_feature
from funasr.models.eres2net.eres2netv2 import ERes2NetV2

directory = Path(sys.argv[1])
torch.set_num_threads(1)
for network, model in {"campplus": CAMPPlus().eval(), "eres2netv2": ERes2NetV2().eval()}.items():
    model.load_state_dict(torch.load(directory / f"{network}.pt", weights_only=True), strict=True)
    found = {}
    with torch.inference_mode():
        for name, clip in np.load(directory / "clips.npz").items():
            features, _, _ = extract_feature([torch.from_numpy(clip)])
            found[f"{name}_features"] = features[0].numpy().copy()
            found[name] = model(features)[0].numpy()
    np.savez(directory / f"{network}.npz", **found)
