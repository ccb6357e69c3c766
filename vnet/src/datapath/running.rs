//! The programs of a datapath that runs, told from those of earlier tables by the maps that they use.

use std::path::Path;

use aya::{
    maps::MapInfo,
    programs::{ProgramFd, ProgramInfo, SchedClassifier, loaded_programs},
};
use vnet_common::names;

use super::{error::with_sources, places::Places};

/// A program of a datapath that runs, by its place in [`names::program::ALL`].
pub type FormerProgram = (u32, ProgramFd);

/// The kernel keeps as many bytes of a program's name (`BPF_OBJ_NAME_LEN` of `include/uapi/linux/bpf.h`).
const NAME_BYTES: usize = 15;

/// The programs that use the maps in a directory: those that are pinned, else those that the kernel has, which
/// takes the capability `CAP_SYS_ADMIN`.
///
/// # Errors
/// Which of the `wanted` ones, which are at hooks, is out of reach, and why.
pub fn programs_of(
    pins: &Path,
    maps: &Path,
    wanted: &[&str],
) -> Result<Vec<FormerProgram>, String> {
    let config = config_of(maps).ok_or("its tables are out of reach")?;
    let mut programs = Vec::new();
    for (place, name) in (0..).zip(names::program::ALL) {
        let found = match pinned(pins, name, &[config]) {
            Some(program) => program.fd().and_then(|fd| Ok(fd.try_clone()?)),
            None => match loaded(name, &[config]).next() {
                Some(program) => program.fd(),
                None if !wanted.contains(&name) => continue,
                None => {
                    return Err(format!(
                        "its program `{name}` is out of reach without CAP_SYS_ADMIN"
                    ));
                }
            },
        };
        let program = found.map_err(|error| {
            format!("its program `{name}` is out of reach: {}", with_sources(&error))
        })?;
        programs.push((place, program));
    }
    Ok(programs)
}

/// The name of a program of an instance by the kernel's number; `None` if it is nobody's, or another one's.
#[must_use]
pub fn name_of(pins: &Path, id: u32) -> Option<&'static str> {
    let places = Places::of(pins);
    let configs: Vec<_> =
        [&places.maps, &places.next].into_iter().filter_map(|at| config_of(at)).collect();
    let is_it = |info: &ProgramInfo| info.id() == id;
    names::program::ALL.into_iter().find(|name| {
        let pinned = pinned(pins, name, &configs).and_then(|program| program.info().ok());
        pinned.as_ref().is_some_and(is_it) || loaded(name, &configs).any(|info| is_it(&info))
    })
}

/// The kernel's number of the map that each program uses, and each migration makes anew.
fn config_of(maps: &Path) -> Option<u32> {
    MapInfo::from_pin(maps.join(names::map::CONFIG)).ok().map(|info| info.id())
}

fn pinned(pins: &Path, name: &str, configs: &[u32]) -> Option<SchedClassifier> {
    let program = SchedClassifier::from_pin(Places::of(pins).programs.join(name)).ok()?;
    uses(&program.info().ok()?, configs).then_some(program)
}

fn loaded(name: &str, configs: &[u32]) -> impl Iterator<Item = ProgramInfo> {
    let name = &name.as_bytes()[..name.len().min(NAME_BYTES)];
    loaded_programs().flatten().filter(move |info| info.name() == name && uses(info, configs))
}

fn uses(program: &ProgramInfo, maps: &[u32]) -> bool {
    let used = program.map_ids().ok().flatten().unwrap_or_default();
    used.iter().any(|map| maps.contains(map))
}
