//! Links of native XDP. aya's own way to make them falls back to attachments that nothing can pin.

use std::{
    ffi::CString,
    io,
    mem::size_of,
    os::{
        fd::{AsFd, AsRawFd as _, BorrowedFd, FromRawFd as _, OwnedFd},
        unix::ffi::OsStrExt as _,
    },
    path::Path,
};

/// `enum bpf_cmd` of `include/uapi/linux/bpf.h`.
const BPF_OBJ_PIN: libc::c_long = 6;
const BPF_OBJ_GET: libc::c_long = 7;
const BPF_OBJ_GET_INFO_BY_FD: libc::c_long = 15;
const BPF_LINK_CREATE: libc::c_long = 28;
const BPF_LINK_UPDATE: libc::c_long = 29;
/// `enum bpf_attach_type`
const BPF_XDP: u32 = 37;
/// `enum bpf_link_type`
const BPF_LINK_TYPE_XDP: u32 = 6;
/// `include/uapi/linux/if_link.h`
const XDP_FLAGS_DRV_MODE: u32 = 1 << 2;

/// A part of `union bpf_attr` without padding; what it does not have is zero.
trait Attributes {}

/// `BPF_LINK_CREATE`
#[repr(C)]
struct Create {
    program: i32,
    ifindex: u32,
    attach_type: u32,
    flags: u32,
}

impl Attributes for Create {}

/// `BPF_LINK_UPDATE`
#[repr(C)]
struct Update {
    link: i32,
    program: i32,
    flags: u32,
    former: u32,
}

impl Attributes for Update {}

/// `BPF_OBJ_PIN` and `BPF_OBJ_GET`
#[repr(C)]
struct Pin {
    path: u64,
    descriptor: i32,
    flags: u32,
}

impl Attributes for Pin {}

/// `BPF_OBJ_GET_INFO_BY_FD`
#[repr(C)]
struct GetInfo {
    descriptor: i32,
    length: u32,
    info: u64,
}

impl Attributes for GetInfo {}

/// The beginning of `struct bpf_link_info`, for a link of XDP.
#[repr(C)]
#[derive(Default)]
struct Info {
    kind: u32,
    id: u32,
    program: u32,
    padding: u32,
    ifindex: u32,
    reserved: u32,
}

/// Attaches a program natively. Whoever drops the link takes it off.
pub(super) fn attach(program: BorrowedFd<'_>, ifindex: u32) -> io::Result<OwnedFd> {
    let program = program.as_raw_fd();
    let create = Create { program, ifindex, attach_type: BPF_XDP, flags: XDP_FLAGS_DRV_MODE };
    open(BPF_LINK_CREATE, create)
}

/// Pins a link, so that it outlives this process.
pub(super) fn pin(link: BorrowedFd<'_>, at: &Path) -> io::Result<()> {
    let path = CString::new(at.as_os_str().as_bytes())?;
    let address = path.as_ptr().expose_provenance() as u64;
    bpf(BPF_OBJ_PIN, Pin { path: address, descriptor: link.as_raw_fd(), flags: 0 }).map(drop)
}

/// Puts a program in the place of the one that a pinned link holds. Whether there is such a link at the
/// interface.
pub(super) fn replace(program: BorrowedFd<'_>, at: &Path, ifindex: u32) -> bool {
    let Ok(link) = pinned(at) else { return false };
    if info(link.as_fd()).is_none_or(|info| info.ifindex != ifindex) {
        return false;
    }
    let (link, program) = (link.as_raw_fd(), program.as_raw_fd());
    bpf(BPF_LINK_UPDATE, Update { link, program, flags: 0, former: 0 }).is_ok()
}

/// The number of the program that a pinned link holds at an interface; none if it holds nothing any more.
pub(super) fn program_of(at: &Path, ifindex: u32) -> Option<u32> {
    let info = info(pinned(at).ok()?.as_fd())?;
    (info.ifindex == ifindex).then_some(info.program)
}

/// Why a device does not take a program while it has one of somebody else.
pub const TAKEN: &str = "another XDP program is there";

/// Why a device does not take a program.
pub(super) fn refusal(error: &io::Error) -> String {
    match error.raw_os_error() {
        Some(libc::EOPNOTSUPP) => "its driver has no native XDP".to_owned(),
        Some(libc::EBUSY | libc::EEXIST) => TAKEN.to_owned(),
        _ => format!("its driver refuses the program: {error}"),
    }
}

fn pinned(at: &Path) -> io::Result<OwnedFd> {
    let path = CString::new(at.as_os_str().as_bytes())?;
    let address = path.as_ptr().expose_provenance() as u64;
    open(BPF_OBJ_GET, Pin { path: address, descriptor: 0, flags: 0 })
}

fn info(link: BorrowedFd<'_>) -> Option<Info> {
    let mut info = Info::default();
    let get = GetInfo {
        descriptor: link.as_raw_fd(),
        length: size_of::<Info>() as u32,
        info: (&raw mut info).expose_provenance() as u64,
    };
    bpf(BPF_OBJ_GET_INFO_BY_FD, get).ok()?;
    (info.kind == BPF_LINK_TYPE_XDP).then_some(info)
}

fn bpf<A: Attributes>(command: libc::c_long, mut attributes: A) -> io::Result<i32> {
    // SAFETY: the kernel reads and writes `attributes`, whose size it is told, and what its pointers point
    // to, which the callers keep until this returns.
    let result =
        unsafe { libc::syscall(libc::SYS_bpf, command, &raw mut attributes, size_of::<A>()) };
    match i32::try_from(result) {
        Ok(result) if result >= 0 => Ok(result),
        _ => Err(io::Error::last_os_error()),
    }
}

/// Runs a command that opens something.
fn open<A: Attributes>(command: libc::c_long, attributes: A) -> io::Result<OwnedFd> {
    let descriptor = bpf(command, attributes)?;
    // SAFETY: the kernel has just opened it for us, and nobody else knows of it.
    Ok(unsafe { OwnedFd::from_raw_fd(descriptor) })
}
