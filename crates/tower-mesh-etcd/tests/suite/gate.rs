//! A wire to etcd that can be held.

use std::net::SocketAddr;

use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;

/// Passes on what is said to etcd and by it. Once etcd has said `word`, nothing more is passed on to it until the gate is opened.
pub(crate) struct Gate {
    pub(crate) address: SocketAddr,
    held: watch::Sender<bool>,
}

impl Gate {
    pub(crate) async fn after(word: &'static str, etcd: SocketAddr) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let held = watch::Sender::new(false);
        let gate = held.clone();
        tokio::spawn(async move {
            while let Ok((client, _)) = listener.accept().await {
                let (from_client, to_client) = client.into_split();
                let (from_etcd, to_etcd) = TcpStream::connect(etcd).await.unwrap().into_split();
                tokio::spawn(pass(from_client, to_etcd, None, gate.clone()));
                tokio::spawn(pass(from_etcd, to_client, Some(word), gate.clone()));
            }
        });
        Self { address, held }
    }

    /// Waits until it holds.
    pub(crate) async fn is_held(&self) {
        self.held.subscribe().wait_for(|held| *held).await.unwrap();
    }

    pub(crate) fn open(&self) {
        self.held.send_replace(false);
    }
}

async fn pass(
    mut from: impl AsyncRead + Unpin,
    mut to: impl AsyncWrite + Unpin,
    word: Option<&'static str>,
    held: watch::Sender<bool>,
) {
    let mut bytes = [0; 16 * 1024];
    let mut said = false;
    while let Ok(n @ 1..) = from.read(&mut bytes).await {
        match word {
            Some(word) if !said && bytes[..n].windows(word.len()).any(|some| some == word.as_bytes()) => {
                said = true;
                held.send_replace(true);
            }
            Some(_) => {}
            None => {
                held.subscribe().wait_for(|held| !held).await.unwrap();
            }
        }
        if to.write_all(&bytes[..n]).await.is_err() {
            return;
        }
    }
}
