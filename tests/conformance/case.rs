//! Cases, read strictly: whatever of a case is not looked at is not understood.

use std::cell::{Cell, RefCell};
use std::collections::BTreeSet;
use std::fmt;
use std::path::Path;

use serde_json::{Map, Value};

/// What running a case gives.
pub(crate) type Outcome = Result<(), String>;

/// One case.
#[derive(Debug)]
pub(crate) struct Case {
    file: String,
    id: String,
    kind: String,
    tolerance: Option<f64>,
    /// Which of two systems is meant, where they disagree.
    model: Option<String>,
    model_read: Cell<bool>,
    pub(crate) given: Fields,
    pub(crate) expect: Fields,
}

impl fmt::Display for Case {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {} ({})", self.file, self.id, self.kind)
    }
}

/// All cases in the `.json` files of `directory`, in the order of files.
pub(crate) fn read(directory: &Path) -> Result<Vec<Case>, String> {
    let entries =
        std::fs::read_dir(directory).map_err(|error| format!("{}: {error}", directory.display()))?;
    let paths = entries.map(|entry| entry.map(|entry| entry.path()).map_err(|error| error.to_string()));
    let mut paths = paths.collect::<Result<Vec<_>, _>>()?;
    paths.retain(|path| path.extension().is_some_and(|extension| extension == "json"));
    paths.sort();
    let mut cases = Vec::new();
    for path in paths {
        let file = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        let text = std::fs::read_to_string(&path).map_err(|error| format!("{file}: {error}"))?;
        let topic: Value = serde_json::from_str(&text).map_err(|error| format!("{file}: {error}"))?;
        let listed = topic.get("cases").and_then(Value::as_array).ok_or(format!("{file}: no cases"))?;
        let mut ids = BTreeSet::new();
        for value in listed {
            let case = Case::parse(&file, value)?;
            if !ids.insert(case.id.clone()) {
                return Err(format!("{case}: the id is there twice"));
            }
            cases.push(case);
        }
    }
    Ok(cases)
}

impl Case {
    pub(crate) fn parse(file: &str, value: &Value) -> Result<Self, String> {
        let text = |name: &str| value.get(name).and_then(Value::as_str).map(str::to_owned);
        let id = text("id").ok_or_else(|| format!("{file}: a case without an id"))?;
        let kind = text("kind").ok_or_else(|| format!("{file} {id}: no kind"))?;
        Ok(Self {
            file: file.to_owned(),
            tolerance: value.get("tolerance").and_then(Value::as_f64),
            model: text("model"),
            model_read: Cell::new(false),
            given: Fields::new(value.get("given")),
            expect: Fields::new(value.get("expect")),
            id,
            kind,
        })
    }

    pub(crate) fn kind(&self) -> &str {
        &self.kind
    }

    /// Which of two systems is meant, if the case says so.
    pub(crate) fn model(&self) -> Option<&str> {
        self.model_read.set(true);
        self.model.as_deref()
    }

    /// Runs `check`, and sees to it that it has looked at everything.
    pub(crate) fn run(&self, check: fn(&Self) -> Outcome) -> Outcome {
        check(self)?;
        if let (Some(model), false) = (&self.model, self.model_read.get()) {
            return Err(format!("no rule here has a model {model:?}"));
        }
        self.given.all_read("given")?;
        self.expect.all_read("expect")
    }

    /// Whether two numbers are the same: within the case's tolerance, or else to nine digits.
    pub(crate) fn close(&self, what: impl fmt::Display, found: f64, expected: f64) -> Outcome {
        let allowed = self.tolerance.unwrap_or(1e-9 * expected.abs().max(1.0));
        let same = (found - expected).abs() <= allowed;
        if same { Ok(()) } else { Err(format!("{what}: found {found}, expected {expected}")) }
    }

    /// As [`close`](Self::close), one by one.
    pub(crate) fn all_close(&self, what: &str, found: &[f64], expected: &[f64]) -> Outcome {
        same(format_args!("number of {what}"), &found.len(), &expected.len())?;
        let mut pairs = found.iter().zip(expected).enumerate();
        pairs.try_for_each(|(i, (&found, &expected))| self.close(format_args!("{what} {i}"), found, expected))
    }
}

/// `Err` unless `found` is what was expected.
pub(crate) fn same<T: PartialEq + fmt::Debug>(what: impl fmt::Display, found: &T, expected: &T) -> Outcome {
    if found == expected { Ok(()) } else { Err(format!("{what}: found {found:?}, expected {expected:?}")) }
}

/// What is said of an operation nobody knows.
pub(crate) fn unknown(op: &impl fmt::Debug) -> String {
    format!("not understood: {op:?}")
}

