//! The seventeen steps in their order.
//!
//! Invariant: what can be taken back comes before the batch, and is; the batch is the point of no return.

use serde_json::{Map, Value, json};

/// Steps of a plan, as they are written.
pub(super) struct Steps(pub(super) Vec<Value>);

impl Steps {
    pub(super) fn add(
        &mut self,
        (id, title): (&str, &str),
        (site, when): (&str, &str),
        action: &str,
        params: Value,
    ) -> &mut Map<String, Value> {
        let mut step = Map::new();
        for (key, value) in
            [("id", id), ("title", title), ("site", site), ("when", when), ("action", action)]
        {
            if !value.is_empty() {
                step.insert(key.to_owned(), json!(value));
            }
        }
        step.insert("params".to_owned(), params);
        self.0.push(Value::Object(step));
        let last = self.0.last_mut().and_then(Value::as_object_mut);
        last.expect("a step was pushed a line above")
    }

    /// An action of this plugin; it is tried again while its orchestrator does not answer.
    pub(super) fn own(
        &mut self,
        (id, title): (&str, &str),
        place: (&str, &str),
        action: &str,
        params: Value,
    ) -> &mut Map<String, Value> {
        let action = format!("lserver-switchover/{action}");
        let step = self.add((id, title), place, &action, params);
        set(step, &[("retries", json!(5)), ("backoff", json!("1s")), ("timeout", json!("48h"))]);
        step
    }
}

pub(super) fn set(step: &mut Map<String, Value>, values: &[(&str, Value)]) {
    for (key, value) in values {
        step.insert((*key).to_owned(), value.clone());
    }
}

/// What every action of this plugin is told that looks at a part of an export.
pub(super) fn scope(more: Value) -> Value {
    let mut params = json!({});
    for key in ["level", "mode", "type", "tenants", "exclude", "pools"] {
        params[key] = json!(format!("${{{key}}}"));
    }
    if let Value::Object(more) = more {
        for (key, value) in more {
            params[key] = value;
        }
    }
    params
}

/// What is proven: the scope, the age of the export, and what the run leaves out.
pub(super) fn proof() -> Value {
    let mut params = scope(json!({ "source": "${site.source}", "fresh_s": "${fresh_s}" }));
    for (fact, parameter, _) in super::facts::DECIDED {
        params[parameter] = json!(format!("${{fact.{fact}}}"));
    }
    params
}

pub(super) fn of_export(more: Value) -> Value {
    let mut params = scope(json!({ "export": "${folder.export}" }));
    if let Value::Object(more) = more {
        for (key, value) in more {
            params[key] = value;
        }
    }
    params
}

pub(super) const ALIVE: &str = "source-alive";
const DEAD: &str = "not source-alive";
pub(super) const SOURCE: &str = "source";
pub(super) const DESTINATION: &str = "destination";

/// Lets the destination serve a group, with the source or without it, and its source stand apart.
fn move_group(steps: &mut Steps, word: &str, group: &str) {
    let id = |what: &str| format!("{what}-{word}");
    let (to, back) = (json!("${site.destination}"), json!("${site.source}"));
    steps
        .add(
            (&id("in-sync"), &format!("4: wait until nothing of {group} is lacking")),
            (SOURCE, ALIVE),
            "core/wait-in-sync",
            json!({ "group": group, "to": to }),
        )
        .insert("timeout".to_owned(), json!("1h"));
    steps.add(
        (&id("keep"), &format!("4: keep the moment before of {group}")),
        (SOURCE, ALIVE),
        "core/snapshot",
        json!({ "group": group }),
    );
    set(
        steps.add(
            (&id("move"), &format!("4: serve {group} at the destination")),
            (SOURCE, ALIVE),
            "core/migrate",
            json!({ "group": group, "to": to }),
        ),
        &[("retries", json!(20)), ("backoff", json!("1s"))],
    );
    set(
        steps.add(
            (&id("serve"), &format!("4: serve {group} without the source")),
            (DESTINATION, DEAD),
            "core/promote",
            json!({ "group": group, "accept": "${accept}" }),
        ),
        &[("retries", json!(20)), ("backoff", json!("1s")), ("reversible", json!(false))],
    );
    set(
        steps.add(
            (&id("apart"), &format!("4: stop the replication of {group}")),
            (DESTINATION, ALIVE),
            "core/suspend",
            json!({ "group": group, "to": back }),
        ),
        &[("retries", json!(20)), ("backoff", json!("1s"))],
    );
}

