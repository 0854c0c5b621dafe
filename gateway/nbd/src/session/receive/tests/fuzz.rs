//! Requests that are almost right.

use testkit::fuzz::{Fuzz, Made};

use super::*;

const PAYLOAD_MAX: u64 = 1 << 20;

fn encoded(style: HeaderStyle, header: &RequestHeader, payload: &[u8]) -> Vec<u8> {
    let extended = style == HeaderStyle::Extended;
    let magic: u32 = if extended { 0x21e4_1c71 } else { 0x2560_9513 };
    let mut out = magic.to_be_bytes().to_vec();
    out.extend(header.flags.bits().to_be_bytes());
    out.extend(header.command.to_be_bytes());
    out.extend(header.cookie.to_be_bytes());
    out.extend(header.offset.to_be_bytes());
    match u32::try_from(header.len) {
        Ok(len) if !extended => out.extend(len.to_be_bytes()),
        _ => out.extend(header.len.to_be_bytes()),
    }
    out.extend(payload);
    out
}

fn style(byte: u8) -> HeaderStyle {
    if byte & 1 == 0 { HeaderStyle::Structured } else { HeaderStyle::Extended }
}

fn seeds() -> Vec<Vec<u8>> {
    let of = |kind: u8| {
        let header = |command: u16, len: u64| RequestHeader {
            flags: CommandFlags::of(if command == 6 { 2 } else { 0 }),
            command,
            cookie: 0x0102_0304_0506_0708,
            offset: 4096,
            len,
        };
        let style = style(kind);
        let read = encoded(style, &header(0, 4096), &[]);
        let write = encoded(style, &header(1, 600), &[7; 600]);
        let rest = [3, 4, 6, 7, 2].map(|command| encoded(style, &header(command, 512), &[]));
        [vec![kind], read, write, rest.concat()].concat()
    };
    vec![of(0), of(1)]
}

/// The requests that a session's gate lets in, with their payloads, until the first mistake.
fn received(style: HeaderStyle, mut bytes: &[u8]) -> Vec<(RequestHeader, Bytes)> {
    let mut receiver = Receiver::new(style, &[]);
    let mut found = Vec::new();
    let mut context = Context::from_waker(std::task::Waker::noop());
    let limited = |header: &RequestHeader| {
        if header.payload_len(style) > PAYLOAD_MAX {
            Verdict::Refuse((Errno::Inval, "long"))
        } else {
            gate(header)
        }
    };
    loop {
        match receiver.next(Instant::now(), limited) {
            Ok(Item::NeedBytes) if bytes.is_empty() => return found,
            Ok(Item::NeedBytes) => {
                assert!(receiver.poll_fill(&mut context, &mut bytes).is_ready());
            }
            Ok(Item::Request(header, _, payload)) => found.push((header, payload)),
            Ok(Item::Refused(..)) => {}
            Ok(Item::Waiting) => unreachable!("the gate never waits"),
            Err(_) => return found,
        }
    }
}

#[test]
fn requests_that_are_almost_right_mean_the_same_when_they_are_sent_again() {
    let tokens: [&[u8]; 2] = [&[0x25, 0x60, 0x95, 0x13], &[0x21, 0xe4, 0x1c, 0x71]];
    let memory = 3 * RECEIVE_BYTES + 2 * usize::try_from(PAYLOAD_MAX).unwrap();
    Fuzz::new(seeds()).tokens(&tokens).within(memory).run(|bytes| {
        let Some((kind, stream)) = bytes.split_first() else { return Made::Refused };
        let style = style(*kind);
        let found = received(style, stream);
        for (header, payload) in &found {
            let again = received(style, &encoded(style, header, payload));
            if header.payload_len(style) == payload.len() as u64 {
                assert_eq!(again, [(*header, payload.clone())]);
            }
        }
        Made::of(!found.is_empty())
    });
}
