//! Programs that somebody else has attached to an interface of the host.

use std::{
    io,
    mem::size_of,
    os::fd::{AsRawFd as _, FromRawFd as _, OwnedFd},
};

use anyhow::Result;
use nix::libc;

use crate::lab::Namespace;

/// Somebody else's tcx program, which counts packets and passes them on; detached when dropped.
#[derive(Debug)]
pub struct ForeignTcx {
    counter: OwnedFd,
    _program: OwnedFd,
    _link: OwnedFd,
}

/// A filter of somebody else's in clsact.
#[derive(Debug, Clone, Copy)]
pub struct ForeignFilter {
    /// The interface.
    pub interface: &'static str,
    /// `ingress` or `egress`
    pub hook: &'static str,
    /// The lower runs first.
    pub priority: &'static str,
}

impl ForeignFilter {
    /// Adds it, and clsact if that is not there.
    pub fn attach(self, host: &Namespace) -> Result<()> {
        // It may be there already.
        let qdisc = ["tc", "qdisc", "add", "dev", self.interface, "clsact"];
        host.try_run(&qdisc)?;
        let Self { interface, hook, priority } = self;
        let filter = format!(
            "tc filter add dev {interface} {hook} prio {priority} protocol ip u32 \
             match ip dst 198.51.100.99/32 classid 1:1"
        );
        host.run(&filter.split(' ').collect::<Vec<_>>())?;
        Ok(())
    }
}

/// On to the next program.
pub const TCX_NEXT: i32 = -1;
/// On to the stack, past the programs that follow.
pub const TCX_PASS: i32 = 0;

const BPF_MAP_CREATE: libc::c_int = 0;
const BPF_MAP_LOOKUP_ELEM: libc::c_int = 1;
const BPF_PROG_LOAD: libc::c_int = 5;
const BPF_LINK_CREATE: libc::c_int = 28;
const BPF_MAP_TYPE_ARRAY: u32 = 2;
const BPF_PROG_TYPE_SCHED_CLS: u32 = 3;
const BPF_PROG_TYPE_XDP: u32 = 6;
const BPF_XDP: u32 = 37;
const BPF_TCX_INGRESS: u32 = 46;
const BPF_TCX_EGRESS: u32 = 47;

const XDP_FLAGS_DRV_MODE: u32 = 1 << 2;
const XDP_PASS: i32 = 2;

impl ForeignTcx {
    /// Attaches one at ingress or egress of an interface of the host; it returns `action`:
    /// [`TCX_NEXT`] or [`TCX_PASS`].
    pub fn attach(host: &Namespace, interface: &str, ingress: bool, action: i32) -> Result<Self> {
        Self::attach_at(host, interface, ingress, action, 0)
    }

    /// As [`ForeignTcx::attach`], before all that are there.
    pub fn attach_first(
        host: &Namespace,
        interface: &str,
        ingress: bool,
        action: i32,
    ) -> Result<Self> {
        const BPF_F_BEFORE: u32 = 1 << 3;
        Self::attach_at(host, interface, ingress, action, BPF_F_BEFORE)
    }

    fn attach_at(
        host: &Namespace,
        interface: &str,
        ingress: bool,
        action: i32,
        flags: u32,
    ) -> Result<Self> {
        let counter = bpf(BPF_MAP_CREATE, &[BPF_MAP_TYPE_ARRAY, 4, 8, 1])?;
        let program = load(counter.as_raw_fd(), action)?;
        let hook = if ingress { BPF_TCX_INGRESS } else { BPF_TCX_EGRESS };
        let link = host.enter(|| {
            let index = nix::net::if_::if_nametoindex(interface)?;
            bpf(BPF_LINK_CREATE, &[program.as_raw_fd().cast_unsigned(), index, hook, flags])
        })??;
        Ok(Self { counter, _program: program, _link: link })
    }

    /// The packets that it has seen.
    pub fn packets(&self) -> Result<u64> {
        let (key, mut value) = (0_u32, 0_u64);
        let attributes = [
            u64::from(self.counter.as_raw_fd().cast_unsigned()),
            (&raw const key) as u64,
            (&raw mut value) as u64,
            0,
        ];
        bpf_call(BPF_MAP_LOOKUP_ELEM, &attributes)?;
        Ok(value)
    }
}

