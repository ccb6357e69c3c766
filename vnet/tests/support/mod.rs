//! What the tests of `vnet check` share.
#![allow(dead_code, reason = "each test binary uses a part of it")]
#![allow(clippy::unwrap_used, reason = "a helper that fails fails its test")]

use std::{
    fmt::Write as _,
    fs,
    path::{Path, PathBuf},
    process::{Command, Output},
};

/// The directory of definitions to test with.
pub fn corpus() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/corpus")
}

/// The `*.xml` files of a part of the corpus, sorted.
pub fn files(part: &str) -> Vec<PathBuf> {
    let mut files: Vec<PathBuf> = corpus()
        .join(part)
        .read_dir()
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .filter(|path| path.extension().is_some_and(|extension| extension == "xml"))
        .collect();
    files.sort();
    assert!(!files.is_empty(), "no definitions in {part}");
    files
}

/// Runs `vnet check` in a directory.
pub fn check(directory: &Path, arguments: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_vnet"))
        .arg("check")
        .args(arguments)
        .current_dir(directory)
        .output()
        .unwrap()
}

/// What a finished program wrote to standard error.
pub fn stderr(output: &Output) -> String {
    String::from_utf8(output.stderr.clone()).unwrap()
}

/// What a finished program wrote to standard output.
pub fn stdout(output: &Output) -> String {
    String::from_utf8(output.stdout.clone()).unwrap()
}

/// Compares with a file of expected text, or writes it if the variable `BLESS` is set.
/// Returns what differs.
pub fn compare(expected: &Path, actual: &str) -> Option<String> {
    if std::env::var_os("BLESS").is_some() {
        if actual.is_empty() {
            let _ = fs::remove_file(expected);
        } else {
            fs::write(expected, actual).unwrap();
        }
        return None;
    }
    let text =
        if expected.exists() { fs::read_to_string(expected).unwrap() } else { String::new() };
    (text != actual).then(|| format!("{}:\n{}", expected.display(), diff(&text, actual)))
}

/// The lines between the first and the last difference, with a few around them.
fn diff(expected: &str, actual: &str) -> String {
    let (expected, actual): (Vec<_>, Vec<_>) =
        (expected.lines().collect(), actual.lines().collect());
    let same = expected.iter().zip(&actual).take_while(|(a, b)| a == b).count();
    let rest = expected.len().min(actual.len()) - same;
    let tail =
        expected.iter().rev().zip(actual.iter().rev()).take(rest).take_while(|(a, b)| a == b);
    let tail = tail.count();
    let mut text = String::new();
    for line in &expected[same.saturating_sub(3)..same] {
        let _ = writeln!(text, "  {line}");
    }
    for line in &expected[same..expected.len() - tail] {
        let _ = writeln!(text, "- {line}");
    }
    for line in &actual[same..actual.len() - tail] {
        let _ = writeln!(text, "+ {line}");
    }
    text
}

/// A directory that is removed at the end of a test, however it ends.
pub struct Scratch(PathBuf);

impl Scratch {
    /// `name` has to be the test's own.
    pub fn new(name: &str) -> Self {
        let path =
            Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("{name}-{}", std::process::id()));
        fs::create_dir_all(&path).unwrap();
        Self(path)
    }

    pub fn path(&self) -> &Path {
        &self.0
    }

    /// Writes a file, with the directories that it is in.
    pub fn write(&self, name: &str, contents: impl AsRef<[u8]>) {
        let path = self.0.join(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, contents).unwrap();
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}
