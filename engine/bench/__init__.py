"""`twostage-asr bench`: measure how fast the engine is on a machine, and where its time goes.

In: a model, or random weights of the published sizes. Out: the figures of each pass, as text, JSON and a plot. Read
command.py first.
"""
