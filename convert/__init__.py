"""A published checkpoint -> a directory that the engine reads (engine.json, safetensors, llm/), once for each model.

`ensure_converted` in export.py is the interface, and `twostage-asr convert` its command. Read export.py first, then
layout.py: what each model family tells the converter.

The engine calls the converter, and not the other way round. Of the engine, the converter imports only what says how
files are read and written (tests/engine/test_imports.py lists these modules), which imports nothing of the converter.
"""
