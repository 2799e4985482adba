"""The servers: OpenAI's, FunASR's and others' protocols in front of one TranscriptionService."""
