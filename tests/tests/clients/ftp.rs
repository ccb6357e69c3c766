//! FTP by curl: passive mode needs nothing of a NAT, active mode a helper that vnet does not have.

use vnet_tests::lab::services::{FtpServer, content};

use crate::internet::*;

const LENGTH: usize = 100_000;
const CURL: [&str; 7] = ["curl", "-sS", "--noproxy", "*", "--max-time", "20", "--ftp-skip-pasv-ip"];

#[test]
fn ftp_in_passive_mode_works() -> anyhow::Result<()> {
    on_each_port(|net| {
        for family in FAMILIES {
            let server = FtpServer::start(&net.server, at(family.server, 21))?;
            let url = format!("ftp://{}/{LENGTH}", at(family.server, 21));
            let mut curl = net.guest.spawn(&[&CURL[..], &[&url]].concat())?;
            curl.wait(DEADLINE)?.success()?;
            assert!(curl.stdout_bytes() == content(LENGTH), "{}", family.switch);
            assert!(server.peers().iter().all(|peer| peer.ip() == ip(family.uplink)));
        }
        Ok(())
    })
}

#[test]
fn ftp_in_active_mode_fails_because_no_payload_is_rewritten() -> anyhow::Result<()> {
    on_each_port(|net| {
        for family in FAMILIES {
            let server = FtpServer::start(&net.server, at(family.server, 21))?;
            let url = format!("ftp://{}/{LENGTH}", at(family.server, 21));
            let active = ["--ftp-port", "-", &url];
            let mut curl = net.guest.spawn(&[&CURL[..], &active].concat())?;
            assert!(!curl.wait(DEADLINE)?.status.success());
            assert_eq!(curl.stdout_bytes(), b"");
            let asked = server.asked_to_connect_to();
            assert!(!asked.is_empty());
            assert!(asked.iter().all(|client| client.ip() == ip(family.guest)), "{asked:?}");
        }
        Ok(())
    })
}
