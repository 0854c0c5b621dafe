//! Tables for people, JSON for programs.

use comfy_table::presets::NOTHING;
use comfy_table::{ContentArrangement, Table};
use serde::Serialize;

use crate::args::Format;

/// Prints an answer: as JSON, or as `table` makes it.
pub(crate) fn show<T: Serialize>(format: Format, answer: &T, table: impl FnOnce(&T) -> String) {
    match format {
        Format::Json => match serde_json::to_string_pretty(answer) {
            Ok(text) => println!("{text}"),
            Err(error) => eprintln!("error: the answer cannot be written as JSON: {error}"),
        },
        Format::Table => {
            let text = table(answer);
            if !text.is_empty() {
                println!("{}", text.trim_end());
            }
        }
    }
}

/// Columns without lines.
pub(crate) fn table(head: &[&str], rows: impl IntoIterator<Item = Vec<String>>) -> String {
    let mut table = Table::new();
    table.load_style(NOTHING).set_content_arrangement(ContentArrangement::Disabled);
    table.set_header(head.to_vec());
    for row in rows {
        table.add_row(row);
    }
    for column in table.column_iter_mut() {
        column.set_padding((0, 2));
    }
    table.lines().map(|line| line.trim_end().to_owned() + "\n").collect()
}

/// A word of the API as it is written there.
pub(crate) fn word<T: Serialize>(value: &T) -> String {
    match serde_json::to_value(value) {
        Ok(serde_json::Value::String(word)) => word.replace('_', " "),
        Ok(other) => other.to_string(),
        Err(_) => "?".to_owned(),
    }
}

/// A word, or `UNKNOWN`.
pub(crate) fn known<T: Serialize>(value: Option<&T>) -> String {
    value.map_or_else(|| "UNKNOWN".to_owned(), word)
}
