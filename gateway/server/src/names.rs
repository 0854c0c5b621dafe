//! What may be a name of a site, a volume or a group.

/// The longest name.
pub(crate) const NAME_BYTES_MAX: usize = 64;

/// Whether this may be a name: 1 to 64 of `A-Z a-z 0-9 . _ -`, not starting with a dot or a dash,
/// so that it is at home in a URL, a shell, a metric label and a file name.
#[must_use]
pub fn is_name(text: &str) -> bool {
    (1..=NAME_BYTES_MAX).contains(&text.len())
        && !text.starts_with(['.', '-'])
        && text.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'_' | b'-'))
}

#[cfg(test)]
mod tests {
    use super::is_name;

    #[test]
    fn names() {
        assert!(is_name("orders-2.db_1"));
        for bad in ["", "-x", ".x", "a b", "a/b", "ä", &"x".repeat(65)] {
            assert!(!is_name(bad), "{bad:?}");
        }
    }
}
