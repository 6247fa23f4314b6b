//! Tells when a file of the project has changed.
//!
//! Folders are watched, not files: editors replace a file by another one.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use notify::{EventKind, RecommendedWatcher, RecursiveMode, Watcher as _};
use tokio::sync::mpsc;
use tokio::time::Instant;

/// Changes that follow each other within this time are one.
const SETTLE_TIME: Duration = Duration::from_millis(200);

/// The files that a project is made of.
const SOURCE_EXTENSIONS: [&str; 6] = ["ts", "mts", "js", "mjs", "json", "toml"];

/// What counts as a change.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Interest {
    files: BTreeSet<PathBuf>,
    /// Also other files of the watched folders that look like code or configuration: what is missing or wrong may be
    /// in one that is not known yet.
    any: bool,
}

impl Interest {
    /// In these files; with `any` also in their neighbours.
    pub fn new(files: impl IntoIterator<Item = PathBuf>, any: bool) -> Self {
        Self { files: files.into_iter().map(|file| located(&file)).collect(), any }
    }

    fn folders(&self) -> BTreeSet<&Path> {
        self.files.iter().filter_map(|file| file.parent()).collect()
    }

    fn covers(&self, kind: EventKind, paths: &[PathBuf]) -> bool {
        let is_change = !matches!(kind, EventKind::Access(_));
        is_change && paths.iter().any(|path| self.files.contains(path) || self.any && is_source(path))
    }
}

fn is_source(path: &Path) -> bool {
    path.extension().is_some_and(|extension| SOURCE_EXTENSIONS.iter().any(|known| extension == *known))
}

/// The path as the watcher will name it: its folder without symbolic links, and its name there.
fn located(file: &Path) -> PathBuf {
    let folder = file.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
    match (folder.canonicalize(), file.file_name()) {
        (Ok(folder), Some(name)) => folder.join(name),
        _ => file.to_owned(),
    }
}

/// Watches the files of a project.
#[derive(Debug)]
pub struct Watch {
    watcher: RecommendedWatcher,
    watched: BTreeSet<PathBuf>,
    interest: Arc<Mutex<Interest>>,
    changes: mpsc::Receiver<()>,
    /// When a change that has been received and not told is to be told, if no other follows.
    quiet_at: Option<Instant>,
}

impl Watch {
    pub fn start() -> notify::Result<Self> {
        let interest = Arc::<Mutex<Interest>>::default();
        // One change that waits stands for all that follow.
        let (sender, changes) = mpsc::channel(1);
        let known = interest.clone();
        let watcher = notify::recommended_watcher(move |event: notify::Result<notify::Event>| {
            let known = known.lock().unwrap_or_else(PoisonError::into_inner);
            if event.is_ok_and(|event| event.need_rescan() || known.covers(event.kind, &event.paths)) {
                // Where it is full, a change waits already.
                let _ = sender.try_send(());
            }
        })?;
        Ok(Self { watcher, watched: BTreeSet::new(), interest, changes, quiet_at: None })
    }

    /// Changes what is watched.
    ///
    /// # Errors
    /// When a folder cannot be watched.
    pub fn turn_to(&mut self, interest: Interest) -> notify::Result<()> {
        for folder in interest.folders() {
            if !self.watched.contains(folder) {
                self.watcher.watch(folder, RecursiveMode::NonRecursive)?;
                self.watched.insert(folder.to_owned());
            }
        }
        *self.interest.lock().unwrap_or_else(PoisonError::into_inner) = interest;
        Ok(())
    }

    /// The files watched at present.
    pub fn files(&self) -> Vec<PathBuf> {
        self.interest.lock().unwrap_or_else(PoisonError::into_inner).files.iter().cloned().collect()
    }

    /// Completes when something has changed and nothing more has for a moment, and not before `earliest`. It loses
    /// nothing when dropped before.
    pub async fn changed(&mut self, earliest: Instant) {
        loop {
            let next = self.changes.recv();
            let change = match self.quiet_at {
                None => next.await,
                Some(quiet_at) => match tokio::time::timeout_at(quiet_at.max(earliest), next).await {
                    Ok(change) => change,
                    Err(_) => break,
                },
            };
            match change {
                Some(()) => self.quiet_at = Some(Instant::now() + SETTLE_TIME),
                // The watcher holds the sender, and this holds the watcher.
                None => std::future::pending().await,
            }
        }
        self.quiet_at = None;
    }
}

#[cfg(test)]
mod tests {
    use notify::event::{AccessKind, CreateKind, ModifyKind};

    use super::*;

    const CHANGED: EventKind = EventKind::Modify(ModifyKind::Any);

    fn files(folder: &Path, names: &[&str]) -> Vec<PathBuf> {
        names.iter().map(|name| folder.canonicalize().unwrap().join(name)).collect()
    }

    #[test]
    fn a_change_of_a_known_file_counts_and_reading_does_not() {
        let folder = tempfile::tempdir().unwrap();
        let known = files(folder.path(), &["lagless.toml"]);
        let other = files(folder.path(), &["notes.txt"]);
        let neighbour = files(folder.path(), &["rule.json"]);
        let interest = Interest::new([folder.path().join("lagless.toml")], false);
        assert!(interest.covers(CHANGED, &known));
        assert!(interest.covers(EventKind::Create(CreateKind::File), &[other.clone(), known.clone()].concat()));
        assert!(!interest.covers(EventKind::Access(AccessKind::Any), &known));
        assert!(!interest.covers(CHANGED, &other));
        assert!(!interest.covers(CHANGED, &neighbour));
        let interest = Interest::new(known, true);
        assert!(interest.covers(CHANGED, &neighbour));
        assert!(!interest.covers(CHANGED, &other));
    }

    #[test]
    fn a_file_without_a_folder_lies_in_the_working_directory() {
        let interest = Interest::new([PathBuf::from("lagless.toml")], false);
        let here = std::env::current_dir().unwrap().canonicalize().unwrap();
        assert_eq!(interest.folders().into_iter().collect::<Vec<_>>(), [here.as_path()]);
    }

    #[tokio::test]
    async fn a_file_that_is_replaced_has_changed() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("total.ts");
        std::fs::write(&file, "1").unwrap();
        let mut watch = Watch::start().unwrap();
        watch.turn_to(Interest::new([file.clone()], false)).unwrap();
        let draft = folder.path().join("draft");
        std::fs::write(&draft, "2").unwrap();
        std::fs::rename(&draft, &file).unwrap();
        tokio::time::timeout(Duration::from_secs(10), watch.changed(Instant::now())).await.expect("the change is seen");
    }

    #[tokio::test]
    async fn waiting_again_and_again_does_not_put_a_change_off() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("total.ts");
        let mut watch = Watch::start().unwrap();
        watch.turn_to(Interest::new([file.clone()], false)).unwrap();
        std::fs::write(&file, "1").unwrap();
        let told =
            async { while tokio::time::timeout(SETTLE_TIME / 4, watch.changed(Instant::now())).await.is_err() {} };
        tokio::time::timeout(Duration::from_secs(10), told).await.expect("the change is told");
    }
}
