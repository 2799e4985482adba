"""Several devices of one machine: an engine on each, in a process of its own, with one list of inputs and of results.

In: inputs, as for a Transcriber. Out: transcripts as they finish. Read replicas.py first.
"""
