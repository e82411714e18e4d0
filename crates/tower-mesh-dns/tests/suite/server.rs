//! The server.

use std::fs;
use std::io::Write as _;
use std::net::{SocketAddr, TcpListener, UdpSocket};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use tower_mesh_dns::{DnsConfig, DnsConfigBuilder, DnsResolver};

const ZONE: &str = "\
$TTL 1
@ IN SOA ns.mesh.test. root.mesh.test. 1 60 60 600 1
@ IN NS ns.mesh.test.
ns IN A 127.0.0.1
users IN A 127.0.0.2
users IN AAAA ::1
only4 IN A 127.0.0.4
alias IN CNAME users
text IN TXT \"nothing to connect to\"
_web._tcp IN SRV 10 60 8081 users.mesh.test.
";

/// A server of its own for one test. It ends with it.
pub(crate) struct Bind {
    process: Child,
    folder: PathBuf,
    program: &'static str,
    pub(crate) address: SocketAddr,
}

impl Bind {
    /// None where there is no BIND, and that may be.
    pub(crate) fn start() -> Option<Self> {
        let named = Self::program()?;
        // A port that is free now may be taken before named has it: then another.
        let free = || loop {
            let tcp = TcpListener::bind("127.0.0.1:0").unwrap();
            let address = tcp.local_addr().unwrap();
            if UdpSocket::bind(address).is_ok() {
                return address;
            }
        };
        (0..5).find_map(|_| Self::try_start(named, free())).or_else(|| panic!("named does not start"))
    }

    /// The same at an address of the test's choice.
    pub(crate) fn start_at(address: SocketAddr) -> Option<Self> {
        let named = Self::program()?;
        Self::try_start(named, address).or_else(|| panic!("named does not start at {address}"))
    }

    fn program() -> Option<&'static str> {
        let there = |program: &str| {
            let version =
                Command::new(program).arg("-V").stdout(Stdio::null()).stderr(Stdio::null()).status();
            version.is_ok()
        };
        let named = ["named", "/usr/sbin/named"].into_iter().find(|program| there(program));
        let Some(named) = named.filter(|_| there("nsupdate")) else {
            assert!(
                std::env::var_os("MESH_REQUIRE_SERVERS").is_none(),
                "named or nsupdate is missing (bind9, bind9-dnsutils)"
            );
            println!("skipped: named or nsupdate is missing (Debian: bind9, bind9-dnsutils)");
            return None;
        };
        Some(named)
    }

    fn try_start(program: &'static str, address: SocketAddr) -> Option<Self> {
        let (ip, port) = (address.ip(), address.port());
        let folder = std::env::temp_dir().join(format!("tower-mesh-bind-{}-{ip}-{port}", std::process::id()));
        fs::create_dir_all(&folder).unwrap();
        let at = folder.display();
        fs::write(folder.join("mesh.test.zone"), ZONE).unwrap();
        // A zone that does not load is answered with SERVFAIL.
        fs::write(folder.join("broken.zone"), "@ IN broken\n").unwrap();
        let config = format!(
            "options {{ directory \"{at}\"; listen-on port {port} {{ {ip}; }}; listen-on-v6 {{ none; }}; pid-file \"{at}/named.pid\"; \
             session-keyfile \"{at}/session.key\"; recursion no; dnssec-validation no; allow-update {{ 127.0.0.0/8; }}; max-udp-size 512; }};\n\
             controls {{ }};\n\
             zone \"mesh.test\" {{ type master; file \"mesh.test.zone\"; }};\n\
             zone \"dead.test\" {{ type master; file \"broken.zone\"; }};\n"
        );
        fs::write(folder.join("named.conf"), config).unwrap();
        let process = spawn(program, &folder);
        let mut bind = Self { process, folder, program, address };
        bind.is_ready().then_some(bind)
    }

    /// As a machine that loses its power.
    pub(crate) fn kill(&mut self) {
        self.process.kill().unwrap();
        self.process.wait().unwrap();
    }

    /// Starts it again, at the same address.
    pub(crate) fn run(&mut self) {
        self.process = spawn(self.program, &self.folder);
        assert!(self.is_ready(), "named does not start again");
    }

    /// Waits until it has loaded its zones.
    fn is_ready(&mut self) -> bool {
        for _ in 0..400 {
            if self.process.try_wait().unwrap().is_some() {
                return false;
            }
            let log = fs::read_to_string(self.folder.join("log")).unwrap_or_default();
            // It goes on with one of UDP and TCP if the port of the other is taken.
            if log.contains("address in use") {
                return false;
            }
            // Not the line that says on what it is running.
            if log.lines().any(|line| line.ends_with(" running")) {
                return true;
            }
            std::thread::sleep(Duration::from_millis(25));
        }
        false
    }

    pub(crate) fn update(&self, lines: &str) {
        let mut nsupdate = Command::new("nsupdate").stdin(Stdio::piped()).spawn().unwrap();
        let text =
            format!("server {} {}\nzone mesh.test\n{lines}\nsend\n", self.address.ip(), self.address.port());
        nsupdate.stdin.take().unwrap().write_all(text.as_bytes()).unwrap();
        assert!(nsupdate.wait().unwrap().success());
    }

    /// Sends a signal, by the server's own id.
    pub(crate) fn signal(&self, signal: &str) {
        let sent = Command::new("kill").arg(signal).arg(self.process.id().to_string()).status();
        assert!(sent.unwrap().success());
    }

    pub(crate) fn resolver(&self, change: impl FnOnce(DnsConfigBuilder) -> DnsConfigBuilder) -> DnsResolver {
        let ms = Duration::from_millis;
        let config = DnsConfig::builder()
            .servers([self.address])
            .timeout(ms(1000))
            .attempts(1)
            .min_interval(ms(100))
            .retry_delay(ms(100))
            .max_retry_delay(ms(200));
        DnsResolver::with_config(change(config).build().unwrap()).unwrap()
    }
}

impl Drop for Bind {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
        let _ = fs::remove_dir_all(&self.folder);
    }
}

fn spawn(program: &str, folder: &Path) -> Child {
    let log = fs::File::create(folder.join("log")).unwrap();
    Command::new(program)
        .args(["-g", "-n", "1", "-c"])
        .arg(folder.join("named.conf"))
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(log)
        .spawn()
        .unwrap()
}
