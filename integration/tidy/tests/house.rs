//! Every rule of the house, over this repository.

use twinspan_tidy::{Findings, Tree, coverage, crates, dashboards, documents, names, shape, words};

fn check(rule: fn(&Tree) -> Findings) {
    let tree = Tree::load().expect("the repository can be read");
    assert!(tree.text("Cargo.toml").is_some(), "the tree was not found");
    let findings = rule(&tree);
    assert!(findings.is_empty(), "{} findings:\n  {}", findings.len(), findings.join("\n  "));
}

macro_rules! rules {
    ($($name:ident: $rule:path,)*) => {
        $(#[test] fn $name() { check($rule); })*
    };
}

rules! {
    crates_depend_only_on_what_they_may: crates::edges,
    files_say_first_what_they_are: shape::openings,
    files_are_short: shape::lengths,
    no_file_is_called_mod: shape::no_mod_rs,
    protocols_have_the_same_files: shape::protocol_files,
    unsafe_is_where_it_may_be: shape::no_unsafe,
    nothing_strange_stands_at_the_top: shape::top_level,
    names_use_the_nouns_of_the_glossary: words::synonyms,
    no_comment_leaves_work_behind: words::leftovers,
    no_identifier_carries_the_products_name: words::product_name,
    metrics_have_rows_and_rows_have_metrics: names::metrics,
    error_codes_have_pages_and_pages_have_codes: names::error_codes,
    decisions_are_numbered_dated_and_whole: documents::decision_records,
    config_files_are_listed: documents::config_files,
    commands_in_guides_exist: documents::commands,
    links_between_documents_lead_somewhere: documents::links,
    dashboards_ask_for_what_exists: dashboards::metrics,
    recorded_series_exist: dashboards::recorded_series,
    behaviours_are_held_by_tests: coverage::behaviours,
    hazards_are_held_by_tests: coverage::hazards,
    alerts_are_whole: dashboards::alerts,
}
