//! Every key of RFC 7143 §13 with the function that makes one value of two.
//!
//! Invariant: a value outside of what the standard allows is answered `Reject` and changes nothing;
//! a key that nobody knows is answered `NotUnderstood`. Whichever comes first, no first burst is longer
//! than a burst.

use crate::limits::{
    FIRST_BURST_BYTES, MAX_BURST_BYTES, OUTSTANDING_R2T_MAX, SEGMENT_BYTES_MAX, SEGMENT_BYTES_MIN,
    TIME_TO_WAIT_SECONDS,
};
use crate::wire::text::number;

/// How data is sent on a session.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Params {
    /// Headers carry CRC32C.
    pub header_digest: bool,
    /// Data carries CRC32C.
    pub data_digest: bool,
    /// Data comes when it was asked for only.
    pub initial_r2t: bool,
    /// Data may come with the command.
    pub immediate_data: bool,
    /// One solicited sequence, or one sequence of what is read.
    pub max_burst: u32,
    /// Data that may come unasked.
    pub first_burst: u32,
    /// Sequences that are asked for at once.
    pub max_r2t: u32,
    /// Data of one PDU that the initiator takes.
    pub send_segment: u32,
}

impl Default for Params {
    /// What holds when nothing is said.
    fn default() -> Self {
        Self {
            header_digest: false,
            data_digest: false,
            initial_r2t: true,
            immediate_data: true,
            max_burst: 262_144,
            first_burst: 65_536,
            max_r2t: 1,
            send_segment: 8192,
        }
    }
}

/// What is answered to a key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Answer {
    /// This value.
    Say(String),
    /// Nothing: it was a statement.
    Silent,
    /// The login is over: the initiator must not send it.
    Wrong,
}

fn say(value: &str) -> Answer {
    Answer::Say(value.to_owned())
}

fn reject() -> Answer {
    say("Reject")
}

/// Takes one key into `params` and says what is answered.
pub(super) fn answer(params: &mut Params, key: &str, value: &str) -> Answer {
    // Answers to what we declared, and polite refusals of it.
    if matches!(value, "Irrelevant" | "NotUnderstood" | "Reject") {
        return Answer::Silent;
    }
    match key {
        "HeaderDigest" => digest(&mut params.header_digest, value),
        "DataDigest" => digest(&mut params.data_digest, value),
        "InitialR2T" => boolean(value, |theirs| {
            params.initial_r2t = theirs;
            theirs
        }),
        "ImmediateData" => boolean(value, |theirs| {
            params.immediate_data = theirs;
            theirs
        }),
        "DataPDUInOrder" | "DataSequenceInOrder" => boolean(value, |_theirs| true),
        "RDMAExtensions" | "IFMarker" | "OFMarker" => boolean(value, |_theirs| false),
        "IFMarkInt" | "OFMarkInt" => reject(),
        "MaxBurstLength" => least(value, (SEGMENT_BYTES_MIN, SEGMENT_BYTES_MAX), |theirs| {
            params.max_burst = theirs.min(MAX_BURST_BYTES);
            params.first_burst = params.first_burst.min(params.max_burst);
            params.max_burst
        }),
        "FirstBurstLength" => least(value, (SEGMENT_BYTES_MIN, SEGMENT_BYTES_MAX), |theirs| {
            params.first_burst = theirs.min(FIRST_BURST_BYTES).min(params.max_burst);
            params.first_burst
        }),
        "MaxOutstandingR2T" => least(value, (1, 65_535), |theirs| {
            params.max_r2t = theirs.min(OUTSTANDING_R2T_MAX);
            params.max_r2t
        }),
        "MaxConnections" => least(value, (1, 65_535), |_theirs| 1),
        "ErrorRecoveryLevel" => least(value, (0, 2), |_theirs| 0),
        "DefaultTime2Wait" => least(value, (0, 3600), |theirs| theirs.max(TIME_TO_WAIT_SECONDS)),
        "DefaultTime2Retain" => least(value, (0, 3600), |_theirs| 0),
        "iSCSIProtocolLevel" => least(value, (0, 31), |theirs| theirs.min(1)),
        "MaxRecvDataSegmentLength" => match number(value) {
            Some(theirs @ SEGMENT_BYTES_MIN..=SEGMENT_BYTES_MAX) => {
                params.send_segment = theirs;
                Answer::Silent
            }
            Some(_) | None => reject(),
        },
        "TaskReporting" => {
            let known = value.split(',').find(|one| *one == "RFC3720");
            known.map_or_else(reject, say)
        }
        "InitiatorAlias" => Answer::Silent,
        // Said by targets only, or fixed by the first request.
        "TargetAlias"
        | "TargetAddress"
        | "TargetPortalGroupTag"
        | "InitiatorName"
        | "SessionType"
        | "TargetName" => Answer::Wrong,
        "SendTargets" => reject(),
        _ => say("NotUnderstood"),
    }
}

/// The first of theirs that is ours.
fn digest(on: &mut bool, value: &str) -> Answer {
    for one in value.split(',') {
        match one {
            "CRC32C" => {
                *on = true;
                return say("CRC32C");
            }
            "None" => {
                *on = false;
                return say("None");
            }
            _ => {}
        }
    }
    reject()
}

fn boolean(value: &str, take: impl FnOnce(bool) -> bool) -> Answer {
    let theirs = match value {
        "Yes" => true,
        "No" => false,
        _ => return reject(),
    };
    say(if take(theirs) { "Yes" } else { "No" })
}

fn least(value: &str, (from, to): (u32, u32), take: impl FnOnce(u32) -> u32) -> Answer {
    match number(value).filter(|theirs| (from..=to).contains(theirs)) {
        Some(theirs) => Answer::Say(take(theirs).to_string()),
        None => reject(),
    }
}
