//! The picture of a demo: throughput and longest latency per second, with the stages behind them.

use std::path::Path;

use anyhow::{Result, anyhow};
use mvedsua_tests::load::Interval;
use plotters::coord::types::RangedCoordf64;
use plotters::prelude::*;

const SIZE: (u32, u32) = (1200, 720);
const INK: RGBColor = RGBColor(40, 44, 52);
const GRID: RGBColor = RGBColor(225, 228, 232);
const THROUGHPUT: RGBColor = RGBColor(31, 101, 172);
const LATENCY: RGBColor = RGBColor(178, 58, 38);
const ERRORS: RGBColor = RGBColor(200, 0, 0);

/// A stretch of time in one stage.
#[derive(Clone, Debug, PartialEq)]
pub struct Band {
    /// Seconds from the start of the load.
    pub from: f64,
    /// Seconds from the start of the load.
    pub to: f64,
    /// Name of the stage.
    pub stage: String,
}

/// A moment worth a line.
#[derive(Clone, Debug, PartialEq)]
pub struct Moment {
    /// Seconds from the start of the load.
    pub at: f64,
    /// A short name, for example `t1`.
    pub name: String,
}

/// What is to be drawn.
pub struct Chart<'a> {
    /// The title.
    pub title: String,
    /// One per second.
    pub intervals: &'a [Interval],
    /// The stages.
    pub bands: &'a [Band],
    /// The marked moments.
    pub moments: &'a [Moment],
}

impl Chart<'_> {
    /// Writes the chart as SVG.
    ///
    /// # Errors
    /// When there is nothing to draw or the file cannot be written.
    pub fn write(&self, file: &Path) -> Result<()> {
        if self.intervals.is_empty() {
            return Err(anyhow!("no second was recorded"));
        }
        let root = SVGBackend::new(file, SIZE).into_drawing_area();
        self.draw(&root)
            .map_err(|error| anyhow!("drawing {}: {error}", file.display()))?;
        Ok(())
    }

    fn draw(&self, root: &DrawingArea<SVGBackend<'_>, plotters::coord::Shift>) -> Result<()> {
        root.fill(&WHITE)?;
        root.draw(&Text::new(self.title.clone(), (84, 18), font(22)))?;
        self.legend(root)?;
        let (upper, lower) = root.margin(80, 8, 14, 18).split_vertically(330);
        let seconds = self.intervals.len() as f64;

        let most = self
            .intervals
            .iter()
            .map(|i| i.requests)
            .max()
            .unwrap_or(1)
            .max(1) as f64;
        let mut throughput = ChartBuilder::on(&upper)
            .x_label_area_size(8)
            .y_label_area_size(70)
            .margin_top(16)
            .build_cartesian_2d(0.0..seconds, 0.0..most * 1.15)?;
        throughput.draw_series(self.rectangles(0.0, most * 1.15))?;
        throughput
            .configure_mesh()
            .disable_x_mesh()
            .x_labels(0)
            .y_labels(6)
            .y_desc("requests per second")
            .y_label_formatter(&|value| thousands(*value))
            .label_style(font(14))
            .axis_desc_style(font(15))
            .bold_line_style(GRID)
            .light_line_style(TRANSPARENT)
            .axis_style(INK)
            .draw()?;
        self.marks(&mut throughput, most * 1.15, most * 1.15)?;
        let line = steps(self.intervals.iter().map(|i| i.requests as f64));
        throughput.draw_series(LineSeries::new(line, THROUGHPUT.stroke_width(2)))?;
        let bad = self
            .intervals
            .iter()
            .enumerate()
            .filter(|(_, i)| i.errors > 0);
        throughput.draw_series(bad.map(|(second, i)| {
            Circle::new((second as f64 + 0.5, i.requests as f64), 5, ERRORS.filled())
        }))?;

        let longest = self
            .intervals
            .iter()
            .map(|i| i.longest_us)
            .max()
            .unwrap_or(1)
            .max(1_000) as f64
            / 1000.0;
        let top = longest * 2.0;
        let mut latency = ChartBuilder::on(&lower)
            .x_label_area_size(44)
            .y_label_area_size(70)
            .margin_top(6)
            .build_cartesian_2d(0.0..seconds, (0.1..top).log_scale())?;
        latency.draw_series(self.rectangles(0.1, top))?;
        latency
            .configure_mesh()
            .disable_x_mesh()
            .x_labels(15)
            .y_labels(6)
            .x_desc("seconds since the start of the load")
            .y_desc("longest latency, ms")
            .x_label_formatter(&|value| format!("{value:.0}"))
            .y_label_formatter(&|value| milliseconds(*value))
            .label_style(font(14))
            .axis_desc_style(font(15))
            .bold_line_style(GRID)
            .light_line_style(TRANSPARENT)
            .axis_style(INK)
            .draw()?;
        for moment in self.moments {
            latency.draw_series(LineSeries::new(
                [(moment.at, 0.1), (moment.at, top)],
                INK.mix(0.45),
            ))?;
        }
        let line = steps(
            self.intervals
                .iter()
                .map(|i| (i.longest_us as f64 / 1000.0).max(0.1)),
        );
        latency.draw_series(LineSeries::new(line, LATENCY.stroke_width(2)))?;
        root.present()?;
        Ok(())
    }

    fn rectangles(&self, bottom: f64, top: f64) -> Vec<Rectangle<(f64, f64)>> {
        let end = self.intervals.len() as f64;
        self.bands
            .iter()
            .map(|band| {
                let corners = [(band.from.max(0.0), bottom), (band.to.min(end), top)];
                Rectangle::new(corners, colour(&band.stage).filled())
            })
            .collect()
    }

    /// The lines of the moments, with their names above; a name moves right when the one before is
    /// too close.
    fn marks(
        &self,
        chart: &mut ChartContext<'_, SVGBackend<'_>, Cartesian2d<RangedCoordf64, RangedCoordf64>>,
        top: f64,
        line_top: f64,
    ) -> Result<()> {
        let room = self.intervals.len() as f64 * 0.02;
        let mut free_from = f64::MIN;
        for moment in self.moments {
            chart.draw_series(LineSeries::new(
                [(moment.at, 0.0), (moment.at, line_top)],
                INK.mix(0.45),
            ))?;
            let at = moment.at.max(free_from);
            free_from = at + room * moment.name.chars().count().div_ceil(2) as f64;
            let place =
                EmptyElement::at((at, top)) + Text::new(moment.name.clone(), (-6, -16), font(14));
            chart.draw_series([place])?;
        }
        Ok(())
    }

    fn legend(&self, root: &DrawingArea<SVGBackend<'_>, plotters::coord::Shift>) -> Result<()> {
        let mut x = 84;
        let mut seen: Vec<&str> = Vec::new();
        for band in self.bands {
            if seen.contains(&band.stage.as_str()) {
                continue;
            }
            seen.push(&band.stage);
            root.draw(&Rectangle::new(
                [(x, 52), (x + 16, 66)],
                colour(&band.stage).filled(),
            ))?;
            root.draw(&Rectangle::new([(x, 52), (x + 16, 66)], INK.mix(0.4)))?;
            root.draw(&Text::new(band.stage.clone(), (x + 23, 52), font(15)))?;
            x += 48 + i32::try_from(band.stage.len()).unwrap_or(0) * 8;
        }
        Ok(())
    }
}

