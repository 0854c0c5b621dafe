//! Text keys: `key=value`, each ended by a zero byte (RFC 7143 §6.1).
//!
//! Invariant: what is parsed is bounded in number and length; a value is never interpreted here.

use crate::limits::{KEY_BYTES_MAX, KEYS_MAX, VALUE_BYTES_MAX};

/// Why text is not understood.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum TextError {
    /// Not ended by a zero byte.
    #[error("text does not end with a zero byte")]
    Unended,
    /// No `=`, or nothing before it.
    #[error("a pair has no key")]
    NoKey,
    /// A key of other characters than the standard allows, or too long a one.
    #[error("a key is none that the standard allows")]
    BadKey,
    /// A value that is too long or no UTF-8.
    #[error("a value is too long or is no text")]
    BadValue,
    /// Too many pairs.
    #[error("too many pairs")]
    TooMany,
}

/// The pairs in `text`, in order. Zero bytes between pairs are skipped.
///
/// # Errors
/// The first thing that is wrong with it.
pub fn parse(text: &[u8]) -> Result<Vec<(&str, &str)>, TextError> {
    let mut pairs = Vec::new();
    let Some((last, body)) = text.split_last() else { return Ok(pairs) };
    if *last != 0 {
        return Err(TextError::Unended);
    }
    for pair in body.split(|byte| *byte == 0).filter(|pair| !pair.is_empty()) {
        if pairs.len() >= KEYS_MAX {
            return Err(TextError::TooMany);
        }
        let border = pair.iter().position(|byte| *byte == b'=').ok_or(TextError::NoKey)?;
        let (key, rest) = pair.split_at(border);
        pairs.push((parse_key(key)?, parse_value(rest.get(1..).unwrap_or_default())?));
    }
    Ok(pairs)
}

fn parse_key(key: &[u8]) -> Result<&str, TextError> {
    if key.is_empty() {
        return Err(TextError::NoKey);
    }
    let known = |byte: &u8| byte.is_ascii_alphanumeric() || b".-+@_#".contains(byte);
    if key.len() > KEY_BYTES_MAX || !key.iter().all(known) {
        return Err(TextError::BadKey);
    }
    str::from_utf8(key).map_err(|_not_utf8| TextError::BadKey)
}

fn parse_value(value: &[u8]) -> Result<&str, TextError> {
    if value.len() > VALUE_BYTES_MAX {
        return Err(TextError::BadValue);
    }
    str::from_utf8(value).map_err(|_not_utf8| TextError::BadValue)
}

/// Appends a pair.
pub fn push(text: &mut Vec<u8>, key: &str, value: &str) {
    text.extend_from_slice(key.as_bytes());
    text.push(b'=');
    text.extend_from_slice(value.as_bytes());
    text.push(0);
}

/// A number: decimal, or hexadecimal behind `0x`.
#[must_use]
pub fn number(value: &str) -> Option<u32> {
    let hex = value.strip_prefix("0x").or_else(|| value.strip_prefix("0X"));
    match hex {
        Some(digits) if digits.bytes().all(|byte| byte.is_ascii_hexdigit()) => {
            u32::from_str_radix(digits, 16).ok()
        }
        None if value.bytes().all(|byte| byte.is_ascii_digit()) => value.parse().ok(),
        Some(_) | None => None,
    }
}

/// Bytes in hexadecimal behind `0x`, or in Base64 behind `0b`.
#[must_use]
pub fn binary(value: &str) -> Option<Vec<u8>> {
    let (kind, digits) = value.split_at_checked(2)?;
    match kind {
        "0x" | "0X" => from_hex(digits.as_bytes()),
        "0b" | "0B" => from_base64(digits.as_bytes()),
        _ => None,
    }
}

/// Bytes as hexadecimal behind `0x`.
#[must_use]
pub fn hex(bytes: &[u8]) -> String {
    const DIGITS: &[u8; 16] = b"0123456789abcdef";
    let mut out = String::with_capacity(bytes.len().saturating_mul(2).saturating_add(2));
    out.push_str("0x");
    for byte in bytes {
        out.push(char::from(DIGITS[usize::from(byte >> 4)]));
        out.push(char::from(DIGITS[usize::from(byte & 15)]));
    }
    out
}

fn from_hex(digits: &[u8]) -> Option<Vec<u8>> {
    let digit = |byte: &u8| char::from(*byte).to_digit(16).and_then(|d| u8::try_from(d).ok());
    let mut out = Vec::with_capacity(digits.len().div_ceil(2));
    // An odd number of digits lacks the zero in front.
    let (first, rest) = digits.split_at(digits.len() & 1);
    if let [only] = first {
        out.push(digit(only)?);
    }
    for pair in rest.chunks_exact(2) {
        out.push(digit(&pair[0])? << 4 | digit(&pair[1])?);
    }
    (!out.is_empty()).then_some(out)
}

fn from_base64(text: &[u8]) -> Option<Vec<u8>> {
    let digit = |byte: u8| -> Option<u32> {
        let value = match byte {
            b'A'..=b'Z' => byte.wrapping_sub(b'A'),
            b'a'..=b'z' => byte.wrapping_sub(b'a').wrapping_add(26),
            b'0'..=b'9' => byte.wrapping_sub(b'0').wrapping_add(52),
            b'+' => 62,
            b'/' => 63,
            _ => return None,
        };
        Some(value.into())
    };
    let body = text.strip_suffix(b"==").or_else(|| text.strip_suffix(b"=")).unwrap_or(text);
    if body.is_empty() || !text.len().is_multiple_of(4) {
        return None;
    }
    let mut out = Vec::with_capacity(body.len());
    for group in body.chunks(4) {
        let mut bits = 0u32;
        for index in 0..4 {
            let value = group.get(index).map_or(Some(0), |byte| digit(*byte))?;
            bits = bits << 6 | value;
        }
        let [_, a, b, c] = bits.to_be_bytes();
        out.extend_from_slice(&[a, b, c][..group.len().saturating_sub(1)]);
    }
    Some(out)
}
