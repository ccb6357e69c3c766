use std::{
    fs::{self, File},
    io::Write as _,
    os::unix::fs::symlink,
    sync::atomic::{AtomicU32, Ordering},
};

use tokio::time::timeout;

use super::*;

const DEADLINE: Duration = Duration::from_secs(10);

/// A directory of its own for each test.
struct Place(PathBuf);

impl Place {
    fn new() -> Self {
        static SERIAL: AtomicU32 = AtomicU32::new(0);
        let serial = SERIAL.fetch_add(1, Ordering::Relaxed);
        let name = format!("vnet-definitions-{}-{serial}", std::process::id());
        let path = std::env::temp_dir().join(name);
        fs::create_dir_all(path.join("networks/autostart")).unwrap();
        Self(path)
    }

    fn at(&self, path: &str) -> PathBuf {
        self.0.join(path)
    }

    fn write(&self, path: &str) {
        fs::write(self.at(path), "<network/>").unwrap();
    }

    fn watch(&self, paths: &[&str]) -> DefinitionWatch {
        let paths: Vec<PathBuf> = paths.iter().map(|path| self.at(path)).collect();
        DefinitionWatch::start(&paths).unwrap()
    }

    /// The next change.
    async fn next(&self, watch: &mut DefinitionWatch) -> Vec<String> {
        let changed = timeout(DEADLINE, watch.changed()).await.expect("a change").unwrap();
        let relative = |path: PathBuf| path.strip_prefix(&self.0).unwrap().display().to_string();
        changed.into_iter().map(relative).collect()
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

/// Longer than a change would take to be told.
async fn is_silent(watch: &mut DefinitionWatch) -> bool {
    timeout(QUIET * 3, watch.changed()).await.is_err()
}

fn on_runtime(work: impl AsyncFnOnce()) {
    let mut builder = tokio::runtime::Builder::new_current_thread();
    builder.enable_all().build().unwrap().block_on(work());
}

#[test]
fn written_renamed_and_removed_definitions_are_told_together_once() {
    on_runtime(async || {
        let place = Place::new();
        place.write("networks/old.xml");
        let mut watch = place.watch(&["networks"]);
        place.write("networks/a.xml");
        // As libvirt writes.
        place.write("networks/b.xml.new");
        fs::rename(place.at("networks/b.xml.new"), place.at("networks/b.xml")).unwrap();
        fs::remove_file(place.at("networks/old.xml")).unwrap();
        let expected = ["networks/a.xml", "networks/b.xml", "networks/old.xml"];
        assert_eq!(place.next(&mut watch).await, expected);
        assert!(is_silent(&mut watch).await);
    });
}

#[test]
fn definition_is_told_of_when_its_writer_is_done() {
    on_runtime(async || {
        let place = Place::new();
        let mut watch = place.watch(&["networks"]);
        let mut file = File::create(place.at("networks/a.xml")).unwrap();
        file.write_all(b"<net").unwrap();
        assert!(is_silent(&mut watch).await);
        file.write_all(b"work/>").unwrap();
        drop(file);
        assert_eq!(place.next(&mut watch).await, ["networks/a.xml"]);
    });
}

#[test]
fn files_of_editors_and_of_subdirectories_are_no_definitions() {
    on_runtime(async || {
        let place = Place::new();
        let mut watch = place.watch(&["networks"]);
        for name in ["a.xml~", ".a.xml.swp", ".#a.xml", "#a.xml#", "4913", "a.xml.new", ".b.xml"] {
            place.write(&format!("networks/{name}"));
            fs::remove_file(place.at(&format!("networks/{name}"))).unwrap();
        }
        place.write("networks/autostart/a.xml");
        symlink("../a.xml", place.at("networks/autostart/b.xml")).unwrap();
        place.write("other.xml");
        assert!(is_silent(&mut watch).await);
    });
}

#[test]
fn directory_of_links_follows_what_they_lead_to() {
    on_runtime(async || {
        let place = Place::new();
        place.write("networks/default.xml");
        symlink("../default.xml", place.at("networks/autostart/default.xml")).unwrap();
        let mut watch = place.watch(&["networks/autostart"]);
        place.write("networks/default.xml");
        assert_eq!(place.next(&mut watch).await, ["networks/autostart/default.xml"]);
        // A definition that nothing leads to yet.
        place.write("networks/lab.xml");
        assert!(is_silent(&mut watch).await);
        symlink("../lab.xml", place.at("networks/autostart/lab.xml")).unwrap();
        assert_eq!(place.next(&mut watch).await, ["networks/autostart/lab.xml"]);
        place.write("networks/lab.xml.new");
        fs::rename(place.at("networks/lab.xml.new"), place.at("networks/lab.xml")).unwrap();
        assert_eq!(place.next(&mut watch).await, ["networks/autostart/lab.xml"]);
    });
}

#[test]
fn directory_that_is_made_anew_is_followed() {
    on_runtime(async || {
        let place = Place::new();
        place.write("networks/a.xml");
        let mut watch = place.watch(&["networks"]);
        fs::remove_dir_all(place.at("networks")).unwrap();
        assert!(place.next(&mut watch).await.contains(&"networks".to_owned()));
        fs::create_dir(place.at("networks")).unwrap();
        assert_eq!(place.next(&mut watch).await, ["networks"]);
        place.write("networks/b.xml");
        assert_eq!(place.next(&mut watch).await, ["networks/b.xml"]);

        // Another one in its place, at once.
        fs::create_dir(place.at("new")).unwrap();
        fs::rename(place.at("networks"), place.at("old")).unwrap();
        fs::rename(place.at("new"), place.at("networks")).unwrap();
        assert_eq!(place.next(&mut watch).await, ["networks"]);
        place.write("old/b.xml");
        assert!(is_silent(&mut watch).await);
        place.write("networks/c.xml");
        assert_eq!(place.next(&mut watch).await, ["networks/c.xml"]);
    });
}

#[test]
fn what_is_not_there_yet_is_watched_once_it_is() {
    on_runtime(async || {
        let place = Place::new();
        let mut watch = place.watch(&["etc/vnet/networks", "etc/one.xml"]);
        fs::create_dir_all(place.at("etc/vnet/networks")).unwrap();
        place.write("etc/vnet/networks/a.xml");
        let changed = place.next(&mut watch).await;
        assert!(changed.contains(&"etc/vnet/networks".to_owned()), "{changed:?}");
        place.write("etc/vnet/networks/b.xml");
        assert!(place.next(&mut watch).await.contains(&"etc/vnet/networks/b.xml".to_owned()));
        place.write("etc/two.xml");
        assert!(is_silent(&mut watch).await);
        place.write("etc/one.xml");
        assert_eq!(place.next(&mut watch).await, ["etc/one.xml"]);
    });
}

#[test]
fn single_file_is_followed_through_renames_over_it() {
    on_runtime(async || {
        let place = Place::new();
        place.write("networks/a.xml");
        let mut watch = place.watch(&["networks/a.xml"]);
        place.write("networks/b.xml");
        for _ in 0..2 {
            place.write("networks/a.xml.new");
            fs::rename(place.at("networks/a.xml.new"), place.at("networks/a.xml")).unwrap();
            assert_eq!(place.next(&mut watch).await, ["networks/a.xml"]);
        }
        fs::remove_file(place.at("networks/a.xml")).unwrap();
        assert_eq!(place.next(&mut watch).await, ["networks/a.xml"]);
    });
}

#[test]
fn change_that_nobody_waited_for_is_told_of_later() {
    on_runtime(async || {
        let place = Place::new();
        let mut watch = place.watch(&["networks"]);
        place.write("networks/a.xml");
        // Cancelled while it waits for what may follow.
        assert!(timeout(QUIET / 2, watch.changed()).await.is_err());
        assert_eq!(place.next(&mut watch).await, ["networks/a.xml"]);
    });
}