/// Somebody else's native XDP program, which passes everything on; detached when dropped.
#[derive(Debug)]
pub struct ForeignXdp {
    _link: OwnedFd,
}

impl ForeignXdp {
    /// Attaches one to an interface of the host.
    pub fn attach(host: &Namespace, interface: &str) -> Result<Self> {
        let counter = bpf(BPF_MAP_CREATE, &[BPF_MAP_TYPE_ARRAY, 4, 8, 1])?;
        let program = load_as(BPF_PROG_TYPE_XDP, counter.as_raw_fd(), XDP_PASS)?;
        let link = host.enter(|| {
            let index = nix::net::if_::if_nametoindex(interface)?;
            let program = program.as_raw_fd().cast_unsigned();
            bpf(BPF_LINK_CREATE, &[program, index, BPF_XDP, XDP_FLAGS_DRV_MODE])
        })??;
        Ok(Self { _link: link })
    }
}

fn load(counter: libc::c_int, action: i32) -> io::Result<OwnedFd> {
    load_as(BPF_PROG_TYPE_SCHED_CLS, counter, action)
}

/// Adds one to the counter, then returns the action.
fn load_as(kind: u32, counter: libc::c_int, action: i32) -> io::Result<OwnedFd> {
    let instruction = |opcode: u8, registers: u8, offset: i16, immediate: i32| {
        let offset = u64::from(offset.cast_unsigned());
        u64::from(opcode)
            | u64::from(registers) << 8
            | offset << 16
            | u64::from(immediate.cast_unsigned()) << 32
    };
    let instructions: [u64; 11] = [
        // *(u32 *)(r10 - 4) = 0; r2 = r10 - 4
        instruction(0x62, 0x0a, -4, 0),
        instruction(0xbf, 0xa2, 0, 0),
        instruction(0x07, 0x02, 0, -4),
        // r1 = counter (BPF_PSEUDO_MAP_FD)
        instruction(0x18, 0x11, 0, counter),
        0,
        // bpf_map_lookup_elem; if r0 == 0 go on after the addition
        instruction(0x85, 0, 0, 1),
        instruction(0x15, 0, 2, 0),
        // r1 = 1; lock *(u64 *)(r0) += r1
        instruction(0xb7, 0x01, 0, 1),
        instruction(0xdb, 0x10, 0, 0),
        // return action
        instruction(0xb7, 0, 0, action),
        instruction(0x95, 0, 0, 0),
    ];
    let license = c"GPL";
    let attributes = [
        u64::from(kind) | (instructions.len() as u64) << 32,
        instructions.as_ptr() as u64,
        license.as_ptr() as u64,
    ];
    bpf_call(BPF_PROG_LOAD, &attributes)
}

fn bpf(command: libc::c_int, words: &[u32; 4]) -> io::Result<OwnedFd> {
    let [a, b, c, d] = words.map(u64::from);
    bpf_call(command, &[a | b << 32, c | d << 32])
}

/// The system call, for commands that answer with a descriptor or with 0.
pub(super) fn bpf_call(command: libc::c_int, attributes: &[u64]) -> io::Result<OwnedFd> {
    let mut padded = [0_u64; 16];
    for (to, from) in padded.iter_mut().zip(attributes) {
        *to = *from;
    }
    // SAFETY: the attributes are longer than any that these commands read, the rest is zero, and
    // what they point to outlives the call.
    let result =
        unsafe { libc::syscall(libc::SYS_bpf, command, padded.as_ptr(), size_of::<[u64; 16]>()) };
    if result < 0 {
        return Err(io::Error::last_os_error());
    }
    if result == 0 {
        return Ok(std::fs::File::open("/dev/null")?.into());
    }
    // SAFETY: the kernel has just made this descriptor, and nobody else owns it.
    Ok(unsafe { OwnedFd::from_raw_fd(result as libc::c_int) })
}
