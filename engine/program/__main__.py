"""The program `twostage-asr`, and python -m twostage_asr."""

import sys


def main() -> int:
    """Run the program; returns its exit code. Ctrl-C leaves no traceback while the commands are imported, either."""
    try:
        from twostage_asr.engine.cli import main as run

        return run()
    except KeyboardInterrupt:
        print("twostage-asr: interrupted", file=sys.stderr)  # noqa: T201 - this is the program
        return 130


if __name__ == "__main__":
    sys.exit(main())
