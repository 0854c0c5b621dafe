//! `${…}` in the parameters of a step: what it stands for, and putting it in.
//!
//! | written | stands for |
//! |---|---|
//! | `${name}` | a parameter of the plan |
//! | `${site.source}`, `${site.destination}` | the site that has this role in the run |
//! | `${run.id}` | the run |
//! | `${fact.name}` | a fact |
//! | `${step.output}` | an output of an earlier step |
//! | `$${` | the two characters `${` |
//!
//! Invariant: a text without `${` is itself.

use serde_json::Value;

/// What a reference stands for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Reference {
    /// A parameter of the plan.
    Parameter(String),
    /// The site of the role source.
    Source,
    /// The site of the role destination.
    Destination,
    /// The run's identity.
    Run,
    /// A fact.
    Fact(String),
    /// An output of a step.
    Output {
        /// The step.
        step: String,
        /// The output's name.
        name: String,
    },
}

/// Words before a dot that are no steps.
pub(super) const RESERVED: [&str; 3] = ["site", "run", "fact"];

/// What a text is made of.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Part<'a> {
    Text(&'a str),
    Reference(Reference),
}

impl Reference {
    fn parse(inner: &str) -> Result<Self, String> {
        let wrong =
            || format!("${{{inner}}} is no reference: write ${{parameter}} or ${{step.output}}");
        let (before, after) = match inner.split_once('.') {
            Some((before, after)) => (Some(before), after),
            None => (None, inner),
        };
        if !is_id(after) || before.is_some_and(|before| !is_id(before)) {
            return Err(wrong());
        }
        match (before, after) {
            (None, name) => Ok(Self::Parameter(name.to_owned())),
            (Some("site"), "source") => Ok(Self::Source),
            (Some("site"), "destination") => Ok(Self::Destination),
            (Some("run"), "id") => Ok(Self::Run),
            (Some("site" | "run"), _) => Err(format!(
                "${{{inner}}} is not known: there are ${{site.source}}, ${{site.destination}} and \
                 ${{run.id}}"
            )),
            (Some("fact"), name) => Ok(Self::Fact(name.to_owned())),
            (Some(step), name) => Ok(Self::Output { step: step.to_owned(), name: name.to_owned() }),
        }
    }
}

/// Names of parameters, facts, steps and outputs.
#[must_use]
pub fn is_id(text: &str) -> bool {
    text.len() <= 64
        && text.starts_with(|c: char| c.is_ascii_alphabetic())
        && text.chars().all(|c| c.is_ascii_alphanumeric() || c == '-' || c == '_')
}

fn parts(text: &str) -> Result<Vec<Part<'_>>, String> {
    let mut found = Vec::new();
    let mut rest = text;
    while let Some(at) = rest.find("${") {
        let (before, from) = rest.split_at(at);
        let inner = from.strip_prefix("${").unwrap_or(from);
        if let Some(before) = before.strip_suffix('$') {
            found.extend([Part::Text(before), Part::Text("${")]);
            rest = inner;
            continue;
        }
        found.push(Part::Text(before));
        let (name, after) =
            inner.split_once('}').ok_or_else(|| format!("{from:?} has no closing brace"))?;
        found.push(Part::Reference(Reference::parse(name)?));
        rest = after;
    }
    found.push(Part::Text(rest));
    Ok(found)
}

/// Every reference in the texts of a value, in order.
///
/// # Errors
/// The first that cannot be read.
pub(super) fn references(value: &Value) -> Result<Vec<Reference>, String> {
    let mut found = Vec::new();
    visit(value, &mut |text| {
        let of = |part| if let Part::Reference(of) = part { Some(of) } else { None };
        found.extend(parts(text)?.into_iter().filter_map(of));
        Ok(())
    })?;
    Ok(found)
}

fn visit(value: &Value, see: &mut dyn FnMut(&str) -> Result<(), String>) -> Result<(), String> {
    match value {
        Value::String(text) => see(text),
        Value::Array(all) => all.iter().try_for_each(|one| visit(one, see)),
        Value::Object(all) => all.values().try_for_each(|one| visit(one, see)),
        Value::Null | Value::Bool(_) | Value::Number(_) => Ok(()),
    }
}

/// The text with all references replaced.
///
/// # Errors
/// What `of` says of one that stands for nothing.
pub(super) fn resolve_text(
    text: &str,
    of: &dyn Fn(&Reference) -> Result<String, String>,
) -> Result<String, String> {
    let mut out = String::new();
    for part in parts(text)? {
        match part {
            Part::Text(text) => out.push_str(text),
            Part::Reference(reference) => out.push_str(&of(&reference)?),
        }
    }
    Ok(out)
}

/// The value with all references in its texts replaced.
///
/// # Errors
/// As [`resolve_text`].
pub(super) fn resolve(
    value: &Value,
    of: &dyn Fn(&Reference) -> Result<String, String>,
) -> Result<Value, String> {
    Ok(match value {
        Value::String(text) => Value::String(resolve_text(text, of)?),
        Value::Array(all) => {
            Value::Array(all.iter().map(|one| resolve(one, of)).collect::<Result<_, _>>()?)
        }
        Value::Object(all) => {
            let each = all.iter().map(|(key, one)| Ok((key.clone(), resolve(one, of)?)));
            Value::Object(each.collect::<Result<_, String>>()?)
        }
        Value::Null | Value::Bool(_) | Value::Number(_) => value.clone(),
    })
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn say(reference: &Reference) -> Result<String, String> {
        match reference {
            Reference::Parameter(name) if name == "group" => Ok("orders".to_owned()),
            Reference::Source => Ok("east".to_owned()),
            Reference::Output { step, name } => Ok(format!("<{step} {name}>")),
            other => Err(format!("{other:?}")),
        }
    }

    #[test]
    fn references_are_replaced_wherever_they_stand() {
        let value = json!({
            "a": "${group}@${snap.id}", "b": ["$${group}", 7, { "c": "at ${site.source}." }]
        });
        let expected = json!({
            "a": "orders@<snap id>", "b": ["${group}", 7, { "c": "at east." }]
        });
        assert_eq!(resolve(&value, &say), Ok(expected));
        assert_eq!(references(&value).unwrap().len(), 3);
    }

    #[test]
    fn what_is_no_reference_is_told() {
        for bad in ["${", "${}", "${a.b.c}", "${a b}", "${site.third}", "${run.name}", "${.a}"] {
            assert!(references(&json!(bad)).is_err(), "{bad}");
        }
        assert!(resolve(&json!("${other}"), &say).is_err());
    }
}
