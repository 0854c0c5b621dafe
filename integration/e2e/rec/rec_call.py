"""One call of the copy-session API; prints its status and what it answered, as JSON.

With --run, the job that it began, once it ended.
"""

import argparse
import json
import time

from rec_api import Box, Refused


def run():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--run", action="store_true")
    parser.add_argument("box", type=Box, help="URL,TOKEN_FILE")
    parser.add_argument("method")
    parser.add_argument("path")
    parser.add_argument("body", nargs="?", type=json.loads)
    args = parser.parse_args()
    try:
        answer = args.box.call(args.method, args.path, args.body)
    except Refused as refused:
        print(json.dumps({"status": refused.status, "body": refused.error}))
        return
    while args.run and "job_id" in answer and answer.get("status", "Running") == "Running":
        answer = args.box.get("/job/%d" % answer["job_id"])
        time.sleep(0.05)
    print(json.dumps({"status": 200, "body": answer}))


run()
