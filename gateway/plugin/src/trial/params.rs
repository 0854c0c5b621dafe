//! Parameters for a trial, where its author gave none: the least that a schema asks for.
//!
//! Invariant: what comes out fits the schema, or nothing does.

use serde_json::{Map, Value, json};

/// Parameters that fit an action's schema; its own `examples` first.
pub(super) fn made(
    schema: &Value,
    fits: impl Fn(&Value) -> Result<(), String>,
) -> Result<Value, String> {
    let made = value(schema, 0);
    fits(&made).map(|()| made)
}

fn value(schema: &Value, depth: usize) -> Value {
    let given = [&schema["examples"][0], &schema["default"], &schema["const"], &schema["enum"][0]];
    if let Some(given) = given.into_iter().find(|given| !given.is_null()) {
        return given.clone();
    }
    let ty = schema["type"].as_str().or_else(|| schema["type"][0].as_str());
    match ty {
        Some("object") if depth < 8 => {
            let required = schema["required"].as_array().into_iter().flatten();
            let field = |name: &Value| {
                let name = name.as_str()?;
                Some((name.to_owned(), value(&schema["properties"][name], depth + 1)))
            };
            Value::Object(required.filter_map(field).collect::<Map<_, _>>())
        }
        Some("array") => {
            let least = schema["minItems"].as_u64().unwrap_or(0).min(16);
            Value::Array((0..least).map(|_| value(&schema["items"], depth + 1)).collect())
        }
        Some("integer" | "number") => schema.get("minimum").cloned().unwrap_or_else(|| json!(1)),
        Some("boolean") => json!(false),
        _ => json!("trial"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_least_that_a_schema_asks_for_is_made() {
        let schema = json!({
            "type": "object",
            "required": ["server", "count", "kind", "names"],
            "properties": {
                "server": { "type": "string", "examples": ["srv-1"] },
                "count": { "type": "integer", "minimum": 3 },
                "kind": { "enum": ["small", "large"] },
                "names": { "type": "array", "minItems": 2, "items": { "type": "string" } },
                "other": { "type": "string" }
            }
        });
        let wanted =
            json!({ "server": "srv-1", "count": 3, "kind": "small", "names": ["trial", "trial"] });
        assert_eq!(made(&schema, |_| Ok(())), Ok(wanted));
        let refused = made(&json!({ "type": "object" }), |_| Err("a pattern".to_owned()));
        assert_eq!(refused, Err("a pattern".to_owned()));
    }
}
