"""Loaded first by interpreters under test: the network is out of reach, attempts are logged."""

import os
import sys
from pathlib import Path

LOOK_UPS = {"socket.getaddrinfo", "socket.gethostbyname", "socket.gethostbyaddr"}
SENDS = {"socket.connect", "socket.sendto", "socket.sendmsg"}


def _refuse(event, args):
    if event not in LOOK_UPS | SENDS:
        return
    address = args[1] if event in SENDS else args[0]
    if event in SENDS and not isinstance(address, tuple):
        return  # a Unix socket between processes of one machine
    with Path(os.environ["MEDSSL_CONNECTIONS"]).open("a") as log:
        log.write(f"{event} {address}\n")
    raise OSError("the network is blocked by a test")


sys.addaudithook(_refuse)
