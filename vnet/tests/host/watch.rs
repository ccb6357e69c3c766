use std::{
    sync::atomic::{AtomicBool, Ordering},
    thread,
    time::Duration,
};

use futures::StreamExt;
use tokio::time::timeout;
use vnet::host::{Change, Watch, WatchOptions, watch};

use crate::namespace::{in_namespace, ip};

const NOTHING: Change =
    Change { links: false, addresses: false, routes: false, neighbours: false, overrun: false };

/// Long enough for any report on a busy machine.
const DEADLINE: Duration = Duration::from_secs(10);
/// Longer than a report can be held back.
const SILENCE: Duration = Duration::from_millis(300);

async fn next(watch: &mut Watch) -> Change {
    timeout(DEADLINE, watch.next()).await.expect("a change is reported").unwrap()
}

async fn is_silent(watch: &mut Watch) -> bool {
    timeout(SILENCE, watch.next()).await.is_err()
}

/// Reads until nothing more comes, such as from duplicate address detection.
async fn settle(watch: &mut Watch) {
    while !is_silent(watch).await {}
}

/// Two interfaces without IPv6, which would make changes of its own.
fn veth() {
    ip("link add v0 type veth peer name v1");
    for name in ["v0", "v1"] {
        vnet::host::sysctl::write(&format!("net/ipv6/conf/{name}/disable_ipv6"), "1").unwrap();
        ip(&format!("link set {name} up"));
    }
}

#[test]
fn each_kind_of_change_is_told_apart() {
    in_namespace(|| async {
        veth();
        ip("address add 192.0.2.10/24 dev v0");
        let mut watch = watch(WatchOptions::default()).unwrap();
        settle(&mut watch).await;
        let cases = [
            ("link set v0 mtu 1400", Change { links: true, ..NOTHING }),
            (
                "address add 198.51.100.10/32 dev v0",
                Change { addresses: true, routes: true, ..NOTHING },
            ),
            ("route add 10.0.0.0/8 via 192.0.2.1", Change { routes: true, ..NOTHING }),
            ("route del 10.0.0.0/8 via 192.0.2.1", Change { routes: true, ..NOTHING }),
            ("-6 route add blackhole 2001:db8::/32", Change { routes: true, ..NOTHING }),
            ("rule add from 10.0.0.0/8 table 100", Change { routes: true, ..NOTHING }),
            ("-6 rule add from 2001:db8::/32 table 100", Change { routes: true, ..NOTHING }),
            ("nexthop add id 7 via 192.0.2.1 dev v0", Change { routes: true, ..NOTHING }),
        ];
        for (words, expected) in cases {
            ip(words);
            assert_eq!(next(&mut watch).await, expected, "{words}");
        }
    });
}

#[test]
fn neighbours_are_reported_only_when_asked_for() {
    in_namespace(|| async {
        veth();
        let mut with = watch(WatchOptions { neighbours: true, ..Default::default() }).unwrap();
        let mut without = watch(WatchOptions::default()).unwrap();
        settle(&mut with).await;
        settle(&mut without).await;
        ip("neighbour add 192.0.2.1 lladdr 02:00:00:00:00:01 dev v0 nud permanent");
        assert_eq!(next(&mut with).await, Change { neighbours: true, ..NOTHING });
        assert!(is_silent(&mut without).await);
    });
}

#[test]
fn change_before_the_first_wait_is_reported() {
    in_namespace(|| async {
        veth();
        let mut watch = watch(WatchOptions::default()).unwrap();
        settle(&mut watch).await;
        ip("address add 192.0.2.10/32 dev v0");
        let snapshot = vnet::host::snapshot().await.unwrap();
        let v0 = snapshot.link_named("v0").unwrap().index;
        assert_eq!(snapshot.addresses_of(v0).count(), 1);
        assert!(next(&mut watch).await.addresses);
    });
}

#[test]
fn burst_is_reported_once() {
    in_namespace(|| async {
        veth();
        let mut watch = watch(WatchOptions::default()).unwrap();
        settle(&mut watch).await;
        for host in 1..=50 {
            ip(&format!("address add 192.0.2.{host}/32 dev v0"));
        }
        assert_eq!(next(&mut watch).await, Change { addresses: true, routes: true, ..NOTHING });
        assert!(is_silent(&mut watch).await);
    });
}

#[test]
fn abandoned_wait_loses_nothing() {
    in_namespace(|| async {
        veth();
        let mut watch = watch(WatchOptions::default()).unwrap();
        settle(&mut watch).await;
        ip("link set v0 mtu 1400");
        // Reads the notification but gives up before the burst is over, on any but a busy machine.
        let change = match timeout(Duration::from_millis(5), watch.next()).await {
            Ok(change) => change.unwrap(),
            Err(_) => next(&mut watch).await,
        };
        assert_eq!(change, Change { links: true, ..NOTHING });
    });
}

#[test]
fn endless_changes_do_not_hold_the_report_back() {
    static STOP: AtomicBool = AtomicBool::new(false);
    in_namespace(|| async {
        veth();
        let mut watch = watch(WatchOptions::default()).unwrap();
        // The new thread is in this thread's namespace.
        let changes = thread::spawn(|| {
            while !STOP.load(Ordering::Relaxed) {
                ip("link set v0 mtu 1400");
                ip("link set v0 mtu 1500");
            }
        });
        let report = timeout(DEADLINE, watch.next()).await;
        let went_on = !changes.is_finished();
        STOP.store(true, Ordering::Relaxed);
        changes.join().unwrap();
        assert!(went_on);
        assert!(report.expect("a change is reported").unwrap().links);
    });
}

#[test]
fn overrun_means_that_everything_may_have_changed() {
    in_namespace(|| async {
        veth();
        let options = WatchOptions { receive_buffer: 4096, ..Default::default() };
        let mut watch = watch(options).unwrap();
        for host in 1..=100 {
            ip(&format!("address add 192.0.2.{host}/32 dev v0"));
        }
        let everything =
            Change { links: true, addresses: true, routes: true, neighbours: true, overrun: true };
        assert_eq!(next(&mut watch).await, everything);
        // And it goes on afterwards.
        settle(&mut watch).await;
        ip("link set v0 mtu 1400");
        assert_eq!(next(&mut watch).await, Change { links: true, ..NOTHING });
    });
}

#[test]
fn watch_is_a_stream() {
    in_namespace(|| async {
        veth();
        let mut watch = watch(WatchOptions::default()).unwrap();
        settle(&mut watch).await;
        let mut stream = Box::pin(watch.into_stream());
        ip("link set v0 mtu 1400");
        let change = timeout(DEADLINE, stream.next()).await.unwrap().unwrap().unwrap();
        assert_eq!(change, Change { links: true, ..NOTHING });
    });
}
