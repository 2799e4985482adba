"""One front end: a server as process.py describes it, whose engine is in the process that has started this one."""

import signal
import socket

from ..arena import Arena
from ..console import spare_loaded_objects
from ..vad import load_vad
from ..worker_process import connect, receive
from .app import create_app
from .front_ends import Setup
from .ledger import SharedLedger
from .process import Listener, server_of, set_up_log
from .recognizer import Recognizer
from .remote import ModelCard, RemoteService


def main() -> None:
    engine = connect()
    setup: Setup = receive(engine)
    set_up_log(setup.log_level)
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # until uvicorn takes it: the engine's process tells when to leave
    sockets = [socket.socket(fileno=each) for each in setup.sockets]
    ledger = SharedLedger(setup.ledger, setup.num_front_ends + 1, setup.number)
    vad = load_vad(setup.vad)
    try:
        card: ModelCard = receive(engine)
    except (EOFError, OSError):  # there is no model: its process has ended, and its error says why
        return
    service = RemoteService(engine, card, Arena(setup.arena), ledger)
    recognizer = Recognizer(service, setup.settings, vad=vad, chunk_ms=setup.chunk_ms, ledger=ledger)
    app = create_app(recognizer, offline=setup.offline, has_docs=setup.has_docs)
    beside = _wyoming(setup, recognizer)
    server = server_of(app, recognizer, setup.address, beside=beside, on_listening=service.say_ready)
    service.listen(lambda: server.handle_exit(signal.SIGTERM, None))
    spare_loaded_objects()  # or all clients would wait for 0.1 s whenever they are scanned
    try:
        server.run(sockets)
    finally:
        recognizer.close()


def _wyoming(setup: Setup, recognizer: Recognizer) -> list[Listener]:
    if setup.wyoming is None or setup.number:
        return []
    from .wyoming import WyomingAddress, WyomingServer  # an extra that need not be installed

    return [WyomingServer(recognizer, WyomingAddress.of(setup.wyoming))]


if __name__ == "__main__":
    main()
