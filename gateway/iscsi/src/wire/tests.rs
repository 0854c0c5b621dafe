//! What is encoded decodes to the same; random bytes panic nobody.

use proptest::prelude::*;
use zerocopy::IntoBytes;

use super::text::{binary, hex, number, parse, push};
use super::*;

const FUNCTIONS: [Function; 3] =
    [Function::AbortTask, Function::LogicalUnitReset, Function::Other(99)];

fn request() -> impl Strategy<Value = Request> {
    let ints = any::<[u32; 8]>();
    (0u8..8, ints, any::<[u8; 16]>(), any::<[bool; 4]>(), any::<[u8; 4]>()).prop_map(
        |(kind, [tag, one, cmd_sn, exp_stat_sn, four, five, _, six], cdb, [a, b, c, _], bytes)| {
            let lun = [cdb[0], cdb[1], cdb[2], 3, 4, 5, 6, 7];
            let connection = (six >> 16) as u16;
            match kind {
                0 => Request::NopOut { lun, tag, target_tag: one, cmd_sn, exp_stat_sn },
                1 => Request::Command {
                    lun,
                    tag,
                    read: a,
                    write: b,
                    is_final: c,
                    attribute: bytes[0] & 7,
                    expected: one,
                    cmd_sn,
                    exp_stat_sn,
                    cdb,
                },
                2 => Request::Task {
                    function: FUNCTIONS[usize::from(bytes[0] % 3)],
                    lun,
                    tag,
                    referenced: one,
                    cmd_sn,
                    exp_stat_sn,
                    ref_cmd_sn: four,
                },
                3 => Request::Login {
                    transit: a,
                    more: b,
                    stage: bytes[0] & 3,
                    next_stage: bytes[1] & 3,
                    version_max: bytes[2],
                    version_min: bytes[3],
                    isid: [1, 2, 3, cdb[0], cdb[1], cdb[2]],
                    tsih: connection,
                    tag,
                    connection,
                    cmd_sn,
                    exp_stat_sn,
                },
                4 => Request::Text {
                    more: a,
                    is_final: b,
                    tag,
                    target_tag: one,
                    cmd_sn,
                    exp_stat_sn,
                },
                5 => Request::DataOut {
                    is_final: a,
                    tag,
                    target_tag: one,
                    exp_stat_sn,
                    data_sn: four,
                    offset: five,
                },
                6 => Request::Logout {
                    reason: bytes[0] & 0x7f,
                    tag,
                    connection,
                    cmd_sn,
                    exp_stat_sn,
                },
                _ => Request::Snack { tag, exp_stat_sn },
            }
        },
    )
}

proptest! {
    #[test]
    fn a_request_comes_back(request in request(), immediate: bool) {
        let header = request.encode(immediate);
        let bytes = header.as_bytes().to_vec();
        let read = Header::read(&bytes).unwrap();
        prop_assert_eq!(read, header);
        prop_assert_eq!(Request::decode(&read), Ok(request));
        prop_assert_eq!(read.immediate(), immediate);
    }

    #[test]
    fn a_response_that_is_understood_comes_back(bytes in any::<[u8; 48]>(), code in 0usize..11) {
        let codes = [0x20, 0x21, 0x22, 0x23, 0x24, 0x25, 0x26, 0x31, 0x32, 0x3f, 0x11];
        let mut header = Header::read(&bytes).unwrap();
        header.opcode = codes[code];
        if let Some((response, stamp)) = Response::decode(&header) {
            let again = Response::encode(&response, stamp);
            let expected = match response {
                Response::DataIn { status: None, .. } => Stamp { stat_sn: 0, ..stamp },
                _ => stamp,
            };
            prop_assert_eq!(Response::decode(&again), Some((response, expected)));
        }
    }

    #[test]
    fn no_bytes_panic(bytes in proptest::collection::vec(any::<u8>(), 0..300)) {
        if let Some(header) = Header::read(&bytes) {
            let _request = Request::decode(&header);
            let _response = Response::decode(&header);
        }
        drop(parse(&bytes));
        if let Ok(text) = str::from_utf8(&bytes) {
            drop((number(text), binary(text)));
            drop(binary(&format!("0x{text}")));
            drop(binary(&format!("0b{text}")));
        }
    }

    #[test]
    fn pairs_come_back(pairs in proptest::collection::vec(("[A-Za-z0-9.+_-]{1,63}", "[ -~]{0,200}"), 0..20)) {
        let mut text = Vec::new();
        for (key, value) in &pairs {
            push(&mut text, key, value);
        }
        let parsed = parse(&text).unwrap();
        let expected: Vec<(&str, &str)> = pairs.iter().map(|(k, v)| (k.as_str(), v.as_str())).collect();
        prop_assert_eq!(parsed, expected);
    }

    #[test]
    fn hexadecimal_comes_back(bytes in proptest::collection::vec(any::<u8>(), 1..64)) {
        prop_assert_eq!(binary(&hex(&bytes)), Some(bytes));
    }
}

#[test]
fn base64_is_read() {
    assert_eq!(binary("0bTWFu"), Some(b"Man".to_vec()));
    assert_eq!(binary("0bTWE="), Some(b"Ma".to_vec()));
    assert_eq!(binary("0bTQ=="), Some(b"M".to_vec()));
    assert_eq!(binary("0bTQ="), None);
}

#[test]
fn the_digest_is_the_one_of_the_standard() {
    // RFC 7143 A.3: 32 bytes of zeroes.
    assert_eq!(crc(&[0; 32]), [0xaa, 0x36, 0x91, 0x8a]);
    let mut pieces = Crc::default();
    pieces.update(&[0; 13]);
    pieces.update(&[0; 19]);
    assert_eq!(pieces.finish(), crc(&[0; 32]));
}

#[test]
fn text_has_limits() {
    assert_eq!(parse(b"a=b"), Err(text::TextError::Unended));
    assert_eq!(parse(b"=b\0"), Err(text::TextError::NoKey));
    assert_eq!(parse(b"ab\0"), Err(text::TextError::NoKey));
    assert_eq!(parse(b"a b=c\0"), Err(text::TextError::BadKey));
    assert_eq!(parse(b"a=\0\0b=c=d\0"), Ok(vec![("a", ""), ("b", "c=d")]));
    assert_eq!(parse(&b"k=v\0".repeat(65)), Err(text::TextError::TooMany));
}
