//! Attaching programs to interfaces: tcx where the kernel has it, clsact where not; XDP beside them.

use std::{
    fs,
    io::ErrorKind,
    os::fd::AsFd as _,
    path::{Path, PathBuf},
};

use aya::programs::{
    LinkOrder, ProgramError, SchedClassifier, TcAttachType,
    links::{FdLink, PinnedLink},
    tc::{SchedClassifierLink, TcAttachOptions, TcError},
};

use super::{Datapath, DatapathError, error::with_sources, query, xdp};

use crate::{
    host::qdisc::{self, FilterSlot, QdiscError},
    instance::{Journal, Undo},
};

/// Our place among the filters of clsact, or the first free one after it.
const FILTER_PRIORITY: u16 = 49;
const FILTER_HANDLE: u32 = 1;
/// Where links are pinned, below the instance's directory.
const LINKS: &str = "links";

/// How programs are attached.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum AttachMode {
    /// tcx if the kernel has it, else clsact.
    #[default]
    Auto,
    /// tcx or an error.
    Tcx,
    /// clsact or an error.
    Clsact,
}

/// How a program is attached.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mechanism {
    /// A link of the tcx hooks, Linux 6.6.
    Tcx,
    /// A filter of the clsact qdisc.
    Clsact,
    /// A link of native XDP.
    Xdp,
}

impl Mechanism {
    /// The word for it.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Tcx => "tcx",
            Self::Clsact => "clsact",
            Self::Xdp => "xdp",
        }
    }
}

/// Which way packets go through a hook.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Direction {
    /// Into the host.
    Ingress,
    /// Out of the host.
    Egress,
    /// Into the host, in the driver.
    Xdp,
}

impl Direction {
    /// The word for it.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Ingress => "ingress",
            Self::Egress => "egress",
            Self::Xdp => "xdp",
        }
    }

    /// The direction of a word.
    #[must_use]
    pub fn named(word: &str) -> Option<Self> {
        let all = [Self::Ingress, Self::Egress, Self::Xdp];
        all.into_iter().find(|direction| direction.name() == word)
    }

    fn attach_type(self) -> TcAttachType {
        match self {
            Self::Ingress | Self::Xdp => TcAttachType::Ingress,
            Self::Egress => TcAttachType::Egress,
        }
    }

    /// Next to the stack on both ways: other people's programs see packets as the wire has them, and
    /// none of theirs that ends the chain lets one out untranslated.
    fn tcx_order(self) -> LinkOrder {
        match self {
            Self::Ingress | Self::Xdp => LinkOrder::last(),
            Self::Egress => LinkOrder::first(),
        }
    }

    fn of_filter(self) -> qdisc::Direction {
        match self {
            Self::Ingress | Self::Xdp => qdisc::Direction::Ingress,
            Self::Egress => qdisc::Direction::Egress,
        }
    }
}

/// A program that should be at a hook.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct HookSpec {
    /// The interface's index.
    pub ifindex: u32,
    /// The interface's name.
    pub interface: String,
    /// The hook.
    pub direction: Direction,
    /// The program.
    pub program: &'static str,
}

/// A program that is at a hook.
#[derive(Debug)]
pub struct Hook {
    /// Where, and which.
    pub spec: HookSpec,
    /// The kernel's number of the program.
    pub program_id: u32,
    /// How it is attached.
    pub mechanism: Mechanism,
    /// Whether an earlier process has attached it, by which it may be another version's.
    pub is_inherited: bool,
    /// Whether it was found empty when it was looked at last.
    pub is_lost: bool,
    hold: Hold,
}

/// What keeps a program at its hook.
#[derive(Debug)]
enum Hold {
    /// The kernel keeps the link as long as its pin is there. No file descriptor is kept: of thousands of
    /// hooks they would be more than a process may have.
    Link {
        pin: PathBuf,
    },
    Filter {
        name: String,
    },
}

/// How and as whose a program is attached.
#[derive(Debug)]
pub struct Attachment<'a> {
    /// What to use.
    pub mode: AttachMode,
    /// The instance's directory of pins.
    pub pins: &'a Path,
    /// The name of the instance's filters.
    pub filter: &'a str,
    /// Where changes of qdiscs and filters are written down first.
    pub journal: &'a mut Journal,
}

