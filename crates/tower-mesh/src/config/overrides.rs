//! Fields of a configuration that the environment says otherwise.

use serde_json::{Map, Value};
use tower_mesh_core::error::Mistake;

use super::strict::Tree;

/// Fields that stand above those of a file.
///
/// From the environment, `MESH__SERVICES__USERS__RETRY__MAX_ATTEMPTS=5` is the field `services.users.retry.max_attempts`: the prefix and the names between two
/// underscores each, in capital letters or not. A name that stands in the file is met by its letters, where `_` is `-` as well; a field that does not stand there is
/// added. A value is what it would be in TOML (`5`, `true`, `["a:1", "b:1"]`), and a text where it is nothing there (`5s`).
///
/// What is wrong with them is a mistake in the field, as if it stood in the file.
///
/// ```
/// use tower_mesh::Config;
/// use tower_mesh::config::Overrides;
/// # let directory = std::env::temp_dir().join(format!("mesh-doc-{}", std::process::id()));
/// # std::fs::create_dir_all(&directory)?;
/// # let path = directory.join("mesh.toml");
/// # std::fs::write(&path, "[services.users]\nendpoints = [\"a:1\"]")?;
/// let overrides = Overrides::from_env("MESH").set("services.users.retry.max_attempts", "5");
/// let config = Config::from_path_with(&path, &overrides)?;
/// # std::fs::remove_dir_all(&directory)?;
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Clone, Default, PartialEq, Eq)]
pub struct Overrides(Vec<Override>);

#[derive(Clone, PartialEq, Eq)]
struct Override {
    path: Vec<String>,
    value: String,
}

impl Overrides {
    /// None.
    pub fn new() -> Self {
        Self::default()
    }

    /// The variables of the environment that begin with `prefix` and two underscores, as they are now. What is no Unicode is passed over.
    pub fn from_env(prefix: &str) -> Self {
        let start = format!("{prefix}__");
        let mut found: Vec<_> = std::env::vars_os()
            .filter_map(|(name, value)| Some((name.into_string().ok()?, value.into_string().ok()?)))
            .filter_map(|(name, value)| Some((name.strip_prefix(&start)?.to_owned(), value)))
            .collect();
        found.sort();
        let path = |name: &str| name.split("__").map(str::to_owned).collect();
        Self(found.into_iter().map(|(name, value)| Override { path: path(&name), value }).collect())
    }

    /// Sets a field by its path, with dots between the names; of two settings the later counts.
    pub fn set(mut self, path: &str, value: impl Into<String>) -> Self {
        self.0.push(Override { path: path.split('.').map(str::to_owned).collect(), value: value.into() });
        self
    }

    /// A mistake in a field that one of them sets, without what it was set to: that may be a secret, and mistakes are told to many.
    pub(super) fn hide(&self, mistake: Mistake, tree: &Value) -> Mistake {
        let is_set = self.0.iter().any(|over| over.name_in(tree).as_deref() == Some(mistake.field()));
        if is_set && !mistake.found().starts_with("an unknown") {
            Mistake::new(mistake.field(), "a value that the environment sets", mistake.allowed())
        } else {
            mistake
        }
    }

    /// Writes them into `tree`; what is in their way there.
    pub(super) fn apply(&self, tree: &mut Value) -> Vec<Mistake> {
        self.0.iter().filter_map(|over| over.apply(tree).err()).collect()
    }
}

impl Override {
    /// The path of its field, once it is there.
    fn name_in(&self, tree: &Value) -> Option<String> {
        let (mut at, mut path) = (tree, String::new());
        for name in &self.path {
            let Value::Object(fields) = at else { return None };
            let name = existing(fields, name)?;
            path = super::path_of(&path, &name);
            at = fields.get(&name)?;
        }
        Some(path)
    }

    fn apply(&self, tree: &mut Value) -> Result<(), Mistake> {
        let mut at = tree;
        let mut path = String::new();
        for name in &self.path {
            let Value::Object(fields) = at else {
                return Err(Mistake::new(
                    path,
                    super::read::shown(at),
                    "a table, as the environment sets a field in it",
                ));
            };
            let name = existing(fields, name).unwrap_or_else(|| name.to_lowercase());
            path = super::path_of(&path, &name);
            at = fields.entry(name).or_insert_with(|| Value::Object(Map::new()));
        }
        *at = value(&self.value);
        Ok(())
    }
}

/// The field of the tree that is meant: the same letters, whatever their size, and `-` for `_`.
fn existing(fields: &Map<String, Value>, name: &str) -> Option<String> {
    let plain = |name: &str| name.to_lowercase().replace('-', "_");
    if fields.contains_key(name) {
        return Some(name.to_owned());
    }
    fields.keys().find(|key| plain(key) == plain(name)).cloned()
}

fn value(text: &str) -> Value {
    match toml::from_str::<Tree>(&format!("value = {text}")) {
        Ok(Tree(Value::Object(mut fields))) if fields.len() == 1 => {
            fields.remove("value").unwrap_or_default()
        }
        _ => text.into(),
    }
}

/// Their values may be secrets: only the names are shown.
impl std::fmt::Debug for Overrides {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_list().entries(self.0.iter().map(|over| over.path.join("."))).finish()
    }
}
