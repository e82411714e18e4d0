//! A file on a real disk, changed in the ways in which files are changed.
#![cfg(feature = "file")]
#![allow(clippy::unwrap_used, reason = "tests")]

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use futures_util::StreamExt as _;
use futures_util::stream::BoxStream;
use tower_mesh_core::error::find_in;
use tower_mesh_core::{Resolve, ResolveError, Update};
use tower_mesh_discovery::{FileError, FileList};

/// A directory that goes with the test.
struct Folder(PathBuf);

impl Folder {
    fn new() -> Self {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let name = format!("tower-mesh-file-{}-{}", std::process::id(), NEXT.fetch_add(1, Ordering::Relaxed));
        let path = std::env::temp_dir().join(name);
        fs::create_dir_all(&path).unwrap();
        Self(path)
    }

    fn at(&self, name: &str) -> PathBuf {
        self.0.join(name)
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

type Updates = BoxStream<'static, Result<Update, ResolveError>>;

fn follow(path: &Path) -> Updates {
    FileList::new(path).resolve(&"users".parse().unwrap())
}

fn list(addresses: &[&str]) -> String {
    format!("endpoints = {addresses:?}\n")
}

/// What is said next. Real files tell in real time; the bound is for a test that fails.
async fn next(updates: &mut Updates) -> Result<Vec<String>, ResolveError> {
    let said = tokio::time::timeout(Duration::from_secs(20), updates.next()).await.expect("nothing was said");
    match said.expect("it never ends")? {
        Update::Reset(all) => Ok(all.iter().map(|endpoint| endpoint.id().to_string()).collect()),
        other => panic!("{other:?}"),
    }
}

async fn is_quiet(updates: &mut Updates) -> bool {
    tokio::time::timeout(Duration::from_millis(300), updates.next()).await.is_err()
}

fn why(error: &ResolveError) -> &FileError {
    find_in(error).expect("a file's error")
}

/// The new text stands in another file, which takes the place of this one.
fn replace(path: &Path, text: &str) {
    let new = path.with_extension("new");
    fs::write(&new, text).unwrap();
    fs::rename(new, path).unwrap();
}

#[tokio::test]
async fn writing_replacing_and_what_editors_do_are_followed() {
    let folder = Folder::new();
    let path = folder.at("endpoints.toml");
    fs::write(&path, list(&["a:1"])).unwrap();
    let mut updates = follow(&path);
    assert_eq!(next(&mut updates).await.unwrap(), ["a:1"]);
    assert!(is_quiet(&mut updates).await, "reading it is no change");

    replace(&path, &list(&["a:1", "b:1"]));
    assert_eq!(next(&mut updates).await.unwrap(), ["a:1", "b:1"]);

    // As vim does: the old file is moved away, a new one written in its place, the old one deleted.
    let backup = folder.at("endpoints.toml~");
    fs::rename(&path, &backup).unwrap();
    fs::write(&path, list(&["b:1"])).unwrap();
    fs::remove_file(&backup).unwrap();
    assert_eq!(next(&mut updates).await.unwrap(), ["b:1"]);

    fs::write(&path, list(&["c:1"])).unwrap();
    assert_eq!(next(&mut updates).await.unwrap(), ["c:1"], "in place");

    fs::write(folder.at("other.toml"), "x").unwrap();
    fs::write(&path, list(&["c:1"])).unwrap();
    assert!(is_quiet(&mut updates).await, "a neighbour, and the same text again");

    replace(&path, &list(&[]));
    assert!(next(&mut updates).await.unwrap().is_empty(), "only a list that is empty is");
}

#[tokio::test]
async fn what_is_wrong_half_written_or_gone_says_why_until_it_is_right_again() {
    let folder = Folder::new();
    let path = folder.at("endpoints.json");
    let mut updates = follow(&path);
    let missing = next(&mut updates).await.unwrap_err();
    assert!(matches!(why(&missing), FileError::Unreadable { .. }), "{missing}");

    let right = r#"{"endpoints": ["a:1"]}"#;
    fs::write(&path, right).unwrap();
    assert_eq!(next(&mut updates).await.unwrap(), ["a:1"]);

    replace(&path, r#"{"endpoints": ["a:1", "b:"#);
    let half = next(&mut updates).await.unwrap_err();
    assert!(matches!(why(&half), FileError::Malformed { .. }), "{half}");
    replace(&path, r#"{"endpoints": ["a:1", {"address": "b:1", "weight": 0, "colour": 1}]}"#);
    let wrong = next(&mut updates).await.unwrap_err();
    let FileError::Invalid { error, .. } = why(&wrong) else { panic!("{wrong}") };
    assert_eq!(error.mistakes().len(), 2);

    replace(&path, right);
    assert_eq!(next(&mut updates).await.unwrap(), ["a:1"], "what is good again is said again");
    fs::remove_file(&path).unwrap();
    let gone = next(&mut updates).await.unwrap_err();
    assert!(matches!(why(&gone), FileError::Unreadable { .. }), "{gone}");
    assert!(is_quiet(&mut updates).await, "and said once");
    fs::write(&path, right).unwrap();
    assert_eq!(next(&mut updates).await.unwrap(), ["a:1"]);
}

#[tokio::test]
async fn a_directory_that_goes_and_comes_back_is_found_again() {
    let folder = Folder::new();
    let inner = folder.at("inner");
    let path = inner.join("endpoints.toml");
    fs::create_dir(&inner).unwrap();
    fs::write(&path, list(&["a:1"])).unwrap();
    let mut updates = follow(&path);
    assert_eq!(next(&mut updates).await.unwrap(), ["a:1"]);
    fs::rename(&inner, folder.at("away")).unwrap();
    next(&mut updates).await.unwrap_err();
    fs::create_dir(&inner).unwrap();
    fs::write(&path, list(&["b:1"])).unwrap();
    assert_eq!(next(&mut updates).await.unwrap(), ["b:1"]);
    replace(&path, &list(&["c:1"]));
    assert_eq!(next(&mut updates).await.unwrap(), ["c:1"]);
}

/// How a directory of Kubernetes' is changed: everything in it is a link to a link that is set elsewhere.
#[cfg(unix)]
#[tokio::test]
async fn a_link_that_is_set_elsewhere_is_followed() {
    use std::os::unix::fs::symlink;
    let folder = Folder::new();
    for (version, address) in [("v1", "a:1"), ("v2", "b:1")] {
        fs::create_dir(folder.at(version)).unwrap();
        fs::write(folder.at(version).join("endpoints.toml"), list(&[address])).unwrap();
    }
    symlink("v1", folder.at("..data")).unwrap();
    symlink("..data/endpoints.toml", folder.at("endpoints.toml")).unwrap();
    let mut updates = follow(&folder.at("endpoints.toml"));
    assert_eq!(next(&mut updates).await.unwrap(), ["a:1"]);
    symlink("v2", folder.at("..tmp")).unwrap();
    fs::rename(folder.at("..tmp"), folder.at("..data")).unwrap();
    assert_eq!(next(&mut updates).await.unwrap(), ["b:1"]);
}

#[cfg(target_os = "linux")]
#[tokio::test]
async fn no_watch_is_left_behind_when_the_stream_is_dropped() {
    fn watching() -> usize {
        let tasks = fs::read_dir("/proc/self/task").unwrap().filter_map(Result::ok);
        let names = tasks.filter_map(|task| fs::read_to_string(task.path().join("comm")).ok());
        names.filter(|name| name.starts_with("notify-rs")).count()
    }
    let folder = Folder::new();
    let path = folder.at("endpoints.toml");
    fs::write(&path, list(&["a:1"])).unwrap();
    // Tests of one process may share it, so only this one's own threads are counted: those above what was there.
    let before = watching();
    let mut updates = follow(&path);
    next(&mut updates).await.unwrap();
    assert!(watching() > before);
    drop(updates);
    for _ in 0..200 {
        if watching() <= before {
            return;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    panic!("{} threads are left", watching());
}
