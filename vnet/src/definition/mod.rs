//! Definitions: libvirt network XML to a model, with diagnostics.
//!
//! [`load`] reads files and directories, reports every problem of all of them in one [`Report`]
//! and gives a [`Network`] for each file that has no error. The format and its rules are libvirt's
//! (`docs/formatnetwork.rst`, `src/conf/network_conf.c` and `networkValidate` in
//! `src/network/bridge_driver.c`); what this version leaves alone is named in one place, `support`.

mod across;
mod diagnostic;
mod difference;
mod model;
mod parse;
mod render;
mod schema;
mod source;
mod support;
mod validate;
mod values;
mod xml;

use std::path::{Path, PathBuf};

pub use diagnostic::{Diagnostic, Located, Related, Report, Severity, Span};
pub use difference::{Difference, Setting, differences};
pub use model::*;
pub use render::Entry;
pub use source::{SIZE_LIMIT, Source, SourceId, Sources, files_in};

/// What [`load`] found.
#[derive(Debug)]
pub struct Loaded {
    /// The networks of all files without an error, in the order of the files. Not to be acted on
    /// while [`Report::has_errors`] is true: a definition is missing then.
    pub networks: Vec<Network>,
    /// Every problem of every file, in the order of files and positions.
    pub report: Report,
}

/// Reads the definitions in `paths`: a file holds one `<network>`; a directory stands for its
/// `*.xml` files, sorted by name, not those of its subdirectories (libvirt's `autostart/` holds
/// links to the same files). A file reached twice is read once.
#[must_use]
pub fn load(paths: &[PathBuf]) -> Loaded {
    let mut diagnostics = Vec::new();
    let sources = Sources::read(paths, &mut diagnostics);
    examine(sources, diagnostics)
}

/// Reads one definition that is in memory; `path` is what diagnostics call it.
#[must_use]
pub fn load_text(path: &Path, text: &str) -> Loaded {
    examine(Sources::from_text(path, text), Vec::new())
}

/// Reads definitions that are in memory, each with what diagnostics call it.
#[must_use]
pub fn load_texts<'a>(texts: impl IntoIterator<Item = (&'a Path, &'a str)>) -> Loaded {
    examine(Sources::from_texts(texts), Vec::new())
}

fn examine(sources: Sources, mut diagnostics: Vec<Diagnostic>) -> Loaded {
    let mut networks = Vec::new();
    for (id, source) in sources.iter() {
        let Some(text) = source.text() else { continue };
        networks.extend(parse::network(id, text, &mut diagnostics));
    }
    for network in &networks {
        validate::network(network, &mut diagnostics);
        support::network(network, &mut diagnostics);
    }
    across::networks(&networks, &mut diagnostics);

    let report = Report::new(sources, diagnostics);
    networks.retain(|network| !report.has_errors_in(network.span.source));
    Loaded { networks, report }
}
