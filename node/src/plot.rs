//! Plots as SVG and PNG: accuracy over rounds, bytes and time, and how labels are divided among parts.

use std::path::{Path, PathBuf};
use std::sync::Once;

use anyhow::{Context, anyhow};
use plotters::coord::Shift;
use plotters::prelude::*;

/// Pixels, across and down.
const SIZE: (u32, u32) = (800, 500);

/// Pixels down of one of several drawings.
const PANEL_HEIGHT: u32 = 300;

/// Classes that a legend names at most.
const CLASSES_NAMED: usize = 20;

/// Labels of an axis at most.
const LABELS_MAX: usize = 11;

/// The share of a curve's height that is left free above and below.
const ROOM: f64 = 0.05;

/// Points of a curve that are still told apart.
const POINTS_MAX: usize = 60;

/// The family that every text is set in.
const FONT: &str = "sans-serif";

/// Colours that people with any colour vision can tell apart (Okabe and Ito 2008), the darker ones first.
const COLOURS: [RGBColor; 8] = [
    RGBColor(0, 114, 178),
    RGBColor(213, 94, 0),
    RGBColor(0, 158, 115),
    RGBColor(204, 121, 167),
    RGBColor(230, 159, 0),
    RGBColor(86, 180, 233),
    RGBColor(0, 0, 0),
    RGBColor(240, 228, 66),
];

/// A named curve.
#[derive(Debug, Clone, PartialEq)]
pub struct Curve {
    /// As the legend calls it.
    pub name: String,
    /// Its points, from left to right.
    pub points: Vec<(f64, f64)>,
}

/// From where to where.
type Reach = std::ops::Range<f64>;

/// Curves over common axes.
#[derive(Debug, Clone, PartialEq)]
pub struct Curves {
    /// What stands above.
    pub title: String,
    /// What the horizontal axis counts, with its unit.
    pub x: String,
    /// What the vertical axis counts, with its unit.
    pub y: String,
    /// The curves.
    pub curves: Vec<Curve>,
}

impl Curves {
    /// Writes `path` with the endings `.svg` and `.png`.
    ///
    /// # Errors
    /// A file can't be written.
    pub fn write(&self, path: &Path) -> anyhow::Result<Vec<PathBuf>> {
        write(path, SIZE.1, &Drawing::Curves(std::slice::from_ref(self)))
    }

    /// How far the points reach, across and up.
    fn reach(&self) -> (Reach, Reach) {
        let points = || self.curves.iter().flat_map(|curve| &curve.points).copied();
        let reach = |values: &mut dyn Iterator<Item = f64>| {
            let (low, high) = values.fold((f64::MAX, f64::MIN), |(low, high), v| (low.min(v), high.max(v)));
            match () {
                () if low < high => low..high,
                () if low == high => low.min(0.0)..low.max(0.0) + 1.0,
                // There are none.
                () => 0.0..1.0,
            }
        };
        (reach(&mut points().map(|p| p.0)), reach(&mut points().map(|p| p.1)))
    }
}

/// Writes `path` with the endings `.svg` and `.png`: several drawings below each other, each with axes of its own.
///
/// # Errors
/// A file can't be written.
pub fn write_below_each_other(path: &Path, all: &[Curves]) -> anyhow::Result<Vec<PathBuf>> {
    let height = if all.len() > 1 { PANEL_HEIGHT * all.len() as u32 } else { SIZE.1 };
    write(path, height, &Drawing::Curves(all))
}

/// How many examples of each class each part has.
#[derive(Debug, Clone, PartialEq)]
pub struct Shares {
    /// What stands above.
    pub title: String,
    /// What the classes are called.
    pub classes: Vec<String>,
    /// For each part the examples of each class.
    pub counts: Vec<Vec<u64>>,
}

impl Shares {
    /// Writes `path` with the endings `.svg` and `.png`: a bar a part, a colour a class.
    ///
    /// # Errors
    /// A file can't be written.
    pub fn write(&self, path: &Path) -> anyhow::Result<Vec<PathBuf>> {
        write(path, SIZE.1, &Drawing::Shares(self))
    }
}

