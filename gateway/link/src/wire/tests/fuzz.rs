//! Frames that are almost right, with checksums that match: damage that is meant.

#![expect(clippy::arithmetic_side_effects, reason = "positions in a buffer of some kilobytes")]

use testkit::fuzz::{Fuzz, Made};

use super::*;

/// Sets right the sums of all frames that can be told apart. The first byte is the version.
fn seal(bytes: &mut [u8]) {
    let mut at = 1;
    while let Some(head) = bytes.get(at..at + HEADER_BYTES) {
        let len = u32::from_le_bytes([head[12], head[13], head[14], head[15]]) as usize;
        let start = at + HEADER_BYTES;
        let Some(payload) = bytes.get(start..start + len) else { break };
        let sum = crc(payload).to_le_bytes();
        bytes[at + 56..at + 60].copy_from_slice(&sum);
        let sum = crc(&bytes[at..at + 60]).to_le_bytes();
        bytes[at + 60..start].copy_from_slice(&sum);
        at = start + len;
    }
}

fn messages_out(version: u16, messages: &[Message]) -> Result<Vec<u8>, Unsendable> {
    let mut outbox = Outbox::new();
    for message in messages {
        encode(version, message.clone(), &mut outbox)?;
    }
    Ok(outbox.to_vec())
}

#[test]
fn frames_that_are_almost_right_mean_the_same_when_they_are_sent_again() {
    let known = [
        include_str!("../version_1.hex"),
        include_str!("../version_2.hex"),
        include_str!("../version_3.hex"),
        include_str!("../version_4.hex"),
        include_str!("../version_5.hex"),
    ];
    let mut seeds: Vec<Vec<u8>> = (1_u8..)
        .zip(known)
        .map(|(version, text)| [vec![version], from_hex(text)].concat())
        .collect();
    // The frames of each version are frames of the newest, where they differ in nothing else.
    let newest = u8::try_from(VERSION).unwrap();
    for seed in seeds.clone() {
        if let Ok(messages) = messages_in(seed[0].into(), &seed[1..])
            && let Ok(bytes) = messages_out(VERSION, &messages)
        {
            seeds.push([vec![newest], bytes].concat());
        }
    }
    // One frame each, too: what is wrong behind the first is not looked at otherwise.
    for seed in seeds.clone() {
        let mut at = 1;
        while let Some(head) = seed.get(at..at + HEADER_BYTES) {
            let len = u32::from_le_bytes([head[12], head[13], head[14], head[15]]) as usize;
            let end = at + HEADER_BYTES + len;
            seeds.push([&seed[..1], &seed[at..end]].concat());
            at = end;
        }
    }
    Fuzz::new(seeds).repaired(seal).within(1 << 20).run(|bytes| {
        let Some((version, frames)) = bytes.split_first() else { return Made::Refused };
        let version = u16::from(*version).clamp(1, VERSION);
        let Ok(mut messages) = messages_in(version, frames) else { return Made::Refused };
        // What acknowledges nothing says nothing, and is not sent.
        messages.retain(|message| !matches!(message, Message::Acks(seqs) if seqs.is_empty()));
        if messages.is_empty() {
            return Made::Refused;
        }
        let again = messages_out(version, &messages);
        if version < VERSION {
            // What an older version has no word for is told as the next best thing, once.
            if let Ok(told) = again.map(|bytes| messages_in(version, &bytes).unwrap()) {
                let bytes = messages_out(version, &told).unwrap();
                assert_eq!(messages_in(version, &bytes), Ok(told));
            }
            return Made::Understood;
        }
        let again = again.unwrap_or_else(|why| panic!("{messages:?} was read and is {why}"));
        assert_eq!(messages_in(version, &again), Ok(messages));
        Made::Understood
    });
}

#[test]
fn greetings_that_are_almost_right_mean_the_same_when_they_are_sent_again() {
    let join = join_request();
    let greetings = [
        Greeting::Hello(hello()),
        Greeting::Refused(Refusal { code: 4, text: "no".to_owned() }),
        Greeting::Join(join),
    ];
    let bytes_of = |greeting: &Greeting| {
        let mut outbox = Outbox::new();
        encode_greeting(greeting, &mut outbox).map(|()| outbox.to_vec())
    };
    let seeds = greetings.map(|greeting| [vec![0], bytes_of(&greeting).unwrap()].concat());
    Fuzz::new(seeds).repaired(seal).within(256 << 10).run(|bytes| {
        let Some((_, frames)) = bytes.split_first() else { return Made::Refused };
        let found = drain(Decoder::greetings(), &mut BytesMut::from(frames));
        let Ok(found) = found else { return Made::Refused };
        for frame in &found {
            let Frame::Greeting(greeting) = frame else { panic!("{frame:?} before a version") };
            let again = bytes_of(greeting).unwrap_or_else(|why| panic!("{greeting:?} is {why}"));
            let again = drain(Decoder::greetings(), &mut BytesMut::from(&again[..]));
            assert_eq!(again.as_deref(), Ok(std::slice::from_ref(frame)));
        }
        Made::of(!found.is_empty())
    });
}
