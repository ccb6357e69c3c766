//! Why there is nothing to report.

use std::{io, path::PathBuf};

use crate::instance::Name;

/// Why an instance cannot be reported on. Each is one line that names the fix.
#[derive(Debug, thiserror::Error)]
pub enum ReportError {
    /// Nobody has that name.
    #[error("no instance `{name}` is running{}", instead(others))]
    NoInstance {
        /// The name that was asked for.
        name: Name,
        /// The instances that there are.
        others: Vec<String>,
    },
    /// A file or a map may not be opened.
    #[error("not allowed to read {}: run as root (`sudo vnet ...`)", path.display())]
    NotPermitted {
        /// What was to be read.
        path: PathBuf,
    },
    /// The state file cannot be read or understood.
    #[error(
        "cannot read state.json in {}: {source}; restart the instance if another version of vnet \
         wrote it",
        path.display()
    )]
    State {
        /// The instance's directory.
        path: PathBuf,
        /// What is wrong.
        source: io::Error,
    },
    /// There is a state but no map.
    #[error(
        "instance `{instance}` has no map at {}: restart it, or look from the mount namespace \
         that it runs in",
        path.display()
    )]
    NoMap {
        /// The instance.
        instance: String,
        /// The pin.
        path: PathBuf,
    },
    /// A map is not what this program expects.
    #[error(
        "instance `{instance}` runs vnet {theirs}, whose map {map} this vnet {ours} cannot read \
         ({difference}): use the `vnet` that started it, or restart it with this one",
        ours = env!("CARGO_PKG_VERSION")
    )]
    OtherLayout {
        /// The instance.
        instance: String,
        /// The version that made the map.
        theirs: String,
        /// The map.
        map: &'static str,
        /// How it differs.
        difference: String,
    },
    /// The filter names a network that the instance does not have.
    #[error("instance `{instance}` has no network `{network}`; it has {}", quoted(known))]
    NoNetwork {
        /// The instance.
        instance: String,
        /// The network that was asked for.
        network: String,
        /// The networks that there are.
        known: Vec<String>,
    },
    /// The kernel refused for any other reason.
    #[error("cannot read map {map} of instance `{instance}`: {source}")]
    Kernel {
        /// The instance.
        instance: String,
        /// The map.
        map: &'static str,
        /// The error of the system call.
        source: io::Error,
    },
}

fn instead(others: &[String]) -> String {
    if others.is_empty() {
        return ": start one with `vnet run FILE`".to_owned();
    }
    format!("; there are {}: choose one with `--instance`", quoted(others))
}

fn quoted(names: &[String]) -> String {
    if names.is_empty() {
        return "none".to_owned();
    }
    names.iter().map(|name| format!("`{name}`")).collect::<Vec<_>>().join(", ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_missing_instance_names_those_that_run() {
        let name: Name = "rack".parse().unwrap();
        let none = ReportError::NoInstance { name: name.clone(), others: vec![] };
        assert_eq!(
            none.to_string(),
            "no instance `rack` is running: start one with `vnet run FILE`"
        );
        let others = vec!["default".to_owned(), "lab".to_owned()];
        assert_eq!(
            ReportError::NoInstance { name, others }.to_string(),
            "no instance `rack` is running; there are `default`, `lab`: choose one with `--instance`"
        );
    }

    #[test]
    fn another_layout_names_both_versions_and_the_ways_out() {
        let error = ReportError::OtherLayout {
            instance: "default".to_owned(),
            theirs: "9.9.9".to_owned(),
            map: "SESSIONS",
            difference: "values of 200 bytes, not 192".to_owned(),
        };
        let ours = env!("CARGO_PKG_VERSION");
        assert_eq!(
            error.to_string(),
            format!(
                "instance `default` runs vnet 9.9.9, whose map SESSIONS this vnet {ours} cannot \
                 read (values of 200 bytes, not 192): use the `vnet` that started it, or restart \
                 it with this one"
            )
        );
    }

    #[test]
    fn missing_rights_name_the_fix() {
        let path = PathBuf::from("/sys/fs/bpf/vnet/default/maps/DROPS");
        assert_eq!(
            ReportError::NotPermitted { path }.to_string(),
            "not allowed to read /sys/fs/bpf/vnet/default/maps/DROPS: run as root (`sudo vnet \
             ...`)"
        );
    }
}
