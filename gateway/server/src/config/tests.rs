//! Every file in `config/` is read, and what is wrong is said by name.

use std::path::{Path, PathBuf};

use super::*;

fn folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../config")
}

fn written(text: &str) -> Result<Config, ConfigError> {
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("g.toml");
    std::fs::write(&file, text).unwrap();
    load(Some(&file))
}

#[test]
fn the_reference_file_states_every_default() {
    let text = std::fs::read_to_string(folder().join("twinspan.toml")).unwrap();
    let stated: toml::Table = text.parse().unwrap();
    let defaults: toml::Table = defaults_toml().parse().unwrap();
    assert_eq!(stated, defaults);
    // Each key is explained: a comment stands before it.
    let lines: Vec<&str> = text.lines().collect();
    for (index, line) in
        lines.iter().enumerate().filter(|(_, line)| !line.starts_with('#') && line.contains(" = "))
    {
        let before = index.checked_sub(1).and_then(|i| lines.get(i)).copied().unwrap_or_default();
        assert!(before.starts_with('#'), "{line:?} is not explained");
    }
}

#[test]
fn every_file_is_valid() {
    let files = ["twinspan.toml", "minimal.toml", "two-site/east.toml", "two-site/west.toml"];
    for file in files {
        let config = load(Some(&folder().join(file)));
        assert!(config.is_ok(), "{file}: {config:?}");
    }
}

#[test]
fn an_unknown_key_is_refused_with_the_nearest() {
    let Err(error) = written("[site]\nnmae = \"east\"\n") else { panic!("accepted") };
    let text = error.to_string();
    assert!(text.contains("g.toml"), "{text}");
    assert!(text.contains("`site.nmae`") && text.contains("`site.name`"), "{text}");
    assert_eq!(error.code(), api::Code::ConfigUnknownKey);
    let Err(error) = written("[[nbd.listeners]]\nadress = \"127.0.0.1:1\"\n") else { panic!() };
    assert!(error.to_string().contains("address"), "{error}");
    let Err(error) = written("zzz = 1\n") else { panic!() };
    assert!(!error.to_string().contains("did you mean"), "{error}");
}

#[test]
fn a_bad_value_is_refused_by_key() {
    for (text, key) in [
        ("[api]\nlisten = \"localhost\"\n", "api.listen"),
        ("[mirror]\nsplit = \"sometimes\"\n", "mirror.split"),
        ("[mirror]\nack_deadline = \"8\"\n", "mirror.ack_deadline"),
        ("[mirror]\nsilence = \"600ms\"\n", "mirror.silence"),
        ("[pool]\ncapacity = \"1.5TiB\"\n", "pool.capacity"),
        ("[quota]\nbytes = \"lots\"\n", "quota.bytes"),
        ("[pool]\nfill_bytes_per_second = \"1KiB\"\n", "pool.fill_bytes_per_second"),
        ("[snapshots]\nmax_manual = 0\n", "snapshots.max_manual"),
        ("[snapshots]\nmax_manual = 501\n", "snapshots.max_manual"),
        ("[[points.hooks]]\nname = \"db\"\n", "points.hooks"),
        ("[[points.hooks]]\ncommand = [\"/bin/true\"]\n", "points.hooks.name"),
        ("[[points.hooks]]\nname = \"db\"\nurl = \"ftp://a\"\n", "points.hooks.url"),
        (
            "[[points.hooks]]\nname = \"db\"\nurl = \"http://a\"\nqemu_agent = \"/a\"\n",
            "points.hooks",
        ),
        (
            "[[points.hooks]]\nname = \"db\"\nurl = \"http://a\"\ntimeout = \"1h\"\n",
            "points.hooks.timeout",
        ),
        ("[site]\nname = \"a b\"\n", "site.name"),
        ("[link]\nlisten = \"0.0.0.0:7702\"\n", "link.advertise"),
        ("[iscsi]\nauth = \"chap\"\n", "iscsi.auth"),
        ("[iscsi]\nauth = \"often\"\n", "iscsi.auth"),
        ("[[iscsi.listeners]]\nname = \"tcp\"\n", "iscsi.auth"),
        ("[iscsi]\nportal_group = 256\n", "iscsi.portal_group"),
        ("[iscsi]\nprefix = \"twinspan\"\n", "iscsi.prefix"),
        (
            "[iscsi]\nauth = \"none\"\n[[iscsi.listeners]]\naddress = \"0.0.0.0:3260\"\n",
            "iscsi.listeners.advertise",
        ),
        (
            "[iscsi]\nauth = \"none\"\n[[iscsi.listeners]]\naddress = \"[::]:3260\"\n",
            "iscsi.listeners.advertise",
        ),
        (
            "[iscsi]\nauth = \"none\"\n[[iscsi.listeners]]\nadvertise = \"0.0.0.0:3260\"\n",
            "iscsi.listeners.advertise",
        ),
        (
            "[iscsi]\nauth = \"none\"\n[[iscsi.listeners]]\nadvertise = \"[::]:3260\"\n",
            "iscsi.listeners.advertise",
        ),
        (
            "[iscsi]\nauth = \"none\"\n[[iscsi.listeners]]\nadvertise = \"san.example\"\n",
            "iscsi.listeners.advertise",
        ),
        ("[iscsi]\nauth = \"chap\"\n[[iscsi.users]]\nname = \"joe\"\n", "iscsi.users.secret_file"),
        ("[[nbd.listeners]]\nname = \"x\"\ntls = \"required\"\n", "nbd.listeners.tls"),
        ("shards = \"many\"\n", "shards"),
    ] {
        let Err(error) = written(text) else { panic!("accepted {text:?}") };
        assert!(error.to_string().contains(key), "{text:?}: {error}");
    }
}

#[test]
fn what_is_shown_reads_back_the_same() {
    let shown = defaults_toml();
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("g.toml");
    std::fs::write(&file, &shown).unwrap();
    assert_eq!(effective_toml(Some(&file)).unwrap(), shown);
}
