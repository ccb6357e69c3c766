//! Pictures of figures: bars beside peers, lines over a scale.

mod bars;
mod lines;
mod svg;

use super::{Benchmark, report::Report};

/// The pictures of a report: the name of each file, and its text.
#[must_use]
pub fn draw(report: &Report) -> Vec<(String, String)> {
    let caption = report.circumstances();
    let mut pictures = Vec::new();
    for measured in &report.benchmarks {
        for topic in measured.topics() {
            let Some(name) = file(measured.benchmark, topic.name) else { continue };
            let draw = if topic.is_scale() { lines::draw } else { bars::draw };
            pictures.push((name, draw(&topic, &caption)));
        }
    }
    pictures
}

/// The file of a topic's picture, if it is one that gets a picture besides its table.
pub(super) fn file(benchmark: Benchmark, topic: &str) -> Option<String> {
    let drawn = benchmark.drawn().iter().any(|begin| topic.starts_with(begin));
    drawn.then(|| format!("{}-{}.svg", benchmark.id(), slug(topic)))
}

/// Words with hyphens between them.
fn slug(text: &str) -> String {
    let words = text.split(|letter: char| !letter.is_ascii_alphanumeric());
    let words: Vec<&str> = words.filter(|word| !word.is_empty()).collect();
    words.join("-").to_lowercase()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bench::{Benchmark, Figure, Machine, Measured, Unit};

    fn report(figures: Vec<Figure>) -> Report {
        let (settings, notes) = (Vec::new(), Vec::new());
        let measured = Measured { benchmark: Benchmark::Programs, settings, figures, notes };
        Report::of(Machine::for_tests(), 3, vec![measured])
    }

    fn bars() -> Vec<Figure> {
        let figure = |subject: &str, values: [f64; 3]| {
            Figure::new(
                ("nanoseconds of <one> & all", subject),
                Unit::Nanoseconds,
                values.to_vec(),
                (800.0, "of nft masquerade"),
            )
        };
        vec![figure("nft masquerade", [780.0, 800.0, 820.0]), figure("vnet", [200.0, 210.0, 190.0])]
    }

    fn lines() -> Vec<Figure> {
        let mut figures = Vec::new();
        for (subject, slope) in [("vnet", 1.0), ("nft masquerade", 4.0)] {
            for count in [1.0, 1024.0, 1_048_576.0] {
                let value = 100.0 + slope * f64::log2(count);
                let figure = Figure::new(
                    ("nanoseconds by flows", subject),
                    Unit::Nanoseconds,
                    vec![value],
                    (100.0, "of 1 flow"),
                );
                figures.push(figure.at(count, "flows"));
            }
        }
        figures
    }

    #[test]
    fn files_are_named_by_benchmark_and_topic() {
        let names: Vec<String> =
            draw(&report([bars(), lines()].concat())).into_iter().map(|(name, _)| name).collect();
        assert_eq!(
            names,
            ["programs-nanoseconds-of-one-all.svg", "programs-nanoseconds-by-flows.svg"]
        );
    }

    #[test]
    fn topics_of_less_interest_have_no_picture() {
        assert_eq!(file(Benchmark::Rate, "packet rate, x"), None);
        let net = file(Benchmark::Rate, "CPU time of a packet, net, x");
        assert_eq!(net.as_deref(), Some("rate-cpu-time-of-a-packet-net-x.svg"));
    }

    #[test]
    fn pictures_are_well_formed() {
        for (name, text) in draw(&report([bars(), lines()].concat())) {
            let document =
                roxmltree::Document::parse(&text).unwrap_or_else(|error| panic!("{name}: {error}"));
            assert!(document.root_element().has_tag_name(("http://www.w3.org/2000/svg", "svg")));
        }
    }

    #[test]
    fn bars_are_as_long_as_their_values() {
        let [(_, text)] = &draw(&report(bars()))[..] else { panic!("not one picture") };
        let document = roxmltree::Document::parse(text).unwrap();
        let widths: Vec<f64> = document
            .descendants()
            .filter(|node| node.attribute("class").is_some_and(|class| class.starts_with("bar")))
            .map(|node| node.attribute("width").unwrap().parse().unwrap())
            .collect();
        assert_eq!(widths.len(), 2);
        assert!((widths[1] / widths[0] - 0.25).abs() < 0.001, "{widths:?}");
        for words in ["200 ns", "0.25 ×", "less is better", "nanoseconds of &lt;one&gt; &amp; all"]
        {
            assert!(text.contains(words), "{words}: {text}");
        }
    }

    #[test]
    fn lines_are_labelled_at_their_ends() {
        let [(_, text)] = &draw(&report(lines()))[..] else { panic!("not one picture") };
        let document = roxmltree::Document::parse(text).unwrap();
        let lines = document.descendants().filter(|node| node.has_tag_name("polyline"));
        assert_eq!(lines.count(), 2);
        for words in [">vnet", ">nft masquerade", ">1,024<", ">1,048,576<", ">flows<"] {
            assert!(text.contains(words), "{words}: {text}");
        }
    }

    #[test]
    fn the_same_figures_give_the_same_pictures() {
        assert_eq!(draw(&report(bars())), draw(&report(bars())));
        assert_eq!(draw(&report(lines())), draw(&report(lines())));
    }
}
