//! What the system says of DNS: its servers and its search domains.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::Command;

use tower_mesh_core::Resolve as _;
use tower_mesh_dns::{DnsConfig, DnsResolver, Families};

use crate::server::Bind;
use crate::{endpoints, ids, resolve};

const INSIDE: &str = "MESH_TEST_HAS_OWN_RESOLV_CONF";

/// `/etc/resolv.conf` is the test's own, in a mount namespace that ends with it: this program runs once more in there.
#[tokio::test]
async fn resolv_conf_names_the_servers_and_the_search_domains() {
    if std::env::var_os(INSIDE).is_some() {
        let dns = DnsResolver::new().unwrap();
        assert_eq!(ids(&endpoints(&mut dns.resolve(&"only4:80".parse().unwrap())).await), ["127.0.0.4:80"]);
        let config = DnsConfig::builder().default_port(81).families(Families::V4).build().unwrap();
        let dns = DnsResolver::with_config(config).unwrap();
        assert_eq!(ids(&endpoints(&mut resolve(&dns, "users")).await), ["127.0.0.2:81"]);
        println!("it was asked");
        return;
    }
    // The port is a privileged one, and so is mounting. BIND listens at no address that no interface has.
    let address = SocketAddr::from(([127, 0, 0, 1], 53));
    let allowed = std::net::UdpSocket::bind(address).is_ok()
        && Command::new("unshare").args(["--mount", "true"]).status().is_ok_and(|status| status.success());
    if !allowed {
        println!("skipped: port 53, if nobody has it, and a mount namespace of its own are for root");
        return;
    }
    let Some(_bind) = Bind::start_at(address) else { return };
    let path = PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join("resolv.conf");
    let text = format!("nameserver {}\nsearch elsewhere.mesh.test mesh.test\n", address.ip());
    std::fs::write(&path, text).unwrap();
    let script = "mount --bind \"$1\" /etc/resolv.conf && shift && exec \"$@\"";
    let ran = Command::new("unshare")
        .args(["--mount", "sh", "-c", script, "sh"])
        .arg(&path)
        .arg(std::env::current_exe().unwrap())
        .args(["--exact", "--nocapture", "system::resolv_conf_names_the_servers_and_the_search_domains"])
        .env(INSIDE, "1")
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&ran.stdout);
    assert!(
        ran.status.success() && said.contains("it was asked"),
        "{said}{}",
        String::from_utf8_lossy(&ran.stderr)
    );
}
