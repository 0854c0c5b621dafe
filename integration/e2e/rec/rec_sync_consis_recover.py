"""Restores an operation volume from its mirrored volume.

Run it once the copy path and the operation volume's storage system are repaired.  Suspends the
session by force, reverses it, resumes it from the remote storage system and waits until both
hold the same; then brings it back to its first direction.  With --stay it is left reversed.
"""

import argparse

from rec_api import Box, main


def turn(source, number, destination, remote_number, limit, restore):
    """From `source` to `destination`: suspend, reverse, resume at the new source."""
    lost = False
    try:
        source.suspend(number, force=restore)
    except OSError as error:
        # The old source does not answer: its other half decides.
        print("the source cannot be asked: %s" % error)
        destination.suspend(remote_number, force=True)
        lost = True
    # What the old source wrote by itself is what the restore is to undo.
    destination.reverse(remote_number, force=lost or restore)
    destination.resume(remote_number, confirm_discard=restore)
    destination.wait_equivalent(remote_number, limit)


def run():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--local", required=True, type=Box, help="URL,TOKEN_FILE")
    parser.add_argument("--remote", required=True, type=Box, help="URL,TOKEN_FILE")
    parser.add_argument("--volume", required=True, help="the mirrored volume's name, remote")
    parser.add_argument("--stay", action="store_true", help="leave the session reversed")
    parser.add_argument("--limit", type=float, default=600, help="seconds to wait")
    args = parser.parse_args()

    there = args.remote.session_of(args.volume)
    if there["is_local_source_volume"]:
        raise SystemExit("the remote storage system is the source already")
    here = there["remote_copysession_id"]
    number = there["copysession_id"]
    turn(args.local, here, args.remote, number, args.limit, restore=True)
    print("restored")
    if not args.stay:
        turn(args.remote, number, args.local, here, args.limit, restore=False)
        print("back")


main(run)
