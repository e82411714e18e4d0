//! Reading a tree of values field by field, collecting every mistake on the way.

use std::collections::BTreeSet;
use std::time::Duration;

use serde_json::{Map, Value};
use tower_mesh_core::error::{InvalidConfig, Mistake};

use super::path_of;
use super::shape::{Kind, Shape};

/// One table under reading. Each getter takes one field; [`finish`](Table::finish) calls what nobody took unknown.
pub(super) struct Table<'a> {
    path: String,
    values: Option<&'a Map<String, Value>>,
    known: BTreeSet<&'static str>,
    mistakes: Vec<Mistake>,
    /// None, unless it is described and not read.
    shape: Option<Shape>,
}

impl<'a> Table<'a> {
    /// The whole tree.
    pub(super) fn root(value: &'a Value) -> Self {
        let mut table = Self {
            path: String::new(),
            values: None,
            known: BTreeSet::new(),
            mistakes: Vec::new(),
            shape: None,
        };
        match value {
            Value::Object(values) => table.values = Some(values),
            other => table.mistakes.push(Mistake::new("configuration", shown(other), "a table")),
        }
        table
    }

    /// A tree that is described: whoever reads it asks for every field, and finds none.
    pub(super) fn described() -> Self {
        let (path, shape) = (String::new(), Some(Shape::new("")));
        Self { path, values: None, known: BTreeSet::new(), mistakes: Vec::new(), shape }
    }

    /// Whether it is described and not read: all there may be is to be asked for.
    pub(super) fn is_described(&self) -> bool {
        self.shape.is_some()
    }

    /// What it may hold, if it was described.
    pub(super) fn into_shape(self) -> Option<Shape> {
        self.shape
    }

