//! The JSON Schema and the page of fields that are kept in the repository are those of the code.

use tower_mesh::Config;

#[cfg(all(feature = "credentials", feature = "dns", feature = "etcd"))]
fn kept(name: &str, made: &str) {
    let path = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join(name);
    if std::env::var_os("MESH_WRITE_REFERENCE").is_some() {
        std::fs::write(&path, made).unwrap();
    }
    let kept = std::fs::read_to_string(&path).unwrap();
    assert!(
        kept == made,
        "{name} is not what the code says: run this test with MESH_WRITE_REFERENCE=1, and look at what changed"
    );
}

#[cfg(all(feature = "credentials", feature = "dns", feature = "etcd"))]
#[test]
fn the_schema_and_the_page_are_what_the_reader_asks_for() {
    let schema = format!("{}\n", serde_json::to_string_pretty(&Config::json_schema()).unwrap());
    kept("config.schema.json", &schema);
    kept("CONFIGURATION.md", &Config::reference());
}

#[test]
fn the_schema_knows_every_table_and_every_kind_of_field() {
    let schema = Config::json_schema();
    let at = |path: &str| {
        let path = path.replace('.', "/properties/").replace("/properties/*", "/additionalProperties");
        let pointer = format!("/properties/{path}");
        schema.pointer(&pointer).unwrap_or_else(|| panic!("{pointer} is not in {schema:#}")).clone()
    };
    assert_eq!(at("services.*.retry.max_attempts")["type"], "integer");
    assert_eq!(at("services.*.endpoints")["items"]["type"], "string");
    assert_eq!(at("services.*.required")["type"], "boolean");
    assert_eq!(at("services.*.breaker.failure_threshold")["type"], "number");
    assert_eq!(at("services.*.health.http.method")["enum"][0], "GET");
    assert_eq!(at("services.*.allow.*.operations")["type"], "array");
    assert!(at("defaults.retry.base_delay")["pattern"].is_string());
    assert_eq!(at("services.*")["additionalProperties"], false);
    assert_eq!(at("start_timeout")["type"], "string");
}
