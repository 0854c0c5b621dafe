//! What owners call their protected servers by.
//!
//! Invariant: a key is there once, and there are at most [`TAGS_MAX`] of them, whoever puts them at once.

use api::Code;
use uuid::Uuid;

use crate::book::evs::Instance;
use crate::gateway::Gateway;
use crate::gateway::evs::{Made, coded};
use crate::refusal::Refused;

/// Of one instance.
pub(crate) const TAGS_MAX: usize = 10;

impl Gateway {
    /// Puts tags on an instance, in the place of those with the same key, and takes others off it.
    pub(super) async fn tag(
        &self,
        id: Uuid,
        put: Vec<(String, String)>,
        off: Vec<String>,
    ) -> Result<Made, Refused> {
        self.change_instance(id, |instance| change(instance, put, &off)).await?;
        Ok(Made { id, job: None })
    }
}

fn change(
    instance: &mut Instance,
    put: Vec<(String, String)>,
    off: &[String],
) -> Result<(), Refused> {
    if instance.life.is_busy() {
        let code = if put.is_empty() { "SDRS.2222" } else { "SDRS.2221" };
        let detail =
            "something is under way with the protected instance: its tags stay as they are";
        return Err(coded(Code::WrongState, code, detail));
    }
    let mut tags = instance.tags.clone();
    tags.retain(|(key, _)| !off.contains(key));
    for (key, value) in put {
        match tags.iter_mut().find(|(of, _)| *of == key) {
            Some(known) => known.1 = value,
            None => tags.push((key, value)),
        }
    }
    if tags.len() > TAGS_MAX {
        let detail =
            format!("the instance would have {} tags; it has at most {TAGS_MAX}", tags.len());
        return Err(coded(Code::Invalid, "SDRS.2203", detail));
    }
    instance.tags = tags;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::book::evs::{Head, Life};
    use crate::gateway::evs::own_code;

    fn instance(life: Life) -> Instance {
        Instance {
            head: Head::default(),
            name: "web".to_owned(),
            description: String::new(),
            group: Uuid::nil(),
            servers: [String::new(), String::new()],
            flavours: [String::new(), String::new()],
            disks: Vec::new(),
            nics: Vec::new(),
            tags: vec![("role".to_owned(), "shop".to_owned())],
            life,
            fault: None,
            lost: None,
            is_displaced: false,
            called: String::new(),
        }
    }

    fn tag(key: &str, value: &str) -> (String, String) {
        (key.to_owned(), value.to_owned())
    }

    #[test]
    fn evs_37_a_tag_gives_way_to_one_of_its_key_and_too_many_change_nothing() {
        let mut of = instance(Life::Available);
        let put = vec![tag("role", "web"), tag("owner", "ann")];
        change(&mut of, put, &[]).unwrap();
        assert_eq!(of.tags, [tag("role", "web"), tag("owner", "ann")]);
        let many: Vec<_> = (0..TAGS_MAX - 1).map(|n| tag(&format!("k{n}"), "")).collect();
        let refused = change(&mut of, many.clone(), &[]).unwrap_err();
        assert_eq!(own_code(&refused.0.detail), Some("SDRS.2203"));
        assert_eq!(of.tags.len(), 2, "they stay as they are");
        // What is not there is taken off all the same.
        change(&mut of, many, &["role".to_owned(), "nothing".to_owned()]).unwrap();
        assert_eq!(of.tags.len(), TAGS_MAX);
        assert!(of.tags.iter().all(|(key, _)| key != "role"));
    }

    #[test]
    fn evs_37_tags_stay_while_something_is_under_way() {
        let mut of = instance(Life::Deleting);
        let refused = change(&mut of, vec![tag("a", "b")], &[]).unwrap_err();
        assert_eq!(own_code(&refused.0.detail), Some("SDRS.2221"));
        let refused = change(&mut of, Vec::new(), &["role".to_owned()]).unwrap_err();
        assert_eq!(own_code(&refused.0.detail), Some("SDRS.2222"));
        assert_eq!(of.tags, [tag("role", "shop")]);
    }
}
