use std::{fs, path::Path};

use nix::{
    mount::{MntFlags, MsFlags, mount, umount2},
    sched::CloneFlags,
};
use vnet::host::{
    bpffs::{self, BpfFs},
    privileges, sysctl,
};
use vnet_common::family::Family;

use crate::namespace::{in_namespace, in_thread};

#[test]
fn sysctls_are_those_of_the_threads_namespace() {
    in_namespace(|| async {
        sysctl::set_forwarding(Family::Ipv4, false).unwrap();
        assert_eq!(sysctl::forwarding(Family::Ipv4).unwrap(), Some(false));
        assert_eq!(sysctl::replace(sysctl::IP_FORWARD, "1").unwrap().as_deref(), Some("0"));
        assert_eq!(sysctl::replace(sysctl::IP_FORWARD, "1").unwrap(), None);
        assert_eq!(sysctl::forwarding(Family::Ipv4).unwrap(), Some(true));

        assert_eq!(sysctl::ip_local_port_range().unwrap(), 32768..=60999);
        assert_eq!(sysctl::ip_local_reserved_ports().unwrap(), []);
        let reserved = [53..=53, 8000..=8010];
        let text = sysctl::format_port_list(&reserved);
        sysctl::write(sysctl::IP_LOCAL_RESERVED_PORTS, &text).unwrap();
        assert_eq!(sysctl::ip_local_reserved_ports().unwrap(), reserved);

        let error = sysctl::write(sysctl::IP_LOCAL_PORT_RANGE, "5 x").unwrap_err();
        assert_eq!(
            error.to_string(),
            "cannot set the kernel parameter net.ipv4.ip_local_port_range to \"5 x\": \
             Invalid argument (os error 22)"
        );
    });
}

#[test]
fn long_list_of_reserved_ports_is_read_whole() {
    in_namespace(|| async {
        // Every third port, one by one: the kernel gives a list out in one read or cuts it off.
        for count in [4, 10, 700, 21_845] {
            let reserved: Vec<_> = (1..=count).map(|index| 3 * index..=3 * index).collect();
            let text = sysctl::format_port_list(&reserved);
            sysctl::write(sysctl::IP_LOCAL_RESERVED_PORTS, &text).unwrap();
            let read = sysctl::ip_local_reserved_ports().unwrap();
            assert!(read == reserved, "{} of {count} ports", read.len());
        }
    });
}

/// Gives the thread mounts of its own, without any BPF file system.
fn without_bpffs() {
    let private = MsFlags::MS_PRIVATE | MsFlags::MS_REC;
    mount(None::<&str>, "/", None::<&str>, private, None::<&str>).unwrap();
    while let Some(path) = bpffs::find().unwrap() {
        umount2(&path, MntFlags::MNT_DETACH).unwrap();
    }
}

#[test]
fn bpffs_is_mounted_and_unmounted_when_unused() {
    in_thread(CloneFlags::CLONE_NEWNS, || {
        without_bpffs();
        let path = Path::new(bpffs::DEFAULT_PATH).to_owned();
        let ours = bpffs::ensure().unwrap();
        assert_eq!(ours, BpfFs { path: path.clone(), mounted_here: true });
        assert_eq!(bpffs::find().unwrap(), Some(path.clone()));

        let again = bpffs::ensure().unwrap();
        assert_eq!(again, BpfFs { path: path.clone(), mounted_here: false });
        assert!(!again.release().unwrap());

        fs::create_dir(path.join("pins")).unwrap();
        assert!(!ours.clone().release().unwrap());
        fs::remove_dir(path.join("pins")).unwrap();
        assert!(ours.clone().release().unwrap());
        assert_eq!(bpffs::find().unwrap(), None);
        assert!(!ours.release().unwrap());
    });
}

/// Makes only the calling thread an ordinary user's.
fn drop_privileges() {
    const NOBODY: libc::uid_t = 65534;
    // SAFETY: the arguments are plain numbers; unlike libc::setresuid the raw call leaves the other
    // threads as they are.
    let result = unsafe { libc::syscall(libc::SYS_setresuid, NOBODY, NOBODY, NOBODY) };
    assert_eq!(result, 0);
}

#[test]
fn missing_privileges_are_named_with_the_fix() {
    in_thread(CloneFlags::CLONE_NEWNS, || {
        without_bpffs();
        privileges::check().unwrap();
        privileges::raise_memlock_limit();
        drop_privileges();
        assert_eq!(
            privileges::check().unwrap_err().to_string(),
            "missing CAP_NET_ADMIN, CAP_BPF, CAP_PERFMON: run as root, or grant CAP_NET_ADMIN \
             CAP_BPF CAP_PERFMON with `setcap cap_net_admin,cap_bpf,cap_perfmon+ep` on the \
             program file or with AmbientCapabilities=CAP_NET_ADMIN CAP_BPF CAP_PERFMON in its \
             systemd unit"
        );
        assert_eq!(
            bpffs::ensure().unwrap_err().to_string(),
            "no BPF file system is mounted, and mounting one at /sys/fs/bpf needs CAP_SYS_ADMIN: \
             run as root, or have it mounted beforehand with `mount -t bpf bpf /sys/fs/bpf`"
        );
    });
}