impl Datapath {
    /// Attaches a program so that it outlives this process. Another one of the instance that is at the
    /// hook is replaced without a packet in between.
    pub async fn attach(
        &mut self,
        spec: HookSpec,
        attachment: Attachment<'_>,
    ) -> Result<Hook, DatapathError> {
        check_index(&spec)?;
        if spec.direction == Direction::Xdp {
            return self.attach_xdp(spec, attachment.pins);
        }
        if attachment.mode != AttachMode::Clsact {
            match self.attach_tcx(&spec, attachment.pins) {
                Ok(hook) => return Ok(hook),
                Err(Tcx::Unsupported) if attachment.mode == AttachMode::Auto => {}
                Err(Tcx::Unsupported) => {
                    let reason = "the kernel has no tcx (Linux 6.6): use `--attach clsact`";
                    return Err(refused(&spec, reason.to_owned()));
                }
                Err(Tcx::Failed(error)) => return Err(error),
            }
        }
        self.attach_clsact(spec, attachment).await
    }

    fn attach_tcx(&mut self, spec: &HookSpec, pins: &Path) -> Result<Hook, Tcx> {
        let directory = pins.join(LINKS);
        let pin = link_pin(pins, spec);
        let unpinned =
            |reason: String| Tcx::Failed(DatapathError::Pin { path: pin.clone(), reason });
        let program = self.classifier(spec.program).map_err(Tcx::Failed)?;
        let failed = |error: &ProgramError| Tcx::Failed(refused(spec, with_sources(error)));
        let program_id = program.info().map_err(|error| failed(&error))?.id();
        let hook = || Hook {
            spec: spec.clone(),
            program_id,
            mechanism: Mechanism::Tcx,
            is_inherited: false,
            is_lost: false,
            hold: Hold::Link { pin: pin.clone() },
        };
        if replace_in_link(program, &pin).is_some() {
            return Ok(hook());
        }
        let link_id = program
            .attach_with_options(
                &spec.interface,
                spec.direction.attach_type(),
                TcAttachOptions::TcxOrder(spec.direction.tcx_order()),
            )
            .map_err(|error| if lacks_tcx(&error) { Tcx::Unsupported } else { failed(&error) })?;
        let link = program.take_link(link_id).map_err(|error| failed(&error))?;
        let link = FdLink::try_from(link).map_err(|error| unpinned(error.to_string()))?;
        // It was attached by name: dropping the link takes it off an interface that has got the name
        // meanwhile.
        check_index(spec).map_err(Tcx::Failed)?;
        fs::create_dir_all(&directory).map_err(|error| unpinned(error.to_string()))?;
        // Of an interface that had this index earlier, or taken off by others.
        if pin.exists() {
            let _ = fs::remove_file(&pin);
        }
        link.pin(&pin).map_err(|error| unpinned(with_sources(&error)))?;
        Ok(hook())
    }

    /// Natively or not at all: XDP that runs on packets which the stack has made costs more than it spares.
    fn attach_xdp(&mut self, spec: HookSpec, pins: &Path) -> Result<Hook, DatapathError> {
        let pin = link_pin(pins, &spec);
        let failed = |error: &ProgramError| refused(&spec, with_sources(error));
        let program = self.xdp(spec.program)?;
        let program_id = program.info().map_err(|error| failed(&error))?.id();
        let fd = program.fd().map_err(|error| failed(&error))?;
        let ifindex = spec.ifindex;
        if !xdp::replace(fd.as_fd(), &pin, ifindex) {
            let link = xdp::attach(fd.as_fd(), ifindex)
                .map_err(|error| refused(&spec, xdp::refusal(&error)))?;
            let unpinned = |error: std::io::Error| DatapathError::Pin {
                path: pin.clone(),
                reason: error.to_string(),
            };
            fs::create_dir_all(pins.join(LINKS)).map_err(unpinned)?;
            // Of an interface that had this index earlier, or taken off by others.
            let _ = fs::remove_file(&pin);
            xdp::pin(link.as_fd(), &pin).map_err(unpinned)?;
        }
        let hold = Hold::Link { pin };
        let mechanism = Mechanism::Xdp;
        Ok(Hook { spec, program_id, mechanism, is_inherited: false, is_lost: false, hold })
    }

