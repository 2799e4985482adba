"""`twostage-asr bench`: how fast the engine is on a machine, and where its time goes.

In: a model, or random weights of the published sizes. Out: figures of each pass, as text, JSON and a picture. Read
command.py first.
"""
