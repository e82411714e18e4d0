//! What stands in the file.

use std::collections::HashSet;
use std::fmt;
use std::num::NonZeroU32;
use std::path::Path;

use serde::de::{Deserialize, Deserializer, Error, MapAccess, SeqAccess, Visitor};
use tower_mesh_core::error::{InvalidConfig, Mistake};
use tower_mesh_core::{BoxError, Endpoint, EndpointId};

use super::FileError;

/// The endpoints in `text`, which is that of `path`.
pub(super) fn read(path: &Path, text: &[u8]) -> Result<Vec<Endpoint>, FileError> {
    let json = path.extension().is_some_and(|extension| extension == "json");
    let value = if json {
        serde_json::from_slice(text).map_err(BoxError::from)
    } else {
        str::from_utf8(text)
            .map_err(BoxError::from)
            .and_then(|text| toml::from_str(text).map_err(BoxError::from))
    };
    let value = value.map_err(|error| FileError::Malformed { path: path.to_owned(), error })?;
    let mut mistakes = Vec::new();
    let endpoints = list(&value, &mut mistakes);
    match InvalidConfig::check(mistakes) {
        Ok(()) => Ok(endpoints),
        Err(error) => Err(FileError::Invalid { path: path.to_owned(), error }),
    }
}

/// A value of either format. What none of the fields may be is told apart only as far as a mistake shows it.
enum Value {
    Text(String),
    Whole(u64),
    Other(String),
    List(Vec<Value>),
    Table(Vec<(String, Value)>),
}

const TEXT: &str = "1 to 1024 bytes without blanks or control characters";
const FIELDS: &str = "address, id, locality, metadata, priority, weight";

fn list(value: &Value, mistakes: &mut Vec<Mistake>) -> Vec<Endpoint> {
    let Value::Table(fields) = value else {
        mistakes.push(Mistake::new("endpoints", value, "a table with a list of endpoints"));
        return Vec::new();
    };
    let unknown = fields.iter().filter(|(key, _)| key != "endpoints");
    mistakes.extend(unknown.map(|(key, _)| Mistake::new(key, "an unknown field", "endpoints")));
    let entries = match fields.iter().find(|(key, _)| key == "endpoints") {
        Some((_, Value::List(entries))) => entries,
        Some((_, other)) => {
            mistakes.push(Mistake::new("endpoints", other, "a list of endpoints"));
            return Vec::new();
        }
        None => {
            mistakes.push(Mistake::new("endpoints", "nothing", "a list of endpoints"));
            return Vec::new();
        }
    };
    let mut seen = HashSet::new();
    let mut endpoints = Vec::with_capacity(entries.len());
    for (i, entry) in entries.iter().enumerate() {
        let path = format!("endpoints[{i}]");
        let Some(endpoint) = Entry { path: &path, mistakes }.read(entry) else { continue };
        if seen.insert(endpoint.id().clone()) {
            endpoints.push(endpoint);
        } else {
            mistakes.push(Mistake::new(path, format_args!("{} again", endpoint.id()), "each endpoint once"));
        }
    }
    endpoints
}

/// One endpoint under reading.
struct Entry<'a> {
    path: &'a str,
    mistakes: &'a mut Vec<Mistake>,
}

