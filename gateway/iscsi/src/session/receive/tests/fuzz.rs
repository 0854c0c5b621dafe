//! Streams of PDUs that are almost right.

use testkit::fuzz::{Fuzz, Made};

use super::*;
use crate::limits::AHS_WORDS_MAX;
use crate::wire::{NO_TAG, Request, Response};

fn stream(digests: (bool, bool)) -> Vec<u8> {
    let (lun, tag) = ([0; 8], 7);
    let (cmd_sn, exp_stat_sn) = (5, 9);
    let mut cdb = [0; 16];
    (cdb[0], cdb[8]) = (0x2a, 1);
    let command = Request::Command {
        lun,
        tag,
        read: false,
        write: true,
        is_final: true,
        attribute: 1,
        expected: 512,
        cmd_sn,
        exp_stat_sn,
        cdb,
    };
    let data =
        Request::DataOut { is_final: true, tag, target_tag: 3, exp_stat_sn, data_sn: 0, offset: 0 };
    let ping = Request::NopOut { lun, tag, target_tag: NO_TAG, cmd_sn, exp_stat_sn };
    let text =
        Request::Text { more: false, is_final: true, tag, target_tag: NO_TAG, cmd_sn, exp_stat_sn };
    let pdus: [(Request, &[u8]); 4] =
        [(command, &[1; 512]), (data, &[2; 77]), (ping, b"ping"), (text, b"SendTargets=All\0")];
    pdus.iter().flat_map(|(request, data)| framed(&request.encode(false), data, digests)).collect()
}

fn framed(header: &Header, data: &[u8], (head, tail): (bool, bool)) -> Vec<u8> {
    let header = header.with_data_len(u32::try_from(data.len()).unwrap());
    let mut out = header.as_bytes().to_vec();
    if head {
        out.extend(crc(&out));
    }
    let mut padded = data.to_vec();
    padded.resize(data.len() + padding(data.len()), 0);
    out.extend(&padded);
    if tail && !data.is_empty() {
        out.extend(crc(&padded));
    }
    out
}

/// Sets right the digests of all PDUs that can be told apart.
fn seal(bytes: &mut [u8]) {
    if bytes.first() != Some(&1) {
        return;
    }
    let mut at = 1;
    while let Some(header) = bytes.get(at..).and_then(Header::read) {
        let len = HEADER_BYTES + 4 * usize::from(header.ahs_words);
        let Some(sum) = bytes.get(at..at + len).map(crc) else { return };
        let Some(digest) = bytes.get_mut(at + len..at + len + 4) else { return };
        digest.copy_from_slice(&sum);
        at += len + 4;
        let len = header.data_len() + padding(header.data_len());
        if len > 0 {
            let Some(sum) = bytes.get(at..at + len).map(crc) else { return };
            let Some(digest) = bytes.get_mut(at + len..at + len + 4) else { return };
            digest.copy_from_slice(&sum);
            at += len + 4;
        }
    }
}

/// What comes out of a stream, until its end or its first mistake.
fn received(digests: (bool, bool), mut bytes: &[u8]) -> Vec<(Header, Bytes)> {
    let mut receiver = Receiver::new(digests, &[]);
    let mut found = Vec::new();
    let mut context = Context::from_waker(std::task::Waker::noop());
    loop {
        let place = |header: &Header| match header.code() {
            0x01 => Place::Into(BytesMut::new(), header.data_len()),
            0x05 => Place::Into(BytesMut::with_capacity(512), 512),
            _ => Place::Shared,
        };
        match receiver.next(place) {
            Ok(Item::NeedBytes) if bytes.is_empty() => return found,
            Ok(Item::NeedBytes) => {
                assert!(receiver.poll_fill(&mut context, &mut bytes).is_ready());
            }
            Ok(Item::Pdu(header, body)) => {
                assert!(usize::from(header.ahs_words) <= AHS_WORDS_MAX);
                let data = match body {
                    Body::Shared(data) => data,
                    Body::Own(data) => data.freeze(),
                    Body::Dropped => Bytes::new(),
                };
                found.push((header, data));
            }
            Err(_) => return found,
        }
    }
}

#[test]
fn streams_that_are_almost_right_are_cut_into_pdus_that_mean_the_same_when_they_are_sent_again() {
    let seeds = [(false, false), (true, true)]
        .map(|digests| [vec![u8::from(digests.0)], stream(digests)].concat());
    // What is received into, and a PDU that is as long as it may be.
    let memory = 4 * RECEIVE_BYTES + 2 * RECV_SEGMENT_BYTES as usize;
    Fuzz::new(seeds).repaired(seal).within(memory).run(|bytes| {
        let Some((flags, stream)) = bytes.split_first() else { return Made::Refused };
        let digests = (flags & 1 != 0, flags & 1 != 0);
        let found = received(digests, stream);
        for (header, data) in &found {
            if let Ok(request) = Request::decode(header) {
                let again = request.encode(header.immediate());
                assert_eq!(Request::decode(&again), Ok(request));
            }
            if let Some((response, stamp)) = Response::decode(header) {
                let again = Response::decode(&Response::encode(&response, stamp));
                assert_eq!(again.map(|(response, _)| response), Some(response));
            }
            if header.ahs_words == 0 && data.len() == header.data_len() {
                let again = received(digests, &framed(header, data, digests));
                assert_eq!(again, [(*header, data.clone())]);
            }
        }
        Made::of(!found.is_empty())
    });
}
