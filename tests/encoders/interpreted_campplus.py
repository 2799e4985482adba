"""Compares CAM++'s kernels with tensor operations; test_speaker_networks.py runs this in Triton's interpreter."""

import sys

import torch
import torch.nn.functional as F

from twostage_asr.encoders import campplus, campplus_inference, campplus_triton
from twostage_asr.encoders.campplus_inference import FoldedCAMPPlus

# Fewer layers and programs, since the interpreter is slow.
campplus._BLOCKS, campplus_triton._PLACES = ((1, 1), (2, 2), (1, 2)), 2048
network = campplus.CAMPPlus().eval().requires_grad_(False)
network.load_state_dict(torch.load(sys.argv[1], weights_only=True))
folded = FoldedCAMPPlus(network, torch.float32)
fbank = 3 * torch.randn(2, 37, 80, generator=torch.Generator().manual_seed(0))
fbank[1, 5, 7] = torch.nan
expected = F.normalize(folded(fbank))
assert expected.isnan().any(1).tolist() == [False, True]
campplus_inference._has_kernels = lambda x, dtype: True
torch.testing.assert_close(F.normalize(folded(fbank)), expected, atol=1e-5, rtol=0, equal_nan=True)
