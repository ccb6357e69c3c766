//! Programs that run in a namespace, with what they print, and that never outlive the test.

use std::io::{self, Read, Write};
use std::os::unix::process::ExitStatusExt;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, OnceLock, PoisonError, mpsc};
use std::thread;
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill, killpg};
use nix::unistd::Pid;

use super::background::patient;
use super::error::{Error, Result, While};
use super::namespace::Namespace;

/// How long a program that should end may run.
pub const DEFAULT_DEADLINE: Duration = Duration::from_secs(60);

/// A program that has ended.
#[derive(Debug, Clone)]
pub struct Output {
    /// The whole command line.
    pub command: String,
    /// Name of the namespace it ran in.
    pub namespace: String,
    /// How it ended.
    pub status: ExitStatus,
    /// What it wrote to its standard output.
    pub stdout: String,
    /// What it wrote to its standard error.
    pub stderr: String,
}

impl Output {
    /// Itself if the status is 0.
    ///
    /// # Errors
    /// [`Error::Command`] otherwise.
    pub fn success(self) -> Result<Self> {
        if self.status.success() {
            return Ok(self);
        }
        let Self { command, namespace, status, stdout, stderr } = self;
        Err(Error::Command { command, namespace, status, stdout, stderr })
    }
}

/// A running program; it and its process group are killed when this value is dropped.
#[derive(Debug)]
pub struct Running {
    command: String,
    namespace: String,
    child: Child,
    printed: Arc<Printed>,
}

impl Running {
    /// Starts a command made by [`Namespace::command`]. Its standard output and error are
    /// collected; it dies with this process, not with the calling thread.
    pub fn start(namespace: &Namespace, command: Command) -> Result<Self> {
        Self::start_with(namespace, command, None)
    }

    /// As [`Running::start`], with `input` as the standard input.
    pub fn start_with_input(ns: &Namespace, command: Command, input: Vec<u8>) -> Result<Self> {
        Self::start_with(ns, command, Some(input))
    }

    fn start_with(
        namespace: &Namespace,
        mut command: Command,
        input: Option<Vec<u8>>,
    ) -> Result<Self> {
        command.stdout(Stdio::piped()).stderr(Stdio::piped());
        if input.is_some() {
            command.stdin(Stdio::piped());
        }
        let line = command_line(&command);
        let mut child = spawn_on_lasting_thread(command)
            .during(|| format!("start `{line}` in namespace `{}`", namespace.name()))?;
        let printed = Arc::new(Printed::default());
        if let Some(stdout) = child.stdout.take() {
            printed.collect(stdout, |streams| &mut streams.stdout);
        }
        if let Some(stderr) = child.stderr.take() {
            printed.collect(stderr, |streams| &mut streams.stderr);
        }
        if let (Some(mut stdin), Some(input)) = (child.stdin.take(), input) {
            // A program that ends without reading its input says why by its status.
            thread::spawn(move || stdin.write_all(&input));
        }
        Ok(Self { command: line, namespace: namespace.name().to_owned(), child, printed })
    }

    /// The process id.
    #[must_use]
    pub fn id(&self) -> u32 {
        self.child.id()
    }

    /// What it has written to its standard output so far.
    #[must_use]
    pub fn stdout(&self) -> String {
        String::from_utf8_lossy(&self.stdout_bytes()).into_owned()
    }

    /// What it has written to its standard output so far, as bytes.
    #[must_use]
    pub fn stdout_bytes(&self) -> Vec<u8> {
        self.printed.lock().stdout.clone()
    }

    /// What it has written to its standard error so far.
    #[must_use]
    pub fn stderr(&self) -> String {
        String::from_utf8_lossy(&self.printed.lock().stderr).into_owned()
    }

    /// True until it has ended.
    pub fn is_running(&mut self) -> bool {
        matches!(self.child.try_wait(), Ok(None))
    }

    /// The first line, on standard output or error, that contains `text`.
    ///
    /// # Errors
    /// [`Error::Deadline`] if there is none in time or the program ended without printing it.
    pub fn wait_for_line(&self, text: &str, deadline: Duration) -> Result<String> {
        let deadline = patient(deadline);
        let start = Instant::now();
        let mut streams = self.printed.lock();
        loop {
            let found = [&streams.stdout, &streams.stderr].into_iter().find_map(|bytes| {
                let printed = String::from_utf8_lossy(bytes);
                printed.lines().find(|line| line.contains(text)).map(str::to_owned)
            });
            if let Some(line) = found {
                return Ok(line);
            }
            let left = deadline.saturating_sub(start.elapsed());
            if left.is_zero() || streams.open == 0 {
                let what = format!("`{}` prints a line with {text:?}", self.command);
                return Err(Error::Deadline { what, deadline, seen: streams.describe() });
            }
            streams = self.printed.wait(streams, left);
        }
    }

    /// Sends a signal to the program.
    pub fn signal(&self, signal: Signal) -> Result<()> {
        // The child is not reaped while `self.child` has no status, so the id is still its own.
        kill(self.pid(), signal).during(|| format!("{signal} to `{}`", self.command))
    }

