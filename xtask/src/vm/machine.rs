//! The virtual machine: booted, listened to, bounded in time.

use std::{
    env, fs,
    io::BufReader,
    path::Path,
    process::{Command, Stdio},
    time::Duration,
};

use anyhow::{Context as _, Result, bail};

use super::{archive, initramfs::Initramfs, kernel::Kernel};
use crate::{process, sudo, test::Counts, workspace::Workspace};

/// What `timeout` exits with when the time was over.
const TIME_OVER: i32 = 124;

/// What makes kernels safe in production costs a translated processor more than all the rest.
pub(super) const KERNEL_ARGUMENTS: &str = "console=ttyS0 quiet panic=-1 mitigations=off no5lvl \
     init_on_alloc=0 hardened_usercopy=off randomize_kstack_offset=off";

/// How many times longer than usual the tests wait for what has to happen.
const PATIENCE: &str = "10";

/// How much of the kernel's messages is shown when the machine died.
const CONSOLE_LINES: usize = 25;

pub struct Machine<'a> {
    pub workspace: &'a Workspace,
    pub kernel: &'a Kernel,
    pub busybox: &'a Path,
    /// After which it is switched off.
    pub limit: Duration,
}

impl Machine<'_> {
    /// Boots, runs the shell script as root, shows what it prints and counts the tests in it.
    /// Errors: also when the script fails or the time is over.
    pub fn execute(&self, script: &str, counts: &mut Counts) -> Result<()> {
        let all = self.workspace.target.join("vm/runs");
        remove_leftovers(&all)?;
        let directory = all.join(std::process::id().to_string());
        archive::make_directory(&directory)?;
        let result = self.execute_in(&directory, script, counts);
        archive::remove_directory(&directory)?;
        result
    }

    fn execute_in(&self, directory: &Path, script: &str, counts: &mut Counts) -> Result<()> {
        let initramfs = directory.join("initramfs");
        fs::write(&initramfs, self.initramfs(script)?).context("cannot write the initramfs")?;
        let console = directory.join("console.log");
        let status = directory.join("status");

        let mut command = self.qemu(&initramfs, &console, &status);
        let mut child = command.spawn().context("cannot run qemu-system-x86_64")?;
        let output = child.stdout.take().context("QEMU has no output")?;
        let relayed = counts.relay(BufReader::new(output));
        let end = child.wait().context("cannot wait for QEMU")?;
        relayed?;

        let console = fs::read(&console).unwrap_or_default();
        let console = last_words(&String::from_utf8_lossy(&console));
        if end.code() == Some(TIME_OVER) {
            bail!("switched off after {} s; its console:\n{console}", self.limit.as_secs());
        }
        process::child_result(&command, end)?;
        let status = fs::read_to_string(&status).unwrap_or_default();
        match status.trim() {
            "0" => Ok(()),
            "" => bail!("the virtual machine ended by itself; its console:\n{console}"),
            code => bail!("exit code {code}"),
        }
    }

    fn initramfs(&self, script: &str) -> Result<Vec<u8>> {
        let mut initramfs = Initramfs::default();
        for directory in ["bin", "sbin", "proc", "sys", "dev", "lib"] {
            initramfs.directory(directory)?;
        }
        let busybox = fs::read(self.busybox).context("cannot read busybox")?;
        initramfs.program("bin/busybox", &busybox)?;
        initramfs.link("sbin/modprobe", "/bin/busybox")?;
        initramfs.tree(Path::new("lib/modules"), &self.kernel.modules.join("lib/modules"))?;
        initramfs.program("init", include_bytes!("guest/init.sh"))?;
        initramfs.program("main.sh", include_bytes!("guest/main.sh"))?;
        initramfs.program("settings", self.settings().as_bytes())?;
        let script = format!("{}{script}", environment());
        initramfs.program("run.sh", script.as_bytes())?;
        initramfs.finish()
    }

    /// What `init.sh` has to know.
    fn settings(&self) -> String {
        let path = env::var_os("PATH").unwrap_or_default();
        let shared: Vec<_> = [self.workspace.root.clone(), self.workspace.target.clone()]
            .into_iter()
            .chain(env::split_paths(&path))
            .filter(|path| path.is_dir())
            .map(|path| path.to_string_lossy().into_owned())
            .collect();
        format!("SHARED={}\n", process::quoted(&shared.join(" ")))
    }

    /// Bounded by `timeout`, and killed when we or `timeout` die.
    fn qemu(&self, initramfs: &Path, console: &Path, status: &Path) -> Command {
        let mut command = Command::new("setpriv");
        command
            .args(["--pdeathsig", "TERM", "timeout", "--foreground", "--kill-after=5"])
            .arg(self.limit.as_secs().to_string())
            .args(["setpriv", "--pdeathsig", "KILL"])
            .arg("qemu-system-x86_64")
            .args(["-nodefaults", "-no-user-config", "-no-reboot", "-display", "none"])
            .args(["-machine", "pc", "-cpu", "max", "-smp", "2", "-m", "4096"])
            .args(accelerators())
            .arg("-kernel")
            .arg(&self.kernel.image)
            .arg("-initrd")
            .arg(initramfs)
            .args(["-append", KERNEL_ARGUMENTS])
            .arg("-serial")
            .arg(with_path("file:", console))
            .args(["-device", "virtio-serial-pci"])
            // Not `stdio`, which the guest could not write to after the end of our empty input.
            .args(["-chardev", "file,id=output,path=/dev/stdout"])
            .args(["-device", "virtserialport,chardev=output,name=output"])
            .arg("-chardev")
            .arg(with_path("file,id=status,path=", status))
            .args(["-device", "virtserialport,chardev=status,name=status"])
            .args([
                "-fsdev",
                "local,id=outside,path=/,security_model=none,readonly=on,multidevs=remap",
            ])
            .args(["-device", "virtio-9p-pci,fsdev=outside,mount_tag=outside"])
            .stdin(Stdio::null())
            .stdout(Stdio::piped());
        command
    }
}

