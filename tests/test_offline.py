"""The guard that other tests rely on sees what it must see."""

import pytest

CONNECT = "import socket; socket.create_connection(('192.0.2.1', 80), timeout=1)"
LOOK_UP = "import urllib.request; urllib.request.urlopen('http://example.invalid')"
WORKER = f"import subprocess, sys; sys.exit(subprocess.call([sys.executable, '-c', {CONNECT!r}]))"


@pytest.mark.parametrize("code", [CONNECT, LOOK_UP, WORKER])
def test_connection_attempts_fail_and_are_counted(offline, code):
    assert offline.run("-c", code).returncode != 0
    assert offline.attempts()


def test_sockets_between_processes_of_this_machine_are_not_counted(offline):
    code = "import multiprocessing as m; m.Manager().list([1])"
    assert offline.run("-c", f"if __name__ == '__main__': {code}").returncode == 0
    assert offline.attempts() == []
