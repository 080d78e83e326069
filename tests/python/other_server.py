"""Stands where another server was, over TLS: takes every transaction, and says what it is.

Arguments: port, certificate, key, and the name that it gives itself. Each request that it serves is a line of JSON on its
standard output; the first line says that it listens.
"""

import http.server
import json
import ssl
import sys

port, certificate, key, name = sys.argv[1:]


class Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_GET(self):
        if self.path.endswith("/federation/v1/version"):
            self.note({"asked": "version"})
            self.answer(200, {"server": {"name": name, "version": "1"}})
        else:
            self.answer(404, {"errcode": "M_UNRECOGNIZED", "error": "This is not here."})

    def do_PUT(self):
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        self.note({"pdus": body.get("pdus", []), "edus": body.get("edus", [])})
        self.answer(200, {"pdus": {}})

    def note(self, what):
        print(json.dumps(what), flush=True)

    def answer(self, status, body):
        body = json.dumps(body).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_):
        pass


server = http.server.ThreadingHTTPServer(("127.0.0.1", int(port)), Handler)
context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
context.load_cert_chain(certificate, key)
server.socket = context.wrap_socket(server.socket, server_side=True)
print(json.dumps({"listens": port}), flush=True)
server.serve_forever()
