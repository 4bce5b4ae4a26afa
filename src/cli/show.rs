//! Answers for a person's eyes: tables where the answer is a list or a record, its own text where it is not.

use comfy_table::presets::UTF8_BORDERS_ONLY;
use comfy_table::{ContentArrangement, Table};
use serde_json::{Map, Value};

/// Columns that are worth their place come first, in this order.
const FIRST: [&str; 12] = [
    "id", "name", "username", "hostname", "status", "state", "image", "node_id", "role", "address",
    "cpu", "memory",
];
const MAX_COLUMNS: usize = 9;
const MAX_CELL: usize = 60;

/// `value` as a table, or `text` where a table would hide something.
pub(super) fn table_or_text(value: &Value, text: &str) -> String {
    let Value::Object(map) = value else { return text.to_owned() };
    let mut lists = map.iter().filter_map(|(_, it)| rows(it));
    match (lists.next(), lists.next()) {
        (Some(rows), None) if is_listing(map) => list(&rows),
        _ => text.to_owned(),
    }
}

/// A list and what pages and counts it, and nothing else that would be lost.
fn is_listing(map: &Map<String, Value>) -> bool {
    map.values().filter(|it| it.is_object()).count() == 0 && map.contains_key("total_count")
}

fn rows(value: &Value) -> Option<Vec<&Map<String, Value>>> {
    let items = value.as_array()?;
    items.iter().map(Value::as_object).collect()
}

fn list(rows: &[&Map<String, Value>]) -> String {
    if rows.is_empty() {
        return "(none)".to_owned();
    }
    let mut columns: Vec<&str> = Vec::new();
    for key in
        rows.iter().flat_map(|it| it.iter()).filter(|(_, it)| is_plain(it)).map(|(key, _)| key)
    {
        if !columns.contains(&key.as_str()) {
            columns.push(key);
        }
    }
    let weight = |name: &str| FIRST.iter().position(|it| *it == name).unwrap_or(FIRST.len());
    columns.sort_by_key(|it| weight(it));
    columns.truncate(MAX_COLUMNS);
    let mut table = Table::new();
    table.load_style(UTF8_BORDERS_ONLY).set_content_arrangement(ContentArrangement::Dynamic);
    table.set_header(columns.iter().map(|it| it.replace('_', " ")));
    for row in rows {
        table.add_row(columns.iter().map(|it| row.get(*it).map_or_else(String::new, cell)));
    }
    table.to_string()
}

fn is_plain(value: &Value) -> bool {
    match value {
        Value::String(it) => !it.is_empty() && !it.contains('\n'),
        Value::Number(_) | Value::Bool(_) => true,
        _ => false,
    }
}

fn cell(value: &Value) -> String {
    match value {
        Value::String(it) => orch_domain::text::excerpt(&orch_domain::text::sanitize(it), MAX_CELL),
        Value::Null | Value::Array(_) | Value::Object(_) => String::new(),
        other => other.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_listing_is_a_table_with_the_telling_columns_first() {
        let value = json!({"next_page_token": "", "total_count": 2, "nodes": [
            {"cpu": 2, "id": "local", "status": "healthy", "tags": ["x"]},
            {"cpu": 16, "id": "n\u{1b}[31m1", "status": "unknown", "tags": []},
        ]});
        let shown = table_or_text(&value, "text");
        let lines: Vec<&str> = shown.lines().collect();
        let header: Vec<&str> = lines[1].split_whitespace().filter(|it| *it != "│").collect();
        assert_eq!(header, ["id", "status", "cpu"], "{shown}");
        assert!(shown.contains("n1") && !shown.contains('\u{1b}'), "{shown}");
        assert_eq!(table_or_text(&json!({"total_count": 0, "nodes": []}), "text"), "(none)");
    }

    #[test]
    fn everything_else_is_its_own_text() {
        assert_eq!(
            table_or_text(&json!({"id": "i-1", "ports": [{"a": 1}]}), "the text"),
            "the text"
        );
        assert_eq!(table_or_text(&Value::Null, "the text"), "the text");
    }
}
