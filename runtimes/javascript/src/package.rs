//! A function's files on disk become the modules that a runner loads.
//!
//! The entry file and what it imports by relative path are read, checked for syntax, and stripped of their types. This
//! runs in the worker, at deploy, so that a runner never needs a compiler and a mistake is told with file and line
//! before any isolate starts. Packages from npm are refused by name; `node:` built-ins need no file.

use std::collections::{BTreeSet, VecDeque};
use std::path::{Path, PathBuf};

use deno_ast::{
    EmitOptions, MediaType, ModuleSpecifier, ParseDiagnostic, ParseParams, SourceMapOption, TranspileError,
    TranspileModuleOptions, TranspileOptions,
};
use lagless_protocol::frames::Module;
use sha2::{Digest, Sha256};

mod imports;

/// Where a function's files live as far as JavaScript can see: stack traces name `file:///function/total.ts`.
const ROOT: &str = "file:///function/";

/// A function, ready to be deployed to a runner.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Package {
    /// The first is the main module.
    pub modules: Vec<Module>,
    /// Every file that was read, in the same order.
    pub files: Vec<PathBuf>,
    /// SHA-256 over the names and texts of all files, in hexadecimal.
    pub hash: String,
}

/// Why a function's files cannot be loaded.
#[derive(Debug, thiserror::Error)]
pub enum PackageError {
    #[error("{file}: {source}", file = file.display())]
    Read { file: PathBuf, source: std::io::Error },
    #[error("{file} is not a module: it must end in .ts, .mts, .js or .mjs", file = file.display())]
    Kind { file: PathBuf },
    #[error("{file}:{line}:{column}: {message}\n  {text}\n  {marker}", file = file.display())]
    Syntax { file: PathBuf, line: usize, column: usize, message: String, text: String, marker: String },
    #[error("{file}: {message}", file = file.display())]
    Transpile { file: PathBuf, message: String },
    #[error("npm packages are not supported yet: import '{specifier}' in {file}", file = file.display())]
    Npm { specifier: String, file: PathBuf },
    #[error(
        "'lagless' has only types: write `import type` instead of `import` for what {file} takes from it",
        file = file.display()
    )]
    TypesOnly { file: PathBuf },
    #[error("imports over the network are not supported: import '{specifier}' in {file}", file = file.display())]
    Remote { specifier: String, file: PathBuf },
    #[error("only JavaScript and TypeScript can be imported: import '{specifier}' in {file}", file = file.display())]
    Unsupported { specifier: String, file: PathBuf },
    #[error(
        "import '{specifier}' in {file} leaves the folder of the function's main file, {root}",
        file = file.display(),
        root = root.display()
    )]
    Outside { specifier: String, file: PathBuf, root: PathBuf },
    #[error("import '{specifier}' in {file}: {path}: {source}", file = file.display(), path = path.display())]
    Missing { specifier: String, file: PathBuf, path: PathBuf, source: std::io::Error },
}

/// Reads a function's entry file and all that it imports by relative path.
///
/// # Errors
/// The first file that is missing, outside of the entry file's folder, or not valid, or an import that is refused.
pub fn load(path: &Path) -> Result<Package, PackageError> {
    let read = |source| PackageError::Read { file: path.to_owned(), source };
    let entry = path.canonicalize().map_err(read)?;
    let root = entry.parent().unwrap_or(Path::new("/")).to_owned();
    let shown = path.parent().unwrap_or(Path::new("")).to_owned();
    let mut loading = Loading { root, shown, known: BTreeSet::from([entry.clone()]), waiting: VecDeque::from([entry]) };

    let mut package = Package { modules: Vec::new(), files: Vec::new(), hash: String::new() };
    let mut hash = Sha256::new();
    while let Some(file) = loading.waiting.pop_front() {
        let shown = loading.shown(&file);
        let text =
            std::fs::read_to_string(&file).map_err(|source| PackageError::Read { file: shown.clone(), source })?;
        let specifier = loading.specifier(&file);
        for part in [specifier.as_str(), &text] {
            hash.update((part.len() as u64).to_le_bytes());
            hash.update(part.as_bytes());
        }
        let (module, imports) = compile(&shown, &specifier, text)?;
        for import in imports {
            loading.follow(&file, &shown, &import)?;
        }
        package.modules.push(module);
        package.files.push(file);
    }
    package.hash = hash.finalize().iter().map(|byte| format!("{byte:02x}")).collect();
    Ok(package)
}

/// What is read and what is still to be read.
struct Loading {
    /// The entry file's folder, without symbolic links.
    root: PathBuf,
    /// The same folder as the user wrote it, for messages.
    shown: PathBuf,
    known: BTreeSet<PathBuf>,
    waiting: VecDeque<PathBuf>,
}

