//! `cargo xtask test --xdp off|on|random`: the daemons that tests run use XDP like this.

use std::{
    env,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    thread::{self, JoinHandle},
    time::{Duration, Instant, SystemTime, UNIX_EPOCH},
};

use crate::lab::Node;

/// `off`, `on`, `random`, or a number: the seed of `random`.
const VARIABLE: &str = "VNET_TEST_XDP";
/// A daemon that has lived so long has been switched, else something is wrong.
const LONG: Duration = Duration::from_secs(5);
/// Between two switches, in milliseconds.
const PAUSES: std::ops::Range<u64> = 20..500;

/// How the daemons use XDP.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Use {
    /// As when nobody says anything.
    Unsaid,
    /// In one way.
    Always(&'static str),
    /// Switched on and off at random.
    Random {
        /// Of the moments.
        seed: u64,
    },
}

/// What the tests were told.
#[must_use]
pub fn told() -> Use {
    match env::var(VARIABLE).as_deref() {
        Ok("off") => Use::Always("off"),
        Ok("on") => Use::Always("on"),
        Ok("random") => {
            let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
            Use::Random { seed: now.as_secs() }
        }
        Ok(seed) => seed.parse().map_or(Use::Unsaid, |seed| Use::Random { seed }),
        Err(_) => Use::Unsaid,
    }
}

/// Whether frames between hosts need whole checksums: XDP on a veth cannot tell which are.
#[must_use]
pub fn needs_checksums() -> bool {
    matches!(told(), Use::Always("on") | Use::Random { .. })
}

/// Arguments of `vnet run`; none if they say themselves what is used.
#[must_use]
pub fn arguments(others: &[&str]) -> Vec<&'static str> {
    match told() {
        _ if others.iter().any(|other| ["--xdp", "--short-ways"].contains(other)) => Vec::new(),
        Use::Unsaid => Vec::new(),
        Use::Always(setting) => vec!["--xdp", setting],
        Use::Random { .. } => vec!["--xdp", "on"],
    }
}

/// A thread that switches XDP of a daemon on and off until it is dropped.
#[derive(Debug)]
pub struct Switching {
    is_over: Arc<AtomicBool>,
    /// Switches that the daemon has said yes to.
    switches: Arc<AtomicU64>,
    /// What it has said otherwise at last.
    refusal: Arc<Mutex<String>>,
    begun: Instant,
    instance: String,
    thread: Option<JoinHandle<()>>,
}

impl Switching {
    /// Begins, if that is what the tests were told.
    #[must_use]
    pub fn begin(host: &Node, program: &str, instance: &str) -> Option<Self> {
        static SERIAL: AtomicU64 = AtomicU64::new(0);
        let Use::Random { seed } = told() else { return None };
        let serial = SERIAL.fetch_add(1, Ordering::Relaxed);
        let mut random = seed ^ serial.rotate_left(32);
        eprintln!("XDP of `{instance}` is switched at random: {VARIABLE}={seed}, daemon {serial}");
        let mut switching = Self {
            is_over: Arc::new(AtomicBool::new(false)),
            switches: Arc::new(AtomicU64::new(0)),
            refusal: Arc::new(Mutex::new(String::new())),
            begun: Instant::now(),
            instance: instance.to_owned(),
            thread: None,
        };
        let (host, program, instance) = (host.clone(), program.to_owned(), instance.to_owned());
        let (ended, switches) = (Arc::clone(&switching.is_over), Arc::clone(&switching.switches));
        let refusal = Arc::clone(&switching.refusal);
        let thread = thread::spawn(move || {
            while !ended.load(Ordering::Relaxed) {
                let pause = PAUSES.start + next(&mut random) % (PAUSES.end - PAUSES.start);
                thread::park_timeout(Duration::from_millis(pause));
                let setting = ["on", "off", "auto"][(next(&mut random) % 3) as usize];
                if !ended.load(Ordering::Relaxed) {
                    // A daemon that ends at this moment takes no orders.
                    let command =
                        [program.as_str(), "apply", "--xdp", setting, "--instance", &instance];
                    match host.try_run(&command) {
                        Ok(output) if output.status.success() => {
                            switches.fetch_add(1, Ordering::Relaxed);
                        }
                        other => {
                            let said = other.map_or_else(|error| error.to_string(), |o| o.stderr);
                            refusal
                                .lock()
                                .unwrap_or_else(PoisonError::into_inner)
                                .replace_range(.., &said);
                        }
                    }
                }
            }
        });
        switching.thread = Some(thread);
        Some(switching)
    }

    /// Ends it.
    ///
    /// # Errors
    /// If the daemon was never switched although there was time enough.
    pub fn finish(mut self) -> Result<(), String> {
        let lived = self.begun.elapsed();
        self.join();
        let switches = self.switches.load(Ordering::Relaxed);
        let refusal = self.refusal.lock().unwrap_or_else(PoisonError::into_inner);
        eprintln!("XDP of `{}` was switched {switches} times in {lived:?}", self.instance);
        if switches == 0 && lived >= LONG {
            return Err(format!("never switched in {lived:?}: {refusal}"));
        }
        Ok(())
    }

    fn join(&mut self) {
        self.is_over.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            thread.thread().unpark();
            let _ = thread.join();
        }
    }
}

impl Drop for Switching {
    fn drop(&mut self) {
        self.join();
    }
}

/// Marsaglia's xorshift64.
fn next(state: &mut u64) -> u64 {
    *state = (*state).max(1);
    *state ^= *state << 13;
    *state ^= *state >> 7;
    *state ^= *state << 17;
    *state
}
