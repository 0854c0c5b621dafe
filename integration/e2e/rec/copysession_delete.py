"""Deletes a REC session; the mirrored volume stays and can be used.

With --force also one that is not equivalent, or whose copy path is dead.  With --with-mirror the
mirrored volume is deleted too.
"""

import argparse

from rec_api import Box, main


def run():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--local", required=True, type=Box, help="URL,TOKEN_FILE")
    parser.add_argument("--remote", type=Box, help="URL,TOKEN_FILE, for --with-mirror")
    parser.add_argument("--session", required=True, type=int, help="its number there")
    parser.add_argument("--force", action="store_true")
    parser.add_argument("--with-mirror", action="store_true")
    args = parser.parse_args()

    session = args.local.session(args.session)
    body = {"force": True} if args.force else None
    args.local.run("DELETE", "/copysession/%d" % args.session, body)
    print("deleted session %d" % args.session)
    if args.with_mirror:
        number = session["destination_volume_number"]
        args.remote.run("DELETE", "/volume", {"volume_id_list": [number]})
        print("deleted volume %d" % number)


main(run)