/// Mirrors a group back to the source.
fn mirror_back(steps: &mut Steps, word: &str, group: &str) {
    let id = |what: &str| format!("{what}-{word}");
    let back = json!({ "group": group, "to": "${site.source}" });
    set(
        steps.add(
            (&id("together"), &format!("16: replicate {group} back to the source")),
            (DESTINATION, ALIVE),
            "core/resume",
            back.clone(),
        ),
        &[("retries", json!(20)), ("backoff", json!("1s")), ("reversible", json!(false))],
    );
    steps
        .add(
            (&id("mirrored"), &format!("16: wait until the source follows {group}")),
            (DESTINATION, ALIVE),
            "core/wait-in-sync",
            back,
        )
        .insert("timeout".to_owned(), json!("24h"));
    let snapshot = json!({ "group": group, "snapshot": format!("${{keep-{word}.snapshot}}") });
    set(
        steps.add(
            (&id("tidy"), &format!("16: remove the moment before of {group}")),
            (DESTINATION, ALIVE),
            "core/delete-snapshot",
            snapshot,
        ),
        &[("on_failure", json!("carry-on")), ("reversible", json!(false))],
    );
}

pub(super) fn before_batch(steps: &mut Steps, groups: &[(String, String)], folder: &str) {
    let from = json!({ "source": "${site.source}" });
    let (there, alive) = ((DESTINATION, ""), (SOURCE, ALIVE));
    steps.own(
        ("prove", "1: prove modes, mapping files, names and capacity"),
        there,
        "prove",
        proof(),
    );
    steps.own(
        ("save-own", "1: save the destination's own configuration"),
        there,
        "save-own",
        json!({}),
    );
    steps.own(
        ("pause", "1: stop collecting at the destination"),
        there,
        "pause-collection",
        json!({}),
    );
    steps.own(
        ("release", "1: stop servers of the destination that give way"),
        there,
        "release",
        scope(from.clone()),
    );
    let lock = json!({ "timeout_s": "${timeout_s}", "noretry": "${noretry}" });
    steps.own(("lock", "2: lock the source and export it a last time"), alive, "lock-export", lock);
    steps.own(
        ("stop", "3: stop the servers that move"),
        alive,
        "stop-servers",
        scope(json!({ "export": "${lock.export}" })),
    );
    for (word, group) in groups {
        move_group(steps, word, group);
    }
    move_group(steps, "folder", folder);
    steps.own(
        ("folder", "5: open the information folder at the destination"),
        there,
        "open-folder",
        from,
    );
    steps.own(
        ("images", "6: exchange the images of physical servers"),
        (DESTINATION, "physical"),
        "copy-images",
        of_export(json!({})),
    );
    for (id, number, what, when) in [
        ("network", 7, "network devices", "firewalls"),
        ("files", 8, "configuration files", "files-differ"),
        ("settings", 9, "settings", ""),
        ("roles", 10, "roles", ""),
    ] {
        let params = of_export(json!({ "what": id }));
        steps.own(
            (id, &format!("{number}: restore {what} that differ")),
            (DESTINATION, when),
            "restore",
            params,
        );
    }
    steps.own(
        ("datastores", "11: mount datastores at the hosts"),
        (DESTINATION, "vm-guest"),
        "mount-datastores",
        of_export(json!({})),
    );
}

pub(super) fn batch_and_after(steps: &mut Steps, groups: &[(String, String)], folder: &str) {
    let there = (DESTINATION, "");
    let ask = "the batch deletes ${site.destination}'s own environment and imports that of ${site.source}: go on?";
    steps
        .add(("go", "12: a person says go"), ("", ""), "core/approve", json!({ "prompt": ask }))
        .insert("on_failure".to_owned(), json!("roll-back"));
    steps
        .own(
            ("recover", "12: the batch: delete, map, import, start"),
            there,
            "recover",
            of_export(json!({})),
        )
        .insert("point_of_no_return".to_owned(), json!(true));
    steps.own(
        ("directory", "13: restore the directory service's entries"),
        (DESTINATION, "sso"),
        "directory",
        of_export(json!({})),
    );
    steps.own(
        ("check", "14: check the platforms that were imported"),
        there,
        "check",
        of_export(json!({})),
    );
    steps.own(
        ("charges", "15: reconcile usage charges"),
        (DESTINATION, "charging"),
        "charges",
        of_export(json!({})),
    );
    steps.own(
        ("collect", "16: export and collect at the destination"),
        there,
        "resume-collection",
        json!({}),
    );
    for (word, group) in groups {
        mirror_back(steps, word, group);
    }
    mirror_back(steps, "folder", folder);
    steps.own(
        ("cleanup", "17: fence and clean up the source"),
        (SOURCE, ALIVE),
        "cleanup",
        of_export(json!({})),
    );
}
