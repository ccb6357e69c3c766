//! Which programs are at a tcx hook, in one system call: aya asks by the interface's name, which takes a
//! dozen.

use std::{io, mem::size_of};

use super::Direction;

/// `BPF_PROG_QUERY` and `enum bpf_attach_type` of `include/uapi/linux/bpf.h`.
const BPF_PROG_QUERY: libc::c_long = 16;
const BPF_TCX_INGRESS: u32 = 46;
const BPF_TCX_EGRESS: u32 = 47;
/// `BPF_MPROG_MAX` of `include/linux/bpf_mprog.h`: a hook has no more.
const MOST: usize = 64;

/// The `query` part of `union bpf_attr`.
#[repr(C)]
#[derive(Default)]
struct Query {
    target_ifindex: u32,
    attach_type: u32,
    flags: u32,
    attach_flags: u32,
    prog_ids: u64,
    count: u32,
    reserved: u32,
    prog_attach_flags: u64,
    link_ids: u64,
    link_attach_flags: u64,
    revision: u64,
}

/// The numbers of the programs at a hook.
pub(crate) fn programs_at(ifindex: u32, direction: Direction) -> io::Result<Vec<u32>> {
    let mut ids = vec![0_u32; MOST];
    let mut query = Query {
        target_ifindex: ifindex,
        attach_type: match direction {
            Direction::Ingress | Direction::Xdp => BPF_TCX_INGRESS,
            Direction::Egress => BPF_TCX_EGRESS,
        },
        prog_ids: ids.as_mut_ptr().expose_provenance() as u64,
        count: MOST as u32,
        ..Query::default()
    };
    // SAFETY: the kernel writes to `query`, whose size it is told, and up to `count` numbers to `ids`;
    // both live until it returns.
    let result =
        unsafe { libc::syscall(libc::SYS_bpf, BPF_PROG_QUERY, &raw mut query, size_of::<Query>()) };
    if result < 0 {
        return Err(io::Error::last_os_error());
    }
    ids.truncate(query.count as usize);
    Ok(ids)
}
