//! A chart: lines, dots or bars over two axes, drawn as inline SVG.

use super::axis::Axis;
use super::html::Text;

/// The drawing's size and margins in its own units; the page scales it to the width of the screen, so they are chosen for
/// a phone, where one unit is about one pixel.
const WIDTH: f64 = 400.0;
const HEIGHT: f64 = 240.0;
const LEFT: f64 = 48.0;
const RIGHT: f64 = 10.0;
const TOP: f64 = 24.0;
const BOTTOM: f64 = 36.0;

/// How many colours the style has.
const COLOURS: usize = 6;

/// A drawing with a caption.
#[derive(Debug, Clone)]
pub(super) struct Chart {
    /// What it shows.
    pub(super) title: String,
    /// The axis to the right, and its label.
    pub(super) x: (Axis, &'static str),
    /// The axis upwards, and its label.
    pub(super) y: (Axis, &'static str),
    /// What is drawn, each in a colour of its own.
    pub(super) series: Vec<Series>,
    /// Vertical lines where something happened, with a short text each.
    pub(super) events: Vec<(f64, String)>,
}

/// Points of one colour.
#[derive(Debug, Clone)]
pub(super) struct Series {
    /// Its name in the legend.
    pub(super) name: String,
    /// What the points become.
    pub(super) shape: Shape,
    /// The points.
    pub(super) points: Vec<(f64, f64)>,
    /// More points, drawn as dots.
    pub(super) dots: Vec<(f64, f64)>,
}

/// What the points of a series become.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Shape {
    /// One line through all of them.
    Line,
    /// A bar from the bottom to each.
    Bars,
}

impl Series {
    /// A line through `points`.
    pub(super) fn line(name: impl Into<String>, points: Vec<(f64, f64)>) -> Self {
        Self {
            name: name.into(),
            shape: Shape::Line,
            points,
            dots: Vec::new(),
        }
    }
}

impl Chart {
    /// The figure, caption included.
    pub(super) fn draw(&self) -> String {
        let mut svg = format!(
            "<figure><h3>{title}</h3>\n<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {WIDTH} {HEIGHT}\" \
             role=\"img\" aria-label=\"{title}\">\n",
            title = Text(&self.title)
        );
        svg.push_str(&self.frame());
        for (index, series) in self.series.iter().enumerate() {
            svg.push_str(&self.series(series, index % COLOURS));
        }
        svg.push_str(&self.event_lines());
        svg.push_str(&format!("</svg>\n{}</figure>\n", self.legend()));
        svg
    }

    fn frame(&self) -> String {
        let (bottom, right) = (HEIGHT - BOTTOM, WIDTH - RIGHT);
        let mut svg = String::new();
        for (value, text) in &self.y.0.ticks {
            let y = self.up(*value);
            svg.push_str(&line("grid", (LEFT, y), (right, y)));
            svg.push_str(&label("end", (LEFT - 4.0, y + 3.0), text));
        }
        for (value, text) in &self.x.0.ticks {
            let x = self.across(*value);
            svg.push_str(&line("grid", (x, TOP), (x, bottom)));
            svg.push_str(&label("middle", (x, bottom + 13.0), text));
        }
        svg.push_str(&line("axis", (LEFT, bottom), (right, bottom)));
        svg.push_str(&line("axis", (LEFT, TOP), (LEFT, bottom)));
        svg.push_str(&label("end", (right, HEIGHT - 6.0), self.x.1));
        svg.push_str(&label("start", (4.0, 10.0), self.y.1));
        svg
    }

    fn series(&self, series: &Series, colour: usize) -> String {
        let mut svg = String::new();
        match series.shape {
            Shape::Line => {
                let points: Vec<String> = series
                    .points
                    .iter()
                    .map(|(x, y)| format!("{:.1},{:.1}", self.across(*x), self.up(*y)))
                    .collect();
                svg.push_str(&format!(
                    "<polyline class=\"c{colour}\" points=\"{}\"/>\n",
                    points.join(" ")
                ));
            }
            Shape::Bars => {
                #[expect(clippy::cast_precision_loss, reason = "a count of bars")]
                let width = 0.7 * (WIDTH - LEFT - RIGHT) / (series.points.len() as f64 + 1.0);
                for (x, y) in &series.points {
                    let (left, top) = (self.across(*x) - width / 2.0, self.up(*y));
                    svg.push_str(&format!(
                        "<rect class=\"f{colour}\" x=\"{left:.1}\" y=\"{top:.1}\" width=\"{width:.1}\" height=\"{:.1}\"/>\n",
                        HEIGHT - BOTTOM - top
                    ));
                }
            }
        }
        for (x, y) in &series.dots {
            let (x, y) = (self.across(*x), self.up(*y));
            svg.push_str(&format!(
                "<circle class=\"f{colour}\" cx=\"{x:.1}\" cy=\"{y:.1}\" r=\"2.5\"/>\n"
            ));
        }
        svg
    }

    fn event_lines(&self) -> String {
        let lines = self.events.iter().map(|(at, text)| {
            let x = self.across(*at);
            format!(
                "{}{}",
                line("event", (x, TOP), (x, HEIGHT - BOTTOM)),
                label("middle", (x, TOP - 2.0), text)
            )
        });
        lines.collect()
    }

    /// The names of the series, as text below the drawing, where it can wrap; a single one is named by the title.
    fn legend(&self) -> String {
        if self.series.len() < 2 {
            return String::new();
        }
        let names = self.series.iter().enumerate().map(|(index, series)| {
            format!(
                "<span class=\"k{}\">■</span> {} \n",
                index % COLOURS,
                Text(&series.name)
            )
        });
        format!("<figcaption>{}</figcaption>", names.collect::<String>())
    }

    fn across(&self, x: f64) -> f64 {
        LEFT + self.x.0.place(x) * (WIDTH - LEFT - RIGHT)
    }

    fn up(&self, y: f64) -> f64 {
        HEIGHT - BOTTOM - self.y.0.place(y) * (HEIGHT - BOTTOM - TOP)
    }
}

fn line(class: &str, from: (f64, f64), to: (f64, f64)) -> String {
    format!(
        "<line class=\"{class}\" x1=\"{:.1}\" y1=\"{:.1}\" x2=\"{:.1}\" y2=\"{:.1}\"/>\n",
        from.0, from.1, to.0, to.1
    )
}

fn label(anchor: &str, at: (f64, f64), text: &str) -> String {
    format!(
        "<text x=\"{:.1}\" y=\"{:.1}\" text-anchor=\"{anchor}\">{}</text>\n",
        at.0,
        at.1,
        Text(text)
    )
}
