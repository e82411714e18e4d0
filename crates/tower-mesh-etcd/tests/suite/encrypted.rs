//! TLS, with certificates on both sides.

use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, IsCa, KeyPair};

use crate::server::Etcd;
use crate::{said, users};

/// A certificate and its key, in PEM.
fn signed(name: &str, by: &CertifiedIssuer<'_, KeyPair>) -> (String, String) {
    let key = KeyPair::generate().unwrap();
    let certificate = CertificateParams::new([name.to_owned()]).unwrap().signed_by(&key, by).unwrap();
    (certificate.pem(), key.serialize_pem())
}

fn authority() -> CertifiedIssuer<'static, KeyPair> {
    let mut params = CertificateParams::new([]).unwrap();
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap()
}

#[tokio::test]
async fn both_sides_show_who_they_are() {
    let ours = authority();
    let (certificate, key) = signed("etcd.mesh.test", &ours);
    let Some(etcd) = Etcd::start_encrypted([certificate, key, ours.pem()]).await else { return };
    let (me, my_key) = signed("client.mesh.test", &ours);
    let right = etcd.resolver(|config| {
        config.ca_certificate(ours.pem()).client_certificate(&me, &my_key).domain("etcd.mesh.test")
    });
    assert_eq!(said(&mut users(&right)).await, "= ");

    let unknown = etcd.resolver(|config| config.ca_certificate(ours.pem()).domain("etcd.mesh.test"));
    assert_eq!(said(&mut users(&unknown)).await, "Failed", "it wants to know who asks");
    let other = etcd.resolver(|config| {
        config.ca_certificate(authority().pem()).client_certificate(&me, &my_key).domain("etcd.mesh.test")
    });
    assert_eq!(said(&mut users(&other)).await, "Failed", "it is not one of ours");
    let elsewhere = etcd.resolver(|config| {
        config.ca_certificate(ours.pem()).client_certificate(&me, &my_key).domain("other.mesh.test")
    });
    assert_eq!(said(&mut users(&elsewhere)).await, "Failed", "it is called otherwise");
}
