use std::os::fd::{AsFd, FromRawFd, OwnedFd};

use vnet::host::{
    qdisc::{
        BpfFilter, Direction, FilterSlot, QdiscError, add_clsact, delete_bpf_filter,
        delete_bpf_filters_named, delete_clsact, has_clsact, list, list_bpf_filters,
        set_bpf_filter,
    },
    snapshot,
};

use crate::namespace::{in_namespace, ip};

/// Makes an interface and returns its index.
async fn interface() -> u32 {
    ip("link add v0 type veth peer name v1");
    snapshot().await.unwrap().link_named("v0").unwrap().index
}

/// Loads the program `return 0` for TC.
fn program() -> OwnedFd {
    /// The start of `union bpf_attr` for `BPF_PROG_LOAD`.
    #[repr(C)]
    struct ProgramLoad {
        program_type: u32,
        instruction_count: u32,
        instructions: u64,
        license: u64,
    }
    const BPF_PROG_LOAD: libc::c_int = 5;
    const BPF_PROG_TYPE_SCHED_CLS: u32 = 3;
    // r0 = 0; exit
    let instructions: [u64; 2] = [0xb7, 0x95];
    let load = ProgramLoad {
        program_type: BPF_PROG_TYPE_SCHED_CLS,
        instruction_count: 2,
        instructions: instructions.as_ptr() as u64,
        license: c"Apache-2.0".as_ptr() as u64,
    };
    // SAFETY: the attributes and what they point to live until the call returns.
    let descriptor = unsafe {
        libc::syscall(libc::SYS_bpf, BPF_PROG_LOAD, &raw const load, size_of::<ProgramLoad>())
    };
    assert!(descriptor >= 0, "{}", std::io::Error::last_os_error());
    // SAFETY: the call returned a new descriptor that nobody else has.
    unsafe { OwnedFd::from_raw_fd(i32::try_from(descriptor).unwrap()) }
}

#[test]
fn clsact_is_added_once_and_deleted_once() {
    in_namespace(|| async {
        let v0 = interface().await;
        assert!(!has_clsact(v0).await.unwrap());
        assert!(!delete_clsact(v0).await.unwrap());
        assert!(add_clsact(v0).await.unwrap());
        assert!(has_clsact(v0).await.unwrap());
        assert!(!add_clsact(v0).await.unwrap());
        let qdiscs = list(v0).await.unwrap();
        let clsact = qdiscs.iter().find(|qdisc| qdisc.kind == "clsact").unwrap();
        assert_eq!((clsact.handle, clsact.parent), (0xffff_0000, 0xffff_fff1));
        assert!(delete_clsact(v0).await.unwrap());
        assert!(!delete_clsact(v0).await.unwrap());
        assert!(!has_clsact(v0).await.unwrap());
    });
}

#[test]
fn qdiscs_of_other_interfaces_are_not_listed() {
    in_namespace(|| async {
        let v0 = interface().await;
        let v1 = snapshot().await.unwrap().link_named("v1").unwrap().index;
        add_clsact(v0).await.unwrap();
        assert!(!has_clsact(v1).await.unwrap());
    });
}

#[test]
fn ingress_qdisc_is_not_taken_for_clsact() {
    in_namespace(|| async {
        let v0 = interface().await;
        let status = std::process::Command::new("tc")
            .args(["qdisc", "add", "dev", "v0", "ingress"])
            .status()
            .unwrap();
        assert!(status.success());
        let error = add_clsact(v0).await.unwrap_err();
        assert!(matches!(error, QdiscError::IngressInTheWay { interface } if interface == v0));
        assert!(!delete_clsact(v0).await.unwrap());
        assert!(list(v0).await.unwrap().iter().any(|qdisc| qdisc.kind == "ingress"));
    });
}

#[test]
fn missing_interface_is_named() {
    in_namespace(|| async {
        let error = add_clsact(4_000).await.unwrap_err();
        assert_eq!(error.to_string(), "there is no interface with index 4000");
        assert!(!delete_clsact(4_000).await.unwrap());
        assert_eq!(list_bpf_filters(4_000, Direction::Ingress).await.unwrap(), []);
    });
}

#[test]
fn filters_are_listed_in_order_replaced_and_deleted() {
    in_namespace(|| async {
        let v0 = interface().await;
        let slot = |direction, priority, name| FilterSlot {
            interface: v0,
            direction,
            priority,
            handle: 1,
            name,
        };
        let (first, second) = (program(), program());
        assert_eq!(list_bpf_filters(v0, Direction::Ingress).await.unwrap(), []);
        let error = set_bpf_filter(slot(Direction::Ingress, 1, "vnet"), first.as_fd()).await;
        assert!(error.is_err(), "clsact is missing");

        add_clsact(v0).await.unwrap();
        for (direction, priority, name) in [
            (Direction::Ingress, 20, "other"),
            (Direction::Ingress, 10, "vnet"),
            (Direction::Egress, 10, "vnet"),
        ] {
            set_bpf_filter(slot(direction, priority, name), first.as_fd()).await.unwrap();
        }
        let ingress = list_bpf_filters(v0, Direction::Ingress).await.unwrap();
        let expected = |priority, name: &str, program_id| BpfFilter {
            direction: Direction::Ingress,
            priority,
            protocol: 3,
            handle: 1,
            name: Some(name.to_owned()),
            program_id,
            direct_action: true,
        };
        let first_id = ingress[0].program_id;
        assert!(first_id.is_some());
        assert_eq!(ingress, [expected(10, "vnet", first_id), expected(20, "other", first_id)]);

        set_bpf_filter(slot(Direction::Ingress, 10, "vnet"), second.as_fd()).await.unwrap();
        let ingress = list_bpf_filters(v0, Direction::Ingress).await.unwrap();
        assert_eq!(ingress.len(), 2);
        assert_ne!(ingress[0].program_id, first_id);
        assert_eq!(ingress[1].program_id, first_id);

        let named = delete_bpf_filters_named(v0, Direction::Ingress, "vnet").await.unwrap();
        assert_eq!(named, 1);
        let ingress = list_bpf_filters(v0, Direction::Ingress).await.unwrap();
        assert_eq!(ingress, [expected(20, "other", first_id)]);
        assert!(delete_bpf_filter(v0, &ingress[0]).await.unwrap());
        assert!(!delete_bpf_filter(v0, &ingress[0]).await.unwrap());
        assert_eq!(list_bpf_filters(v0, Direction::Ingress).await.unwrap(), []);
        assert_eq!(list_bpf_filters(v0, Direction::Egress).await.unwrap().len(), 1);

        assert!(delete_clsact(v0).await.unwrap());
        assert_eq!(list_bpf_filters(v0, Direction::Egress).await.unwrap(), []);
    });
}

#[test]
fn classic_bpf_filters_are_listed_without_program() {
    in_namespace(|| async {
        let v0 = interface().await;
        add_clsact(v0).await.unwrap();
        let words = "filter add dev v0 ingress protocol ip prio 7 handle 3 bpf bytecode";
        let status = std::process::Command::new("tc")
            .args(words.split(' '))
            .args(["1,6 0 0 0,", "classid", "1:1"])
            .status()
            .unwrap();
        assert!(status.success());
        let filters = list_bpf_filters(v0, Direction::Ingress).await.unwrap();
        assert_eq!(
            filters,
            [BpfFilter {
                direction: Direction::Ingress,
                priority: 7,
                protocol: 0x0800,
                handle: 3,
                name: None,
                program_id: None,
                direct_action: false,
            }]
        );
    });
}
