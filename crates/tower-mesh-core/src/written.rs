//! Endpoints as they are written in files and stores.

use std::collections::HashSet;
use std::fmt;
use std::num::NonZeroU32;

use serde::de::{Deserialize, Deserializer, Error, MapAccess, SeqAccess, Visitor};

use crate::endpoint::{Endpoint, EndpointId};
use crate::error::{InvalidConfig, Mistake};

/// An endpoint, or a list of them, read by `serde` from any format that describes itself, such as TOML or JSON, and not yet looked at.
///
/// An endpoint is an address alone, or a table with `address` and any of `id`, `weight`, `priority`, `locality` and `metadata`, as [`Endpoint`] has them. Looking is strict:
/// an unknown field, a wrong type and a value that cannot be are mistakes, all of which come in one answer, each with its path.
///
/// ```
/// use tower_mesh_core::WrittenEndpoints;
/// let written: WrittenEndpoints = serde_json::from_str(r#"{"endpoints": ["a:1", {"address": "b:1", "weight": 3}]}"#)?;
/// assert_eq!(written.list()?[1].weight().get(), 3);
/// let written: WrittenEndpoints = serde_json::from_str(r#"{"address": "b:1", "weight": 0}"#)?;
/// assert_eq!(written.one("b".parse()?).unwrap_err().mistakes()[0].field(), "weight");
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
pub struct WrittenEndpoints(Value);

impl WrittenEndpoints {
    /// A table with nothing but `endpoints`, a list in which each stands once.
    ///
    /// # Errors
    /// When anything in it is wrong.
    pub fn list(&self) -> Result<Vec<Endpoint>, InvalidConfig> {
        let mut mistakes = Vec::new();
        let endpoints = list(&self.0, &mut mistakes);
        InvalidConfig::check(mistakes).map(|()| endpoints)
    }

    /// A single endpoint, which is called `id` by the place where it stands: it cannot say another.
    ///
    /// # Errors
    /// When anything in it is wrong.
    pub fn one(&self, id: EndpointId) -> Result<Endpoint, InvalidConfig> {
        let mut mistakes = Vec::new();
        let endpoint = Entry { path: "", named: true, mistakes: &mut mistakes }.read(&self.0);
        InvalidConfig::check(mistakes)?;
        Ok(endpoint.expect("what has no mistakes is an endpoint").with_id(id))
    }
}

impl<'de> Deserialize<'de> for WrittenEndpoints {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        Value::deserialize(deserializer).map(Self)
    }
}

impl fmt::Debug for WrittenEndpoints {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "WrittenEndpoints({})", self.0)
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
const NAMED_FIELDS: &str = "address, locality, metadata, priority, weight";

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
        let Some(endpoint) = Entry { path: &path, named: false, mistakes }.read(entry) else { continue };
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
    /// Where it stands; empty where it stands alone.
    path: &'a str,
    /// Its id is said elsewhere.
    named: bool,
    mistakes: &'a mut Vec<Mistake>,
}

impl Entry<'_> {
    /// The endpoint, as far as it can be one. The mistakes say whether it is right.
    fn read(&mut self, entry: &Value) -> Option<Endpoint> {
        let fields = match entry {
            Value::Text(address) => {
                let endpoint = Endpoint::new(address);
                if endpoint.is_err() {
                    self.mistakes.push(Mistake::new(self.place(), entry, TEXT));
                }
                return endpoint.ok();
            }
            Value::Table(fields) => fields,
            other => {
                self.mistakes.push(Mistake::new(self.place(), other, "an address, or a table with one"));
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
            ("id", Value::Text(id)) if !self.named => {
                id.parse::<EndpointId>().map(|id| now.with_id(id)).map_err(|_| TEXT)
            }
            ("id", _) if !self.named => Err(TEXT),
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
                let fields = if self.named { NAMED_FIELDS } else { FIELDS };
                self.mistakes.push(Mistake::new(self.under(unknown), "an unknown field", fields));
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
        self.mistakes.push(Mistake::new(self.under(key), found, allowed));
    }

    fn place(&self) -> &str {
        if self.path.is_empty() { "endpoint" } else { self.path }
    }

    fn under(&self, key: &str) -> String {
        if self.path.is_empty() { key.to_owned() } else { format!("{}.{key}", self.path) }
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

    #[test]
    fn one_alone_has_paths_without_a_parent_and_its_name_from_where_it_stands() {
        let one =
            |text: &str| serde_json::from_str::<WrittenEndpoints>(text).unwrap().one("n".parse().unwrap());
        let fields = |text: &str| -> Vec<String> {
            one(text).unwrap_err().mistakes().iter().map(|mistake| mistake.field().to_owned()).collect()
        };
        assert_eq!(one(r#""a:1""#).unwrap(), Endpoint::new("a:1").unwrap().with_id("n".parse().unwrap()));
        assert_eq!(one(r#"{"address": "a:1", "priority": 2}"#).unwrap().priority(), 2);
        assert_eq!(fields("7"), ["endpoint"]);
        assert_eq!(fields(r#""two words""#), ["endpoint"]);
        let wrong = r#"{"id": "m", "weight": 0, "metadata": {"k": 1}, "colour": 1}"#;
        assert_eq!(fields(wrong), ["address", "id", "weight", "metadata.k", "colour"]);
    }
}
