"""Serve live audio over WebSockets; the bundled micro checkpoint if no model is named.

    python demos/serve_realtime_ws.py --port 10095 --language 中文 --hotword-file hotword_list
    python demos/client_python.py --server ws://localhost:10095 --mic
http://localhost:10095/ is a page to try it with; demos/client_mic.html from the disk needs --cors-origin null.

The same as `twostage-asr serve-realtime`, whose --help lists all options.
"""

import sys

from serve_vllm import arguments

from twostage_asr.engine.cli import main

if __name__ == "__main__":
    sys.exit(main(arguments("serve-realtime", sys.argv[1:])))
