"""Speaks plain HTTP here and TLS to a gateway, whose certificate is its own.

For plugins that trust only authorities that the system knows.  Prints the port that it listens
on, and runs until it is ended.
"""

import argparse
import http.client
import http.server
import ssl


def run():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("port", type=int, help="of the gateway's API")
    parser.add_argument("listen", type=int)
    args = parser.parse_args()
    tls = ssl.create_default_context()
    tls.check_hostname = False
    tls.verify_mode = ssl.CERT_NONE

    class Relay(http.server.BaseHTTPRequestHandler):
        def answer(self):
            body = self.rfile.read(int(self.headers.get("content-length", 0)))
            there = http.client.HTTPSConnection("127.0.0.1", args.port, context=tls, timeout=60)
            headers = {
                name: value
                for name, value in self.headers.items()
                if name.lower() in ("authorization", "content-type")
            }
            try:
                there.request(self.command, self.path, body=body or None, headers=headers)
                told = there.getresponse()
                text = told.read()
            except OSError:
                # As if nobody were there.
                self.close_connection = True
                return
            self.send_response(told.status)
            self.send_header("content-type", "application/json")
            self.send_header("content-length", str(len(text)))
            self.end_headers()
            self.wfile.write(text)

        do_GET = do_POST = do_PATCH = do_DELETE = answer

        def log_message(self, *_args):
            pass

    http.server.ThreadingHTTPServer(("127.0.0.1", args.listen), Relay).serve_forever()


run()
