//! What a configuration may hold, found out by asking for all of it: the JSON Schema, and the page that lists the fields.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use serde_json::{Map, Value, json};

/// A table: its fields, and the tables below it.
#[derive(Debug, Default)]
pub(super) struct Shape {
    key: &'static str,
    /// It holds such tables under names of the user's own.
    named: bool,
    fields: BTreeMap<&'static str, Kind>,
    tables: BTreeMap<&'static str, Shape>,
}

/// What a field holds.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Kind {
    Text,
    Texts,
    NamedTexts,
    List,
    Flag,
    Number,
    Count,
    Duration,
    Words(Vec<String>),
}

impl Shape {
    pub(super) fn new(key: &'static str) -> Self {
        Self { key, ..Self::default() }
    }

    pub(super) fn named(key: &'static str) -> Self {
        Self { named: true, ..Self::new(key) }
    }

    pub(super) fn field(&mut self, key: &'static str, kind: Kind) {
        self.fields.insert(key, kind);
    }

    /// Takes in a table below, or what another look at it has found.
    pub(super) fn hold(&mut self, part: Self) {
        let mine = self.tables.entry(part.key).or_insert_with(|| Self::new(part.key));
        mine.named |= part.named;
        mine.fields.extend(part.fields);
        part.tables.into_values().for_each(|table| mine.hold(table));
    }

    /// As a JSON Schema. What a table's fields say of each other, and the ranges of numbers, it does not say.
    pub(super) fn schema(&self) -> Value {
        let table = self.table();
        if self.named { json!({ "type": "object", "additionalProperties": table }) } else { table }
    }

    fn table(&self) -> Value {
        let mut properties: Map<_, _> =
            self.fields.iter().map(|(key, kind)| ((*key).to_owned(), kind.schema())).collect();
        for (key, table) in &self.tables {
            let schema = match properties.remove(*key) {
                Some(short) => json!({ "anyOf": [short, table.schema()] }),
                None => table.schema(),
            };
            properties.insert((*key).to_owned(), schema);
        }
        json!({ "type": "object", "properties": properties, "additionalProperties": false })
    }

    /// The rows of the page, one for each field.
    pub(super) fn rows(&self, path: &str, page: &mut String) {
        for (key, kind) in &self.fields {
            let _ = writeln!(page, "| `{path}{key}` | {} |", kind.words());
        }
        for (key, table) in &self.tables {
            let name = if table.named { ".*" } else { "" };
            let path = format!("{path}{key}{name}.");
            if table.fields.is_empty() && table.tables.is_empty() {
                let _ = writeln!(page, "| `{}` | a table |", path.trim_end_matches('.'));
            }
            table.rows(&path, page);
        }
    }
}

impl Kind {
    fn schema(&self) -> Value {
        match self {
            Self::Text => json!({ "type": "string" }),
            Self::Texts => json!({ "type": "array", "items": { "type": "string" } }),
            Self::NamedTexts => json!({ "type": "object", "additionalProperties": { "type": "string" } }),
            Self::List => json!({ "type": "array" }),
            Self::Flag => json!({ "type": "boolean" }),
            Self::Number => json!({ "type": "number" }),
            Self::Count => json!({ "type": "integer", "minimum": 0, "maximum": u32::MAX }),
            Self::Duration => json!({
                "type": "string",
                "description": "a duration with a unit: 500ms, 2s, 1m 30s",
                "pattern": "^\\s*([0-9]+\\s*[A-Za-zµ]+\\s*)+$",
            }),
            Self::Words(words) => json!({ "enum": words }),
        }
    }

    fn words(&self) -> String {
        match self {
            Self::Text => "a text".into(),
            Self::Texts => "a list of texts".into(),
            Self::NamedTexts => "a table of texts".into(),
            Self::List => "a list".into(),
            Self::Flag => "`true` or `false`".into(),
            Self::Number => "a number".into(),
            Self::Count => "a whole number".into(),
            Self::Duration => "a duration".into(),
            Self::Words(words) => words.iter().map(|word| format!("`{word}`")).collect::<Vec<_>>().join(", "),
        }
    }
}
