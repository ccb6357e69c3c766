//! The files of a network's dnsmasq.

use std::{
    fmt::Write as _,
    fs, io,
    os::unix::fs::PermissionsExt as _,
    path::{Path, PathBuf},
};

use super::{
    config::Files,
    process::{Directories, DnsmasqError},
};

/// Readable by the user that dnsmasq runs as.
const FILE_MODE: u32 = 0o644;
const DIRECTORY_MODE: u32 = 0o755;

#[derive(Debug)]
pub(super) struct Paths {
    pub config: PathBuf,
    pub pid: PathBuf,
    pub leases: PathBuf,
    pub reserved: PathBuf,
    pub records: PathBuf,
}

impl Paths {
    pub(super) fn of(network: &str, directories: &Directories) -> Self {
        let stem = file_stem(network);
        let file = |ending: &str| directories.runtime.join(format!("{stem}.{ending}"));
        Self {
            config: file("conf"),
            pid: file("pid"),
            reserved: file("hosts"),
            records: file("names"),
            leases: directories.leases.join(format!("{stem}.leases")),
        }
    }

    pub(super) fn files(&self) -> Files<'_> {
        Files {
            pid: &self.pid,
            leases: &self.leases,
            reserved: &self.reserved,
            records: &self.records,
        }
    }

    /// Removes all of them but leases that there are.
    pub(super) fn remove(&self) -> Result<(), DnsmasqError> {
        // The configuration comes last: as long as it is there, the others are found by it.
        [&self.pid, &self.reserved, &self.records, &self.config]
            .into_iter()
            .try_for_each(|path| remove_if_there(path))?;
        match fs::read(&self.leases) {
            Ok(leases) if !has_leases(&leases) => remove_if_there(&self.leases),
            Err(source) if source.kind() != io::ErrorKind::NotFound => {
                Err(DnsmasqError::File { path: self.leases.clone(), source })
            }
            _ => Ok(()),
        }
    }
}

/// Whether dnsmasq has written more than its own identifier (DUID) to its file of leases.
fn has_leases(text: &[u8]) -> bool {
    let mut lines = text.split(|byte| *byte == b'\n').filter(|line| !line.is_empty());
    lines.any(|line| !line.starts_with(b"duid "))
}

/// What the names of a network's files begin with: its name, in which every byte that dnsmasq's
/// configuration gives a meaning to, or that no file name has, is written as `%` and two digits.
#[must_use]
pub fn file_stem(network: &str) -> String {
    let mut stem = String::new();
    for byte in network.bytes() {
        match byte {
            b'.' if stem.is_empty() => stem.push_str("%2e"),
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'-' | b'_' | b'.' => {
                stem.push(char::from(byte));
            }
            // A string takes everything.
            _ => drop(write!(stem, "%{byte:02x}")),
        }
    }
    stem
}

/// The networks that files in the directory are of.
pub(super) fn networks_in(runtime: &Path) -> io::Result<Vec<String>> {
    let entries = match fs::read_dir(runtime) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        entries => entries?,
    };
    let mut networks = Vec::new();
    for entry in entries {
        let name = entry?.file_name();
        networks.extend(name.to_str().and_then(|name| network_of(name.strip_suffix(".conf")?)));
    }
    Ok(networks)
}

/// The inverse of [`file_stem`].
fn network_of(stem: &str) -> Option<String> {
    let mut bytes = Vec::new();
    let mut rest = stem.as_bytes();
    loop {
        match rest {
            [] => return String::from_utf8(bytes).ok(),
            [b'%', high, low, after @ ..] => {
                let digits = [*high, *low];
                bytes.push(u8::from_str_radix(std::str::from_utf8(&digits).ok()?, 16).ok()?);
                rest = after;
            }
            [byte, after @ ..] => {
                bytes.push(*byte);
                rest = after;
            }
        }
    }
}

pub(super) fn make_directory(path: &Path) -> Result<(), DnsmasqError> {
    let failed = |source| DnsmasqError::File { path: path.to_owned(), source };
    fs::create_dir_all(path).map_err(failed)?;
    fs::set_permissions(path, fs::Permissions::from_mode(DIRECTORY_MODE)).map_err(failed)
}

/// Whether the file says this.
pub(super) fn says(path: &Path, text: &str) -> bool {
    fs::read(path).is_ok_and(|old| old == text.as_bytes())
}

/// Whether the file says something else now. It is replaced as a whole.
pub(super) fn write_if_changed(path: &Path, text: &str) -> Result<bool, DnsmasqError> {
    if says(path, text) {
        return Ok(false);
    }
    let mut new = path.as_os_str().to_owned();
    new.push(".new");
    fs::write(&new, text)
        .and_then(|()| fs::set_permissions(&new, fs::Permissions::from_mode(FILE_MODE)))
        .and_then(|()| fs::rename(&new, path))
        .map_err(|source| DnsmasqError::File { path: path.to_owned(), source })?;
    Ok(true)
}

pub(super) fn remove_if_there(path: &Path) -> Result<(), DnsmasqError> {
    match fs::remove_file(path) {
        Err(source) if source.kind() != io::ErrorKind::NotFound => {
            Err(DnsmasqError::File { path: path.to_owned(), source })
        }
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn any_name_of_a_network_is_a_file_name_and_is_found_by_it() {
        for (network, stem) in [
            ("default", "default"),
            ("a.b-C_9", "a.b-C_9"),
            (".hidden", "%2ehidden"),
            ("two words #1", "two%20words%20%231"),
            ("100%", "100%25"),
            ("b\u{e4}r", "b%c3%a4r"),
        ] {
            assert_eq!(file_stem(network), stem);
            assert_eq!(network_of(stem).as_deref(), Some(network));
        }
        assert_eq!(network_of("%2"), Some("%2".to_owned()));
        assert_eq!(network_of("%zz"), None);
    }

    #[test]
    fn identifier_of_the_server_is_no_lease() {
        assert!(!has_leases(b"") && !has_leases(b"duid 00:01\n"));
        assert!(has_leases(b"duid 00:01\n1795 52:54:00:00:00:07 192.168.122.9 * *\n"));
        assert!(has_leases(b"1795 52:54:00:00:00:07 192.168.122.9 \xff *\n"));
    }
}
