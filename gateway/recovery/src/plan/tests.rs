//! Plans that are proven, and every way in which one is not.

use super::*;

const MOVE: &str = include_str!("../../../../config/plans/migrate.toml");

fn plan(steps: &str) -> Result<Plan, PlanError> {
    let head = "name = \"p\"\nkind = \"migrate\"\n[sites]\nsource = \"east\"\n\
                destination = \"west\"\n[parameters.group]\n[facts]\nalive = true\n";
    Plan::from_toml("p.toml", &format!("{head}{steps}"))
}

fn step(id: &str, more: &str) -> String {
    format!("[[steps]]\nid = \"{id}\"\naction = \"core/x\"\n{more}\n")
}

fn after(plan: &Plan) -> Vec<Vec<usize>> {
    plan.steps.iter().map(|step| step.after.iter().copied().collect()).collect()
}

#[test]
fn steps_follow_each_other_and_neighbours_go_at_once() {
    let text = [
        step("a", ""),
        step("b", "parallel = \"x\""),
        step("c", "parallel = \"x\""),
        step("d", "parallel = \"y\""),
        step("e", ""),
        step("f", "after = [\"a\"]"),
        step("g", "after = []"),
    ];
    let plan = plan(&text.concat()).unwrap();
    let expected: [&[usize]; 7] = [&[], &[0], &[0], &[1, 2], &[3], &[0], &[]];
    assert_eq!(after(&plan), expected);
}

#[test]
fn everything_that_is_wrong_is_told_with_its_key_and_a_way_to_mend_it() {
    let text = [
        step("a", "when = \"alive and gone\"\nsite = \"third\""),
        step("a", "params = { x = \"${nobody}\", y = \"${late.out}\", z = \"${fact.no}\" }"),
        step("b", "after = [\"c\"]\ntimeout = \"soon\"\non_failure = \"hope\""),
        step("c", "after = [\"b\", \"nobody\"]\nretries = 1000"),
        step("site", ""),
        step("late", "params = { x = \"${b.ok}\", y = \"${\" }"),
    ];
    let error = plan(&text.concat()).unwrap_err();
    let told = error.to_string();
    for expected in [
        "p.toml: steps[1] (a).when: at character 11: no fact \"gone\"",
        "p.toml: steps[1] (a).site: \"third\"",
        "p.toml: steps[2] (a).id: step 1 has this name too; give each",
        "steps[2] (a).params.x: ${nobody} is no parameter; declare it",
        "steps[2] (a).params.y: ${late.out}: late is not over before",
        "steps[2] (a).params.z: ${fact.no}",
        "steps[3] (b).timeout: \"soon\"",
        "steps[3] (b).on_failure: \"hope\"",
        "steps[3] (b).after: these wait for each other: b, c;",
        "steps[4] (c).after: there is no step \"nobody\"",
        "steps[4] (c).retries: 1000",
        "steps[5] (site).id: references use this word",
        "steps[6] (late).params.y: \"${\" has no closing brace",
    ] {
        assert!(told.contains(expected), "{expected}\n--- in\n{told}");
    }
}

#[test]
fn what_is_no_plan_is_told_with_its_line() {
    let error = plan("[[steps]]\nid = \"a\"\nactions = \"core/x\"\n").unwrap_err();
    assert!(error.to_string().contains("p.toml: line 11: unknown field `actions`"), "{error}");
    let error = Plan::from_json("call", serde_json::json!({ "name": 3 })).unwrap_err();
    assert!(error.to_string().starts_with("call: plan: "), "{error}");
    let error = Plan::from_toml("f", "").unwrap_err().to_string();
    for key in ["name:", "kind:", "sites.source:", "sites.destination:", "steps:"] {
        assert!(error.contains(key), "{error}");
    }
}

#[test]
fn a_plan_is_the_same_from_toml_and_from_json() {
    let from_toml = Plan::from_toml("migrate.toml", MOVE).unwrap();
    let json = serde_json::to_value(&from_toml.raw).unwrap();
    assert_eq!(Plan::from_json("migrate.toml", json), Ok(from_toml));
}

#[test]
fn a_setting_is_complete_and_can_go_the_other_way() {
    let plan = plan(&step("a", "params = { g = \"${group}@${site.source}\" }")).unwrap();
    let given = BTreeMap::from([("group".to_owned(), "orders".to_owned())]);
    let facts = BTreeMap::from([("alive".to_owned(), "false".to_owned())]);
    let setting = plan.setting(true, &given, &facts).unwrap();
    assert_eq!(setting.facts["alive"], Fact::Bool(false));
    let (params, open) = setting.params_so_far(&plan.steps[0], "r");
    assert_eq!((params, open), (serde_json::json!({ "g": "orders@west" }), false));

    let wrong = BTreeMap::from([("alive".to_owned(), "maybe".to_owned())]);
    let faults = plan.setting(false, &BTreeMap::new(), &wrong).unwrap_err();
    let told: Vec<&str> = faults.iter().map(|fault| fault.key.as_str()).collect();
    assert_eq!(told, ["parameters.group", "facts.alive"]);
    let other = BTreeMap::from([("grup".to_owned(), "orders".to_owned())]);
    assert!(plan.setting(false, &other, &BTreeMap::new()).is_err());
}
