"""Run once per model: a published checkpoint -> a directory that the engine reads (engine.json, safetensors, llm/).

`ensure_converted` is the whole interface; `twostage-asr convert` is the same as a command.
"""
