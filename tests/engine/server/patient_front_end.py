"""A front end that stays longer after its engine's death, so that a busy machine's probe sees what /ready says then."""

from twostage_asr.engine.server import front_end, process

process.FAILED_GRACE_S = 5.0

if __name__ == "__main__":
    front_end.main()