/// What runs left that were killed: directories named after processes that are no more.
fn remove_leftovers(all: &Path) -> Result<()> {
    for entry in fs::read_dir(all).into_iter().flatten().flatten() {
        if !Path::new("/proc").join(entry.file_name()).exists() {
            archive::remove_directory(&entry.path())?;
        }
    }
    Ok(())
}

/// The console's end, or what came before a panic: the trace behind it says less.
fn last_words(console: &str) -> String {
    let panic = console.find("Kernel panic");
    let end = panic.map_or(console.len(), |start| {
        console[start..].find('\n').map_or(console.len(), |length| start + length)
    });
    process::last_lines(&console[..end], CONSOLE_LINES)
}

/// QEMU's translator works everywhere; KVM is tried first where the processor has it for us.
fn accelerators() -> &'static [&'static str] {
    let processor = fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let capable = processor
        .lines()
        .find(|line| line.starts_with("flags"))
        .is_some_and(|flags| flags.split(' ').any(|flag| flag == "vmx" || flag == "svm"));
    let allowed = fs::OpenOptions::new().read(true).write(true).open("/dev/kvm").is_ok();
    if capable && allowed {
        &["-accel", "kvm", "-accel", "tcg,thread=multi"]
    } else {
        &["-accel", "tcg,thread=multi"]
    }
}

/// QEMU reads a comma in a value as its end unless it is doubled.
fn with_path(option: &str, path: &Path) -> String {
    format!("{option}{}", path.to_string_lossy().replace(',', ",,"))
}

/// What the programs inside find in their environment, for a shell.
fn environment() -> String {
    let kept =
        sudo::kept_variables().map(|(name, value)| (name.to_string_lossy().into_owned(), value));
    let ours = [
        ("HOME", "/root"),
        ("VNET_REQUIRE_ROOT", "1"),
        ("VNET_TEST_REQUIRE", "vlan,sctp,gre,esp,bond,counts"),
        ("VNET_TEST_PATIENCE", PATIENCE),
    ]
    .map(|(name, value)| (name.to_owned(), value.into()));
    let exports: Vec<_> = kept
        .chain(ours)
        .map(|(name, value)| format!("export {name}={}", process::quoted(&value.to_string_lossy())))
        .collect();
    exports.join("\n") + "\n"
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn last_words_are_those_before_a_panic() {
        let console = "vm: no root\n[ 1.0] Kernel panic - not syncing\n[ 1.0] Call Trace:\n";
        assert_eq!(last_words(console), "vm: no root\n[ 1.0] Kernel panic - not syncing");
        assert_eq!(last_words("one\n\ntwo\n"), "one\ntwo");
    }
}
