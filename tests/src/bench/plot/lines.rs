//! Lines over a scale, which is logarithmic unless it is one of percents, with their names at their ends.

use super::{
    super::{
        report::{At, Figure, Topic},
        unit::grouped,
    },
    svg::{Anchor, Canvas, MARGIN, TO_BASELINE, TOP, WIDTH, width},
};

const HEIGHT: f64 = 240.0;
const LEFT: f64 = 92.0;
/// Between the names of two lines.
const APART: f64 = 16.0;
const COLOURS: usize = 5;

const LEGEND: &str = "flat is better; upright: smallest to largest; × beside the left end";

pub(super) fn draw(topic: &Topic<'_>, caption: &str) -> String {
    let (figures, subjects) = (&topic.figures, topic.subjects());
    let bottom = TOP + HEIGHT;
    let mut canvas = Canvas::new(topic.name, LEGEND, caption, bottom + 78.0);
    let unit = figures.first().map(|figure| figure.unit);
    let ends: Vec<String> = subjects.iter().map(|subject| end_label(figures, subject)).collect();
    let right = WIDTH - MARGIN - ends.iter().map(|text| width(text)).fold(0.0, f64::max) - 14.0;
    let axis = Axis::of(topic, (LEFT, right));
    let highest = figures.iter().map(|figure| figure.spread().1).fold(0.0, f64::max);
    let step = round_step(highest / 4.0);
    let top_value = (highest / step).ceil().max(1.0) * step;
    let y = |value: f64| bottom - value.max(0.0) / top_value * HEIGHT;

    let mut value = 0.0;
    while value <= top_value * 1.001 {
        canvas.line((LEFT, y(value)), (right, y(value)), "grid");
        let text = unit.map_or_else(String::new, |unit| unit.text(value));
        canvas.text((LEFT - 8.0, y(value) + TO_BASELINE), Anchor::End, "dim", &text);
        value += step;
    }
    for count in &axis.places {
        canvas.text((axis.x(*count), bottom + 20.0), Anchor::Middle, "dim", &grouped(*count));
    }
    canvas.text((f64::midpoint(LEFT, right), bottom + 38.0), Anchor::Middle, "dim", axis.of);

    let mut names = Vec::new();
    for (number, subject) in subjects.iter().enumerate() {
        let (line, dot) = (format!("line{}", number % COLOURS), format!("dot{}", number % COLOURS));
        let mut points = Vec::new();
        for figure in figures.iter().filter(|figure| figure.subject == *subject) {
            let Some(At { count, .. }) = figure.at else { continue };
            let (smallest, largest) = figure.spread();
            canvas.line((axis.x(count), y(smallest)), (axis.x(count), y(largest)), "spread");
            points.push((axis.x(count), y(figure.median())));
        }
        canvas.polyline(&points, &line);
        for point in &points {
            canvas.dot(*point, &dot);
        }
        if let Some(end) = points.last() {
            names.push((*end, ends[number].clone(), dot));
        }
    }
    // From the top down, none on another.
    names.sort_by(|(a, ..), (b, ..)| a.1.total_cmp(&b.1));
    let mut free = f64::MIN;
    for ((x, height), text, class) in names {
        let height = (height + TO_BASELINE).max(free);
        canvas.text((x + 10.0, height), Anchor::Start, &class, &text);
        free = height + APART;
    }
    canvas.finish()
}

fn end_label(figures: &[&Figure], subject: &str) -> String {
    let last = figures.iter().rfind(|figure| figure.subject == subject);
    last.map_or_else(String::new, |figure| format!("{subject}, {:.2} ×", figure.ratio))
}

/// The scale.
struct Axis {
    of: &'static str,
    places: Vec<f64>,
    is_logarithmic: bool,
    room: (f64, f64),
}

impl Axis {
    fn of(topic: &Topic<'_>, room: (f64, f64)) -> Self {
        let places = topic.places();
        let of = places.first().map_or("", |at| at.of);
        let mut places: Vec<f64> = places.iter().map(|at| at.count).collect();
        places.sort_by(f64::total_cmp);
        Self { of, places, is_logarithmic: !of.starts_with('%'), room }
    }

    fn x(&self, count: f64) -> f64 {
        let place = |count: f64| if self.is_logarithmic { count.max(1.0).log10() } else { count };
        let first = self.places.first().copied().map_or(0.0, place);
        let last = self.places.last().copied().map_or(0.0, place);
        let share = if last > first { (place(count) - first) / (last - first) } else { 0.0 };
        // The first is not on the edge.
        let (left, right) = (self.room.0 + 24.0, self.room.1);
        left + share * (right - left)
    }
}

/// 1, 2 or 5 times a power of ten, not less than a value.
fn round_step(least: f64) -> f64 {
    if least <= 0.0 {
        return 1.0;
    }
    let power = 10_f64.powf(least.log10().floor());
    [1.0, 2.0, 5.0]
        .into_iter()
        .map(|step| step * power)
        .find(|step| *step >= least)
        .unwrap_or(10.0 * power)
}

#[cfg(test)]
mod tests {
    use super::round_step;

    #[test]
    fn steps_are_round() {
        for (least, step) in [(0.0, 1.0), (3.0, 5.0), (120.0, 200.0), (700.0, 1000.0), (0.02, 0.02)]
        {
            assert!((round_step(least) - step).abs() < 1e-9, "{least}: {}", round_step(least));
        }
    }
}
