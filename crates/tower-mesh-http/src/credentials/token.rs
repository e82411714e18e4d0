use std::fmt;
use std::future::Future;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwap;
use http::{HeaderMap, HeaderValue, header};
use secrecy::{ExposeSecret, SecretString};

/// Longer ones are no token but a mistake, and many servers refuse such headers.
const MAX: usize = 16 * 1024;

/// A bearer token (RFC 6750) that nothing of this crate prints: not with `Debug`, not in an error, not in a log. Clones are the same token.
///
/// It is held as a `SecretString` and as a header value that is marked as sensitive, so that clients neither print it nor index it in HTTP/2. The header's copy is
/// not wiped from memory.
#[derive(Clone)]
pub struct BearerToken(Arc<ArcSwap<Held>>);

struct Held {
    source: Source,
    token: SecretString,
    header: HeaderValue,
}

#[derive(Debug, Clone)]
enum Source {
    Given,
    Environment(String),
    File(PathBuf),
}

impl BearerToken {
    /// This token.
    ///
    /// # Errors
    /// When it is none.
    pub fn new(token: SecretString) -> Result<Self, InvalidToken> {
        Self::from(Source::Given, token)
    }

    /// The token in a variable of the environment, as it is now.
    ///
    /// # Errors
    /// When there is no such variable, or it holds no token.
    pub fn from_env(name: &str) -> Result<Self, InvalidToken> {
        let source = Source::Environment(name.to_owned());
        match std::env::var(name) {
            Ok(token) => Self::from(source, token.into()),
            Err(std::env::VarError::NotPresent) => Err(source.wrong("it is not set")),
            Err(std::env::VarError::NotUnicode(_)) => Err(source.wrong(NO_TOKEN)),
        }
    }

    /// The token in a file, without the blanks and line ends around it. [`watch`](Self::watch) reads it again.
    ///
    /// # Errors
    /// When the file cannot be read or holds no token. Dropping the future leaves nothing behind.
    pub async fn from_file(path: impl AsRef<Path>) -> Result<Self, InvalidToken> {
        let source = Source::File(path.as_ref().to_owned());
        let token = text_of(tokio::fs::read(path).await).map_err(|why| source.wrong(why))?;
        Self::from(source, token)
    }

    /// As [`from_file`](Self::from_file), outside of a runtime: it blocks while it reads.
    ///
    /// # Errors
    /// The same.
    pub fn from_file_blocking(path: impl AsRef<Path>) -> Result<Self, InvalidToken> {
        let source = Source::File(path.as_ref().to_owned());
        let token = text_of(std::fs::read(path)).map_err(|why| source.wrong(why))?;
        Self::from(source, token)
    }

    fn from(source: Source, token: SecretString) -> Result<Self, InvalidToken> {
        Ok(Self(Arc::new(ArcSwap::from_pointee(Held::new(source, token)?))))
    }

    /// Sends from now on what `other` sends now, and is read again where that came from. So do its clones.
    pub fn take_over(&self, other: &Self) {
        self.0.store(other.0.load_full());
    }

    /// The driver that reads the file `every` so often, for as long as any clone of the token is there; without a file it has nothing to do. Dropping it ends that and
    /// leaves the token as it is. What cannot be used is told once to `tracing`, and the old token stays.
    pub fn watch(&self, every: Duration) -> impl Future<Output = ()> + Send + 'static {
        let inner = Arc::downgrade(&self.0);
        async move {
            let mut told = None;
            loop {
                tokio::time::sleep(every).await;
                let Some(token) = inner.upgrade().map(Self) else { return };
                match token.reload().await {
                    Ok(new) => {
                        told = None;
                        if new {
                            tracing::info!(source = ?token.0.load().source, "a new bearer token");
                        }
                    }
                    Err(error) => {
                        let error = error.to_string();
                        if told.as_ref() != Some(&error) {
                            tracing::warn!(%error, "the bearer token stays the old one");
                            told = Some(error);
                        }
                    }
                }
            }
        }
    }

    /// Reads the file now: whether there was another token. False without a file.
    ///
    /// # Errors
    /// When the file cannot be read or holds no token; the old one stays. Dropping the future leaves all as it was.
    pub async fn reload(&self) -> Result<bool, InvalidToken> {
        let before = self.0.load_full();
        let Source::File(path) = &before.source else { return Ok(false) };
        let token = text_of(tokio::fs::read(path).await).map_err(|why| before.source.wrong(why))?;
        let held = Held::new(before.source.clone(), token)?;
        if held.token.expose_secret() == before.token.expose_secret() {
            return Ok(false);
        }
        // What was taken over while the file was read stays.
        let replaced = self.0.compare_and_swap(&before, Arc::new(held));
        Ok(Arc::ptr_eq(&before, &replaced))
    }

    /// Adds what is sent now to a request that has no `authorization`.
    pub(crate) fn authorize(&self, headers: &mut HeaderMap) {
        if !headers.contains_key(header::AUTHORIZATION) {
            headers.insert(header::AUTHORIZATION, self.0.load().header.clone());
        }
    }
}