impl Loading {
    fn relative<'a>(&self, file: &'a Path) -> &'a Path {
        file.strip_prefix(&self.root).unwrap_or(file)
    }

    fn shown(&self, file: &Path) -> PathBuf {
        self.shown.join(self.relative(file))
    }

    fn specifier(&self, file: &Path) -> ModuleSpecifier {
        let root = ModuleSpecifier::parse(ROOT).expect("the root is a valid URL");
        let mut specifier = root.clone();
        if let Ok(mut segments) = specifier.path_segments_mut() {
            segments.pop_if_empty();
            segments
                .extend(self.relative(file).components().map(|part| part.as_os_str().to_string_lossy().into_owned()));
        }
        specifier
    }

    /// Queues the file behind an import, or refuses it.
    fn follow(&mut self, from: &Path, shown: &Path, import: &imports::Import) -> Result<(), PackageError> {
        let specifier = import.specifier.clone();
        let file = shown.to_owned();
        if specifier.starts_with("node:") {
            return Ok(());
        }
        if specifier == "lagless" {
            return Err(PackageError::TypesOnly { file });
        }
        if specifier.starts_with("http:") || specifier.starts_with("https:") {
            return Err(PackageError::Remote { specifier, file });
        }
        if !specifier.starts_with("./") && !specifier.starts_with("../") {
            return Err(match specifier.starts_with('/') || specifier.starts_with("file:") {
                true => PackageError::Outside { specifier, file, root: self.root.clone() },
                false => PackageError::Npm { specifier, file },
            });
        }
        if import.has_attributes {
            return Err(PackageError::Unsupported { specifier, file });
        }
        let path = from.parent().unwrap_or(&self.root).join(&specifier);
        let target = match path.canonicalize() {
            Ok(target) => target,
            Err(source) => return Err(PackageError::Missing { specifier, file, path: self.shown(&path), source }),
        };
        if !target.starts_with(&self.root) {
            return Err(PackageError::Outside { specifier, file, root: self.root.clone() });
        }
        if media_type(&target).is_none() {
            return Err(PackageError::Unsupported { specifier, file });
        }
        if self.known.insert(target.clone()) {
            self.waiting.push_back(target);
        }
        Ok(())
    }
}

fn media_type(file: &Path) -> Option<MediaType> {
    let media_type = MediaType::from_path(file);
    matches!(media_type, MediaType::TypeScript | MediaType::Mts | MediaType::JavaScript | MediaType::Mjs)
        .then_some(media_type)
}

/// Strips the types of one file; also what the result imports.
fn compile(
    file: &Path,
    specifier: &ModuleSpecifier,
    text: String,
) -> Result<(Module, Vec<imports::Import>), PackageError> {
    let media_type = media_type(file).ok_or_else(|| PackageError::Kind { file: file.to_owned() })?;
    let parsed = parse(file, specifier, &text, media_type)?;
    if matches!(media_type, MediaType::JavaScript | MediaType::Mjs) {
        let imports = imports::of(&parsed);
        return Ok((Module { specifier: specifier.to_string(), code: text, source_map: Vec::new() }, imports));
    }
    let options = EmitOptions { source_map: SourceMapOption::Separate, inline_sources: false, ..Default::default() };
    let transpile = TranspileOptions { jsx: None, ..Default::default() };
    let emitted = parsed
        .transpile(&transpile, &TranspileModuleOptions::default(), &options)
        .map_err(|error| match error {
            TranspileError::ParseErrors(errors) if !errors.0.is_empty() => syntax_error(file, &text, &errors.0[0]),
            error => PackageError::Transpile { file: file.to_owned(), message: error.to_string() },
        })?
        .into_source();
    // Imports of nothing but types are gone from the emitted text, so that text says what is needed.
    let imports = imports::of(&parse(file, specifier, &emitted.text, MediaType::Mjs)?);
    let source_map = emitted.source_map.unwrap_or_default().into_bytes();
    Ok((Module { specifier: specifier.to_string(), code: emitted.text, source_map }, imports))
}

fn parse(
    file: &Path,
    specifier: &ModuleSpecifier,
    text: &str,
    media_type: MediaType,
) -> Result<deno_ast::ParsedSource, PackageError> {
    deno_ast::parse_module(ParseParams {
        specifier: specifier.clone(),
        text: text.into(),
        media_type,
        capture_tokens: false,
        scope_analysis: false,
        maybe_syntax: None,
    })
    .map_err(|diagnostic| syntax_error(file, text, &diagnostic))
}

fn syntax_error(file: &Path, text: &str, diagnostic: &ParseDiagnostic) -> PackageError {
    let position = diagnostic.display_position();
    let (line, column) = (position.line_number, position.column_number);
    PackageError::Syntax {
        file: file.to_owned(),
        line,
        column,
        message: diagnostic.kind().msg().into_owned(),
        text: text.lines().nth(line.saturating_sub(1)).unwrap_or_default().to_owned(),
        marker: format!("{}^", " ".repeat(column.saturating_sub(1))),
    }
}

#[cfg(test)]
mod tests;
