//! TFTP (RFC 1350) by curl and dnsmasq: the server answers from another port than it was asked at.

use std::path::PathBuf;
use std::sync::atomic::{AtomicU32, Ordering};
use std::{env, fs, process};

use vnet_tests::lab::Running;
use vnet_tests::lab::services::{Dnsmasq, DnsmasqConfig, content};

use crate::internet::*;

const LENGTH: usize = 20_000;

/// A directory with one file, which goes with the value.
struct Files {
    path: PathBuf,
}

impl Files {
    fn new() -> anyhow::Result<Self> {
        static SERIAL: AtomicU32 = AtomicU32::new(1);
        let serial = SERIAL.fetch_add(1, Ordering::Relaxed);
        let path = env::temp_dir().join(format!("vnet-tftp-{}-{serial}", process::id()));
        fs::create_dir_all(&path)?;
        fs::write(path.join("image"), content(LENGTH))?;
        Ok(Self { path })
    }
}

impl Drop for Files {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.path);
    }
}

fn serve(net: &Internet, files: &Files, further: &[&str]) -> anyhow::Result<Dnsmasq> {
    let root = format!("--tftp-root={}", files.path.display());
    let options = [&["--enable-tftp", "--port=0", &root][..], further].concat();
    let config = DnsmasqConfig { interface: "eth0", options: &options, ..Default::default() };
    Ok(Dnsmasq::start(&net.server, &config)?)
}

/// curl that has `seconds` for the file.
fn fetch(net: &Internet, family: Family, seconds: &str) -> anyhow::Result<Running> {
    let url = format!("tftp://{}/image", at(family.server, 69));
    let curl = ["curl", "-sS", "--noproxy", "*", "--max-time", seconds, &url];
    Ok(net.guest.spawn(&curl)?)
}

fn assert_fetched(net: &Internet) -> anyhow::Result<()> {
    for family in FAMILIES {
        let mut curl = fetch(net, family, "20")?;
        curl.wait(DEADLINE)?.success()?;
        assert!(curl.stdout_bytes() == content(LENGTH), "{}", family.switch);
    }
    Ok(())
}

#[test]
fn tftp_fails_where_only_who_was_asked_gets_in() -> anyhow::Result<()> {
    on_each_port(|net| {
        let files = Files::new()?;
        let _dnsmasq = serve(net, &files, &[])?;
        for family in FAMILIES {
            let mut curl = fetch(net, family, "2")?;
            assert!(!curl.wait(DEADLINE)?.status.success());
            assert_eq!(curl.stdout_bytes(), b"");
        }
        Ok(())
    })
}

#[test]
fn tftp_works_with_a_server_that_answers_from_its_own_port() -> anyhow::Result<()> {
    on_each_port(|net| {
        let files = Files::new()?;
        let _dnsmasq = serve(net, &files, &["--tftp-single-port"])?;
        assert_fetched(net)
    })
}

#[test]
fn tftp_works_where_anybody_gets_in() -> anyhow::Result<()> {
    with_options("<vnet:filtering mode='endpoint-independent'/>", |net| {
        let files = Files::new()?;
        let _dnsmasq = serve(net, &files, &[])?;
        assert_fetched(net)
    })
}
