//! PDUs that come in any pieces are the same PDUs.

mod fuzz;

use proptest::prelude::*;
use zerocopy::IntoBytes;

use super::*;

fn pdu(data: &[u8], (head, tail): (bool, bool)) -> Vec<u8> {
    let header = Header { opcode: 1, ..Header::default() };
    let header = header.with_data_len(u32::try_from(data.len()).unwrap());
    let mut out = header.as_bytes().to_vec();
    if head {
        out.extend(crc(header.as_bytes()));
    }
    let mut padded = data.to_vec();
    padded.resize(data.len() + padding(data.len()), 0);
    out.extend(&padded);
    if tail && !data.is_empty() {
        out.extend(crc(&padded));
    }
    out
}

fn content(seed: usize, len: usize) -> Vec<u8> {
    (0..len).map(|at| u8::try_from((at * 7 + seed) % 251).unwrap()).collect()
}

proptest! {
    #[test]
    fn pieces_do_not_matter(
        lens in proptest::collection::vec((0usize..200_000, 0u8..3), 1..6),
        cuts in proptest::collection::vec(1usize..100_000, 1..20),
        digests: (bool, bool),
    ) {
        let stream: Vec<u8> = lens.iter().enumerate()
            .flat_map(|(seed, (len, _))| pdu(&content(seed, *len), digests)).collect();
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        runtime.block_on(async {
            let mut receiver = Receiver::new(digests, &[]);
            let (mut at, mut found, mut cut) = (0, 0, cuts.iter().cycle());
            while found < lens.len() {
                let kind = lens[found].1;
                let item = receiver.next(|header| match kind {
                    0 => Place::Shared,
                    1 => Place::Into(BytesMut::from(&b"before"[..]), header.data_len() / 2 + 1),
                    _ => Place::Drop,
                }).unwrap();
                match item {
                    Item::Pdu(header, body) => {
                        let expected = content(found, lens[found].0);
                        assert_eq!(header.data_len(), expected.len());
                        match body {
                            Body::Shared(data) => assert_eq!(data, expected),
                            Body::Own(data) => {
                                let kept = expected.len().min(expected.len() / 2 + 1);
                                assert_eq!(&data[..6], b"before");
                                assert_eq!(&data[6..], &expected[..kept]);
                            }
                            Body::Dropped => {}
                        }
                        found += 1;
                    }
                    Item::NeedBytes => {
                        let len = (*cut.next().unwrap()).min(stream.len() - at);
                        assert!(len > 0, "the stream is over");
                        let mut piece = &stream[at..at + len];
                        let read = std::future::poll_fn(|cx| receiver.poll_fill(cx, &mut piece)).await;
                        at += read.unwrap();
                    }
                }
            }
        });
    }

    #[test]
    fn random_bytes_panic_nobody(bytes in proptest::collection::vec(any::<u8>(), 0..600), digests: (bool, bool)) {
        let mut receiver = Receiver::new(digests, &bytes);
        while let Ok(Item::Pdu(..)) = receiver.next(|_| Place::Shared) {}
    }
}

#[test]
fn a_wrong_digest_is_seen() {
    let mut bytes = pdu(&[1; 100], (true, true));
    let last = bytes.len() - 1;
    bytes[last] ^= 1;
    let mut receiver = Receiver::new((true, true), &bytes);
    assert!(matches!(receiver.next(|_| Place::Shared), Err(ReceiveError::DataDigest(_))));
    bytes[10] ^= 1;
    let mut receiver = Receiver::new((true, true), &bytes);
    assert!(matches!(receiver.next(|_| Place::Shared), Err(ReceiveError::HeaderDigest)));
}
