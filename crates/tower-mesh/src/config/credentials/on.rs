use std::path::PathBuf;
use std::time::Duration;

use tower_mesh_core::error::Mistake;

use crate::config::read::Table;

/// A bearer token: where it is, and how often that is read again if it is a file.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct CredentialsConfig {
    pub(crate) source: TokenSource,
    pub(crate) reload: Duration,
}

#[derive(Debug, Clone, PartialEq)]
pub(crate) enum TokenSource {
    File(PathBuf),
    Environment(String),
}

impl CredentialsConfig {
    pub(crate) const RELOAD: Duration = Duration::from_secs(30);

    /// What is wrong with it, apart from whether there is a token.
    pub(in crate::config) fn mistake(&self) -> Option<Mistake> {
        reload_mistake(self.reload).map(|mistake| mistake.under("credentials"))
    }
}

fn reload_mistake(reload: Duration) -> Option<Mistake> {
    let right = (Duration::from_millis(100)..=Duration::from_secs(86_400)).contains(&reload);
    (!right).then(|| Mistake::new("reload", format_args!("{reload:?}"), "100ms to 1day"))
}

/// What the file says of them for all services, and then for one.
#[derive(Clone, Default)]
pub(in crate::config) struct Credentials {
    source: Option<TokenSource>,
    reload: Option<Duration>,
    /// The defaults are wrong, which is told there.
    told: bool,
}

impl Credentials {
    /// Takes in what stands under `defaults`. What is wrong there is told once, and counts as if nothing had been said.
    pub(in crate::config) fn read_defaults(&mut self, table: &mut Table<'_>) {
        let mut part = table.secret_table("credentials");
        self.take_in(&mut part);
        if part.is_wrong() {
            *self = Self { told: true, ..Self::default() };
        }
        table.absorb(part);
    }

    /// Those of one service.
    pub(in crate::config) fn read(mut self, table: &mut Table<'_>) -> Option<CredentialsConfig> {
        let present = table.has("credentials");
        let mut part = table.secret_table("credentials");
        self.take_in(&mut part);
        if present && self.source.is_none() && !self.told && !part.is_wrong() {
            part.mistake("bearer_file", "nothing", "a path, or a variable's name as bearer_env");
        }
        let right = !part.is_wrong();
        table.absorb(part);
        let source = self.source.filter(|_| right)?;
        let reload = self.reload.filter(|_| matches!(source, TokenSource::File(_)));
        Some(CredentialsConfig { source, reload: reload.unwrap_or(CredentialsConfig::RELOAD) })
    }

    fn take_in(&mut self, part: &mut Table<'_>) {
        let file = part.text("bearer_file").map(|path| TokenSource::File(path.into()));
        let variable = part.text("bearer_env").map(|name| TokenSource::Environment(name.to_owned()));
        if part.has("bearer_file") && part.has("bearer_env") {
            part.mistake("bearer_env", "bearer_env beside bearer_file", "one of the two");
        }
        self.source = file.or(variable).or(self.source.take());
        match part.duration("reload").map(|reload| (reload, reload_mistake(reload))) {
            Some((_, Some(mistake))) => part.add(mistake),
            Some(_) if matches!(self.source, Some(TokenSource::Environment(_))) => {
                part.mistake("reload", "a duration beside bearer_env", "nothing: a variable is read once");
            }
            Some((reload, None)) => self.reload = Some(reload),
            None => {}
        }
    }
}
