"""Who speaks when: speaker embeddings of short windows, grouped into speakers.

In: the samples of a recording's stretches of speech, and its transcript. Out: turns, and words and segments with a
speaker. loading.py finds a model, model.py embeds windows with it, clustering.py groups them, diarize.py makes turns of
them, labelling.py gives words and segments their speakers, and stage.py does all of it for an offline run. ahead.py
groups the windows of a long recording before it has ended. queue.py embeds for all callers of a service. enrolment.py
knows people by name. tracker.py follows live audio.
"""
