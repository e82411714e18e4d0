//! What stands in the file.

use std::path::Path;

use tower_mesh_core::{BoxError, Endpoint, WrittenEndpoints};

use super::FileError;

/// The endpoints in `text`, which is that of `path`.
pub(super) fn read(path: &Path, text: &[u8]) -> Result<Vec<Endpoint>, FileError> {
    let json = path.extension().is_some_and(|extension| extension == "json");
    let written: Result<WrittenEndpoints, _> = if json {
        serde_json::from_slice(text).map_err(BoxError::from)
    } else {
        str::from_utf8(text)
            .map_err(BoxError::from)
            .and_then(|text| toml::from_str(text).map_err(BoxError::from))
    };
    let written = written.map_err(|error| FileError::Malformed { path: path.to_owned(), error })?;
    written.list().map_err(|error| FileError::Invalid { path: path.to_owned(), error })
}

#[cfg(test)]
mod tests {
    use std::num::NonZeroU32;

    use tower_mesh_core::error::Mistake;

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
