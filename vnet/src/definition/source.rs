//! The files that definitions are read from.

use std::{
    collections::HashSet,
    fs::File,
    io::{self, Read as _},
    path::{Path, PathBuf},
};

use super::diagnostic::{Diagnostic, Span};

/// The largest file that is read as a definition, in bytes.
pub const SIZE_LIMIT: u64 = 1024 * 1024;

/// The number of a file in its [`Sources`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SourceId(u32);

/// A file as it was read.
#[derive(Debug)]
pub struct Source {
    path: PathBuf,
    text: Option<String>,
    /// For display only when the file cannot be parsed as text.
    shown: String,
    line_starts: Vec<usize>,
}

/// All files of one run.
#[derive(Debug, Default)]
pub struct Sources(Vec<Source>);

impl Sources {
    /// Reads the files that `paths` stand for; what cannot be read becomes a diagnostic.
    pub(super) fn read(paths: &[PathBuf], diagnostics: &mut Vec<Diagnostic>) -> Self {
        let mut sources = Self::default();
        let mut seen = HashSet::new();
        for path in paths {
            if !path.is_dir() {
                sources.read_once(path, &mut seen, diagnostics);
                continue;
            }
            match files_in(path) {
                Ok(files) if files.is_empty() => {
                    let id = sources.add(path, None, String::new());
                    diagnostics.push(
                        Diagnostic::error(Span::whole(id), "no definition in this directory")
                            .help("a directory stands for its *.xml files, without subdirectories"),
                    );
                }
                Ok(files) => {
                    for file in files {
                        sources.read_once(&file, &mut seen, diagnostics);
                    }
                }
                Err(error) => {
                    let id = sources.add(path, None, String::new());
                    diagnostics.push(cannot_read(id, "directory", &error));
                }
            }
        }
        sources
    }

    pub(super) fn from_text(path: &Path, text: &str) -> Self {
        let mut sources = Self::default();
        sources.add(path, Some(text.to_owned()), String::new());
        sources
    }

    pub(super) fn from_texts<'a>(texts: impl IntoIterator<Item = (&'a Path, &'a str)>) -> Self {
        let mut sources = Self::default();
        for (path, text) in texts {
            sources.add(path, Some(text.to_owned()), String::new());
        }
        sources
    }

    /// The files with their numbers, in the order they were read.
    pub fn iter(&self) -> impl Iterator<Item = (SourceId, &Source)> {
        self.0.iter().enumerate().map(|(index, source)| (SourceId(index as u32), source))
    }

    /// The file with this number.
    ///
    /// # Panics
    /// If `id` comes from other `Sources`.
    #[must_use]
    pub fn get(&self, id: SourceId) -> &Source {
        &self.0[id.0 as usize]
    }

    fn add(&mut self, path: &Path, text: Option<String>, shown: String) -> SourceId {
        let id = SourceId(self.0.len() as u32);
        let text = text.map(|mut text| {
            let mark = if text.starts_with('\u{feff}') { '\u{feff}'.len_utf8() } else { 0 };
            text.drain(..mark);
            text
        });
        let lines = text.as_ref().unwrap_or(&shown);
        let line_starts =
            std::iter::once(0).chain(lines.match_indices('\n').map(|(at, _)| at + 1)).collect();
        self.0.push(Source { path: path.to_owned(), text, shown, line_starts });
        id
    }

    fn read_once(
        &mut self,
        path: &Path,
        seen: &mut HashSet<PathBuf>,
        diagnostics: &mut Vec<Diagnostic>,
    ) {
        if !path.canonicalize().is_ok_and(|real| !seen.insert(real)) {
            self.read_file(path, diagnostics);
        }
    }

    fn read_file(&mut self, path: &Path, diagnostics: &mut Vec<Diagnostic>) {
        let bytes = match read_limited(path) {
            Ok(bytes) => bytes,
            Err(error) => {
                let id = self.add(path, None, String::new());
                diagnostics.push(cannot_read(id, "file", &error));
                return;
            }
        };
        if bytes.len() as u64 > SIZE_LIMIT {
            let id = self.add(path, None, String::new());
            diagnostics.push(
                Diagnostic::error(Span::whole(id), "file is larger than 1 MiB").help(
                    "a network definition is a few hundred bytes long; is this another file?",
                ),
            );
            return;
        }
        match String::from_utf8(bytes) {
            Ok(text) => {
                self.add(path, Some(text), String::new());
            }
            Err(error) => {
                let at = error.utf8_error().valid_up_to();
                let byte = error.as_bytes().get(at).copied().unwrap_or_default();
                let shown = String::from_utf8_lossy(error.as_bytes()).into_owned();
                let id = self.add(path, None, shown);
                diagnostics.push(
                    Diagnostic::error(Span::at(id, at), "file is not UTF-8 text")
                        .label(format!("byte 0x{byte:02x} cannot be here"))
                        .help("convert it, for example with `iconv -f ISO-8859-1 -t UTF-8`"),
                );
            }
        }
    }
}

impl Source {
    /// The path as it was given, or the directory that was given and the file's name.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The contents without a byte order mark; none if they could not be read.
    #[must_use]
    pub fn text(&self) -> Option<&str> {
        self.text.as_deref()
    }

    /// The line and column of a byte offset, both from 1; a column is one character.
    #[must_use]
    pub fn position(&self, offset: usize) -> (usize, usize) {
        let line = self.line_starts.partition_point(|start| *start <= offset);
        let start = self.line_starts[line - 1];
        let before = self.contents().get(start..offset).unwrap_or_default();
        (line, before.chars().count() + 1)
    }

    /// A line, counted from 1, without its end, and the byte offset of its start.
    #[must_use]
    pub fn line(&self, line: usize) -> (&str, usize) {
        let start = self.line_starts[line - 1];
        let end = self.line_starts.get(line).copied().unwrap_or(self.contents().len());
        let text = self.contents().get(start..end).unwrap_or_default();
        (text.trim_end_matches(['\n', '\r']), start)
    }

    fn contents(&self) -> &str {
        self.text.as_ref().unwrap_or(&self.shown)
    }
}

/// The definitions in a directory, sorted by name: its `*.xml` files that are not hidden.
pub fn files_in(directory: &Path) -> io::Result<Vec<PathBuf>> {
    let mut files = Vec::new();
    for entry in directory.read_dir()? {
        let path = entry?.path();
        let hidden = path.file_name().is_some_and(|name| name.as_encoded_bytes().starts_with(b"."));
        // A dangling link is kept, so that reading it names it.
        if path.extension().is_some_and(|extension| extension == "xml")
            && !hidden
            && !path.metadata().is_ok_and(|metadata| !metadata.is_file())
        {
            files.push(path);
        }
    }
    files.sort();
    Ok(files)
}

fn read_limited(path: &Path) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    File::open(path)?.take(SIZE_LIMIT + 1).read_to_end(&mut bytes)?;
    Ok(bytes)
}

fn cannot_read(id: SourceId, what: &str, error: &io::Error) -> Diagnostic {
    let diagnostic = |reason: &str| {
        Diagnostic::error(Span::whole(id), format!("cannot read this {what}: {reason}"))
    };
    match error.kind() {
        io::ErrorKind::NotFound => diagnostic("it does not exist")
            .help("`virsh net-dumpxml NAME` prints a network's definition; libvirt keeps them in /etc/libvirt/qemu/networks"),
        io::ErrorKind::PermissionDenied => diagnostic("permission denied")
            .help("libvirt's own files are readable by root only: use sudo, or a copy"),
        _ => diagnostic(&error.to_string()),
    }
}