/// The fields of an object, of which it is noted which were looked at.
#[derive(Debug)]
pub(crate) struct Fields {
    values: Map<String, Value>,
    read: RefCell<BTreeSet<String>>,
}

impl Fields {
    /// Of anything but an object there are none: an expectation in words says that they are inline.
    pub(crate) fn new(value: Option<&Value>) -> Self {
        Self {
            values: value.and_then(Value::as_object).cloned().unwrap_or_default(),
            read: RefCell::default(),
        }
    }

    fn all_read(&self, what: &str) -> Outcome {
        let read = self.read.borrow();
        let left: Vec<_> = self.values.keys().filter(|name| !read.contains(*name)).collect();
        if left.is_empty() { Ok(()) } else { Err(format!("not understood in {what}: {left:?}")) }
    }

    pub(crate) fn has(&self, name: &str) -> bool {
        self.values.contains_key(name)
    }

    pub(crate) fn value(&self, name: &str) -> Result<&Value, String> {
        self.read.borrow_mut().insert(name.to_owned());
        self.values.get(name).ok_or_else(|| format!("{name} is missing"))
    }

    /// A number, which may be written as a string where it is long.
    pub(crate) fn number(&self, name: &str) -> Result<f64, String> {
        number(self.value(name)?).ok_or_else(|| format!("{name} is no number"))
    }

    pub(crate) fn whole(&self, name: &str) -> Result<u64, String> {
        whole(self.value(name)?).ok_or_else(|| format!("{name} is no whole number"))
    }

    pub(crate) fn small(&self, name: &str) -> Result<u32, String> {
        u32::try_from(self.whole(name)?).map_err(|_| format!("{name} is too large"))
    }

    /// A whole number, or none for `null`.
    pub(crate) fn whole_or_null(&self, name: &str) -> Result<Option<u64>, String> {
        if self.value(name)?.is_null() { Ok(None) } else { self.whole(name).map(Some) }
    }

    pub(crate) fn text(&self, name: &str) -> Result<&str, String> {
        self.value(name)?.as_str().ok_or_else(|| format!("{name} is no text"))
    }

    pub(crate) fn flag(&self, name: &str) -> Result<bool, String> {
        self.value(name)?.as_bool().ok_or_else(|| format!("{name} is neither true nor false"))
    }

    pub(crate) fn list(&self, name: &str) -> Result<&[Value], String> {
        self.value(name)?.as_array().map(Vec::as_slice).ok_or_else(|| format!("{name} is no list"))
    }

    pub(crate) fn numbers(&self, name: &str) -> Result<Vec<f64>, String> {
        let numbers =
            self.list(name)?.iter().map(|value| number(value).ok_or(format!("no number in {name}")));
        numbers.collect()
    }

    pub(crate) fn wholes(&self, name: &str) -> Result<Vec<u64>, String> {
        let wholes =
            self.list(name)?.iter().map(|value| whole(value).ok_or(format!("no whole number in {name}")));
        wholes.collect()
    }

    /// The objects of a list, each to be looked at wholly.
    pub(crate) fn rows(&self, name: &str) -> Result<Vec<Row>, String> {
        let rows = self.list(name)?.iter().map(|value| {
            value.as_object().ok_or_else(|| format!("a row of {name} is no object"))?;
            Ok(Row(Self::new(Some(value))))
        });
        rows.collect()
    }

    /// An object within, to be looked at wholly.
    pub(crate) fn object(&self, name: &str) -> Result<Row, String> {
        let value = self.value(name)?;
        value.as_object().ok_or_else(|| format!("{name} is no object"))?;
        Ok(Row(Self::new(Some(value))))
    }
}

/// An object within a case.
#[derive(Debug)]
pub(crate) struct Row(pub(crate) Fields);

impl Row {
    /// It has been looked at, wholly.
    pub(crate) fn done(&self) -> Outcome {
        self.0.all_read("a row")
    }
}

pub(crate) fn number(value: &Value) -> Option<f64> {
    value.as_f64().or_else(|| value.as_str()?.parse().ok())
}

pub(crate) fn whole(value: &Value) -> Option<u64> {
    value.as_u64().or_else(|| value.as_str()?.parse().ok())
}

/// An operation: its name, and what follows it. A bare word is one of its name alone.
pub(crate) fn op(value: &Value) -> Result<(&str, &[Value]), String> {
    if let Some(name) = value.as_str() {
        return Ok((name, &[]));
    }
    let list = value.as_array().ok_or_else(|| unknown(value))?;
    let (name, rest) = list.split_first().ok_or_else(|| unknown(value))?;
    Ok((name.as_str().ok_or_else(|| unknown(value))?, rest))
}
