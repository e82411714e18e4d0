//! What is asked for a service.

use std::fmt;

use hickory_resolver::proto::rr::Name;

use crate::config::DnsConfig;

/// What is asked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Question {
    /// Addresses; the port is known.
    Addresses { host: Name, port: u16 },
    /// SRV records, and the addresses of the hosts they name.
    Services { name: Name },
}

impl Question {
    /// `host:port`, `host` where there is a default port, or `_service._protocol.name`.
    pub(crate) fn parse(text: &str, config: &DnsConfig) -> Result<Self, InvalidQuestion> {
        let invalid = || InvalidQuestion { found: text.chars().take(64).collect() };
        if text.starts_with('_') {
            return name(text).map(|name| Self::Services { name }).ok_or_else(invalid);
        }
        let (host, port) = match text.rsplit_once(':') {
            Some((host, port)) => (host, port.parse().ok()),
            None => (text, config.default_port()),
        };
        let port = port.filter(|&port| port != 0).ok_or_else(invalid)?;
        let host = name(host).ok_or_else(invalid)?;
        Ok(Self::Addresses { host, port })
    }
}

/// A name of a host or domain.
pub(crate) fn name(text: &str) -> Option<Name> {
    let plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.');
    if text.is_empty() || text == "." || !text.chars().all(plain) {
        return None;
    }
    Name::from_ascii(text).ok()
}

/// A name that DNS cannot be asked for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct InvalidQuestion {
    found: String,
}

impl fmt::Display for InvalidQuestion {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let found = &self.found;
        write!(
            f,
            "DNS cannot be asked for {found:?}: allowed are host:port, host if there is a default port, and _service._protocol.name"
        )
    }
}

impl std::error::Error for InvalidQuestion {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_form_of_a_name_says_what_is_asked() {
        let (plain, ported) = (DnsConfig::default(), DnsConfig::builder().default_port(80).build().unwrap());
        let host = |text: &str, port| Ok(Question::Addresses { host: name(text).unwrap(), port });
        assert_eq!(Question::parse("users.internal:8080", &plain), host("users.internal", 8080));
        assert_eq!(Question::parse("users.internal", &ported), host("users.internal", 80));
        let srv = Question::Services { name: name("_web._tcp.users.internal").unwrap() };
        assert_eq!(Question::parse("_web._tcp.users.internal", &plain), Ok(srv));
        for wrong in
            ["users.internal", "users:0", "users:x", ":80", "a b:80", "users:70000", "_x y", "", ".:80"]
        {
            assert!(Question::parse(wrong, &plain).is_err(), "{wrong}");
        }
    }
}
