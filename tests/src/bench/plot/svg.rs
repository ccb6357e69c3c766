//! The elements of a picture, as text of SVG 1.1.

use std::fmt::Write as _;

/// Width of every picture, in pixels.
pub(super) const WIDTH: f64 = 820.0;
/// On the left and on the right of everything.
pub(super) const MARGIN: f64 = 18.0;
/// Where the drawing begins, below the title and the legend.
pub(super) const TOP: f64 = 70.0;
/// From a text's middle to its baseline.
pub(super) const TO_BASELINE: f64 = 4.5;
/// Colours that people with any colour vision tell apart (Okabe and Ito), on white and on dark pages.
const STYLE: &str = "\
text{font:13px system-ui,-apple-system,'Segoe UI',Helvetica,Arial,sans-serif;fill:#1f2328}
.title{font-size:16px;font-weight:600}.dim{fill:#59636e;font-size:12px}.page{fill:#fff}
.grid{stroke:#d1d9e0;stroke-width:1}.spread{stroke:#1f2328;stroke-width:1.5}
.mark{stroke:#b03a00;stroke-width:1.5;stroke-dasharray:4 3}
.ours{fill:#0072b2}.base{fill:#d55e00}.peer{fill:#8c959f}
polyline{fill:none;stroke-width:2.5;stroke-linejoin:round}
.line0{stroke:#0072b2}.line1{stroke:#d55e00}.line2{stroke:#009e73}.line3{stroke:#8c6bb1}.line4{stroke:#8c959f}
.dot0{fill:#0072b2}.dot1{fill:#d55e00}.dot2{fill:#009e73}.dot3{fill:#8c6bb1}.dot4{fill:#8c959f}
@media (prefers-color-scheme:dark){text{fill:#e6edf3}.dim{fill:#9198a1}.page{fill:#0d1117}
.grid{stroke:#30363d}.spread{stroke:#e6edf3}.mark{stroke:#ff9a57}.ours{fill:#3fa2db}.base{fill:#e8722a}
.line0{stroke:#3fa2db}.line1{stroke:#e8722a}.line2{stroke:#2fc49a}.line3{stroke:#b59ad6}
.dot0{fill:#3fa2db}.dot1{fill:#e8722a}.dot2{fill:#2fc49a}.dot3{fill:#b59ad6}}
";

/// Where a text begins, as in `text-anchor`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Anchor {
    Start,
    Middle,
    End,
}

/// A picture to be drawn on, from the upper left corner.
pub(super) struct Canvas {
    title: String,
    height: f64,
    elements: String,
}

impl Canvas {
    /// With a title, a legend below it, and a caption at the bottom.
    pub fn new(title: &str, legend: &str, caption: &str, height: f64) -> Self {
        let mut canvas = Self { title: escaped(title), height, elements: String::new() };
        canvas.text((MARGIN, 28.0), Anchor::Start, "title", title);
        canvas.text((MARGIN, 48.0), Anchor::Start, "dim", legend);
        canvas.text((MARGIN, height - 16.0), Anchor::Start, "dim", caption);
        canvas
    }

    pub fn text(&mut self, (x, y): (f64, f64), anchor: Anchor, class: &str, text: &str) {
        let anchor = match anchor {
            Anchor::Start => "start",
            Anchor::Middle => "middle",
            Anchor::End => "end",
        };
        let class = if class.is_empty() { String::new() } else { format!(" class=\"{class}\"") };
        let _ = writeln!(
            self.elements,
            "<text x=\"{x:.1}\" y=\"{y:.1}\" text-anchor=\"{anchor}\"{class}>{}</text>",
            escaped(text)
        );
    }

    pub fn line(&mut self, from: (f64, f64), to: (f64, f64), class: &str) {
        let ((x1, y1), (x2, y2)) = (from, to);
        let _ = writeln!(
            self.elements,
            "<line x1=\"{x1:.1}\" y1=\"{y1:.1}\" x2=\"{x2:.1}\" y2=\"{y2:.1}\" class=\"{class}\"/>"
        );
    }

    pub fn bar(&mut self, (x, y): (f64, f64), (width, height): (f64, f64), class: &str) {
        let _ = writeln!(
            self.elements,
            "<rect x=\"{x:.1}\" y=\"{y:.1}\" width=\"{width:.1}\" height=\"{height:.1}\" rx=\"2\" \
             class=\"bar {class}\"/>"
        );
    }

    pub fn dot(&mut self, (x, y): (f64, f64), class: &str) {
        let _ = writeln!(
            self.elements,
            "<circle cx=\"{x:.1}\" cy=\"{y:.1}\" r=\"4\" class=\"{class}\"/>"
        );
    }

    pub fn polyline(&mut self, points: &[(f64, f64)], class: &str) {
        let points: Vec<String> = points.iter().map(|(x, y)| format!("{x:.1},{y:.1}")).collect();
        let _ = writeln!(
            self.elements,
            "<polyline points=\"{}\" class=\"{class}\"/>",
            points.join(" ")
        );
    }

    pub fn finish(self) -> String {
        let Self { title, height, elements } = self;
        format!(
            "<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"{WIDTH:.0}\" height=\"{height:.0}\" \
             viewBox=\"0 0 {WIDTH:.0} {height:.0}\" role=\"img\">\n<title>{title}</title>\n<style>\n{STYLE}</style>\n\
             <rect class=\"page\" width=\"100%\" height=\"100%\" rx=\"6\"/>\n{elements}</svg>\n"
        )
    }
}

/// About how wide a text is.
#[expect(clippy::cast_precision_loss, reason = "a line of text")]
pub(super) fn width(text: &str) -> f64 {
    text.chars().count() as f64 * 6.7
}

fn escaped(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;").replace('"', "&quot;")
}
