//! Attaching programs to interfaces: tcx where the kernel has it, clsact where not.

use std::{
    fs,
    io::ErrorKind,
    os::fd::AsFd as _,
    path::{Path, PathBuf},
};

use aya::programs::{
    LinkOrder, ProgramError, TcAttachType,
    links::{FdLink, PinnedLink},
    tc::{TcAttachOptions, TcError},
};

use super::{Datapath, DatapathError, error::with_sources};
use crate::{
    host::qdisc::{self, FilterSlot},
    instance::{Journal, Undo, journal::FILTER_NAME},
};

/// Our place among the filters of clsact, in both directions.
const FILTER_PRIORITY: u16 = 49;
const FILTER_HANDLE: u32 = 1;

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
}

impl Mechanism {
    /// The word for it.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Tcx => "tcx",
            Self::Clsact => "clsact",
        }
    }
}

/// Which way packets go through a hook.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Direction {
    /// Into the host.
    Ingress,
    /// Out of the host.
    Egress,
}

impl Direction {
    /// The word for it.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Ingress => "ingress",
            Self::Egress => "egress",
        }
    }

    fn attach_type(self) -> TcAttachType {
        match self {
            Self::Ingress => TcAttachType::Ingress,
            Self::Egress => TcAttachType::Egress,
        }
    }

    fn of_filter(self) -> qdisc::Direction {
        match self {
            Self::Ingress => qdisc::Direction::Ingress,
            Self::Egress => qdisc::Direction::Egress,
        }
    }
}

/// A program that should be at a hook.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
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
    pin: Option<PathBuf>,
    /// The kernel keeps the link as long as this or its pin is there.
    _link: Option<PinnedLink>,
}

impl Datapath {
    /// Attaches a program and pins its link, so that it outlives this process.
    pub async fn attach(
        &mut self,
        spec: HookSpec,
        mode: AttachMode,
        pins: &Path,
        journal: &mut Journal,
    ) -> Result<Hook, DatapathError> {
        if mode != AttachMode::Clsact {
            match self.attach_tcx(&spec, pins) {
                Ok(hook) => return Ok(hook),
                Err(Tcx::Unsupported) if mode == AttachMode::Auto => {}
                Err(Tcx::Unsupported) => {
                    let reason = "the kernel has no tcx (Linux 6.6): use `--attach clsact`";
                    return Err(refused(&spec, reason.to_owned()));
                }
                Err(Tcx::Failed(error)) => return Err(error),
            }
        }
        self.attach_clsact(spec, journal).await
    }

    fn attach_tcx(&mut self, spec: &HookSpec, pins: &Path) -> Result<Hook, Tcx> {
        let directory = pins.join("links");
        let pin = directory.join(format!("{}-{}", spec.ifindex, spec.direction.name()));
        let unpinned =
            |reason: String| Tcx::Failed(DatapathError::Pin { path: pin.clone(), reason });
        let program = self.classifier(spec.program).map_err(Tcx::Failed)?;
        let failed = |error: &ProgramError| Tcx::Failed(refused(spec, with_sources(error)));
        let program_id = program.info().map_err(|error| failed(&error))?.id();
        let link_id = program
            .attach_with_options(
                &spec.interface,
                spec.direction.attach_type(),
                TcAttachOptions::TcxOrder(LinkOrder::default()),
            )
            .map_err(|error| if lacks_tcx(&error) { Tcx::Unsupported } else { failed(&error) })?;
        let link = program.take_link(link_id).map_err(|error| failed(&error))?;
        let link = FdLink::try_from(link).map_err(|error| unpinned(error.to_string()))?;
        fs::create_dir_all(&directory).map_err(|error| unpinned(error.to_string()))?;
        // Left by an interface that had this index earlier.
        let _ = fs::remove_file(&pin);
        let link = link.pin(&pin).map_err(|error| unpinned(with_sources(&error)))?;
        Ok(Hook {
            spec: spec.clone(),
            program_id,
            mechanism: Mechanism::Tcx,
            pin: Some(pin),
            _link: Some(link),
        })
    }

    async fn attach_clsact(
        &mut self,
        spec: HookSpec,
        journal: &mut Journal,
    ) -> Result<Hook, DatapathError> {
        let interface = spec.ifindex;
        if !qdisc::has_clsact(interface).await? {
            journal.record(Undo::Clsact { interface }).map_err(DatapathError::Journal)?;
        }
        journal.record(Undo::Filters { interface }).map_err(DatapathError::Journal)?;
        qdisc::add_clsact(interface).await?;
        let program = self.classifier(spec.program)?;
        let failed = |error: &ProgramError| refused(&spec, with_sources(error));
        let program_id = program.info().map_err(|error| failed(&error))?.id();
        let slot = FilterSlot {
            interface,
            direction: spec.direction.of_filter(),
            priority: FILTER_PRIORITY,
            handle: FILTER_HANDLE,
            name: FILTER_NAME,
        };
        let fd = program.fd().map_err(|error| failed(&error))?;
        qdisc::set_bpf_filter(slot, fd.as_fd()).await?;
        Ok(Hook { spec, program_id, mechanism: Mechanism::Clsact, pin: None, _link: None })
    }
}

impl Hook {
    /// Takes the program off its hook. An interface that is gone has taken it along already.
    pub async fn detach(self) -> Result<(), DatapathError> {
        if let Some(pin) = &self.pin {
            match fs::remove_file(pin) {
                Err(error) if error.kind() != ErrorKind::NotFound => {
                    return Err(DatapathError::Pin {
                        path: pin.clone(),
                        reason: error.to_string(),
                    });
                }
                _ => return Ok(()),
            }
        }
        let direction = self.spec.direction.of_filter();
        match qdisc::delete_bpf_filters_named(self.spec.ifindex, direction, FILTER_NAME).await {
            Ok(_) | Err(qdisc::QdiscError::NoInterface { .. }) => Ok(()),
            Err(error) => Err(error.into()),
        }
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
