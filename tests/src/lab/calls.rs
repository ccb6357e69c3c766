//! The system calls of a program, as strace sees them: what it asks of the kernel and how often, whatever
//! it says itself.

use std::collections::BTreeMap;
use std::fmt;
use std::fs;
use std::path::{Path, PathBuf};

use super::error::{Result, While};

/// A program's system calls since some moment.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Calls {
    /// Entries written to or deleted from maps.
    pub map_writes: usize,
    /// Programs attached, replaced or taken off: links and filters made, changed, pinned and unpinned.
    pub attachments: usize,
    /// Programs loaded.
    pub loads: usize,
    /// Netlink requests that change something.
    pub changes: usize,
    /// Netlink requests that read.
    pub readings: usize,
    /// All of them by what they are.
    pub all: BTreeMap<String, usize>,
}

/// strace's account of a program, which grows while that runs.
#[derive(Debug)]
pub struct SystemCalls {
    file: PathBuf,
    seen: usize,
}

impl SystemCalls {
    /// The words before a command that is to be watched.
    #[must_use]
    pub fn command(file: &Path) -> Vec<String> {
        let words = ["strace", "-f", "-qq", "--seccomp-bpf", "-e"];
        let traced = "trace=bpf,sendto,sendmsg,unlink,unlinkat";
        let mut command: Vec<String> = words.map(str::to_owned).to_vec();
        command.extend([traced.to_owned(), "-o".to_owned(), file.display().to_string()]);
        command
    }

    /// Reads what strace writes to a file.
    #[must_use]
    pub fn of(file: PathBuf) -> Self {
        Self { file, seen: 0 }
    }

    /// What was called since the last time.
    pub fn since(&mut self) -> Result<Calls> {
        let text = fs::read_to_string(&self.file).during(|| self.file.display().to_string())?;
        // A line that is not whole is read next time.
        let whole = text.rfind('\n').map_or(0, |end| end + 1);
        let new = text.get(self.seen..whole).unwrap_or_default();
        self.seen = whole.max(self.seen);
        let mut calls = Calls::default();
        for line in new.lines() {
            calls.add(line);
        }
        Ok(calls)
    }
}

impl Calls {
    /// Adds others.
    pub fn extend(&mut self, others: Self) {
        self.map_writes += others.map_writes;
        self.attachments += others.attachments;
        self.loads += others.loads;
        self.changes += others.changes;
        self.readings += others.readings;
        for (what, count) in others.all {
            *self.all.entry(what).or_default() += count;
        }
    }

    fn add(&mut self, line: &str) {
        let Some((_, call)) = line.split_once(' ') else { return };
        // What is resumed has been counted where it began.
        let Some((name, arguments)) = call.trim_start().split_once('(') else { return };
        let word = |text: &str| {
            text.split(|c: char| !(c.is_ascii_alphanumeric() || c == '_')).next().map(str::to_owned)
        };
        let what = match name {
            "bpf" => word(arguments),
            "sendto" | "sendmsg" => {
                arguments.split_once("nlmsg_type=").and_then(|(_, kind)| word(kind))
            }
            "unlink" | "unlinkat" if arguments.contains("/links/") => Some("unpin".to_owned()),
            _ => None,
        };
        let Some(what) = what else { return };
        match what.as_str() {
            "BPF_MAP_UPDATE_ELEM"
            | "BPF_MAP_DELETE_ELEM"
            | "BPF_MAP_UPDATE_BATCH"
            | "BPF_MAP_DELETE_BATCH" => self.map_writes += 1,
            "BPF_LINK_CREATE" | "BPF_LINK_UPDATE" | "BPF_LINK_DETACH" | "BPF_PROG_ATTACH"
            | "BPF_PROG_DETACH" | "unpin" => self.attachments += 1,
            "BPF_PROG_LOAD" => self.loads += 1,
            kind if kind.starts_with("RTM_GET") => self.readings += 1,
            kind if kind.starts_with("RTM_") => self.changes += 1,
            _ => {}
        }
        *self.all.entry(what).or_default() += 1;
    }
}

impl fmt::Display for Calls {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let all: Vec<_> = self.all.iter().map(|(what, count)| format!("{count} {what}")).collect();
        write!(formatter, "{}", if all.is_empty() { "none".to_owned() } else { all.join(", ") })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn calls_are_counted_once_where_they_begin() {
        let mut calls = Calls::default();
        let lines = [
            "12 bpf(BPF_MAP_UPDATE_ELEM, {map_fd=7, key=0x1, value=0x2, flags=BPF_ANY}, 32) = 0",
            "12 bpf(BPF_LINK_CREATE, {link_create={prog_fd=7}}, 64 <unfinished ...>",
            "13 sendto(9, [{nlmsg_len=40, nlmsg_type=RTM_GETLINK, nlmsg_flags=NLM_F_REQUEST}], 40, 0, NULL, 12) = 40",
            "12 <... bpf resumed>) = 8",
            "12 unlink(\"/sys/fs/bpf/vnet/x/links/7-egress\") = 0",
            "12 unlink(\"/run/vnet/x/state.json\") = 0",
            "13 sendto(9, [{nlmsg_len=40, nlmsg_type=RTM_NEWTFILTER}], 40, 0, NULL, 12) = 40",
        ];
        for line in lines {
            calls.add(line);
        }
        let counted = (calls.map_writes, calls.attachments, calls.changes, calls.readings);
        assert_eq!(counted, (1, 2, 1, 1), "{calls}");
    }
}
