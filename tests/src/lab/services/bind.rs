//! Binding a port that this process has just closed.

use std::io;
use std::time::Duration;

use crate::lab::background::wait_until;
use crate::lab::error::{Result, While};
use crate::lab::namespace::Namespace;

const DEADLINE: Duration = Duration::from_secs(10);

impl Namespace {
    /// What `bind` opens inside the namespace. While the port is in use it is tried again: a
    /// socket that was closed lives on in each child that another test has forked and that has
    /// not yet come to its exec.
    pub(super) fn bind<T: Send>(
        &self,
        what: &dyn Fn() -> String,
        bind: impl Fn() -> io::Result<T> + Send + Sync,
    ) -> Result<T> {
        wait_until(&format!("the port of the {} is free", what()), DEADLINE, || {
            match self.enter(&bind) {
                Ok(Err(error)) if error.kind() == io::ErrorKind::AddrInUse => {
                    Err(error.to_string())
                }
                bound => Ok(bound),
            }
        })??
        .during(what)
    }
}

#[cfg(test)]
mod tests {
    use std::net::UdpSocket;
    use std::sync::{Mutex, PoisonError};

    use crate::lab::namespace::{Ipv6Noise, Namespace};
    use crate::lab::require_root;

    #[test]
    fn port_that_a_child_still_holds_is_bound_once_it_lets_go() {
        if !require_root() {
            return;
        }
        let namespace = Namespace::new("guest", Ipv6Noise::Off).unwrap();
        let what = || "UDP socket".to_owned();
        let held = namespace.bind(&what, || UdpSocket::bind("127.0.0.1:7")).unwrap();
        let held = Mutex::new((0, Some(held)));
        let bound = namespace.bind(&what, || {
            let bound = UdpSocket::bind("127.0.0.1:7");
            let (tries, held) = &mut *held.lock().unwrap_or_else(PoisonError::into_inner);
            *tries += 1;
            if *tries == 2 {
                *held = None;
            }
            bound
        });
        assert_eq!(bound.unwrap().local_addr().unwrap().port(), 7);
        assert_eq!(held.into_inner().unwrap().0, 3);
        let other = namespace.bind(&what, || UdpSocket::bind("192.0.2.1:7")).unwrap_err();
        assert!(other.to_string().contains("UDP socket"), "{other}");
    }
}
