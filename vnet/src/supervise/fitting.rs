//! Which definitions of directories a start can serve: one that it cannot must not keep a host's other
//! networks down. Files that were named themselves all have to fit.

use std::{
    collections::HashSet,
    path::{Path, PathBuf},
};

use super::{
    Options, bridging,
    in_force::InForce,
    prepare::{Refusal, Request, absolute, fitting_plan, network_in},
    standing::Standing,
    watched::Ignored,
};
use crate::{
    bridges, definition,
    host::{self, Snapshot},
    instance::{DefinitionText, Told, undo},
    notify,
    plan::{self, beside::Surroundings},
};

/// What a start was given, read.
pub(super) struct Candidates {
    files: Vec<Candidate>,
    /// Those of directories that have errors of their own, and what these are.
    invalid: Vec<(PathBuf, String)>,
}

/// A definition that may or has to be served.
#[derive(Clone, PartialEq)]
struct Candidate {
    definition: DefinitionText,
    /// Whether it was found in a directory.
    is_found: bool,
}

/// What definitions are held against.
struct Scale<'a> {
    options: &'a Options,
    plan_options: plan::Options,
    host: Snapshot,
    /// What goes on whether it fits or not.
    in_force: Option<InForce>,
    around: Surroundings,
}

impl Candidates {
    /// Reads files and directories. Errors: what is wrong with files that were named.
    pub(super) fn read(options: &Options) -> Result<Self, Refusal> {
        let (directories, named): (Vec<_>, Vec<_>) =
            options.definitions.iter().cloned().partition(|path| path.is_dir());
        let mut candidates = Self { files: Vec::new(), invalid: Vec::new() };
        if directories.is_empty() || !named.is_empty() {
            let loaded = definition::load(&named);
            if loaded.report.has_errors() {
                let errors = loaded.report.render(definition::Severity::Warning);
                return Err(Refusal::Definitions(errors));
            }
            let texts = loaded.report.sources().iter().filter_map(|(_, source)| {
                let path = absolute(source.path());
                Some(DefinitionText { path, text: source.text()?.to_owned() })
            });
            let named = texts.map(|definition| Candidate { definition, is_found: false });
            candidates.files.extend(named);
        }
        let real = |path: &Path| path.canonicalize().unwrap_or_else(|_| path.to_owned());
        let mut seen: HashSet<PathBuf> =
            candidates.files.iter().map(|file| real(&file.definition.path)).collect();
        for directory in directories {
            let found = definition::files_in(&directory).map_err(|error| {
                Refusal::Definitions(format!("cannot read {}: {error}", directory.display()))
            })?;
            for file in found {
                if seen.insert(real(&file)) {
                    candidates.read_found(&file);
                }
            }
        }
        Ok(candidates)
    }

    fn read_found(&mut self, file: &Path) {
        let path = absolute(file);
        match read_file(file) {
            Ok(text) => {
                let definition = DefinitionText { path, text };
                self.files.push(Candidate { definition, is_found: true });
            }
            Err(errors) => self.invalid.push((path, errors)),
        }
    }