const NO_TOKEN: &str = "it holds no token: 1 to 16384 of ASCII letters, digits and - . _ ~ + / =";

impl Held {
    fn new(source: Source, text: SecretString) -> Result<Self, InvalidToken> {
        let token = text.expose_secret().trim();
        let allowed = |byte: u8| byte.is_ascii_alphanumeric() || b"-._~+/=".contains(&byte);
        if token.is_empty() || token.len() > MAX || !token.bytes().all(allowed) {
            return Err(source.wrong(NO_TOKEN));
        }
        let header = HeaderValue::try_from(format!("Bearer {token}"));
        let mut header = header.map_err(|_| source.wrong(NO_TOKEN))?;
        header.set_sensitive(true);
        let whole = token.len() == text.expose_secret().len();
        Ok(Self { source, token: if whole { text } else { SecretString::from(token) }, header })
    }
}

fn text_of(read: std::io::Result<Vec<u8>>) -> Result<SecretString, String> {
    let bytes = read.map_err(|error| error.to_string())?;
    String::from_utf8(bytes).map(SecretString::from).map_err(|_| NO_TOKEN.to_owned())
}

impl fmt::Debug for BearerToken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("BearerToken").field("source", &self.0.load().source).finish_non_exhaustive()
    }
}

impl Source {
    fn wrong(&self, why: impl fmt::Display) -> InvalidToken {
        InvalidToken { source: self.clone(), why: why.to_string() }
    }
}

/// There is no bearer token where it should be. Tells where and why, never what is there.
#[derive(Debug)]
pub struct InvalidToken {
    source: Source,
    why: String,
}

impl InvalidToken {
    /// Why there is none, without where it should be.
    pub fn reason(&self) -> &str {
        &self.why
    }
}

impl fmt::Display for InvalidToken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.source {
            Source::Given => f.write_str("the bearer token that was given"),
            Source::Environment(name) => write!(f, "the environment's variable {name}"),
            Source::File(path) => write!(f, "{}", path.display()),
        }?;
        write!(f, ": {}", self.why)
    }
}

impl std::error::Error for InvalidToken {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_no_token_is_told_without_being_shown() {
        for wrong in ["", " \n", "two words", "se\ncret", "secret;", "größe", &"x".repeat(MAX + 1)] {
            let error = BearerToken::new(SecretString::from(wrong)).unwrap_err();
            let shown = format!("{error} {error:?}");
            assert!(shown.contains("holds no token"), "{shown}");
            assert!(!shown.contains("secret") && !shown.contains("größe"), "{shown}");
        }
        let token = BearerToken::new(SecretString::from(" abc/=\n")).unwrap();
        let mut headers = HeaderMap::new();
        token.authorize(&mut headers);
        assert_eq!(headers[header::AUTHORIZATION], "Bearer abc/=");
        assert!(headers[header::AUTHORIZATION].is_sensitive());
        let error = BearerToken::from_env("MESH_NO_SUCH_VARIABLE").unwrap_err();
        assert_eq!(error.to_string(), "the environment's variable MESH_NO_SUCH_VARIABLE: it is not set");
    }

    #[test]
    fn a_file_that_is_still_being_read_does_not_displace_what_was_taken_over() {
        let path = std::env::temp_dir().join(format!("mesh-token-taken-over-{}", std::process::id()));
        std::fs::write(&path, "first").unwrap();
        let token = BearerToken::from_file_blocking(&path).unwrap();
        std::fs::write(&path, "second").unwrap();
        let other = BearerToken::new(SecretString::from("other")).unwrap();
        let sent = |token: &BearerToken| {
            let mut headers = HeaderMap::new();
            token.authorize(&mut headers);
            headers[header::AUTHORIZATION].to_str().unwrap().to_owned()
        };
        // The one thread that reads files is kept from it.
        let runtime = tokio::runtime::Builder::new_current_thread().max_blocking_threads(1).build().unwrap();
        runtime.block_on(async {
            let (go, wait) = std::sync::mpsc::channel();
            let _busy = tokio::task::spawn_blocking(move || wait.recv());
            let mut reload = std::pin::pin!(token.reload());
            assert!(futures_util::poll!(reload.as_mut()).is_pending());
            token.take_over(&other);
            go.send(()).unwrap();
            assert!(!reload.await.unwrap());
        });
        std::fs::remove_file(&path).unwrap();
        assert_eq!(sent(&token), "Bearer other");
    }
}
