"""What users give -> waveforms: (N,) float32 samples at 16 kHz, or the pieces of a long recording.

In: paths, URLs, bytes, file objects, arrays, list files. Out: `(place, AudioInput, waveform | Piece | AudioError)` from
`AudioReaders.read`. Files are decoded by worker processes, ahead of need. Read inputs.py first (what may be given),
then readers.py (who decodes when) and decode.py (how).
"""
