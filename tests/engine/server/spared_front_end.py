"""A front end that says at /spared how many objects its garbage collector leaves alone, and how many it looks at."""

import gc
from typing import Any

from fastapi import FastAPI

from twostage_asr.engine.server import front_end


def main() -> None:
    create_app = front_end.create_app

    def create_app_with_counts(*args: Any, **how: Any) -> FastAPI:
        app = create_app(*args, **how)
        app.add_api_route("/spared", lambda: [gc.get_freeze_count(), len(gc.get_objects())])
        return app

    front_end.create_app = create_app_with_counts  # type: ignore[attr-defined]
    front_end.main()


if __name__ == "__main__":
    main()