impl Entry<'_> {
    /// The endpoint, as far as it can be one. The mistakes say whether it is right.
    fn read(&mut self, entry: &Value) -> Option<Endpoint> {
        let fields = match entry {
            Value::Text(address) => {
                let endpoint = Endpoint::new(address);
                if endpoint.is_err() {
                    self.mistakes.push(Mistake::new(self.path, entry, TEXT));
                }
                return endpoint.ok();
            }
            Value::Table(fields) => fields,
            other => {
                self.mistakes.push(Mistake::new(self.path, other, "an address, or a table with one"));
                return None;
            }
        };
        let address = fields.iter().find(|(key, _)| key == "address").map(|(_, value)| value);
        let mut endpoint = match address {
            Some(Value::Text(text)) => Endpoint::new(text).ok(),
            _ => None,
        };
        match address {
            None => self.wrong("address", &"nothing", TEXT),
            Some(found) if endpoint.is_none() => self.wrong("address", found, TEXT),
            Some(_) => {}
        }
        // Without an address there is still the rest to be looked at.
        let mut stand_in = Endpoint::new("?").expect("a mark is an address");
        for (key, value) in fields {
            let right = endpoint.as_mut().unwrap_or(&mut stand_in);
            self.field(right, key, value);
        }
        endpoint
    }

    fn field(&mut self, endpoint: &mut Endpoint, key: &str, value: &Value) {
        let now = endpoint.clone();
        let next = match (key, value) {
            ("address", _) => return,
            ("id", Value::Text(id)) => id.parse::<EndpointId>().map(|id| now.with_id(id)).map_err(|_| TEXT),
            ("id", _) => Err(TEXT),
            ("locality", Value::Text(locality)) => now.with_locality(locality).map_err(|_| TEXT),
            ("locality", _) => Err(TEXT),
            ("weight", value) => match value.whole().and_then(NonZeroU32::new) {
                Some(weight) => Ok(now.with_weight(weight)),
                None => Err("a whole number from 1 to 4294967295"),
            },
            ("priority", value) => match value.whole() {
                Some(priority) => Ok(now.with_priority(priority)),
                None => Err("a whole number from 0 to 4294967295"),
            },
            ("metadata", Value::Table(entries)) => {
                *endpoint = self.metadata(now, entries);
                return;
            }
            ("metadata", _) => Err("a table of texts"),
            (unknown, _) => {
                let path = format!("{}.{unknown}", self.path);
                self.mistakes.push(Mistake::new(path, "an unknown field", FIELDS));
                return;
            }
        };
        match next {
            Ok(next) => *endpoint = next,
            Err(allowed) => self.wrong(key, value, allowed),
        }
    }

    fn metadata(&mut self, mut endpoint: Endpoint, entries: &[(String, Value)]) -> Endpoint {
        for (key, value) in entries {
            let next = match value {
                Value::Text(text) => endpoint.clone().with_metadata(key, text).ok(),
                _ => None,
            };
            match next {
                Some(next) => endpoint = next,
                None => {
                    let allowed = "at most 64 texts of at most 1024 bytes";
                    self.wrong(&format!("metadata.{key}"), value, allowed);
                }
            }
        }
        endpoint
    }

    fn wrong(&mut self, key: &str, found: &dyn fmt::Display, allowed: &str) {
        self.mistakes.push(Mistake::new(format!("{}.{key}", self.path), found, allowed));
    }
}

impl Value {
    fn whole(&self) -> Option<u32> {
        match self {
            Self::Whole(number) => u32::try_from(*number).ok(),
            _ => None,
        }
    }
}

impl fmt::Display for Value {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Text(text) if text.len() > 64 => write!(f, "a text of {} bytes", text.len()),
            Self::Text(text) => write!(f, "{text:?}"),
            Self::Whole(number) => number.fmt(f),
            Self::Other(text) => f.write_str(text),
            Self::List(_) => f.write_str("a list"),
            Self::Table(_) => f.write_str("a table"),
        }
    }
}

impl<'de> Deserialize<'de> for Value {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(Any)
    }
}

struct Any;

