"""User inputs -> waveforms: (N,) float32 samples at 16 kHz. A long recording comes as several Pieces.

In: paths, URLs, bytes, file objects, arrays, list files. Out: `(index, AudioInput, Piece | AudioError)` from
`AudioReaders.read`. Worker processes decode files ahead of the consumer. Read inputs.py first (which inputs are
allowed), then readers.py (where and when they are decoded) and decode.py (how).
"""
