//! Sizes and times as people write them.
//!
//! Invariant: what [`bytes_text`] prints, [`parse_bytes`] reads back to the same size when it is
//! exact.

/// Reads `64MiB`, `1 GiB`, `4096`. Powers of two only; `K`, `M`, `G`, `T`, `P` mean the same as
/// `KiB` and so on, because nobody means 1000 when it is a volume.
///
/// # Errors
/// What is wrong with it, in words.
pub fn parse_bytes(text: &str) -> Result<u64, String> {
    let text = text.trim();
    let digits = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
    let (number, unit) = text.split_at(digits);
    let number: u64 = number.parse().map_err(|_e| {
        format!("{text:?} is not a size: write a whole number and a unit, like 64MiB")
    })?;
    let shift = match unit.trim().to_ascii_lowercase().as_str() {
        "" | "b" => 0,
        "k" | "kib" => 10,
        "m" | "mib" => 20,
        "g" | "gib" => 30,
        "t" | "tib" => 40,
        "p" | "pib" => 50,
        other => return Err(format!("{other:?} is not a unit of size: use KiB, MiB, GiB or TiB")),
    };
    number
        .checked_mul(1 << shift)
        .ok_or_else(|| format!("{text:?} is more than any volume can have"))
}

/// A size as people read it: `3.1 MiB`, `64 MiB`, `0 B`.
#[must_use]
pub fn bytes_text(bytes: u64) -> String {
    const UNITS: [&str; 5] = ["KiB", "MiB", "GiB", "TiB", "PiB"];
    if bytes < 1024 {
        return format!("{bytes} B");
    }
    let power = ((63 - bytes.leading_zeros()) / 10).clamp(1, 5);
    let shift = 10 * power;
    let whole = bytes >> shift;
    let tenths = ((bytes - (whole << shift)) >> (shift - 10)) * 10 / 1024;
    let unit = UNITS[power as usize - 1];
    if tenths == 0 { format!("{whole} {unit}") } else { format!("{whole}.{tenths} {unit}") }
}

/// Reads a limit of bytes a second: `50MiB/s`, `50MiB`, `unlimited`, or `paused`, which is 0.
///
/// # Errors
/// What is wrong with it, in words.
pub fn parse_rate(text: &str) -> Result<Option<u64>, String> {
    match text.trim() {
        "unlimited" => Ok(None),
        "paused" => Ok(Some(0)),
        rate => parse_bytes(rate.strip_suffix("/s").unwrap_or(rate)).map(Some),
    }
}

/// A limit of bytes a second as [`parse_rate`] reads it back to the same.
#[must_use]
pub fn rate_text(rate: Option<u64>) -> String {
    const UNITS: [&str; 5] = ["B", "KiB", "MiB", "GiB", "TiB"];
    match rate {
        None => "unlimited".to_owned(),
        Some(0) => "paused".to_owned(),
        Some(bytes) => {
            let power = (bytes.trailing_zeros() / 10).min(4);
            format!("{}{}/s", bytes >> (10 * power), UNITS[power as usize])
        }
    }
}

/// Reads `8s`, `500ms`, `2m`, `1h` into milliseconds.
///
/// # Errors
/// What is wrong with it, in words.
pub fn parse_millis(text: &str) -> Result<u64, String> {
    let text = text.trim();
    let digits = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
    let (number, unit) = text.split_at(digits);
    let number: u64 = number.parse().map_err(|_e| {
        format!("{text:?} is not a duration: write a whole number and a unit, like 8s or 500ms")
    })?;
    let factor = match unit.trim() {
        "ms" => 1,
        "s" => 1_000,
        "m" => 60_000,
        "h" => 3_600_000,
        "" if number == 0 => 0,
        "" => return Err(format!("{text:?} needs a unit: ms, s, m or h")),
        other => return Err(format!("{other:?} is not a unit of time: use ms, s, m or h")),
    };
    number.checked_mul(factor).ok_or_else(|| format!("{text:?} is too long"))
}

/// A time as people read it: `1.1 ms`, `4 s`, `2 min 3 s`.
#[must_use]
pub fn micros_text(micros: u64) -> String {
    match micros {
        0..1_000 => format!("{micros} µs"),
        1_000..1_000_000 => format!("{}.{} ms", micros / 1_000, micros % 1_000 / 100),
        1_000_000..60_000_000 => {
            format!("{}.{} s", micros / 1_000_000, micros % 1_000_000 / 100_000)
        }
        _ => {
            let seconds = micros / 1_000_000;
            match seconds / 3600 {
                0 => format!("{} min {} s", seconds / 60, seconds % 60),
                hours => format!("{hours} h {} min", seconds % 3600 / 60),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_are_read_and_printed() {
        assert_eq!(parse_bytes("64MiB"), Ok(64 << 20));
        assert_eq!(parse_bytes(" 1 g "), Ok(1 << 30));
        assert_eq!(parse_bytes("4096"), Ok(4096));
        assert!(parse_bytes("1.5GiB").is_err());
        assert!(parse_bytes("999999999P").is_err());
        assert!(parse_bytes("-1").is_err());
        assert_eq!(bytes_text(0), "0 B");
        assert_eq!(bytes_text(64 << 20), "64 MiB");
        assert_eq!(bytes_text((3 << 20) + (100 << 10)), "3 MiB");
        assert_eq!(bytes_text((3 << 20) + (512 << 10)), "3.5 MiB");
        assert_eq!(bytes_text(u64::MAX), "16383.9 PiB");
    }

    #[test]
    fn rates_are_read_and_printed() {
        for text in ["unlimited", "paused", "50MiB/s", "1000B/s", "3TiB/s"] {
            assert_eq!(parse_rate(text).map(rate_text), Ok(text.to_owned()));
        }
        assert_eq!(parse_rate("10MiB"), Ok(Some(10 << 20)));
        assert_eq!(parse_rate("0"), Ok(Some(0)));
        assert!(parse_rate("fast").is_err() && parse_rate("-1").is_err());
    }

    #[test]
    fn times_are_read_and_printed() {
        assert_eq!(parse_millis("8s"), Ok(8_000));
        assert_eq!(parse_millis("500ms"), Ok(500));
        assert_eq!(parse_millis("0"), Ok(0));
        assert!(parse_millis("8").is_err());
        assert_eq!(micros_text(1_100), "1.1 ms");
        assert_eq!(micros_text(4_000_000), "4.0 s");
        assert_eq!(micros_text(123_000_000), "2 min 3 s");
    }
}
