//! The smallest plugin that does something: a step that greets, and leaves its greeting for later steps.

wit_bindgen::generate!({ path: "../../wit", world: "action-plugin", generate_all });

use exports::twinspan::plugin::actions::{Description, Guest as Actions, Standing};
use exports::twinspan::plugin::plugin::{Action, Descriptor, Guest, Health, HealthReport};
use twinspan::plugin::types::{Context, Diagnostic, Error, Outcome, Report};

struct Hello;

const OBJECT: &str = r#"{ "type": "object" }"#;

fn greeting(ctx: &Context) -> Report {
    let outputs = vec![("greeting".to_owned(), format!("Hello, {}!", ctx.actor))];
    Report { summary: format!("greeted {}", ctx.actor), created: vec![], removed: vec![], outputs }
}

impl Guest for Hello {
    fn describe() -> Descriptor {
        let action = Action {
            name: "greet".to_owned(),
            title: "Greet whoever runs the plan".to_owned(),
            params_schema: OBJECT.to_owned(),
            is_reversible: true,
            timeout_s: 5,
        };
        Descriptor {
            name: "hello".to_owned(),
            vendor: "Twinspan".to_owned(),
            version: env!("CARGO_PKG_VERSION").to_owned(),
            description: "Greets; the least that a plugin can do.".to_owned(),
            config_schema: OBJECT.to_owned(),
            actions: vec![action],
            wants: vec![],
        }
    }

    fn check_config(_config: String) -> Vec<Diagnostic> {
        vec![]
    }

    fn probe() -> Result<HealthReport, Error> {
        Ok(HealthReport { health: Health::Ok, message: "nothing is needed".to_owned() })
    }
}

impl Actions for Hello {
    fn describe(_: String, _: String) -> Result<Description, Error> {
        Ok(Description { summary: "greet whoever runs the plan".to_owned(), warnings: vec![] })
    }

    fn check(_: Context, _: String, _: String) -> Result<Standing, Error> {
        Ok(Standing::Ready)
    }

    fn run(ctx: Context, _: String, _: String) -> Result<Outcome, Error> {
        Ok(Outcome::Done(greeting(&ctx)))
    }

    fn resume(
        ctx: Context,
        _: String,
        _: String,
        _token: String,
        _answer: Option<String>,
    ) -> Result<Outcome, Error> {
        Ok(Outcome::Done(greeting(&ctx)))
    }

    fn undo(_: Context, _: String, _: String, _: Report) -> Result<Outcome, Error> {
        Ok(Outcome::Skipped("a greeting cannot be taken back".to_owned()))
    }
}

export!(Hello);
