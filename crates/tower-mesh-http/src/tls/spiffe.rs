//! Verifying a server by its SPIFFE ID (SPIFFE X509-SVID: one URI in the certificate, and no other says who it is).

use std::sync::Arc;

use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::client::verify_server_cert_signed_by_trust_anchor;
use rustls::crypto::{CryptoProvider, verify_tls12_signature, verify_tls13_signature};
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::server::ParsedCertificate;
use rustls::{CertificateError, DigitallySignedStruct, Error, RootCertStore, SignatureScheme};

/// What an ID looks like.
pub(super) const FORM: &str =
    "spiffe://trust.domain/path: the domain in small letters, no port, query or empty part";

/// Whether `id` is one (SPIFFE-ID §2: at most 2048 bytes; domain of small letters, digits and `.-_`; parts that are not empty, `.` or `..`).
pub(super) fn is_id(id: &str) -> bool {
    let Some(rest) = id.strip_prefix("spiffe://") else { return false };
    let (domain, path) = rest.split_once('/').map_or((rest, None), |(domain, path)| (domain, Some(path)));
    let in_domain = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b".-_".contains(&b);
    let in_path = |b: u8| b.is_ascii_alphanumeric() || b".-_".contains(&b);
    let is_part = |part: &str| !matches!(part, "" | "." | "..") && part.bytes().all(in_path);
    id.len() <= 2048
        && !domain.is_empty()
        && domain.bytes().all(in_domain)
        && path.is_none_or(|path| path.split('/').all(is_part))
}

/// Takes a certificate that one of `roots` vouches for, if its one URI is `id`.
#[derive(Debug)]
pub(super) struct Verifier {
    id: String,
    roots: RootCertStore,
    provider: Arc<CryptoProvider>,
}

impl Verifier {
    pub(super) fn new(id: String, roots: RootCertStore, provider: Arc<CryptoProvider>) -> Self {
        Self { id, roots, provider }
    }
}

impl ServerCertVerifier for Verifier {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        _server_name: &ServerName<'_>,
        _ocsp_response: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        let parsed = ParsedCertificate::try_from(end_entity)?;
        let algorithms = self.provider.signature_verification_algorithms.all;
        verify_server_cert_signed_by_trust_anchor(&parsed, &self.roots, intermediates, now, algorithms)?;
        let certificate =
            webpki::EndEntityCert::try_from(end_entity).map_err(|_| CertificateError::BadEncoding)?;
        let mut uris = certificate.valid_uri_names();
        match (uris.next(), uris.next()) {
            (Some(uri), None) if uri == self.id => Ok(ServerCertVerified::assertion()),
            _ => Err(CertificateError::NotValidForName.into()),
        }
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls12_signature(message, cert, dss, &self.provider.signature_verification_algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls13_signature(message, cert, dss, &self.provider.signature_verification_algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.provider.signature_verification_algorithms.supported_schemes()
    }
}

#[cfg(test)]
mod tests {
    use super::is_id;

    #[test]
    fn ids_have_a_domain_and_parts_and_nothing_else() {
        for id in ["spiffe://example.org", "spiffe://example.org/users", "spiffe://a-b_c.1/ns/Prod/sa/x.y"] {
            assert!(is_id(id), "{id}");
        }
        for id in [
            "users",
            "https://example.org/users",
            "spiffe://",
            "spiffe:///users",
            "spiffe://Example.org/users",
            "spiffe://example.org:8443/users",
            "spiffe://example.org/",
            "spiffe://example.org/a//b",
            "spiffe://example.org/../b",
            "spiffe://example.org/a?b",
            "spiffe://u@example.org/a",
        ] {
            assert!(!is_id(id), "{id}");
        }
        assert!(!is_id(&format!("spiffe://a/{}", "b".repeat(2048))));
    }
}
