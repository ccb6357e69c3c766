//! What these tests have in common.

use std::{
    fs,
    sync::atomic::{AtomicU32, Ordering},
};

use serde_json::Value;
use vnet_tests::{lab::Node, lifecycle::program};

pub const DEFINITION: &str = "<network><name>default</name><forward mode='nat'/>\
    <bridge name='virbr0'/><ip address='192.168.122.1' prefix='24'/></network>";

/// The findings of a check on a host: level and mend.
pub fn findings(host: &Node, definition: &str, check: &str) -> Vec<(String, Option<String>)> {
    static SERIAL: AtomicU32 = AtomicU32::new(1);
    let serial = SERIAL.fetch_add(1, Ordering::Relaxed);
    let file =
        std::env::temp_dir().join(format!("vnet-doctor-{}-{serial}.xml", std::process::id()));
    fs::write(&file, definition).unwrap();
    let program = program().unwrap();
    let output =
        host.try_run(&[program.as_str(), "doctor", "-o", "json", file.to_str().unwrap()]).unwrap();
    fs::remove_file(&file).unwrap();
    let all: Vec<Value> = serde_json::from_str(&output.stdout).unwrap();
    let word = |value: &Value| value.as_str().map(str::to_owned);
    all.iter()
        .filter(|finding| finding["check"] == check)
        .map(|finding| (word(&finding["level"]).unwrap(), word(&finding["mend"])))
        .collect()
}

/// A finding of nothing.
pub fn ok() -> Vec<(String, Option<String>)> {
    vec![("ok".to_owned(), None)]
}

/// The only finding's command, which is of this level.
pub fn mend(level: &str, found: &[(String, Option<String>)]) -> String {
    let [(found_level, Some(mend))] = found else { panic!("{found:?}") };
    assert_eq!(found_level, level, "{mend}");
    mend.clone()
}
