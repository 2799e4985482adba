"""Absolute positions inside the architecture, and an adaptor that starts by using them.

Why: the LLM reads only the first ceil(T / 8) adaptor frames, so frame i must gather what is said in frames 8 i to
8 i + 7, and to find them it must know where it is. The encoder's own positional encoding is invisible beside raw
log-mel energies.

How: a few channels of the first encoder layer have the constant value VALUE, and an FSMN kernel that looks back over
506 frames. At the start of a clip the kernel sees only zeros, so its output is a running sum of its taps: they are
chosen so that this sum is cos and sin of pi * 2^-m * t. During training the same numbers come from a table, behind a
small kernel; the wide kernel is written at export.
"""

import math
from collections.abc import Callable

import torch
from torch import Tensor, nn

from twostage_asr.encoders.adaptor import TransformerAdaptor
from twostage_asr.encoders.sensevoice import SenseVoiceEncoder

WIDE_KERNEL = 513
WIDE_SHIFT = 250  # the wide kernel sees 506 frames back and 6 ahead
FRAMES_BACK = (WIDE_KERNEL - 1) // 2 + WIDE_SHIFT
NUM_OCTAVES = 9  # periods of 2, 4 ... 512 frames
# (octave, is sine); the sine of the first octave is zero in every frame.
CODES = [(octave, sine) for octave in range(NUM_OCTAVES) for sine in (False, True) if octave or not sine]
VALUE = 0.0625  # exact in bfloat16
_ROUTED_SPAN = 8  # frames per slot
_MATCH = 18.0  # attention logit of the frame that a head looks for, above the average frame


def code_table(num_frames: int) -> Tensor:
    """(num_frames, len(CODES)) float32."""
    time = torch.arange(num_frames, dtype=torch.float64)
    columns = [(math.pi * 2.0**-octave * time + (-math.pi / 2 if sine else 0.0)).cos() for octave, sine in CODES]
    return torch.stack(columns, 1).float()


def prepare_encoder(encoder: SenseVoiceEncoder) -> None:
    """Let the first layer write the codes into the first channels, and nothing else."""
    codes, width = slice(0, len(CODES)), encoder.config.output_dim
    with torch.no_grad():
        for layer in (*encoder.encoders0, *encoder.encoders, *encoder.tp_encoders):
            for weight in _written_by(layer, width):
                weight[codes] = 0.0
    attention = encoder.encoders0[0].self_attn
    _freeze_rows(attention.linear_q_k_v, slice(2 * width, 2 * width + len(CODES)))
    _freeze_rows(attention.linear_out, codes)
    table = torch.zeros(FRAMES_BACK + 1, width)
    table[:, codes] = code_table(FRAMES_BACK + 1)
    encoder.register_buffer("code_table", table, persistent=False)
    attention.register_forward_hook(_code_adder(encoder))


def _code_adder(encoder: SenseVoiceEncoder) -> Callable[[nn.Module, object, Tensor], Tensor]:
    def add(_module: nn.Module, _inputs: object, output: Tensor) -> Tensor:
        table: Tensor = encoder.get_buffer("code_table")
        return output + table[: output.shape[1]]

    return add


def _written_by(layer: nn.Module, width: int) -> list[Tensor]:
    """Views of the rows of a layer's weights that write to the residual stream."""
    attention, feed_forward = layer.get_submodule("self_attn"), layer.get_submodule("feed_forward")
    linears = (attention.get_submodule("linear_out"), feed_forward.get_submodule("w_2"))
    rows = [tensor for linear in linears for tensor in (linear.weight, linear.bias)]
    values = attention.get_submodule("linear_q_k_v")
    return [*rows, values.weight[2 * width :], values.bias[2 * width :]]


def _freeze_rows(linear: nn.Linear, rows: slice) -> None:
    """Keep rows that are zero at zero."""

    def without_rows(gradient: Tensor) -> Tensor:
        kept = gradient.clone()
        kept[rows] = 0.0
        return kept

    linear.weight.register_hook(without_rows)
    linear.bias.register_hook(without_rows)


