//! How a service's endpoints are asked whether they are well, as a file says it.

use std::fmt;
use std::ops::RangeInclusive;

use serde_json::Value;
use tower_mesh_core::Endpoint;
use tower_mesh_core::error::Mistake;

use super::read::Table;

/// One of the probes that this build may have, and by which key the file asked for it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct ProbeSettings {
    pub(crate) key: &'static str,
    pub(crate) kind: ProbeKind,
    pub(crate) port: Option<u16>,
    pub(crate) host: Option<String>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum ProbeKind {
    Http(HttpSettings),
    Tcp,
    Grpc { service: String, watch: bool },
}

/// What is not said is as the probe has it.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(crate) struct HttpSettings {
    pub(crate) path: String,
    pub(crate) method: Option<&'static str>,
    pub(crate) expected: Vec<RangeInclusive<u16>>,
    pub(crate) headers: Vec<(String, String)>,
    pub(crate) body_contains: Option<String>,
    pub(crate) max_body: Option<u32>,
    pub(crate) http2: bool,
}

const KINDS: [&str; 4] = ["path", "http", "tcp", "grpc"];
const METHODS: [(&str, &str); 4] =
    [("GET", "GET"), ("HEAD", "HEAD"), ("OPTIONS", "OPTIONS"), ("POST", "POST")];
const MAX_TEXT: usize = 4096;
const MAX_BODY: u32 = 16 * 1024 * 1024;

impl ProbeSettings {
    /// A GET for `path`.
    pub(crate) fn get(path: String) -> Self {
        let kind = ProbeKind::Http(HttpSettings { path, ..HttpSettings::default() });
        Self { key: "path", kind, port: None, host: None }
    }

    /// What the `health` table says over what was said before, if it says anything. Of the kind that was said before, only what is said now changes.
    pub(super) fn read(table: &mut Table<'_>, before: Option<Self>) -> Option<Self> {
        let given = KINDS.into_iter().filter(|key| table.has(key)).collect::<Vec<_>>();
        if let [first, others @ ..] = &*given
            && !others.is_empty()
        {
            let found = format!("{first} beside {}", others.join(" and "));
            table.mistake(first, found, "one of path, http, tcp and grpc");
        }
        let read: Vec<_> = given.into_iter().map(|key| Self::of_kind(table, key, before.as_ref())).collect();
        read.into_iter().next().or(before)
    }

    fn of_kind(table: &mut Table<'_>, key: &'static str, before: Option<&Self>) -> Self {
        let same = before.filter(|before| before.key == key);
        let (mut port, mut host) = (same.and_then(|same| same.port), same.and_then(|same| same.host.clone()));
        let kind = match (key, same.map(|same| same.kind.clone())) {
            ("path", _) => {
                let path = text(table, "path", MAX_TEXT).unwrap_or_default();
                return Self::get(path);
            }
            ("http", base) => {
                let mut part = table.table("http");
                let mut http = match base {
                    Some(ProbeKind::Http(base)) => base,
                    _ => HttpSettings::default(),
                };
                http.read(&mut part);
                place(&mut part, &mut port, &mut host);
                table.absorb(part);
                ProbeKind::Http(http)
            }
            ("grpc", base) => {
                let mut part = table.table("grpc");
                let (mut service, mut watch) = match base {
                    Some(ProbeKind::Grpc { service, watch }) => (service, watch),
                    _ => (String::new(), false),
                };
                service = text(&mut part, "service", MAX_TEXT).unwrap_or(service);
                watch = part.flag("watch").unwrap_or(watch);
                place(&mut part, &mut port, &mut host);
                table.absorb(part);
                ProbeKind::Grpc { service, watch }
            }
            _ => {
                let mut part = table.table("tcp");
                place(&mut part, &mut port, &mut host);
                table.absorb(part);
                ProbeKind::Tcp
            }
        };
        Self { key, kind, port, host }
    }

    /// What this build lacks for it: what it asks for, and the feature.
    pub(crate) fn lacks(&self) -> Option<(&'static str, &'static str)> {
        let http2 = match &self.kind {
            ProbeKind::Http(http) => http.http2,
            ProbeKind::Tcp => false,
            ProbeKind::Grpc { .. } => true,
        };
        if cfg!(not(feature = "http")) {
            Some(("a probe", "http"))
        } else if http2 && cfg!(not(feature = "http2")) {
            Some(("a probe over HTTP/2", "http2"))
        } else {
            None
        }
    }
}