    async fn attach_clsact(
        &mut self,
        spec: HookSpec,
        attachment: Attachment<'_>,
    ) -> Result<Hook, DatapathError> {
        let interface = spec.ifindex;
        let name = attachment.filter;
        let qdisc_failed = |error: QdiscError| refused(&spec, filter_reason(&spec, error));
        if !qdisc::has_clsact(interface).await.map_err(qdisc_failed)? {
            attachment.journal.record(Undo::Clsact { interface })?;
        }
        attachment.journal.record(Undo::Filters { interface, name: name.to_owned() })?;
        qdisc::add_clsact(interface).await.map_err(qdisc_failed)?;
        let program = self.classifier(spec.program)?;
        let failed = |error: &ProgramError| refused(&spec, with_sources(error));
        let program_id = program.info().map_err(|error| failed(&error))?.id();
        let fd = program.fd().map_err(|error| failed(&error))?;
        let direction = spec.direction.of_filter();
        let slot = FilterSlot {
            interface,
            direction,
            priority: free_priority(interface, direction, name).await.map_err(qdisc_failed)?,
            handle: FILTER_HANDLE,
            name,
        };
        qdisc::set_bpf_filter(slot, fd.as_fd()).await.map_err(qdisc_failed)?;
        let hold = Hold::Filter { name: name.to_owned() };
        let mechanism = Mechanism::Clsact;
        Ok(Hook { spec, program_id, mechanism, is_inherited: false, is_lost: false, hold })
    }
}

impl Hook {
    /// One that an earlier process has attached.
    #[must_use]
    pub fn inherited(spec: HookSpec, mechanism: Mechanism, pins: &Path, filter: &str) -> Self {
        let hold = match mechanism {
            Mechanism::Tcx | Mechanism::Xdp => Hold::Link { pin: link_pin(pins, &spec) },
            Mechanism::Clsact => Hold::Filter { name: filter.to_owned() },
        };
        Self { spec, program_id: 0, mechanism, is_inherited: true, is_lost: false, hold }
    }

    /// Whether the program is still at its hook: an interface that goes takes it along, and anybody
    /// may take it off.
    pub async fn is_attached(&self) -> bool {
        let HookSpec { ifindex, direction, .. } = &self.spec;
        match &self.hold {
            Hold::Link { pin } if *direction == Direction::Xdp => {
                xdp::program_of(pin, *ifindex) == Some(self.program_id)
            }
            Hold::Link { .. } => is_tcx_program(*ifindex, *direction, self.program_id),
            Hold::Filter { name } => {
                match qdisc::list_bpf_filters(*ifindex, direction.of_filter()).await {
                    Ok(filters) => filters.iter().any(|filter| {
                        filter.name.as_deref() == Some(name)
                            && filter.program_id == Some(self.program_id)
                    }),
                    // Not knowing is no reason to take it off. An interface that is gone has none.
                    Err(_) => true,
                }
            }
        }
    }

    /// The numbers of the programs that may be this one: with tcx those at the hook are anybody's.
    pub async fn program_ids(&self) -> Vec<u32> {
        let HookSpec { ifindex, direction, .. } = &self.spec;
        match &self.hold {
            Hold::Link { pin } if *direction == Direction::Xdp => {
                xdp::program_of(pin, *ifindex).into_iter().collect()
            }
            Hold::Link { .. } => query::programs_at(*ifindex, *direction).unwrap_or_default(),
            Hold::Filter { name } => {
                let filters = qdisc::list_bpf_filters(*ifindex, direction.of_filter()).await;
                let ours = |filter: &qdisc::BpfFilter| filter.name.as_deref() == Some(name);
                let filters = filters.unwrap_or_default();
                let ours = filters.iter().filter(|filter| ours(filter));
                ours.filter_map(|filter| filter.program_id).collect()
            }
        }
    }

    /// Takes the program off its hook. An interface that is gone has taken it along already.
    pub async fn detach(&self) -> Result<(), DatapathError> {
        match &self.hold {
            Hold::Link { pin } => match release_link(pin) {
                Err(error) if error.kind() != ErrorKind::NotFound => {
                    Err(DatapathError::Pin { path: pin.clone(), reason: error.to_string() })
                }
                _ => Ok(()),
            },
            Hold::Filter { name } => {
                let direction = self.spec.direction.of_filter();
                match qdisc::delete_bpf_filters_named(self.spec.ifindex, direction, name).await {
                    Ok(_) | Err(QdiscError::NoInterface { .. }) => Ok(()),
                    Err(error) => Err(error.into()),
                }
            }
        }
    }
}

