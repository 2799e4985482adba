"""`twostage-asr bench`: how fast the engine is here, and where its time goes."""