    /// A table below this one; empty if it is not there.
    pub(super) fn table(&mut self, key: &'static str) -> Table<'a> {
        self.child(key, self.path_of(key))
    }

    /// A table below this one, in whose place somebody may have put a secret: what stands there and is no table is not shown, and makes the table wrong.
    pub(super) fn secret_table(&mut self, key: &'static str) -> Table<'a> {
        match self.take(key) {
            None | Some(Value::Object(_) | Value::Null) => self.table(key),
            Some(_) => {
                let path = self.path_of(key);
                let mistakes = vec![Mistake::new(path.clone(), "no table", "a table")];
                Table { path, values: None, known: BTreeSet::new(), mistakes, shape: None }
            }
        }
    }

    /// Whether a field is there.
    pub(super) fn has(&mut self, key: &'static str) -> bool {
        self.known.insert(key);
        self.is_described() || self.values.is_some_and(|values| values.contains_key(key))
    }

    /// Tables with names of the user's own below this one.
    pub(super) fn named_tables(&mut self, key: &'static str) -> Vec<(&'a str, Table<'a>)> {
        let mut parent = self.table(key);
        let path = parent.path.clone();
        if self.is_described() {
            parent.shape = Some(Shape::named(key));
            return vec![("*", parent)];
        }
        let names = parent.values.map(|values| values.iter()).into_iter().flatten();
        let tables = names.map(|(name, value)| {
            let path = path_of(&path, name);
            let table =
                |values| Table { path, values, known: BTreeSet::new(), mistakes: Vec::new(), shape: None };
            match value {
                Value::Object(values) => Ok((name.as_str(), table(Some(values)))),
                other => Err(Mistake::new(table(None).path, shown(other), "a table")),
            }
        });
        let (tables, mistakes): (Vec<_>, Vec<_>) = tables.partition(Result::is_ok);
        self.mistakes.extend(parent.mistakes);
        self.mistakes.extend(mistakes.into_iter().filter_map(Result::err));
        tables.into_iter().filter_map(Result::ok).collect()
    }

    fn child(&mut self, key: &'static str, path: String) -> Table<'a> {
        let shape = self.shape.as_ref().map(|_| Shape::new(key));
        let mut table = Table { path, values: None, known: BTreeSet::new(), mistakes: Vec::new(), shape };
        match self.take(key) {
            None => {}
            Some(Value::Object(values)) => table.values = Some(values),
            Some(Value::Null) => self.wrong(key, &Value::Null, "a table; {} is an empty one"),
            Some(other) => self.wrong(key, other, "a table"),
        }
        table
    }

    pub(super) fn text(&mut self, key: &'static str) -> Option<&'a str> {
        self.note(key, Kind::Text);
        match self.take(key)? {
            Value::String(text) => Some(text),
            other => self.no(key, other, "a text"),
        }
    }

    /// Whether a field is there and is a table.
    #[cfg(feature = "dns")]
    pub(super) fn is_table(&mut self, key: &'static str) -> bool {
        self.is_described() || self.take(key).is_some_and(Value::is_object)
    }

    /// Whether a mistake was found in it.
    pub(super) fn is_wrong(&self) -> bool {
        !self.mistakes.is_empty()
    }

    /// Refuses the whole table, whatever is in it.
    pub(super) fn refuse(&mut self, allowed: &str) {
        self.values = None;
        self.mistakes = vec![Mistake::new(self.path.clone(), "a table", allowed)];
    }

    /// The texts of a list, each with its place; what is no text is left out, and told.
    pub(super) fn texts(&mut self, key: &'static str) -> Option<Vec<(usize, &'a str)>> {
        self.note(key, Kind::Texts);
        let found = self.take(key)?;
        let Value::Array(values) = found else { return self.no(key, found, "a list of texts") };
        let mut texts = Vec::new();
        for (i, value) in values.iter().enumerate() {
            match value {
                Value::String(text) => texts.push((i, text.as_str())),
                other => self.add(Mistake::new(format!("{key}[{i}]"), shown(other), "a text")),
            }
        }
        Some(texts)
    }

    /// The values of a list, whatever they are.
    pub(super) fn list(&mut self, key: &'static str) -> Option<&'a [Value]> {
        self.note(key, Kind::List);
        match self.take(key)? {
            Value::Array(values) => Some(values),
            other => self.no(key, other, "a list"),
        }
    }

    /// The texts of a table whose fields have names of the user's own; what is no text is left out, and told.
    pub(super) fn texts_by_name(&mut self, key: &'static str) -> Option<Vec<(&'a str, &'a str)>> {
        self.note(key, Kind::NamedTexts);
        let found = self.take(key)?;
        let Value::Object(values) = found else { return self.no(key, found, "a table of texts") };
        let mut texts = Vec::new();
        for (name, value) in values {
            match value {
                Value::String(text) => texts.push((name.as_str(), text.as_str())),
                other => self.add(Mistake::new(path_of(key, name), shown(other), "a text")),
            }
        }
        Some(texts)
    }

    /// Whether a field is there and holds nothing.
    pub(super) fn is_empty_list(&mut self, key: &'static str) -> bool {
        self.take(key).and_then(Value::as_array).is_some_and(Vec::is_empty)
    }

    pub(super) fn flag(&mut self, key: &'static str) -> Option<bool> {
        self.note(key, Kind::Flag);
        match self.take(key)? {
            Value::Bool(flag) => Some(*flag),
            other => self.no(key, other, "true or false"),
        }
    }

    pub(super) fn number(&mut self, key: &'static str) -> Option<f64> {
        self.note(key, Kind::Number);
        let value = self.take(key)?;
        match value.as_f64() {
            Some(number) => Some(number),
            None => self.no(key, value, "a number"),
        }
    }

    pub(super) fn count(&mut self, key: &'static str) -> Option<u32> {
        self.note(key, Kind::Count);
        let value = self.take(key)?;
        match value.as_u64().and_then(|count| u32::try_from(count).ok()) {
            Some(count) => Some(count),
            None => self.no(key, value, "a whole number from 0 to 4294967295"),
        }
    }

    pub(super) fn duration(&mut self, key: &'static str) -> Option<Duration> {
        self.note(key, Kind::Duration);
        const ALLOWED: &str = "a duration with a unit, such as \"500ms\", \"2s\" or \"1m\"";
        let value = self.take(key)?;
        match value.as_str().map(humantime::parse_duration) {
            Some(Ok(duration)) => Some(duration),
            _ => self.no(key, value, ALLOWED),
        }
    }

    /// One of a few words.
    pub(super) fn word<T: Copy>(&mut self, key: &'static str, words: &[(&str, T)]) -> Option<T> {
        self.note(key, Kind::Words(words.iter().map(|(word, _)| (*word).to_owned()).collect()));
        let value = self.take(key)?;
        let found = value.as_str().and_then(|text| words.iter().find(|(word, _)| *word == text));
        match found {
            Some((_, meaning)) => Some(*meaning),
            None => {
                let allowed: Vec<_> = words.iter().map(|(word, _)| format!("{word:?}")).collect();
                self.no(key, value, &allowed.join(", "))
            }
        }
    }

    /// Takes what a builder said of the fields of this table.
    pub(super) fn checked<T>(&mut self, built: Result<T, InvalidConfig>) -> Option<T> {
        match built {
            Ok(value) => Some(value),
            Err(invalid) => {
                let own = invalid.mistakes().iter().cloned();
                let path = self.path.clone();
                self.mistakes.extend(own.map(|mistake| mistake.under(&path)));
                None
            }
        }
    }

    pub(super) fn mistake(&mut self, key: &'static str, found: impl std::fmt::Display, allowed: &str) {
        let path = self.path_of(key);
        self.mistakes.push(Mistake::new(path, found, allowed));
    }

    /// Takes a mistake in a field of this table.
    pub(super) fn add(&mut self, mistake: Mistake) {
        let mistake = if self.path.is_empty() { mistake } else { mistake.under(&self.path) };
        self.mistakes.push(mistake);
    }

    /// Takes the mistakes of a table below this one, whose reading is over.
    pub(super) fn absorb(&mut self, mut table: Table<'a>) {
        if let (Some(shape), Some(part)) = (&mut self.shape, table.shape.take()) {
            shape.hold(part);
        }
        self.mistakes.extend(table.finish());
    }

    /// The mistakes in it and, as unknown, the fields that nobody asked for.
    pub(super) fn finish(mut self) -> Vec<Mistake> {
        let unknown = self.values.into_iter().flatten().filter(|(key, _)| !self.known.contains(key.as_str()));
        let allowed: Vec<_> = self.known.iter().copied().collect();
        let allowed = if allowed.is_empty() { "nothing".to_owned() } else { allowed.join(", ") };
        let unknown: Vec<_> = unknown.map(|(key, _)| key.clone()).collect();
        for key in unknown {
            self.mistakes.push(Mistake::new(path_of(&self.path, &key), "an unknown field", allowed.clone()));
        }
        self.mistakes
    }

    fn note(&mut self, key: &'static str, kind: Kind) {
        if let Some(shape) = &mut self.shape {
            shape.field(key, kind);
        }
    }

    fn take(&mut self, key: &'static str) -> Option<&'a Value> {
        self.known.insert(key);
        self.values?.get(key)
    }

    fn path_of(&self, key: &str) -> String {
        path_of(&self.path, key)
    }

    fn no<T>(&mut self, key: &'static str, found: &Value, allowed: &str) -> Option<T> {
        self.wrong(key, found, allowed);
        None
    }

    fn wrong(&mut self, key: &'static str, found: &Value, allowed: &str) {
        self.mistake(key, shown(found), allowed);
    }
}

/// A text as a mistake shows it.
#[cfg(feature = "dns")]
pub(super) fn short(text: &str) -> String {
    shown(&Value::from(text))
}

/// A value as a mistake shows it: whole if it is short, by its kind if it is not.
pub(super) fn shown(value: &Value) -> String {
    match value {
        Value::Null => "nothing (null)".to_owned(),
        Value::Object(_) => "a table".to_owned(),
        Value::Array(_) => "a list".to_owned(),
        Value::String(text) if text.len() > 64 => format!("a text of {} bytes", text.len()),
        other => other.to_string(),
    }
}
