//! Where an endpoint stands, and what stands there.

use std::fmt::Write as _;

use serde_json::{Map, Value, json};
use tower_mesh_core::{BoxError, Endpoint, EndpointId, ServiceName, WrittenEndpoints};

use crate::config::EtcdConfig;

/// What the keys of a service's endpoints begin with.
pub(crate) fn prefix_of(config: &EtcdConfig, service: &ServiceName) -> String {
    format!("{}{service}/", config.prefix())
}

/// The end of the range of keys that begin with `prefix`: the first key after all of them.
pub(crate) fn end_of(prefix: &[u8]) -> Vec<u8> {
    let mut end = prefix.to_vec();
    while let Some(last) = end.pop() {
        if last < u8::MAX {
            end.push(last + 1);
            return end;
        }
    }
    // Which etcd reads as: no end.
    vec![0]
}

/// The last part of a key: the id, in which `/` and `%` are written `%2F` and `%25`, as a `/` would begin the keys of another service.
pub(crate) fn part_of(id: &EndpointId) -> String {
    let mut part = String::with_capacity(id.as_str().len());
    for c in id.as_str().chars() {
        match c {
            '/' | '%' => write!(part, "%{:02X}", c as u32).expect("a string takes all"),
            _ => part.push(c),
        }
    }
    part
}

/// The id of which this is the last part of a key.
fn id_of(part: &str) -> Result<EndpointId, BoxError> {
    let text = part.replace("%2F", "/").replace("%2f", "/").replace("%25", "%");
    Ok(text.parse::<EndpointId>()?)
}

/// The endpoint that stands at a key.
pub(crate) fn read(part: &str, value: &[u8]) -> Result<Endpoint, BoxError> {
    if value.len() > EtcdConfig::MAX_VALUE {
        return Err(format!("it has {} bytes, allowed are {}", value.len(), EtcdConfig::MAX_VALUE).into());
    }
    let id = id_of(part)?;
    let written: WrittenEndpoints = serde_json::from_slice(value)?;
    Ok(written.one(id)?)
}

/// What stands at the key of an endpoint: the fields that say something.
pub(crate) fn write(endpoint: &Endpoint) -> Vec<u8> {
    let mut fields = Map::new();
    fields.insert("address".into(), json!(endpoint.address()));
    if endpoint.weight().get() != 1 {
        fields.insert("weight".into(), json!(endpoint.weight()));
    }
    if endpoint.priority() != 0 {
        fields.insert("priority".into(), json!(endpoint.priority()));
    }
    if let Some(locality) = endpoint.locality() {
        fields.insert("locality".into(), json!(locality));
    }
    if !endpoint.metadata().is_empty() {
        fields.insert("metadata".into(), json!(endpoint.metadata()));
    }
    Value::Object(fields).to_string().into_bytes()
}

#[cfg(test)]
mod tests {
    use std::num::NonZeroU32;

    use super::*;

    #[test]
    fn what_is_written_is_read_again() {
        let full = Endpoint::new("http://10.0.0.1:80/a%2Fb")
            .unwrap()
            .with_weight(NonZeroU32::new(3).unwrap())
            .with_priority(2)
            .with_locality("eu-1")
            .unwrap()
            .with_metadata("version", "2 \"quoted\"")
            .unwrap();
        for endpoint in [full, "a:1".parse().unwrap()] {
            let part = part_of(endpoint.id());
            assert!(!part.contains('/'));
            assert_eq!(read(&part, &write(&endpoint)).unwrap(), endpoint);
        }
        assert_eq!(write(&"a:1".parse().unwrap()), br#"{"address":"a:1"}"#);
    }

    #[test]
    fn what_is_no_endpoint_says_why() {
        let why = |part: &str, value: &[u8]| read(part, value).unwrap_err().to_string();
        assert!(why("a", b"{\"address\": \"a:1\", \"weight\": 0}").contains("weight"));
        assert!(why("a", b"{\"address\": ").contains("EOF"));
        assert!(why("a", b"\xff").contains("column"));
        assert!(why("two words", b"\"a:1\"").contains("id"));
        let large = vec![b' '; EtcdConfig::MAX_VALUE + 1];
        assert!(why("a", &large).contains("allowed are 262144"));
    }

    #[test]
    fn a_range_ends_where_the_prefix_would_be_another() {
        assert_eq!(end_of(b"/services/a/"), b"/services/a0");
        assert_eq!(end_of(b"a\xff"), b"b");
        assert_eq!(end_of(b"\xff\xff"), [0]);
    }
}