    /// Waits until the program has ended and returns all it printed. Kills it at the deadline.
    ///
    /// # Errors
    /// [`Error::Deadline`] with what it had printed.
    pub fn wait(&mut self, deadline: Duration) -> Result<Output> {
        let deadline = patient(deadline);
        let start = Instant::now();
        let mut pause = Duration::from_micros(200);
        loop {
            let status = self.child.try_wait().during(|| format!("wait for `{}`", self.command))?;
            if let Some(status) = status {
                return Ok(self.output(status));
            }
            if start.elapsed() >= deadline {
                self.kill();
                let what = format!("`{}` ends", self.command);
                return Err(Error::Deadline {
                    what,
                    deadline,
                    seen: self.printed.lock().describe(),
                });
            }
            thread::sleep(pause);
            pause = (pause * 2).min(patient(Duration::from_millis(5)));
        }
    }

    /// Sends SIGTERM and waits until the program has ended.
    pub fn terminate(&mut self, deadline: Duration) -> Result<Output> {
        self.signal_and_wait(Signal::SIGTERM, deadline)
    }

    /// Sends a signal and waits until the program has ended.
    pub fn signal_and_wait(&mut self, signal: Signal, deadline: Duration) -> Result<Output> {
        if self.is_running() {
            self.signal(signal)?;
        }
        self.wait(deadline)
    }

    fn output(&self, status: ExitStatus) -> Output {
        // The pipes are drained after the end, unless a grandchild keeps them open.
        let streams = self.printed.wait_for_end(Duration::from_secs(2));
        Output {
            command: self.command.clone(),
            namespace: self.namespace.clone(),
            status,
            stdout: String::from_utf8_lossy(&streams.stdout).into_owned(),
            stderr: String::from_utf8_lossy(&streams.stderr).into_owned(),
        }
    }

    fn kill(&mut self) {
        // The group keeps its id while any member lives, so this reaches grandchildren as well.
        let _ = killpg(self.pid(), Signal::SIGKILL);
        let _ = self.child.wait();
    }

    fn pid(&self) -> Pid {
        Pid::from_raw(self.child.id().cast_signed())
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        if self.is_running() {
            self.kill();
        }
    }
}

/// True if the status says that the program was ended by `signal`.
#[must_use]
pub fn killed_by(status: ExitStatus, signal: Signal) -> bool {
    status.signal() == Some(signal as i32)
}

#[derive(Debug, Default)]
struct Printed {
    streams: Mutex<Streams>,
    changed: Condvar,
}

#[derive(Debug, Default)]
struct Streams {
    stdout: Vec<u8>,
    stderr: Vec<u8>,
    open: usize,
}

impl Streams {
    fn describe(&self) -> String {
        let stdout = String::from_utf8_lossy(&self.stdout);
        let stderr = String::from_utf8_lossy(&self.stderr);
        format!("--- stdout\n{stdout}\n--- stderr\n{stderr}")
    }
}

impl Printed {
    fn lock(&self) -> MutexGuard<'_, Streams> {
        self.streams.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn wait<'a>(
        &self,
        guard: MutexGuard<'a, Streams>,
        longest: Duration,
    ) -> MutexGuard<'a, Streams> {
        self.changed.wait_timeout(guard, longest).unwrap_or_else(PoisonError::into_inner).0
    }

    fn wait_for_end(&self, deadline: Duration) -> MutexGuard<'_, Streams> {
        let start = Instant::now();
        let mut streams = self.lock();
        while streams.open > 0 && start.elapsed() < deadline {
            streams = self.wait(streams, deadline.saturating_sub(start.elapsed()));
        }
        streams
    }

    fn collect(
        self: &Arc<Self>,
        mut pipe: impl Read + Send + 'static,
        stream: fn(&mut Streams) -> &mut Vec<u8>,
    ) {
        self.lock().open += 1;
        let printed = Arc::clone(self);
        thread::spawn(move || {
            let mut buffer = [0; 16 * 1024];
            while let Ok(read @ 1..) = pipe.read(&mut buffer) {
                let mut streams = printed.lock();
                stream(&mut streams).extend_from_slice(&buffer[..read]);
                printed.changed.notify_all();
            }
            printed.lock().open -= 1;
            printed.changed.notify_all();
        });
    }
}

type Job = (Command, mpsc::Sender<io::Result<Child>>);

/// A child asks to be killed when the thread that made it ends, so one thread makes them all.
fn spawn_on_lasting_thread(command: Command) -> io::Result<Child> {
    static SPAWNER: OnceLock<mpsc::Sender<Job>> = OnceLock::new();
    let spawner = SPAWNER.get_or_init(|| {
        let (sender, jobs) = mpsc::channel::<Job>();
        thread::spawn(move || {
            for (mut command, answer) in jobs {
                // Nobody waits for the answer only if the asking thread is gone, with its test.
                let _ = answer.send(command.spawn());
            }
        });
        sender
    });
    let (answer, child) = mpsc::channel();
    spawner.send((command, answer)).map_err(io::Error::other)?;
    child.recv().map_err(io::Error::other)?
}

fn command_line(command: &Command) -> String {
    let mut line = command.get_program().to_string_lossy().into_owned();
    for argument in command.get_args() {
        line.push(' ');
        line.push_str(&argument.to_string_lossy());
    }
    line
}
