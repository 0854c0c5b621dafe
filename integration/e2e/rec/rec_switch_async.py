"""Switches a synchronous REC session to an asynchronous mode, or back.

Suspends the session, changes its transfer mode and resumes it.  When the mode is refused the
session is resumed as it was.
"""

import argparse

from rec_api import Box, Refused, main


def run():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--local", required=True, type=Box, help="URL,TOKEN_FILE")
    parser.add_argument("--session", required=True, type=int, help="its number there")
    parser.add_argument("--mode", required=True, choices=["Synchronous", "Stack", "Consistency"])
    parser.add_argument("--limit", type=float, default=600, help="seconds to wait")
    args = parser.parse_args()

    before = args.local.session(args.session)
    # Between its transfers a session in mode Stack is never equivalent, so it is parted by force.
    is_stack = before["transfer_mode"] == "Stack"
    if not is_stack:
        args.local.wait_equivalent(args.session, args.limit)
    args.local.suspend(args.session, force=is_stack)
    try:
        args.local.run("PATCH", "/copysession/%d" % args.session, {"transfer_mode": args.mode})
    except Refused:
        args.local.resume(args.session)
        args.local.wait_equivalent(args.session, args.limit)
        raise
    args.local.resume(args.session)
    if args.mode == "Stack":
        after = args.local.wait(args.session, args.limit, lambda s: s["status"] == "Active")
    else:
        after = args.local.wait_equivalent(args.session, args.limit)
    print("%s -> %s" % (before["transfer_mode"], after["transfer_mode"]))


main(run)
