"""One call of the EVS or SDRS API; prints its status and what it answered, as JSON.

Only the standard library is used.  A gateway is named as URL,TOKEN_FILE: where its API
listens, and where its token lies.
"""

import argparse
import json
import ssl
import urllib.error
import urllib.request


def run():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("place", help="URL,TOKEN_FILE")
    parser.add_argument("method")
    parser.add_argument("path")
    parser.add_argument("body", nargs="?")
    args = parser.parse_args()
    url, token_file = args.place.split(",", 1)
    with open(token_file, encoding="ascii") as file:
        token = file.read().strip()
    # The certificate is the gateway's own; the scripts run where it is trusted.
    tls = ssl.create_default_context()
    tls.check_hostname = False
    tls.verify_mode = ssl.CERT_NONE
    data = None if args.body is None else args.body.encode()
    request = urllib.request.Request(url + args.path, data=data, method=args.method)
    request.add_header("X-Auth-Token", token)
    if data is not None:
        request.add_header("Content-Type", "application/json")
    try:
        with urllib.request.urlopen(request, context=tls, timeout=120) as answer:
            status, body = answer.status, answer.read()
    except urllib.error.HTTPError as error:
        status, body = error.code, error.read()
    print(json.dumps({"status": status, "body": json.loads(body or b"null")}))


run()
