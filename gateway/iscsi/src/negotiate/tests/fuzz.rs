//! Logins that are almost right, one request or several.

use testkit::fuzz::{Fuzz, Made};

use super::*;
use crate::limits::LOGIN_DATA_BYTES_MAX;

/// A request: its flags, then its text up to the next 0xff, which no text holds.
fn exchange(requests: &[(u8, &[&str])]) -> Vec<u8> {
    let one = |(flags, list): &(u8, &[&str])| [&[*flags][..], &pairs(list), &[0xff]].concat();
    requests.iter().flat_map(one).collect()
}

fn request(flags: u8) -> Request {
    let transit = flags & 0x80 != 0;
    ask(flags >> 2 & 3, transit.then_some(flags & 3), flags & 0x40 != 0)
}

const OPERATIONAL_KEYS: [&str; 8] = [
    "HeaderDigest=CRC32C,None",
    "DataDigest=None,CRC32C",
    "InitialR2T=No",
    "MaxBurstLength=16776192",
    "FirstBurstLength=262144",
    "MaxRecvDataSegmentLength=262144",
    "MaxConnections=1",
    "X-com.example=1",
];

#[test]
fn logins_that_are_almost_right_end_one_way_or_the_other() {
    let open = [&WHO[..], &OPERATIONAL_KEYS].concat();
    let both = [&WHO[..], &["AuthMethod=CHAP,None"]].concat();
    let chap =
        ["CHAP_N=joe", "CHAP_R=0x00112233445566778899aabbccddeeff", "CHAP_I=3", "CHAP_C=0x01"];
    let discovery = ["InitiatorName=iqn.i:a", "SessionType=Discovery"];
    let seeds = [
        exchange(&[(0x87, &open)]),
        exchange(&[(0x87, &discovery)]),
        exchange(&[(0x81, &[WHO[0], WHO[1], "AuthMethod=None"]), (0x87, &OPERATIONAL_KEYS)]),
        exchange(&[
            (0x00, &both),
            (0x00, &["CHAP_A=5,7"]),
            (0x81, &chap),
            (0x87, &OPERATIONAL_KEYS),
        ]),
        exchange(&[(0x44, &WHO), (0x84 | 3, &OPERATIONAL_KEYS)]),
    ];
    let words: [&[u8]; 9] = [
        b"CHAP_A=5\0",
        b"CHAP_N=",
        b"CHAP_R=0b",
        b"=Reject\0",
        b"=Irrelevant\0",
        b"0x",
        b"\0",
        b"SessionType=Discovery\0",
        b"InitialR2T=Yes\0",
    ];
    Fuzz::new(seeds).tokens(&words).within(256 << 10).run(|bytes| {
        let mut understood = false;
        for auth in [Auth::None, Auth::Chap(vec![user()])] {
            let mut login = login(auth);
            for step in bytes.split(|byte| *byte == 0xff) {
                let Some((flags, text)) = step.split_first() else { continue };
                let reply = login.take(&request(*flags), text, &One, &mut |bytes| bytes.fill(9));
                assert!(reply.text.len() <= LOGIN_DATA_BYTES_MAX, "{} bytes", reply.text.len());
                assert!(text::parse(&reply.text).is_ok(), "it does not keep to the format itself");
                understood |= reply.next != Next::Refused;
                if reply.next != Next::Continue {
                    break;
                }
            }
        }
        Made::of(understood)
    });
}

#[test]
fn text_that_is_understood_is_the_same_when_it_is_sent_again() {
    let seeds = [pairs(&OPERATIONAL_KEYS), pairs(&["SendTargets=All"]), pairs(&["a=b=c", "d="])];
    let words: [&[u8]; 4] = [b"=", b"\0", b"\0\0", "é".as_bytes()];
    Fuzz::new(seeds).tokens(&words).within(64 << 10).run(|bytes| {
        let Ok(found) = text::parse(bytes) else { return Made::Refused };
        let mut again = Vec::new();
        for (key, value) in &found {
            text::push(&mut again, key, value);
        }
        assert_eq!(text::parse(&again), Ok(found));
        Made::Understood
    });
}

#[test]
fn binary_values_and_numbers_are_the_same_when_they_are_sent_again() {
    let seeds = [&b"0x00ff"[..], b"0bTWFu", b"0bTQ==", b"0xf"].map(<[u8]>::to_vec);
    Fuzz::new(seeds).tokens(&[b"0x", b"0b", b"="]).within(64 << 10).run(|bytes| {
        let Ok(value) = str::from_utf8(bytes) else { return Made::Refused };
        if let Some(number) = text::number(value) {
            assert_eq!(text::number(&number.to_string()), Some(number));
        }
        let Some(found) = text::binary(value) else { return Made::Refused };
        assert_eq!(text::binary(&text::hex(&found)), Some(found));
        Made::Understood
    });
}
