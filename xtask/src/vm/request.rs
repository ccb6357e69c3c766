//! What the words after `--vm` mean.

/// Debian 12's newest series.
pub const DEFAULT_KERNEL: &str = "6.12";

/// The kernels to boot and the tests to run there.
#[derive(Debug, PartialEq, Eq)]
pub struct Request {
    /// The beginnings of versions, never empty.
    pub kernels: Vec<String>,
    /// Names of test programs, or parts of names of tests; empty for all tests.
    pub filters: Vec<String>,
    /// Whether counts are written down, see `crate::record`.
    pub records: bool,
    /// What the tests are told of XDP.
    pub xdp: Option<&'static str>,
}

impl Request {
    /// A word that begins with a digit is a kernel: no test's name does.
    pub fn parse(words: &[String]) -> Self {
        let is_kernel = |word: &&String| word.starts_with(|first: char| first.is_ascii_digit());
        let (kernels, filters): (Vec<_>, Vec<_>) = words.iter().partition(is_kernel);
        let mut kernels: Vec<_> = kernels.into_iter().cloned().collect();
        if kernels.is_empty() {
            kernels.push(DEFAULT_KERNEL.to_owned());
        }
        let filters = filters.into_iter().cloned().collect();
        Self { kernels, filters, records: false, xdp: None }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_that_begin_with_a_digit_are_kernels() {
        let request = Request::parse(&["6.1", "vlan", "6.12", "uplink"].map(String::from));
        assert_eq!(request.kernels, ["6.1", "6.12"]);
        assert_eq!(request.filters, ["vlan", "uplink"]);
    }

    #[test]
    fn default_kernel_is_meant_where_none_is_named() {
        assert_eq!(Request::parse(&["vlan".to_owned()]).kernels, [DEFAULT_KERNEL]);
    }
}
