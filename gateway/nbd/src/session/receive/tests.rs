//! Requests out of bytes, however they are cut, and out of noise.

mod fuzz;

use block::Extent;
use proptest::prelude::*;

use super::*;
use crate::wire::{Command, CommandFlags, Errno};

fn request(command: u16, cookie: u64, offset: u64, payload: &[u8]) -> Vec<u8> {
    let mut bytes = 0x2560_9513u32.to_be_bytes().to_vec();
    bytes.extend(0u16.to_be_bytes());
    bytes.extend(command.to_be_bytes());
    bytes.extend(cookie.to_be_bytes());
    bytes.extend(offset.to_be_bytes());
    bytes.extend(u32::try_from(payload.len()).unwrap().to_be_bytes());
    bytes.extend(payload);
    bytes
}

/// Writes to odd offsets are refused.
fn gate(header: &RequestHeader) -> Verdict {
    if header.offset % 2 == 1 {
        return Verdict::Refuse((Errno::Inval, "odd"));
    }
    match Extent::new(header.offset, header.len) {
        Ok(extent) if Command::of(header.command) == Some(Command::Write) => {
            Verdict::Take(Admission::Write { extent, fua: false })
        }
        _ => Verdict::Take(Admission::Nothing),
    }
}

fn feed(receiver: &mut Receiver, bytes: &[u8], found: &mut Vec<(u64, Option<Bytes>)>) {
    let mut bytes = bytes;
    let waker = std::task::Waker::noop();
    loop {
        match receiver.next(Instant::now(), gate).unwrap() {
            Item::Request(header, _, payload) => found.push((header.cookie, Some(payload))),
            Item::Refused(header, _) => found.push((header.cookie, None)),
            Item::Waiting => unreachable!("the gate never waits"),
            Item::NeedBytes if bytes.is_empty() => return,
            Item::NeedBytes => {
                let mut cx = Context::from_waker(waker);
                let Poll::Ready(Ok(n)) = receiver.poll_fill(&mut cx, &mut bytes) else {
                    panic!("a slice is always ready");
                };
                assert!(n > 0);
            }
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn requests_come_out_whole(
        sizes in proptest::collection::vec(
            (prop_oneof![0usize..6000, 60_000usize..140_000, 300_000usize..600_000], any::<bool>()),
            1..12),
        step in prop_oneof![1usize..100, 1000usize..300_000],
        keep: bool,
    ) {
        let mut all = Vec::new();
        let mut expected = Vec::new();
        for (index, (len, refused)) in sizes.iter().enumerate() {
            let fill = u8::try_from(index).unwrap() + 1;
            let payload = vec![fill; *len];
            all.extend(request(1, index as u64, u64::from(*refused), &payload));
            expected.push((index as u64, (!refused).then(|| Bytes::from(payload))));
        }
        let step = step.max(all.len() / 2000);
        let mut receiver = Receiver::new(HeaderStyle::Simple, &[]);
        let mut found = Vec::new();
        for piece in all.chunks(step) {
            feed(&mut receiver, piece, &mut found);
            if !keep {
                // The volume is done with what it got: the buffer can be used again.
                for (_, payload) in &mut found {
                    *payload = payload.as_ref().map(|bytes| Bytes::from(bytes.to_vec()));
                }
            }
            prop_assert!(receiver.buffer.capacity() <= 2 * RECEIVE_BYTES);
        }
        prop_assert_eq!(found, expected);
    }

    #[test]
    fn noise_is_an_error_or_a_request_and_never_a_panic(
        noise in proptest::collection::vec(any::<u8>(), 0..200), extended: bool, honest: bool,
    ) {
        let style = if extended { HeaderStyle::Extended } else { HeaderStyle::Structured };
        let mut bytes = noise;
        if honest {
            let magic: u32 = if extended { 0x21e4_1c71 } else { 0x2560_9513 };
            bytes.splice(0..bytes.len().min(4), magic.to_be_bytes());
        }
        let mut receiver = Receiver::new(style, &[]);
        let mut found = Vec::new();
        // The gate of a session refuses what is too long; this one takes at most 4 GiB, of which
        // memory is only reserved.
        let mut bytes = &bytes[..];
        let mut cx = Context::from_waker(std::task::Waker::noop());
        let limited = |header: &RequestHeader| {
            if header.payload_len(style) > 1 << 20 {
                Verdict::Refuse((Errno::Inval, "long"))
            } else {
                gate(header)
            }
        };
        loop {
            match receiver.next(Instant::now(), limited) {
                Ok(Item::NeedBytes) if bytes.is_empty() => break,
                Ok(Item::NeedBytes) => {
                    prop_assert!(receiver.poll_fill(&mut cx, &mut bytes).is_ready());
                }
                Ok(item) => found.push(format!("{item:?}")),
                Err(_) => break,
            }
        }
        prop_assert!(found.len() <= 10);
    }
}

#[test]
fn memory_is_taken_only_for_what_was_admitted() {
    let mut header = request(1, 1, 1, &[]);
    header.splice(24..28, u32::MAX.to_be_bytes());
    let mut receiver = Receiver::new(HeaderStyle::Simple, &header);
    assert!(matches!(receiver.next(Instant::now(), gate), Ok(Item::NeedBytes)));
    assert!(matches!(receiver.state, State::Discard { left: 0xffff_ffff, .. }));
    assert!(receiver.buffer.capacity() <= RECEIVE_BYTES);
}
