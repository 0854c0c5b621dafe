//! The committed OpenAPI document is the one that the code gives.

#[test]
fn the_committed_document_is_current() {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../api/openapi.json");
    let committed = std::fs::read_to_string(path).unwrap_or_default();
    let current = super::openapi();
    assert!(
        committed == current,
        "gateway/api/openapi.json is not current: run `cargo xtask openapi`"
    );
    for word in ["plan_failover", "create_volume", "\"Problem\"", "reverse_session"] {
        assert!(current.contains(word), "{word} is missing");
    }
}
