//! `lagless init`: a small project that works as it stands. It is the example `shop`, so that there is one to keep right.

use std::fs::{self, OpenOptions};
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use clap::Args;

use super::{CliError, Exit};

/// What is written, by path below the project's folder.
const FILES: &[(&str, &str)] = &[
    ("lagless.toml", include_str!("../../examples/shop/lagless.toml")),
    ("functions/total.ts", include_str!("../../examples/shop/functions/total.ts")),
    ("events/placed.json", include_str!("../../examples/shop/events/placed.json")),
    ("messages.jsonl", include_str!("../../examples/shop/messages.jsonl")),
    ("lagless.d.ts", include_str!("../../runtimes/javascript/lagless.d.ts")),
    ("tsconfig.json", include_str!("init/tsconfig.json")),
    (".gitignore", include_str!("init/gitignore")),
];

const NEXT: &str = "  \
  lagless invoke shop.total -e events/placed.json   run one event through the function
  lagless run --stdin < messages.jsonl              run it on the sample messages, without a broker
  lagless dev                                       run it with an embedded broker, again on every change
  lagless run                                       run it against the brokers that lagless.toml names
";

#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  lagless init
  lagless init shop

Nothing that exists is overwritten.")]
pub struct Init {
    /// The project's folder; it is made if it does not exist
    #[arg(value_name = "DIR", default_value = ".")]
    folder: PathBuf,
}

impl Init {
    pub fn run(self) -> Result<Exit, CliError> {
        write_project(&self.folder).map_err(CliError::failed)?;
        io::stdout().write_all(next_steps(&self.folder).as_bytes()).map_err(CliError::failed)?;
        Ok(Exit::Done)
    }
}

/// Why no project is written.
#[derive(Debug, thiserror::Error)]
enum InitError {
    #[error("nothing is written, because this would be overwritten: {}; give another folder: lagless init DIR", .0.join(", "))]
    Exists(Vec<String>),
    #[error("{}: {error}", path.display())]
    Write {
        path: PathBuf,
        #[source]
        error: io::Error,
    },
}

fn write_project(folder: &Path) -> Result<(), InitError> {
    let existing = FILES.iter().map(|(name, _)| folder.join(name)).filter(|path| path.symlink_metadata().is_ok());
    let existing: Vec<String> = existing.map(|path| path.display().to_string()).collect();
    if !existing.is_empty() {
        return Err(InitError::Exists(existing));
    }
    for (name, text) in FILES {
        let path = folder.join(name);
        write_new(&path, text).map_err(|error| InitError::Write { path, error })?;
    }
    Ok(())
}

fn write_new(path: &Path, text: &str) -> io::Result<()> {
    if let Some(parent) = path.parent() {
        fs::create_dir_all(parent)?;
    }
    // Somebody else may have made the file since it was looked for.
    OpenOptions::new().write(true).create_new(true).open(path)?.write_all(text.as_bytes())
}

fn next_steps(folder: &Path) -> String {
    let mut text = String::from("Written:\n");
    for (name, _) in FILES {
        text += &format!("  {}\n", folder.join(name).display());
    }
    text += "\nNext:\n";
    if folder.components().any(|part| part != std::path::Component::CurDir) {
        text += &format!("  cd {}\n", shell_word(&folder.display().to_string()));
    }
    text += NEXT;
    text
}

/// The text as a shell takes it for one word.
fn shell_word(text: &str) -> String {
    let plain = |letter: char| letter.is_alphanumeric() || "/._-+,@%".contains(letter);
    if text.chars().all(plain) { text.to_owned() } else { format!("'{}'", text.replace('\'', r"'\''")) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config;
    use crate::function::Registry;
    use crate::trigger::Rule;

    #[test]
    fn the_project_that_is_written_works() {
        let folder = tempfile::tempdir().unwrap();
        let project = folder.path().join("deep/shop");
        write_project(&project).unwrap();
        let sources = config::Sources { files: vec![project.join("lagless.toml")], ..Default::default() };
        let settings = config::load(&sources).unwrap();
        let registry = Registry::load(&settings).unwrap();
        assert!(registry.get("shop", "total").is_some());
        let rule = settings.services["shop"].triggers["placed"].rule.as_ref().unwrap();
        assert!(Rule::compile(rule).is_ok());
        for line in fs::read_to_string(project.join("messages.jsonl")).unwrap().lines() {
            serde_json::from_str::<serde_json::Value>(line).unwrap();
        }
    }

    #[test]
    fn nothing_is_overwritten_and_what_is_in_the_way_is_named() {
        let folder = tempfile::tempdir().unwrap();
        fs::write(folder.path().join("messages.jsonl"), "mine").unwrap();
        let refused = write_project(folder.path()).unwrap_err().to_string();
        assert!(refused.contains("messages.jsonl") && !refused.contains("lagless.toml"), "{refused}");
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 1);
        assert_eq!(fs::read_to_string(folder.path().join("messages.jsonl")).unwrap(), "mine");
    }

    #[test]
    fn the_next_steps_begin_with_the_folder_unless_it_is_this_one() {
        assert!(next_steps(Path::new("my shop")).contains("\nNext:\n  cd 'my shop'\n  lagless invoke"));
        assert!(!next_steps(Path::new(".")).contains("  cd "));
    }
}
