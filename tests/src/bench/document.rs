//! Tables of a document, written anew between their markers.

use std::fmt::Write as _;

use anyhow::{Result, bail};

use super::{
    Benchmark, plot,
    report::{Measured, Report, Topic},
    unit::grouped,
};

/// A document with the figures of a report: what is between `<!-- figures of NAME -->` and `<!-- end of figures -->`
/// is replaced, where NAME is a benchmark's. What was not measured stays. Pictures are in a directory beside it.
pub fn renew(document: &str, report: &Report, pictures: &str) -> Result<String> {
    const END: &str = "<!-- end of figures -->";
    let mut text = String::new();
    let mut rest = document;
    while let Some((before, after)) = rest.split_once("<!-- figures of ") {
        let Some((name, after)) = after.split_once(" -->\n") else { bail!("a marker has no end") };
        let Some((old, after)) = after.split_once(END) else {
            bail!("`figures of {name}` has no `{END}`");
        };
        if !Benchmark::all().iter().any(|benchmark| benchmark.id() == name) {
            bail!("`figures of {name}`: there is no such benchmark");
        }
        let measured = report.benchmarks.iter().find(|measured| measured.benchmark.id() == name);
        let new =
            measured.map_or_else(|| old.to_owned(), |measured| tables(report, measured, pictures));
        let _ = write!(text, "{before}<!-- figures of {name} -->\n{new}{END}");
        rest = after;
    }
    Ok(text + rest)
}

fn tables(report: &Report, measured: &Measured, pictures: &str) -> String {
    let mut text = format!("\n{}.", report.circumstances());
    for (subject, arguments) in &measured.settings {
        let _ = write!(text, " *{subject}*: `{arguments}`.");
    }
    text.push('\n');
    for topic in measured.topics() {
        let table = if topic.is_scale() { scale(&topic) } else { list(&topic) };
        let _ = write!(text, "\n**{}**\n\n", capitalised(topic.name));
        if let Some(file) = plot::file(measured.benchmark, topic.name) {
            let _ = write!(text, "![{}]({pictures}/{file})\n\n", topic.name);
        }
        text += &table;
    }
    for note in &measured.notes {
        let _ = write!(text, "\n{note}\n");
    }
    text + "\n"
}

fn list(topic: &Topic<'_>) -> String {
    let mut text =
        "| | median | smallest to largest | ratio | |\n|---|--:|--:|--:|---|\n".to_owned();
    for figure in &topic.figures {
        let _ = writeln!(
            text,
            "| {} | {} | {} | {} | {} |",
            figure.subject,
            figure.unit.text(figure.median()),
            figure.spread_text(),
            figure.ratio_text(),
            figure.baseline
        );
    }
    text
}

/// A column for each place.
fn scale(topic: &Topic<'_>) -> String {
    let places = topic.places();
    let mut text = "| ".to_owned();
    for at in &places {
        let _ = write!(text, "| {} {} ", grouped(at.count), at.of);
    }
    let _ = writeln!(text, "|\n|---{}|", "|--:".repeat(places.len()));
    for subject in topic.subjects() {
        let _ = write!(text, "| {subject} ");
        for place in &places {
            let figure = topic
                .figures
                .iter()
                .find(|figure| figure.subject == subject && figure.at.as_ref() == Some(*place));
            let cell = figure.map_or_else(String::new, |figure| {
                let (median, spread) = (figure.unit.text(figure.median()), figure.spread_text());
                format!("{median} ({spread}), ratio {}", figure.ratio_text())
            });
            let _ = write!(text, "| {cell} ");
        }
        text.push_str("|\n");
    }
    text
}

fn capitalised(text: &str) -> String {
    let mut letters = text.chars();
    letters.next().map_or_else(String::new, |first| {
        first.to_uppercase().collect::<String>() + letters.as_str()
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bench::{Figure, Machine, Unit};

    fn report() -> Report {
        let figure = |subject: &str, value: f64| {
            Figure::new(
                ("CPU time of a packet, net, x", subject),
                Unit::Nanoseconds,
                vec![value],
                (200.0, "of b"),
            )
        };
        let at = |count: f64| {
            Figure::new(("by flows", "c"), Unit::Nanoseconds, vec![count], (200.0, "of b"))
                .at(count, "flows")
        };
        let scaled = vec![at(1.0), at(1024.0)];
        let figures = [vec![figure("a", 100.0), figure("b", 200.0)], scaled].concat();
        let notes = vec!["A note.".to_owned()];
        let settings = vec![("a", "--xdp on".to_owned())];
        let measured = Measured { benchmark: Benchmark::Rate, settings, figures, notes };
        Report::of(Machine::for_tests(), 1, vec![measured])
    }

    #[test]
    fn tables_replace_what_is_between_their_markers() {
        let document = "before\n<!-- figures of rate -->\nold\n<!-- end of figures -->\nafter\n";
        let expected = "before\n<!-- figures of rate -->\n\n\
            Linux 6.18, 2 CPUs (a processor), load 0.5 before the run; 1 round. *a*: `--xdp on`.\n\n\
            **CPU time of a packet, net, x**\n\n\
            ![CPU time of a packet, net, x](pictures/rate-cpu-time-of-a-packet-net-x.svg)\n\n\
            | | median | smallest to largest | ratio | |\n|---|--:|--:|--:|---|\n\
            | a | 100 ns | 100 ns to 100 ns | 0.50 | of b |\n\
            | b | 200 ns | 200 ns to 200 ns | 1.00 | of b |\n\n\
            **By flows**\n\n\
            | | 1 flows | 1,024 flows |\n|---|--:|--:|\n\
            | c | 1 ns (1 ns to 1 ns), ratio 0.01 | 1024 ns (1024 ns to 1024 ns), ratio 5.12 |\n\n\
            A note.\n\n<!-- end of figures -->\nafter\n";
        let renewed = renew(document, &report(), "pictures").unwrap();
        assert_eq!(renewed, expected);
        assert_eq!(renew(&renewed, &report(), "pictures").unwrap(), renewed);
    }

    #[test]
    fn what_was_not_measured_stays() {
        let document = "<!-- figures of bulk -->\nold\n<!-- end of figures -->\n";
        assert_eq!(renew(document, &report(), "pictures").unwrap(), document);
    }

    #[test]
    fn wrong_markers_are_errors() {
        for document in
            ["<!-- figures of rate -->\n", "<!-- figures of x -->\n<!-- end of figures -->"]
        {
            assert!(renew(document, &report(), "pictures").is_err(), "{document}");
        }
    }
}