/// Removes the pin of a link and returns when its program is off its hook: the kernel takes it off when
/// the last file descriptor is closed, and at some later time when only the pin has gone
/// (`bpf_link_put` in `kernel/bpf/syscall.c`).
pub fn release_link(pin: &Path) -> std::io::Result<()> {
    let link = PinnedLink::from_pin(pin).ok();
    let removed = fs::remove_file(pin);
    drop(link);
    removed
}

/// The pins of an instance's links.
#[must_use]
pub fn link_pins(pins: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(pins.join(LINKS));
    entries.map(|found| found.flatten().map(|entry| entry.path()).collect()).unwrap_or_default()
}

/// The hooks of the links that an instance has pinned.
#[must_use]
pub fn pinned_links(pins: &Path) -> Vec<(u32, Direction)> {
    let Ok(entries) = fs::read_dir(pins.join(LINKS)) else { return Vec::new() };
    let hook = |name: &str| {
        let (ifindex, direction) = name.split_once('-')?;
        Some((ifindex.parse().ok()?, Direction::named(direction)?))
    };
    entries.flatten().filter_map(|entry| hook(entry.file_name().to_str()?)).collect()
}

fn link_pin(pins: &Path, spec: &HookSpec) -> PathBuf {
    pins.join(LINKS).join(format!("{}-{}", spec.ifindex, spec.direction.name()))
}

/// Puts a program in the place of the one that a pinned link holds. `None` if there is no such link, or
/// if it holds nothing any more: its interface has gone, or somebody has taken it off.
fn replace_in_link(program: &mut SchedClassifier, pin: &Path) -> Option<()> {
    let pinned = PinnedLink::from_pin(pin).ok()?;
    let link = SchedClassifierLink::try_from(FdLink::from(pinned)).ok()?;
    let link_id = program.attach_to_link(link).ok()?;
    // The pin keeps the link, this only its file descriptor.
    program.take_link(link_id).ok().map(drop)
}

/// Not knowing is no reason to take a program off; an interface that is gone has none.
fn is_tcx_program(ifindex: u32, direction: Direction, program_id: u32) -> bool {
    match query::programs_at(ifindex, direction) {
        Ok(programs) => programs.contains(&program_id),
        Err(error) => error.raw_os_error() != Some(libc::ENODEV),
    }
}

/// The first priority from ours on that nobody else has, so that no filter of others is replaced.
async fn free_priority(
    interface: u32,
    direction: qdisc::Direction,
    name: &str,
) -> Result<u16, QdiscError> {
    let ours = qdisc::list_bpf_filters(interface, direction)
        .await?
        .into_iter()
        .find(|filter| filter.name.as_deref() == Some(name) && filter.handle == FILTER_HANDLE);
    if let Some(filter) = ours {
        return Ok(filter.priority);
    }
    let taken = qdisc::filter_priorities(interface, direction).await?;
    Ok((FILTER_PRIORITY..u16::MAX)
        .find(|priority| !taken.contains(priority))
        .unwrap_or(FILTER_PRIORITY))
}

/// The name may belong to another interface by now.
fn check_index(spec: &HookSpec) -> Result<(), DatapathError> {
    match nix::net::if_::if_nametoindex(spec.interface.as_str()) {
        Ok(index) if index == spec.ifindex => Ok(()),
        _ => Err(refused(spec, "the interface is gone".to_owned())),
    }
}

fn filter_reason(spec: &HookSpec, error: QdiscError) -> String {
    match error {
        QdiscError::IngressInTheWay { .. } => format!(
            "an ingress qdisc is in the place of clsact: remove it with `tc qdisc del dev {} \
             ingress` if nothing needs it",
            spec.interface
        ),
        QdiscError::NoInterface { .. } => "the interface is gone".to_owned(),
        error => error.to_string(),
    }
}

/// Why tcx was not used.
enum Tcx {
    Unsupported,
    Failed(DatapathError),
}

/// Kernels without tcx do not know the attach type of the link.
fn lacks_tcx(error: &ProgramError) -> bool {
    match error {
        ProgramError::SyscallError(error) => error.io_error.raw_os_error() == Some(libc::EINVAL),
        ProgramError::TcError(TcError::InvalidLinkOperation) => true,
        _ => false,
    }
}

fn refused(spec: &HookSpec, reason: String) -> DatapathError {
    DatapathError::Attach {
        program: spec.program,
        direction: spec.direction.name(),
        interface: spec.interface.clone(),
        reason,
    }
}
