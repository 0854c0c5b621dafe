//! Handshakes that are almost right.

use testkit::fuzz::{Fuzz, Made};

use super::*;
use crate::wire::OptionHeader;

#[test]
fn handshakes_that_are_almost_right_end_one_way_or_the_other() {
    let seeds = [
        with_flags(3, &[go("orders", &[0, 1, 2, 3])]),
        with_flags(
            3,
            &[option(11, b""), contexts(10, "orders", &["base:allocation"]), go("orders", &[3])],
        ),
        with_flags(
            3,
            &[option(8, b""), option(3, b""), contexts(9, "", &["base:"]), option(2, b"")],
        ),
        with_flags(1, &[option(99, b"what"), option(1, b"orders")]),
        with_flags(3, &[option(5, b"")]),
    ];
    let tokens: [&[u8]; 4] = [b"IHAVEOPT", b"orders", b"base:allocation", &[0, 0, 0, 7]];
    Fuzz::new(seeds).tokens(&tokens).within(1 << 20).run(|bytes| {
        let mut understood = false;
        for tls in [TlsMode::Off, TlsMode::Optional, TlsMode::Required] {
            let (end, answers) = run(tls, bytes);
            understood |= end.is_ok();
            let said: usize = answers.iter().map(|(.., data)| 20 + data.len()).sum();
            assert!(said <= 4096 + 64 * bytes.len(), "{said} bytes for {}", bytes.len());
        }
        Made::of(understood)
    });
}

#[test]
fn an_option_is_the_same_when_it_is_sent_again() {
    let seeds = [go("orders", &[1]), option(3, b"")];
    Fuzz::new(seeds).tokens(&[b"IHAVEOPT"]).within(4096).run(|bytes| {
        let Ok(Some(header)) = OptionHeader::read(bytes) else { return Made::Refused };
        let raw = [&b"IHAVEOPT"[..], &header.number.to_be_bytes(), &header.len.to_be_bytes()];
        assert_eq!(OptionHeader::read(&raw.concat()), Ok(Some(header)));
        Made::Understood
    });
}