    /// The definitions that can be served together, in favour of those that come first, and what is
    /// ignored of the others. What an earlier process serves goes on as it is, whether the host allows it or
    /// not: of a file that is ignored what that one has read of it.
    pub(super) async fn fitting(self, options: &Options) -> Result<(Request, Ignored), Refusal> {
        undo::check_namespace(&options.instance)?;
        let standing = Standing::examine(options);
        let former = standing.former();
        let scale = Scale {
            options,
            plan_options: plan::Options::of_start(options, former),
            host: host::snapshot().await?,
            in_force: InForce::of_former(former),
            around: Surroundings::read(&options.instance),
        };
        let told = former.and_then(|former| former.told.as_ref());
        let before = |path: &Path| {
            let text = told?.definitions.iter().find(|definition| definition.path == path)?;
            Some(Candidate { definition: text.clone(), is_found: true })
        };
        let mut ignored = Ignored::default();
        let Self { mut files, invalid } = self;
        for (path, errors) in invalid {
            log::error!("{} is ignored:\n{errors}", path.display());
            files.extend(before(&path));
            ignored.add_invalid(path);
        }
        let mut fitting: Vec<Candidate> =
            files.iter().filter(|file| !file.is_found).cloned().collect();
        if fitting.len() == files.len() || scale.refusal(&files).is_none() {
            fitting = files;
        } else if let Some(refusal) = scale.refusal(&fitting) {
            return Err(refusal);
        } else {
            let found = files.into_iter().filter(|file| file.is_found);
            // What goes on is not in the way of what is new, but the other way round.
            let (known, new): (Vec<_>, Vec<_>) =
                found.partition(|file| before(&file.definition.path).is_some());
            let (same, changed): (Vec<_>, Vec<_>) = known
                .into_iter()
                .partition(|file| before(&file.definition.path).as_ref() == Some(file));
            for files in [same, changed, new] {
                for (file, refusal) in scale.add(&mut fitting, &files) {
                    let path = file.definition.path;
                    log::error!("{} is ignored for now: {refusal}", path.display());
                    if let Some(before) = before(&path) {
                        scale.add(&mut fitting, &[before]);
                    }
                    ignored.add_refused(path, refusal.to_string());
                }
            }
        }
        let definitions = fitting.into_iter().map(|file| file.definition).collect();
        let request = Request::examine(Told { definitions, settings: options.settings() })?;
        Ok((request, ignored))
    }
}

impl Scale<'_> {
    /// Adds those of the files that fit. Returns the others, each with the reason; where that does not name
    /// them they are looked for by halves, because most often there is one.
    fn add(&self, fitting: &mut Vec<Candidate>, files: &[Candidate]) -> Vec<(Candidate, Refusal)> {
        notify::progress();
        if files.is_empty() {
            return Vec::new();
        }
        let all = [fitting.as_slice(), files].concat();
        match (self.refusal(&all), files) {
            (None, _) => {
                *fitting = all;
                Vec::new()
            }
            (Some(refusal), [file]) => vec![(file.clone(), refusal)],
            (Some(refusal), files) => {
                let mut refused = Vec::new();
                let mut others = Vec::new();
                for file in files {
                    let DefinitionText { path, text } = &file.definition;
                    let name = network_in(path, text);
                    match name.and_then(|name| refusal.of_network(&name)) {
                        Some(refusal) => refused.push((file.clone(), refusal)),
                        None => others.push(file.clone()),
                    }
                }
                if !refused.is_empty() {
                    refused.extend(self.add(fitting, &others));
                    return refused;
                }
                let (first, second) = files.split_at(files.len() / 2);
                let mut refused = self.add(fitting, first);
                refused.extend(self.add(fitting, second));
                refused
            }
        }
    }

    /// Why these cannot be served together on this host, if so.
    fn refusal(&self, files: &[Candidate]) -> Option<Refusal> {
        let texts = files.iter().map(|file| &file.definition);
        let loaded = definition::load_texts(texts.map(|it| (it.path.as_path(), it.text.as_str())));
        if loaded.report.has_errors() {
            let errors = loaded.report.render(definition::Severity::Error);
            return Some(Refusal::Definitions(errors));
        }
        let (options, definitions) = (self.options, &loaded.networks);
        let steps =
            bridging::missing(&options.instance, &options.settings(), definitions, &self.host);
        let host = bridges::outlook(&steps, &self.host);
        let in_force = self.in_force.as_ref();
        fitting_plan(definitions, &host, &[], &self.plan_options, in_force, &self.around).err()
    }
}

fn read_file(file: &Path) -> Result<String, String> {
    let loaded = definition::load(&[file.to_owned()]);
    let text = loaded.report.sources().iter().find_map(|(_, source)| source.text());
    match text {
        Some(text) if !loaded.report.has_errors() => Ok(text.to_owned()),
        _ => Err(loaded.report.render(definition::Severity::Error)),
    }
}