impl HttpSettings {
    fn read(&mut self, table: &mut Table<'_>) {
        if let Some(path) = text(table, "path", MAX_TEXT) {
            self.path = path;
        }
        if let Some(method) = table.word("method", &METHODS) {
            self.method = Some(method);
        }
        if let Some(values) = table.list("expected") {
            self.expected = expected(table, values);
        }
        if let Some(fields) = table.texts_by_name("headers") {
            self.headers =
                fields.into_iter().filter_map(|(name, value)| header(table, name, value)).collect();
        }
        match text(table, "body_contains", MAX_TEXT) {
            Some(wanted) if wanted.is_empty() => {
                table.mistake("body_contains", "\"\"", "at least one letter");
            }
            Some(wanted) => self.body_contains = Some(wanted),
            None => {}
        }
        match table.count("max_body") {
            Some(bytes @ 1..=MAX_BODY) => self.max_body = Some(bytes),
            Some(bytes) => table.mistake("max_body", bytes, "1 to 16777216"),
            None => {}
        }
        self.http2 = table.flag("http2").unwrap_or(self.http2);
        if self.body_contains.is_some() && self.method == Some("HEAD") {
            let allowed = "a method whose answer has a body: GET, OPTIONS, POST";
            table.mistake("method", "\"HEAD\" beside body_contains", allowed);
        }
    }
}

/// Where else to ask.
fn place(table: &mut Table<'_>, port: &mut Option<u16>, host: &mut Option<String>) {
    match table.count("port").map(|found| (found, u16::try_from(found))) {
        Some((_, Ok(found @ 1..))) => *port = Some(found),
        Some((found, _)) => table.mistake("port", found, "1 to 65535"),
        None => {}
    }
    match table.text("host") {
        Some(found) if Endpoint::new(format!("{found}:1")).is_ok() && is_host(found) => {
            *host = Some(found.to_owned());
        }
        Some(found) => table.mistake("host", Shown(found), "a host name or an IP address, without a port"),
        None => {}
    }
}

fn is_host(text: &str) -> bool {
    let is_name = |text: &str| text.chars().all(|c| c.is_ascii_alphanumeric() || "-._".contains(c));
    !text.is_empty() && (is_name(text) || text.parse::<std::net::IpAddr>().is_ok())
}

fn text(table: &mut Table<'_>, key: &'static str, most: usize) -> Option<String> {
    let found = table.text(key)?;
    if found.len() > most {
        table.mistake(key, format_args!("a text of {} bytes", found.len()), &format!("up to {most} bytes"));
        return None;
    }
    Some(found.to_owned())
}

/// Statuses, each a number or a range of them: `[200, "300-399"]`.
fn expected(table: &mut Table<'_>, values: &[Value]) -> Vec<RangeInclusive<u16>> {
    const ALLOWED: &str = "a status from 100 to 999, or a range of them such as \"200-299\"";
    let status = |text: &str| text.parse().ok().filter(|status| (100..=999_u16).contains(status));
    let mut ranges = Vec::new();
    if values.is_empty() {
        table.mistake("expected", "an empty list", "at least one status");
    }
    for (i, value) in values.iter().enumerate() {
        let said = value.as_str().map_or_else(|| value.to_string(), str::to_owned);
        let (first, last) = said.split_once('-').unwrap_or((&said, &said));
        match (status(first), status(last)) {
            (Some(first), Some(last)) if first <= last => ranges.push(first..=last),
            _ => table.add(Mistake::new(format!("expected[{i}]"), super::read::shown(value), ALLOWED)),
        }
    }
    ranges
}

fn header(table: &mut Table<'_>, name: &str, value: &str) -> Option<(String, String)> {
    let is_token = |c: char| c.is_ascii_alphanumeric() || "!#$%&'*+-.^_`|~".contains(c);
    let path = || super::path_of("headers", name);
    if name.is_empty() || !name.chars().all(is_token) {
        table.add(Mistake::new(path(), "an invalid name", "a header's name"));
        return None;
    }
    if !value.chars().all(|c| c == '\t' || (' '..='~').contains(&c)) || value.len() > MAX_TEXT {
        table.add(Mistake::new(path(), Shown(value), "visible ASCII letters and blanks, up to 4096"));
        return None;
    }
    Some((name.to_owned(), value.to_owned()))
}

/// A text as a mistake shows it.
struct Shown<'a>(&'a str);

impl fmt::Display for Shown<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0.len() {
            0..=64 => write!(f, "{:?}", self.0),
            length => write!(f, "a text of {length} bytes"),
        }
    }
}
