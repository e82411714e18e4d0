//! Programs that a test starts on loopback, and ends.

use std::io::ErrorKind;
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

/// A program under way: ended, by its id, when dropped.
pub(crate) struct Process(Child);

impl Process {
    /// None if there is no such program, and there need not be.
    pub(crate) fn start(command: &mut Command, package: &str) -> Option<Self> {
        match command.stdout(Stdio::null()).stderr(Stdio::null()).spawn() {
            Ok(child) => Some(Self(child)),
            Err(error) if error.kind() == ErrorKind::NotFound => {
                missing(package);
                None
            }
            Err(error) => panic!("{command:?}: {error}"),
        }
    }

    pub(crate) fn of(child: Child) -> Self {
        Self(child)
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Says what is left out, where that is allowed.
pub(crate) fn missing(package: &str) {
    assert!(std::env::var_os("MESH_REQUIRE_SERVERS").is_none(), "{package} is missing");
    println!("skipped: {package} is missing");
}

/// An address of loopback where nobody listens.
pub(crate) fn free() -> SocketAddr {
    TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap()
}

/// Waits until somebody listens there.
pub(crate) async fn listening(address: SocketAddr) {
    for _ in 0..400 {
        if TcpStream::connect(address).is_ok() {
            return;
        }
        tokio::time::sleep(Duration::from_millis(25)).await;
    }
    panic!("nobody listens at {address}");
}