fn font(size: i32) -> TextStyle<'static> {
    ("sans-serif", size).into_font().color(&INK)
}

/// A light colour per stage; the same in every chart.
fn colour(stage: &str) -> RGBColor {
    match stage {
        "native" => RGBColor(255, 255, 255),
        "single-leader" => RGBColor(236, 244, 236),
        "updating" => RGBColor(255, 226, 160),
        "outdated-leader" => RGBColor(255, 245, 214),
        "promoting" => RGBColor(214, 160, 255),
        "updated-leader" => RGBColor(222, 236, 252),
        _ => RGBColor(240, 240, 240),
    }
}

/// A value per second as a line of steps.
fn steps(values: impl Iterator<Item = f64>) -> Vec<(f64, f64)> {
    values
        .enumerate()
        .flat_map(|(at, value)| [(at as f64, value), (at as f64 + 1.0, value)])
        .collect()
}

fn thousands(value: f64) -> String {
    match value {
        v if v >= 1000.0 && v % 1000.0 == 0.0 => format!("{:.0} k", v / 1000.0),
        v if v >= 1000.0 => format!("{:.1} k", v / 1000.0),
        v => format!("{v:.0}"),
    }
}

fn milliseconds(value: f64) -> String {
    if value < 1.0 {
        format!("{value:.1}")
    } else {
        format!("{value:.0}")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_file_names_stages_and_moments() {
        let dir = tempfile::tempdir().expect("temporary folder");
        let file = dir.path().join("chart.svg");
        let intervals = [Interval {
            requests: 1000,
            errors: 0,
            longest_us: 900,
        }; 10];
        let band = |from, to, stage: &str| Band {
            from,
            to,
            stage: stage.into(),
        };
        let chart = Chart {
            title: "A title".into(),
            intervals: &intervals,
            bands: &[band(0.0, 4.0, "single-leader"), band(4.0, 10.0, "updating")],
            moments: &[Moment {
                at: 4.0,
                name: "t1".into(),
            }],
        };
        chart.write(&file).expect("written");
        let text = std::fs::read_to_string(&file).expect("read back");
        for word in [
            "A title",
            "single-leader",
            "updating",
            "t1",
            "requests per second",
            "longest latency",
        ] {
            assert!(text.contains(word), "{word}");
        }
        let empty = Chart {
            title: String::new(),
            intervals: &[],
            bands: &[],
            moments: &[],
        };
        assert!(empty.write(&file).is_err());
    }

    #[test]
    fn numbers_on_the_axes_are_short() {
        assert_eq!(thousands(12_000.0), "12 k");
        assert_eq!(thousands(1_500.0), "1.5 k");
        assert_eq!(thousands(500.0), "500");
        assert_eq!(milliseconds(0.1), "0.1");
        assert_eq!(milliseconds(100.0), "100");
    }
}
