//! The table of defaults on the crate's page is true.

use tower_mesh::Config;

const PAGE: &str = include_str!("../../README.md");

fn config(root: &str, service: &str) -> String {
    let text = format!("{root}\n[services.users]\nresolver = \"dns\"\n{service}");
    format!("{:?}", Config::from_toml(&text).unwrap())
}

#[test]
fn what_the_page_says_changes_nothing_and_anything_else_does() {
    let table = PAGE.split("## Defaults").nth(1).unwrap().split("## ").next().unwrap();
    let rows: Vec<_> = table
        .lines()
        .filter_map(|line| line.strip_prefix("| `")?.strip_suffix(" |")?.split_once("` | "))
        .collect();
    assert!(rows.len() >= 13, "{rows:?}");
    let defaults = config("", "");
    for (key, value) in rows {
        let said = |value: &str| match key.strip_prefix("services.*.") {
            Some(key) => config("", &format!("{key} = {value}")),
            None => config(&format!("{key} = {value}"), ""),
        };
        let quoted = value.starts_with(|c: char| c.is_ascii_digit()) && value.ends_with('s');
        match value {
            "none" => {
                let field = key.rsplit('.').next().unwrap();
                assert!(defaults.contains(&format!("{field}: None")), "{key} in {defaults}");
            }
            "resolved" => {
                assert_eq!(said("\"resolved\""), defaults, "{key}");
                assert_ne!(said("\"available\""), defaults, "{key} has no effect");
            }
            _ if quoted => {
                assert_eq!(said(&format!("{value:?}")), defaults, "{key}");
                assert_ne!(said("\"14s\""), defaults, "{key} has no effect");
            }
            "true" => {
                assert_eq!(said("true"), defaults, "{key}");
                assert_ne!(said("false"), defaults, "{key} has no effect");
            }
            _ => {
                assert_eq!(said(value), defaults, "{key}");
                assert_ne!(said("1"), defaults, "{key} has no effect");
            }
        }
    }
}
