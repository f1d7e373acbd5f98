"""In dom0: does what the lab asks for, one request and its answer a connection, many at once.

A request is a line of JSON, {"do": NAME, "with": {...}}, NAME a function of `inside`; the answer is {"gave": VALUE} or
{"failed": TEXT}. Bytes go as text of latin-1. A Python that begins anew for each request would take seconds under emulation.
"""

import json
import os
import socketserver
import sys
import traceback

from . import inside


class _Request(socketserver.StreamRequestHandler):
    def handle(self) -> None:
        asked = json.loads(self.rfile.readline())
        try:
            answer = {"gave": getattr(inside, asked["do"])(**asked["with"])}
        except Exception:
            answer = {"failed": traceback.format_exc()}
        self.wfile.write(json.dumps(answer).encode())


class _Server(socketserver.ThreadingUnixStreamServer):
    daemon_threads = True
    request_queue_size = 64


def main() -> None:
    """For ever."""
    os.umask(0o077)
    with _Server(sys.argv[1], _Request) as server:
        os.umask(0o022)
        server.serve_forever()


if __name__ == "__main__":
    main()