def widen(weights: dict[str, Tensor], prefix: str, width: int) -> None:
    """Replace every FSMN kernel in `weights` by the wide one, the first layer's with the codes' taps, in place."""
    for name in [name for name in weights if name.startswith(prefix) and name.endswith("fsmn_block.weight")]:
        narrow = weights[name]
        wide = narrow.new_zeros(width, 1, WIDE_KERNEL)
        reach = narrow.shape[2] // 2
        wide[:, :, FRAMES_BACK - reach : FRAMES_BACK + reach + 1] = narrow
        weights[name] = wide
    first = f"{prefix}encoders0.0.self_attn."
    taps = weights[f"{first}fsmn_block.weight"]
    taps[: len(CODES), 0] = 0.0
    taps[: len(CODES), 0, : FRAMES_BACK + 1] = code_taps().flip(1)
    weights[f"{first}linear_q_k_v.bias"][2 * width : 2 * width + len(CODES)] = VALUE
    weights[f"{first}linear_out.weight"][:, : len(CODES)] = 0.0  # attention over constant values


def code_taps() -> Tensor:
    """(len(CODES), FRAMES_BACK + 1): taps by frames back, rounded to bfloat16, each rounding made good by the next."""
    wanted = code_table(FRAMES_BACK + 1).double() / VALUE - 1.0  # the memory adds the value itself
    taps = torch.zeros(len(CODES), FRAMES_BACK + 1, dtype=torch.float64)
    total = torch.zeros(len(CODES), dtype=torch.float64)
    for frame in range(FRAMES_BACK + 1):
        taps[:, frame] = (wanted[frame] - total).bfloat16().double()
        total += taps[:, frame]
    return taps.float()


@torch.no_grad()
def route_adaptor(adaptor: TransformerAdaptor, encoder_out: Tensor, lens: Tensor) -> None:
    """Start the adaptor as a strided gather: head h of frame i attends to frame 8 i + h.

    `encoder_out` (B, T, D) of some clips tells how large the codes are after the encoder's norms.
    """
    count = len(CODES)
    first, second = adaptor.linear1, adaptor.linear2
    first.weight[: 2 * count] = 0.0
    first.bias[: 2 * count] = 0.0
    second.weight[:count] = 0.0
    second.bias[:count] = 0.0
    for index in range(count):  # x = relu(x) - relu(-x)
        first.weight[index, index], first.weight[count + index, index] = 1.0, -1.0
        second.weight[index, index], second.weight[index, count + index] = 1.0, -1.0
    block = adaptor.blocks[0]
    normed = block.norm1(second(torch.relu(first(encoder_out))))
    valid = torch.arange(normed.shape[1])[None] < lens.cpu()[:, None]
    size = float(normed[valid.to(normed.device)][:, :count].square().mean().mul(2).sqrt())
    _route_heads(block.self_attn, size)


def _route_heads(attention: nn.Module, size: float) -> None:
    """`size`: amplitude of the codes in the block's input."""
    heads = attention.get_parameter("linear_q.weight").shape[0] // _ROUTED_SPAN
    octaves = list(range(NUM_OCTAVES))
    while 2 * len(octaves) - 1 > heads:  # few dimensions: the last octave tells distant frames apart
        octaves.remove(max(octaves[:-1]))
    place = {code: index for index, code in enumerate(CODES)}
    query, key = attention.get_submodule("linear_q"), attention.get_submodule("linear_k")
    for tensor in (query.weight, query.bias, key.weight, key.bias):
        tensor.zero_()
    strength = math.sqrt(_MATCH / len(octaves) * math.sqrt(heads)) / size
    for head in range(_ROUTED_SPAN):
        row = head * heads
        for octave in octaves:
            weight = strength * (math.sqrt(2.5) if octave == octaves[-1] else 1.0)
            shift = math.pi * 2.0**-octave * head
            for sine in (False, True) if octave else (False,):
                key.weight[row, place[octave, sine]] = weight
                # cos(a + shift) or sin(a + shift), where a is the code of 8 i: that of i three octaves below
                angle = shift - (math.pi / 2 if sine else 0.0)
                if octave < 3:
                    query.bias[row] = weight * size * math.cos(angle)
                else:
                    query.weight[row, place[octave - 3, False]] = weight * math.cos(angle)
                    if octave > 3:
                        query.weight[row, place[octave - 3, True]] = -weight * math.sin(angle)
                row += 1
