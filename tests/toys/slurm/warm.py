"""`umemma` and `torchrun` that start at once: forks of one process that has imported torch already.

    python warm.py serve SOCKET      the process that forks
    python warm.py umemma WORDS...   one of many that have the socket in $WARM

Each command is a process of its own, with its own arguments, variables, folder and files, and ends
with its own status. Importing torch for each would take most of the time of the tests.
"""

from __future__ import annotations

import array
import importlib
import json
import os
import signal
import socket
import sys
import traceback

IMPORTED = ("torch.distributed.run", "umemma.stages.compare.table", "umemma.stages.evaluate")
IMPORTED += ("umemma.stages.finetune", "umemma.stages.preprocess", "umemma.stages.pretrain")


def serve(address: str) -> None:
    """Fork for each command that asks for it. Ends with the process that started it."""
    for name in IMPORTED:
        importlib.import_module(name)
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # nobody waits for the forks
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(address)
        server.listen()
        print("ready", flush=True)
        while True:
            connection, _ = server.accept()
            if os.fork() == 0:
                server.close()
                run(connection)
            connection.close()


def run(connection: socket.socket) -> None:
    """Become the process that a client stands for, and tell it the status."""
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    data, files, _, _ = socket.recv_fds(connection, 1 << 20, 3)
    asked = json.loads(data)
    for number, file in enumerate(files):
        os.dup2(file, number)
        os.close(file)
    sys.stdin = os.fdopen(0, closefd=False)
    sys.stdout = os.fdopen(1, "w", closefd=False)
    sys.stderr = os.fdopen(2, "w", buffering=1, closefd=False)
    os.chdir(asked["folder"])
    os.environ.clear()
    os.environ.update(asked["environment"])
    connection.send(str(os.getpid()).encode())
    # A command that starts another with its own interpreter starts a client again.
    sys.executable = os.path.join(os.path.dirname(os.path.abspath(__file__)), "umemma")
    name, *words = asked["words"]
    sys.argv = [name, *words]
    status = 1
    try:
        call(name, words)
        status = 0
    except SystemExit as end:
        status = end.code if isinstance(end.code, int) else int(end.code is not None)
    finally:
        if sys.exc_info()[1] is not None:
            traceback.print_exc()
        sys.stdout.flush()
        sys.stderr.flush()
        connection.send(str(status).encode())
        os._exit(status)


def call(name: str, words: list[str]) -> None:
    if name == "torchrun":
        from torch.distributed import run as launcher

        launcher.main(words)
        return
    import umemma.cli

    if words[:2] == ["-m", "umemma"]:
        words = words[2:]
    umemma.cli.main(words)


def ask(words: list[str]) -> int:
    """Let the server run a command, hand signals on to it, and return its status."""
    asked = {"words": words, "folder": os.getcwd(), "environment": dict(os.environ)}
    with socket.socket(socket.AF_UNIX) as connection:
        connection.connect(os.environ["WARM"])
        files = array.array("i", [0, 1, 2])
        connection.sendmsg(
            [json.dumps(asked).encode()],
            [(socket.SOL_SOCKET, socket.SCM_RIGHTS, files)],
        )
        pid = int(connection.recv(64))
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, lambda number, frame: os.kill(pid, number))
        status = int(connection.recv(64) or 137)
        connection.recv(64)  # nothing, once the process has ended and its sockets are closed
        return status


if __name__ == "__main__":
    if sys.argv[1] == "serve":
        serve(sys.argv[2])
    sys.exit(ask(sys.argv[1:]))
