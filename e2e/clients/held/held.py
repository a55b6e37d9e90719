"""Connects to IMDS, and asks when it is told to: on a second connection if the first is gone."""

import socket
import sys

IMDS = ("169.254.169.254", 80)
REQUEST = b"GET /latest/meta-data/instance-id HTTP/1.0\r\nHost: 169.254.169.254\r\n\r\n"


def ask(connection):
    connection.settimeout(5)
    connection.sendall(REQUEST)
    return connection.makefile("rb").readline()


first = socket.create_connection(IMDS, 5)
print("connected", flush=True)
sys.stdin.readline()
try:
    status = ask(first)
except OSError:
    status = b""
if not status:
    status = ask(socket.create_connection(IMDS, 5))
print(status.split()[1].decode(), flush=True)
sys.stdin.readline()  # it lives until its caller was named
