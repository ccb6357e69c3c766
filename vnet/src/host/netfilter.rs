//! What others have told netfilter, as `nft -j list ruleset` says it.

use std::{
    io::{self, Read},
    process::{Command, Output, Stdio},
    sync::mpsc,
    thread,
    time::{Duration, Instant},
};

use ipnet::IpNet;
use serde_json::Value;

/// What matters here of a ruleset.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Ruleset {
    /// Base chains at the forward hook that drop what no rule of theirs accepts.
    pub dropping: Vec<Chain>,
    /// Rules that give forwarded packets another source.
    pub translations: Vec<SourceTranslation>,
    /// Every chain's name, for those that are known by it.
    chains: Vec<Chain>,
}

/// A chain.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Chain {
    /// `ip`, `ip6`, `inet`, …
    pub family: String,
    /// Its table.
    pub table: String,
    /// Its name.
    pub name: String,
}

/// A rule with `masquerade` or `snat`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SourceTranslation {
    /// Where it is.
    pub chain: Chain,
    /// Sources that it is about; any if empty.
    pub sources: Vec<IpNet>,
}

/// The text is no ruleset in nft's JSON.
#[derive(Debug, thiserror::Error)]
#[error("nft's output is not understood: {0}")]
pub struct ParseError(String);

/// Why the rules are not known.
#[derive(Debug, thiserror::Error)]
pub enum RulesError {
    /// nft is not installed, for example.
    #[error("cannot run nft: {0}")]
    Run(#[from] io::Error),
    /// nft has failed.
    #[error("nft: {0}")]
    Nft(String),
    /// Another version of nft, perhaps.
    #[error(transparent)]
    Parse(#[from] ParseError),
}

/// Reads the rules of the calling thread's network namespace.
pub fn read() -> Result<Ruleset, RulesError> {
    let mut nft = Command::new("nft");
    let output = output_within(nft.args(["-j", "list", "ruleset"]), PATIENCE)?;
    if !output.status.success() {
        return Err(RulesError::Nft(String::from_utf8_lossy(&output.stderr).trim().to_owned()));
    }
    Ok(Ruleset::parse(&String::from_utf8_lossy(&output.stdout))?)
}

/// How long nft may take.
const PATIENCE: Duration = Duration::from_secs(5);

/// What a program prints, which is killed if it takes longer.
fn output_within(command: &mut Command, limit: Duration) -> io::Result<Output> {
    let deadline = Instant::now() + limit;
    let command = command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn()?;
    let outputs = [read_aside(child.stdout.take()), read_aside(child.stderr.take())];
    let [stdout, stderr] = outputs.map(|output| {
        let left = deadline.saturating_duration_since(Instant::now());
        output.recv_timeout(left).map_err(|_| io::ErrorKind::TimedOut)
    });
    let (Ok(stdout), Ok(stderr)) = (stdout, stderr) else {
        // It may have ended by now.
        let _ = child.kill();
        child.wait()?;
        let message = format!("no answer within {} s", limit.as_secs_f32());
        return Err(io::Error::new(io::ErrorKind::TimedOut, message));
    };
    Ok(Output { status: child.wait()?, stdout, stderr })
}

/// Reads to the end in a thread, so that nobody has to wait for it.
fn read_aside(from: Option<impl Read + Send + 'static>) -> mpsc::Receiver<Vec<u8>> {
    let (sender, receiver) = mpsc::channel();
    thread::spawn(move || {
        let mut bytes = Vec::new();
        if let Some(mut from) = from {
            // What there is of it is told in any case.
            let _ = from.read_to_end(&mut bytes);
        }
        // Nobody waits any more.
        let _ = sender.send(bytes);
    });
    receiver
}

impl Ruleset {
    /// Reads the output of `nft -j list ruleset`.
    pub fn parse(text: &str) -> Result<Self, ParseError> {
        let value: Value =
            serde_json::from_str(text).map_err(|error| ParseError(error.to_string()))?;
        let entries = value["nftables"].as_array();
        let entries = entries.ok_or_else(|| ParseError("no list `nftables`".to_owned()))?;
        let mut ruleset = Self::default();
        for entry in entries {
            if let Some(chain) = entry.get("chain") {
                let found = chain_of(chain, "name");
                if chain["hook"] == "forward" && chain["policy"] == "drop" {
                    ruleset.dropping.push(found.clone());
                }
                ruleset.chains.push(found);
            } else if let Some(rule) = entry.get("rule") {
                ruleset.translations.extend(translation(rule));
            }
        }
        Ok(ruleset)
    }

    /// Whether Docker asks for rules of others in a chain of this family.
    #[must_use]
    pub fn has_docker_user(&self, family: &str) -> bool {
        self.chains.iter().any(|chain| chain.family == family && chain.name == "DOCKER-USER")
    }

    /// Whether firewalld has a table of its own.
    #[must_use]
    pub fn has_firewalld(&self) -> bool {
        self.chains.iter().any(|chain| chain.table == "firewalld")
    }

    /// Whether a chain is one of libvirt's own: `LIBVIRT_*` of iptables, or in a table `libvirt_network` of
    /// nftables (libvirt 10.4 and later).
    #[must_use]
    pub fn is_libvirts(chain: &Chain) -> bool {
        chain.name.starts_with("LIBVIRT_") || chain.table.starts_with("libvirt_")
    }

    /// The first rule that may give packets of a subnet another source.
    #[must_use]
    pub fn translation_of(&self, subnet: IpNet) -> Option<&SourceTranslation> {
        self.translations.iter().find(|translation| translation.concerns(subnet))
    }
}

impl SourceTranslation {
    fn concerns(&self, subnet: IpNet) -> bool {
        let other_family = match self.chain.family.as_str() {
            "ip" => matches!(subnet, IpNet::V6(_)),
            "ip6" => matches!(subnet, IpNet::V4(_)),
            _ => false,
        };
        let overlaps = |source: &IpNet| source.contains(&subnet) || subnet.contains(source);
        !other_family && (self.sources.is_empty() || self.sources.iter().any(overlaps))
    }
}

fn chain_of(value: &Value, name: &str) -> Chain {
    let word = |key: &str| value[key].as_str().unwrap_or_default().to_owned();
    Chain { family: word("family"), table: word("table"), name: word(name) }
}

fn translation(rule: &Value) -> Option<SourceTranslation> {
    let expressions = rule["expr"].as_array()?;
    let translates = |expression: &Value| {
        // iptables' own targets show as `xt` where nft cannot say them otherwise.
        let target = expression["xt"]["name"].as_str();
        expression.get("masquerade").is_some()
            || expression.get("snat").is_some()
            || matches!(target, Some("MASQUERADE" | "SNAT"))
    };
    if !expressions.iter().any(translates) {
        return None;
    }
    let sources = expressions
        .iter()
        .map(|expression| &expression["match"])
        .filter(|test| test["op"] == "==" && test["left"]["payload"]["field"] == "saddr")
        .flat_map(|test| prefixes(&test["right"]))
        .collect();
    Some(SourceTranslation { chain: chain_of(rule, "chain"), sources })
}

/// An address, a prefix, or a set of them.
fn prefixes(value: &Value) -> Vec<IpNet> {
    if let Some(set) = value["set"].as_array() {
        return set.iter().flat_map(prefixes).collect();
    }
    let prefix = if let Some(address) = value.as_str() {
        address.parse().ok().map(|address: std::net::IpAddr| address.into())
    } else {
        let address = value["prefix"]["addr"].as_str().and_then(|address| address.parse().ok());
        let length = value["prefix"]["len"].as_u64().and_then(|length| length.try_into().ok());
        address.zip(length).and_then(|(address, length)| IpNet::new(address, length).ok())
    };
    prefix.into_iter().collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn program_that_does_not_end_is_not_waited_for() {
        let limit = Duration::from_millis(50);
        let error = output_within(Command::new("sleep").arg("600"), limit).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::TimedOut);
        assert_eq!(error.to_string(), "no answer within 0.05 s");
        let output = output_within(Command::new("echo").arg("x"), Duration::from_secs(60)).unwrap();
        assert_eq!((output.status.success(), output.stdout.as_slice()), (true, &b"x\n"[..]));
    }
}
