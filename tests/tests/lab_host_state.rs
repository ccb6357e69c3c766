//! A snapshot of a host shows what was changed, and only that.

use std::io;
use std::mem::size_of;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};

use nix::libc;
use nix::net::if_::if_nametoindex;
use vnet_tests::lab::{HostState, StandardLab, require_root};

#[test]
fn host_state_shows_each_change_and_nothing_when_all_are_undone() -> anyhow::Result<()> {
    if !require_root() {
        return Ok(());
    }
    let lab = StandardLab::new()?;
    let host = &lab.host;
    let before = HostState::read(host)?;
    lab.tap_guest.ping("192.168.122.1", 2)?;
    host.ping("203.0.113.1", 2)?;
    assert_eq!(before.difference(&HostState::read(host)?), "");

    let bpffs = ["mount", "-t", "bpf", "bpf", "/sys/fs/bpf"];
    let changes: [(&[&str], &[&str], &str); 8] = [
        (
            &["tc", "qdisc", "add", "dev", "eth0", "clsact"],
            &["tc", "qdisc", "del", "dev", "eth0", "clsact"],
            "+ qdisc: {\"dev\":\"eth0\",\"handle\":\"ffff:\",\"kind\":\"clsact\"",
        ),
        (
            &["ip", "link", "add", "dummy0", "type", "veth"],
            &["ip", "link", "del", "dummy0"],
            "\"ifname\":\"dummy0\"",
        ),
        (
            &["ip", "address", "add", "10.0.0.1/8", "dev", "eth0"],
            &["ip", "address", "del", "10.0.0.1/8", "dev", "eth0"],
            "+ IPv4 route: {\"dev\":\"eth0\",\"dst\":\"10.0.0.0/8\"",
        ),
        (
            &["ip", "rule", "add", "fwmark", "1", "table", "7"],
            &["ip", "rule", "del", "fwmark", "1", "table", "7"],
            "+ IPv4 rule: {\"fwmark\":\"0x1\"",
        ),
        (
            &["sysctl", "-qw", "net.ipv4.ip_local_reserved_ports=1024-2047"],
            &["sysctl", "-qw", "net.ipv4.ip_local_reserved_ports="],
            "+ sysctl: /proc/sys/net/ipv4/ip_local_reserved_ports = 1024-2047",
        ),
        (
            &["sysctl", "-qw", "net.ipv4.conf.eth0.rp_filter=2"],
            &["sysctl", "-qw", "net.ipv4.conf.eth0.rp_filter=0"],
            "+ sysctl: /proc/sys/net/ipv4/conf/eth0/rp_filter = 2",
        ),
        (
            &["nft", "add", "table", "ip", "mine"],
            &["nft", "delete", "table", "ip", "mine"],
            "+ nftables: table ip mine {",
        ),
        (&bpffs, &["umount", "/sys/fs/bpf"], "+ /sys/fs/bpf: mounted: bpf /sys/fs/bpf bpf"),
    ];
    for (change, undo, shown) in changes {
        host.run(change)?;
        let difference = before.difference(&HostState::read(host)?);
        assert!(difference.contains(shown), "{change:?}\n{difference}");
        host.run(undo)?;
        let after = HostState::read(host)?;
        assert_eq!(before.difference(&after), "", "{undo:?}");
        assert_eq!(before, after);
    }

    host.run(&["tc", "qdisc", "add", "dev", "eth0", "clsact"])?;
    let with_qdisc = HostState::read(host)?;
    // Classic BPF that returns 0.
    let filter = "tc filter add dev eth0 egress bpf bytecode".split(' ').chain(["1,6 0 0 0"]);
    host.run(&filter.collect::<Vec<_>>())?;
    let difference = with_qdisc.difference(&HostState::read(host)?);
    assert!(difference.contains("+ tc filter at egress of eth0: filter "), "{difference}");
    Ok(())
}

#[test]
fn host_state_shows_a_tcx_program_as_long_as_its_link_lives() -> anyhow::Result<()> {
    if !require_root() {
        return Ok(());
    }
    let lab = StandardLab::new()?;
    let before = HostState::read(&lab.host)?;
    let link = match lab.host.enter(|| attach_accepting_program("eth0"))? {
        Err(error) if error.raw_os_error() == Some(libc::EINVAL) => {
            eprintln!("skipped: this kernel has no tcx (Linux 6.6)");
            return Ok(());
        }
        link => link?,
    };
    let difference = before.difference(&HostState::read(&lab.host)?);
    assert!(difference.starts_with("+ tcx egress of eth0: program "), "{difference}");
    assert!(difference.ends_with(" accept\n"), "{difference}");
    assert_eq!(difference.lines().count(), 1, "{difference}");
    drop(link);
    assert_eq!(before.difference(&HostState::read(&lab.host)?), "");
    Ok(())
}

/// The beginning of `union bpf_attr` for `BPF_PROG_LOAD`, `include/uapi/linux/bpf.h`.
#[repr(C)]
#[derive(Default)]
struct ProgramLoad {
    kind: u32,
    instruction_count: u32,
    instructions: u64,
    license: u64,
    log: [u64; 2],
    kernel_version: u32,
    flags: u32,
    name: [u8; 16],
}

/// The beginning of `union bpf_attr` for `BPF_LINK_CREATE`.
#[repr(C)]
struct LinkCreate {
    program: u32,
    interface: u32,
    attach_type: u32,
    flags: u32,
}

/// Attaches `return TCX_NEXT` at the egress of an interface; the link's descriptor.
fn attach_accepting_program(interface: &str) -> io::Result<OwnedFd> {
    const PROG_LOAD: libc::c_int = 5;
    const LINK_CREATE: libc::c_int = 28;
    const SCHED_CLS: u32 = 3;
    const TCX_EGRESS: u32 = 47;
    // r0 = -1; exit
    let instructions: [u64; 2] = [0xffff_ffff_0000_00b7, 0x95];
    let mut name = [0; 16];
    name[..6].copy_from_slice(b"accept");
    let load = ProgramLoad {
        kind: SCHED_CLS,
        instruction_count: 2,
        instructions: instructions.as_ptr() as u64,
        license: c"GPL".as_ptr() as u64,
        name,
        ..ProgramLoad::default()
    };
    let program = bpf(PROG_LOAD, &load)?;
    let create = LinkCreate {
        program: program.as_raw_fd().cast_unsigned(),
        interface: if_nametoindex(interface)?,
        attach_type: TCX_EGRESS,
        flags: 0,
    };
    bpf(LINK_CREATE, &create)
}

fn bpf<T>(command: libc::c_int, attributes: &T) -> io::Result<OwnedFd> {
    // SAFETY: the kernel reads `size_of::<T>()` bytes and what they point to, all of it alive.
    let fd = unsafe {
        libc::syscall(libc::SYS_bpf, command, std::ptr::from_ref(attributes), size_of::<T>())
    };
    if fd < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: both commands return a new descriptor.
    Ok(unsafe { OwnedFd::from_raw_fd(fd as i32) })
}
