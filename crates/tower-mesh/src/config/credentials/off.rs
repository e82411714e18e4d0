use tower_mesh_core::error::Mistake;

use crate::config::read::Table;

/// A build without the feature has no value of it.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum CredentialsConfig {}

impl CredentialsConfig {
    pub(in crate::config) fn mistake(&self) -> Option<Mistake> {
        match *self {}
    }
}

/// It reads nothing of such a table, and says so.
#[derive(Clone, Default)]
pub(in crate::config) struct Credentials {}

impl Credentials {
    pub(in crate::config) fn read_defaults(&mut self, table: &mut Table<'_>) {
        if table.has("credentials") {
            let mut part = table.secret_table("credentials");
            part.refuse("nothing: this build knows no credentials (feature credentials)");
            table.absorb(part);
        }
    }

    pub(in crate::config) fn read(mut self, table: &mut Table<'_>) -> Option<CredentialsConfig> {
        self.read_defaults(table);
        None
    }
}