impl<'de> Visitor<'de> for Any {
    type Value = Value;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a value")
    }

    fn visit_bool<E>(self, value: bool) -> Result<Value, E> {
        Ok(Value::Other(value.to_string()))
    }

    fn visit_i64<E>(self, value: i64) -> Result<Value, E> {
        Ok(u64::try_from(value).map_or_else(|_| Value::Other(value.to_string()), Value::Whole))
    }

    fn visit_u64<E>(self, value: u64) -> Result<Value, E> {
        Ok(Value::Whole(value))
    }

    fn visit_f64<E>(self, value: f64) -> Result<Value, E> {
        Ok(Value::Other(value.to_string()))
    }

    fn visit_str<E>(self, value: &str) -> Result<Value, E> {
        Ok(Value::Text(value.to_owned()))
    }

    fn visit_unit<E>(self) -> Result<Value, E> {
        Ok(Value::Other("null".to_owned()))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<Value, A::Error> {
        let mut values = Vec::new();
        while let Some(value) = items.next_element()? {
            values.push(value);
        }
        Ok(Value::List(values))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut fields: A) -> Result<Value, A::Error> {
        let mut values: Vec<(String, Value)> = Vec::new();
        let mut seen = HashSet::new();
        while let Some((key, value)) = fields.next_entry::<String, Value>()? {
            if !seen.insert(key.clone()) {
                return Err(A::Error::custom(format_args!("{key:?} stands there twice")));
            }
            values.push((key, value));
        }
        Ok(Value::Table(values))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn toml(text: &str) -> Result<Vec<Endpoint>, FileError> {
        read(Path::new("endpoints.toml"), text.as_bytes())
    }

    #[test]
    fn every_attribute_is_read_from_either_format() {
        let from_toml = toml(
            r#"
            endpoints = [
                "a:1",
                { address = "b:1", id = "b", weight = 3, priority = 1, locality = "eu", metadata = { version = "2" } },
            ]"#,
        )
        .unwrap();
        let json = r#"{"endpoints": ["a:1", {"address": "b:1", "id": "b", "weight": 3, "priority": 1, "locality": "eu", "metadata": {"version": "2"}}]}"#;
        assert_eq!(from_toml, read(Path::new("endpoints.json"), json.as_bytes()).unwrap());
        let b = "b:1"
            .parse::<Endpoint>()
            .unwrap()
            .with_id("b".parse().unwrap())
            .with_weight(NonZeroU32::new(3).unwrap());
        let b = b.with_priority(1).with_locality("eu").unwrap().with_metadata("version", "2").unwrap();
        assert_eq!(from_toml, ["a:1".parse().unwrap(), b]);
        assert!(toml("endpoints = []").unwrap().is_empty());
    }

    #[test]
    fn all_mistakes_are_told_at_once() {
        let wrong = toml(
            r#"
            colour = "blue"
            endpoints = [
                "a:1", "a:1", "not an address", 7,
                { id = "", weight = 0, priority = -1, locality = 1, metadata = { a = 1 }, wieght = 2 },
                { address = "b:1", id = "a:1" },
            ]"#,
        )
        .unwrap_err();
        let FileError::Invalid { error, .. } = wrong else { panic!("{wrong}") };
        let mut fields: Vec<_> = error.mistakes().iter().map(Mistake::field).collect();
        fields.sort_unstable();
        let e = |field: &str| format!("endpoints[4].{field}");
        let mut expected = vec!["colour".to_owned()];
        expected.extend([1, 2, 3, 5].map(|i| format!("endpoints[{i}]")));
        expected.extend(["address", "id", "weight", "priority", "locality", "metadata.a", "wieght"].map(e));
        expected.sort_unstable();
        assert_eq!(fields, expected);
    }

    #[test]
    fn what_is_no_list_is_not_an_empty_one() {
        for text in [
            "",
            "endpoints = 3",
            "endpoints = [\"a:1\"",
            "[[endpoint]]\naddress = \"a:1\"",
            "endpoints = []\nendpoints = []",
        ] {
            assert!(toml(text).is_err(), "{text}");
        }
        for text in ["", "[]", "null", "{\"endpoints\": [], \"endpoints\": []}", "{\"endpoints\": ["] {
            assert!(read(Path::new("e.json"), text.as_bytes()).is_err(), "{text}");
        }
        assert!(read(Path::new("e.toml"), b"\xff").is_err());
    }
}
