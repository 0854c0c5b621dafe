"""Creates a mirrored volume in a remote storage system, in synchronous mode.

Makes a volume of the same size at the remote storage system, creates a REC session between
the two, and waits until both hold the same.
"""

import argparse

from rec_api import Box, main


def run():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--local", required=True, type=Box, help="URL,TOKEN_FILE")
    parser.add_argument("--remote", required=True, type=Box, help="URL,TOKEN_FILE")
    parser.add_argument("--volume", required=True, help="the operation volume's name")
    parser.add_argument("--mirror", required=True, help="the mirrored volume's name")
    parser.add_argument("--split-mode", choices=["Automatic", "Manual"], default="Automatic")
    parser.add_argument("--limit", type=float, default=600, help="seconds to wait")
    args = parser.parse_args()

    source = args.local.volume(args.volume)
    if source is None:
        raise SystemExit("there is no volume %s" % args.volume)
    mirror = args.remote.volume(args.mirror)
    if mirror is None:
        made = args.remote.run(
            "POST", "/volume", {"name": args.mirror, "capacity": source["capacity"], "tpp_id": 0}
        )
        mirror = args.remote.get(made["resource_href_list"][0].removeprefix("/api/v1"))
    job = args.local.run(
        "POST",
        "/copysession/rec",
        {
            "source_volume_id": source["volume_id"],
            "destination_volume_id": mirror["volume_id"],
            "source_boxid": args.local.box_id(),
            "destination_boxid": args.remote.box_id(),
            "transfer_mode": "Synchronous",
            "split_mode": args.split_mode,
            "recovery_mode": "Automatic",
        },
    )
    session = args.local.get(job["resource_href_list"][0].removeprefix("/api/v1"))
    args.local.wait_equivalent(session["copysession_id"], args.limit)
    print("copysession_id=%d" % session["copysession_id"])


main(run)
