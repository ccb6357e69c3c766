//! Bars, each with its value, its ratio and its spread, and the baseline marked.

use super::{
    super::report::{Figure, Topic},
    svg::{Anchor, Canvas, MARGIN, TO_BASELINE, TOP, WIDTH, width},
};

const BOTTOM: f64 = 34.0;
const ROW: f64 = 28.0;
const THICKNESS: f64 = 18.0;
/// For the value and the ratio behind a bar.
const VALUES: f64 = 190.0;

pub(super) fn draw(topic: &Topic<'_>, caption: &str) -> String {
    let figures = &topic.figures;
    let height = figures.iter().map(|_| ROW).sum::<f64>();
    let better =
        if figures.iter().any(|figure| figure.unit.larger_is_better()) { "more" } else { "less" };
    let legend = format!(
        "{better} is better; dashed: what it is compared with; thin line: smallest to largest"
    );
    let mut canvas = Canvas::new(topic.name, &legend, caption, TOP + height + BOTTOM);
    let labels = figures.iter().map(|figure| width(&figure.name())).fold(0.0, f64::max);
    let left = MARGIN + labels + 10.0;
    let longest = figures
        .iter()
        .flat_map(|figure| [figure.spread().1, figure.reference()])
        .fold(0.0, f64::max);
    let scale = (WIDTH - MARGIN - VALUES - left) / longest.max(f64::MIN_POSITIVE);

    let mut top = TOP;
    for figure in figures {
        let (middle, baseline) = (top + THICKNESS / 2.0, top + THICKNESS / 2.0 + TO_BASELINE);
        let length = (figure.median() * scale).max(0.0);
        canvas.text((left - 10.0, baseline), Anchor::End, "", &figure.name());
        canvas.bar((left, top), (length, THICKNESS), class(figure));
        let (smallest, largest) = figure.spread();
        let (smallest, largest) = (smallest.max(0.0) * scale, largest.max(0.0) * scale);
        if largest - smallest > 1.0 {
            canvas.line((left + smallest, middle), (left + largest, middle), "spread");
        }
        if !is_baseline(figure) {
            let mark = left + figure.reference() * scale;
            canvas.line((mark, top - 4.0), (mark, top + ROW - 6.0), "mark");
        }
        let end = left + length.max(largest).max(figure.reference() * scale);
        let text = format!("{}   {:.2} ×", figure.unit.text(figure.median()), figure.ratio);
        canvas.text((end + 8.0, baseline), Anchor::Start, "", &text);
        top += ROW;
    }
    canvas.finish()
}

fn is_baseline(figure: &Figure) -> bool {
    (figure.ratio - 1.0).abs() < 1e-9
}

fn class(figure: &Figure) -> &'static str {
    if is_baseline(figure) {
        "base"
    } else if figure.subject.starts_with("vnet") || figure.baseline.starts_with("of the minimum") {
        "ours"
    } else {
        "peer"
    }
}