/// What is drawn, on whatever it is drawn.
enum Drawing<'a> {
    /// Below each other.
    Curves(&'a [Curves]),
    Shares(&'a Shares),
}

fn write(path: &Path, height: u32, drawing: &Drawing<'_>) -> anyhow::Result<Vec<PathBuf>> {
    register_font()?;
    // Who says `curves.png` means that, and gets the other beside it.
    let is_ending =
        path.extension().is_some_and(|ending| ["svg", "png"].iter().any(|e| ending.eq_ignore_ascii_case(e)));
    let base = if is_ending { path.with_extension("") } else { path.to_owned() };
    let with_ending = |ending: &str| {
        let mut name = base.file_name().unwrap_or_default().to_owned();
        name.push(ending);
        path.with_file_name(name)
    };
    let (svg, png) = (with_ending(".svg"), with_ending(".png"));
    let failed = |file: &Path| format!("{} can't be written", file.display());
    let size = (SIZE.0, height);
    let mut text = String::new();
    draw(SVGBackend::with_string(&mut text, size).into_drawing_area(), drawing)?;
    std::fs::write(&svg, text).with_context(|| failed(&svg))?;
    let mut pixels = vec![0; 3 * (size.0 * size.1) as usize];
    draw(BitMapBackend::with_buffer(&mut pixels, size).into_drawing_area(), drawing)?;
    image::save_buffer(&png, &pixels, size.0, size.1, image::ExtendedColorType::Rgb8).with_context(|| failed(&png))?;
    Ok(vec![svg, png])
}

/// plotters measures text by a font that it is given.
fn register_font() -> anyhow::Result<()> {
    static FONT_IS_THERE: Once = Once::new();
    let mut result = Ok(());
    FONT_IS_THERE.call_once(|| {
        let bytes = epaint_default_fonts::UBUNTU_LIGHT;
        result =
            plotters::style::register_font(FONT, FontStyle::Normal, bytes).map_err(|_| anyhow!("the font is damaged"));
    });
    result
}

fn draw<B: DrawingBackend>(area: DrawingArea<B, Shift>, drawing: &Drawing<'_>) -> anyhow::Result<()> {
    let drawn = match drawing {
        Drawing::Curves(all) => {
            let areas = area.split_evenly((all.len().max(1), 1));
            areas.iter().zip(*all).try_for_each(|(area, curves)| draw_curves(area, curves))
        }
        Drawing::Shares(shares) => draw_shares(&area, shares),
    };
    drawn.and_then(|()| area.present()).map_err(|error| anyhow!("the plot can't be drawn: {error}"))
}

type Drawn<B> = Result<(), DrawingAreaErrorKind<<B as DrawingBackend>::ErrorType>>;

fn draw_curves<B: DrawingBackend>(area: &DrawingArea<B, Shift>, plot: &Curves) -> Drawn<B> {
    let (xs, ys) = plot.reach();
    area.fill(&WHITE)?;
    // Rounds are counted: there is none between two.
    let is_whole = |x: f64| x.fract() == 0.0;
    let counts = is_whole(xs.start) && is_whole(xs.end);
    let labels =
        if counts { ((xs.end - xs.start) as usize).saturating_add(1).clamp(2, LABELS_MAX) } else { LABELS_MAX };
    let room = (ys.end - ys.start) * ROOM;
    let ys = ys.start - room..ys.end + room;
    let mut chart = ChartBuilder::on(area)
        .caption(&plot.title, (FONT, 20))
        .margin(12)
        .x_label_area_size(44)
        .y_label_area_size(56)
        .build_cartesian_2d(xs, ys)?;
    chart
        .configure_mesh()
        .x_desc(&plot.x)
        .y_desc(&plot.y)
        .x_labels(labels)
        .x_label_formatter(&|x| if counts { format!("{x:.0}") } else { format!("{x:.2}") })
        .label_style((FONT, 15))
        .light_line_style(TRANSPARENT)
        .bold_line_style(BLACK.mix(0.12))
        .draw()?;
    for (curve, colour) in plot.curves.iter().zip(COLOURS.iter().cycle()) {
        let series = LineSeries::new(curve.points.iter().copied(), colour.stroke_width(2));
        let key = move |(x, y)| PathElement::new(vec![(x, y), (x + 18, y)], colour.stroke_width(3));
        chart.draw_series(series)?.label(&curve.name).legend(key);
        if curve.points.len() <= POINTS_MAX {
            chart.draw_series(curve.points.iter().map(|point| Circle::new(*point, 3, colour.filled())))?;
        }
    }
    if plot.curves.len() > 1 {
        let legend = &mut chart.configure_series_labels();
        legend.position(SeriesLabelPosition::LowerRight).label_font((FONT, 15));
        legend.background_style(WHITE.mix(0.85)).border_style(BLACK.mix(0.3)).draw()?;
    }
    Ok(())
}

fn draw_shares<B: DrawingBackend>(area: &DrawingArea<B, Shift>, plot: &Shares) -> Drawn<B> {
    area.fill(&WHITE)?;
    let largest = plot.counts.iter().map(|classes| classes.iter().sum::<u64>()).max().unwrap_or(0).max(1);
    let parts = plot.counts.len().max(1);
    let mut chart = ChartBuilder::on(area)
        .caption(&plot.title, (FONT, 20))
        .margin(12)
        .x_label_area_size(44)
        .y_label_area_size(64)
        .build_cartesian_2d(0.5..parts as f64 + 0.5, 0.0..largest as f64)?;
    chart
        .configure_mesh()
        .x_desc("part")
        .y_desc("training examples")
        .x_labels(parts.min(20))
        .x_label_formatter(&|x| format!("{x:.0}"))
        .label_style((FONT, 15))
        .disable_x_mesh()
        .light_line_style(TRANSPARENT)
        .draw()?;
    // Beyond the palette the same colours come again, lighter.
    let colour_of = |class: usize| COLOURS[class % COLOURS.len()].mix(1.0 / (1 + class / COLOURS.len()) as f64);
    for (class, name) in plot.classes.iter().enumerate().take(CLASSES_NAMED) {
        let colour = colour_of(class);
        let key = move |(x, y)| Rectangle::new([(x, y - 5), (x + 12, y + 5)], colour.filled());
        // Of no size: it is there for its name.
        chart.draw_series(std::iter::empty::<Rectangle<(f64, f64)>>())?.label(name).legend(key);
    }
    for (part, classes) in plot.counts.iter().enumerate() {
        let (left, mut below) = (part as f64 + 0.6, 0u64);
        for (class, count) in classes.iter().enumerate() {
            let corners = [(left, below as f64), (left + 0.8, (below + count) as f64)];
            chart.draw_series([Rectangle::new(corners, colour_of(class).filled())])?;
            below += count;
        }
    }
    if !plot.classes.is_empty() {
        let legend = &mut chart.configure_series_labels();
        legend.position(SeriesLabelPosition::UpperRight).label_font((FONT, 15)).margin(8);
        legend.background_style(WHITE.mix(0.85)).border_style(BLACK.mix(0.3)).draw()?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn curves_are_drawn_whatever_their_points_are() {
        let dir = tempfile::tempdir().expect("a temporary folder");
        for (i, points) in [vec![], vec![(1.0, 0.5)], vec![(1.0, 0.5), (2.0, 0.75)]].into_iter().enumerate() {
            let curves = Curves {
                title: "a title".into(),
                x: "rounds".into(),
                y: "accuracy".into(),
                curves: vec![
                    Curve { name: "one".into(), points: points.clone() },
                    Curve { name: "two".into(), points },
                ],
            };
            let files = curves.write(&dir.path().join(format!("plot.{i}"))).expect("it is drawn");
            assert!(std::fs::read_to_string(&files[0]).expect("SVG is text").contains("a title"));
            let image = image::open(&files[1]).expect("it is a PNG").to_rgb8();
            assert!(image.dimensions() == SIZE && image.pixels().any(|p| p.0 != [255; 3]));
        }
    }

    #[test]
    fn a_plot_that_is_called_by_an_ending_has_it_once() {
        let dir = tempfile::tempdir().expect("a temporary folder");
        let shares = Shares { title: String::new(), classes: Vec::new(), counts: Vec::new() };
        let files = shares.write(&dir.path().join("labels.png")).expect("it is drawn");
        assert_eq!(files, [dir.path().join("labels.svg"), dir.path().join("labels.png")]);
    }

    #[test]
    fn shares_are_drawn_with_any_number_of_parts_and_classes() {
        let dir = tempfile::tempdir().expect("a temporary folder");
        for counts in [vec![], vec![vec![0; 3]], vec![vec![5; 20]; 100]] {
            let classes = (0..counts.first().map_or(0, Vec::len)).map(|class| class.to_string()).collect();
            let shares = Shares { title: "labels".into(), classes, counts };
            assert_eq!(shares.write(&dir.path().join("shares")).expect("it is drawn").len(), 2);
        }
    }
}
