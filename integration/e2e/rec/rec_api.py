"""The copy-session API, for the scripts beside this file: calls, jobs, waiting.

Only the standard library is used.  A gateway is named as URL,TOKEN_FILE: where its API
listens, and where its bearer token lies.
"""

import json
import ssl
import sys
import time
import urllib.error
import urllib.request

POLL_SECONDS = 0.1


class Refused(Exception):
    """The API refused a call, or a job failed; the text says why and what is next."""

    def __init__(self, status, error):
        self.status = status
        self.error = error
        self.code = error.get("internal_code", "")
        text = "%s %s" % (self.code, error.get("message", error))
        if error.get("next"):
            text += "; next: " + error["next"]
        super().__init__(text)


class Box:
    """One storage system: a gateway."""

    def __init__(self, name):
        url, token_file = name.split(",", 1)
        self.base = url.rstrip("/") + "/api/v1"
        with open(token_file, encoding="ascii") as file:
            self.token = file.read().strip()
        # The certificate is the gateway's own; the scripts run where it is trusted.
        self.tls = ssl.create_default_context()
        self.tls.check_hostname = False
        self.tls.verify_mode = ssl.CERT_NONE

    def call(self, method, path, body=None):
        """One call; what it answered."""
        data = None if body is None else json.dumps(body).encode()
        request = urllib.request.Request(self.base + path, data=data, method=method)
        request.add_header("Authorization", "Bearer " + self.token)
        if data is not None:
            request.add_header("Content-Type", "application/json")
        try:
            with urllib.request.urlopen(request, context=self.tls, timeout=60) as answer:
                return json.loads(answer.read() or b"{}")
        except urllib.error.HTTPError as error:
            raise Refused(error.code, json.loads(error.read() or b"{}")) from None

    def get(self, path):
        """What is there."""
        return self.call("GET", path)

    def run(self, method, path, body=None):
        """A call that begins a job; the job once it ended well."""
        accepted = self.call(method, path, body)
        for warning in accepted.get("warning_list", []):
            print("warning: " + warning)
        while True:
            job = self.get(accepted["job_href"].removeprefix("/api/v1"))
            if job["status"] == "Success":
                return job
            if job["status"] in ("Error", "Partial_Error", "Canceled"):
                failed = job.get("failed_resource_info_list") or [{}]
                raise Refused(None, failed[0])
            time.sleep(POLL_SECONDS)

    def box_id(self):
        """Its box id."""
        return self.get("/storage")["boxid"]

    def volume(self, name):
        """The volume with this name, or None."""
        volumes = self.get("/volume")["volume_list"]
        return next((volume for volume in volumes if volume["name"] == name), None)

    def session(self, number):
        """A copy session."""
        return self.get("/copysession/%d" % number)

    def session_of(self, volume_name):
        """The only copy session of the volume with this name here."""
        found = []
        for session in self.get("/copysession")["copysession_list"]:
            side = "source" if session["is_local_source_volume"] else "destination"
            if session.get(side + "_volume_name") == volume_name:
                found.append(session)
        if len(found) != 1:
            raise SystemExit("%s has %d copy sessions here" % (volume_name, len(found)))
        return found[0]

    def wait(self, number, limit, is_it):
        """Waits until a copy session is so; the session."""
        until = time.monotonic() + limit
        while True:
            session = self.session(number)
            if is_it(session):
                return session
            if time.monotonic() > until:
                raise SystemExit("copy session %d is still %s" % (number, json.dumps(session)))
            time.sleep(POLL_SECONDS)

    def wait_equivalent(self, number, limit):
        """Waits until both sides hold the same."""
        return self.wait(
            number, limit, lambda s: s["status"] == "Active" and s["phase"] == "Equivalent"
        )

    def suspend(self, number, force=False):
        """Splits a copy session, and waits until it is split."""
        self.run("POST", "/copysession/%d/suspend" % number, {"force": force})
        return self.session(number)

    def resume(self, number, confirm_discard=False):
        """Lets a copy session run again."""
        body = {"confirm_discard": True} if confirm_discard else {}
        return self.run("POST", "/copysession/%d/resume" % number, body)

    def reverse(self, number, force=False):
        """Swaps source and destination of a suspended copy session."""
        return self.run("POST", "/copysession/%d/reverse" % number, {"force": force})


def main(run):
    """Runs a script; a refusal is told in one line and ends it with 1."""
    try:
        run()
    except Refused as refused:
        print("refused: %s" % refused, file=sys.stderr)
        raise SystemExit(1) from None
