//! Charts as one SVG file: throughput above, p99 below. Of a growth by nodes on the left and by records on the right; of a
//! ring that changes, by time, with the changes as bars.

use std::path::Path;

use plotters::coord::Shift;
use plotters::prelude::*;

use super::grow::{Axis, Growth, Point};
use super::resize::{Measured, Resizing};
use crate::Result;

const SIZE: (u32, u32) = (1_200, 800);
const FONT: (&str, u32) = ("sans-serif", 16);

/// A quantity of what was measured, and what it is called.
type Quantity<P> = (&'static str, fn(&P) -> f64);

/// Writes the charts.
///
/// # Errors
///
/// If the file can't be written.
pub(crate) fn write_svg(path: &Path, growth: &Growth) -> Result<()> {
    let root = SVGBackend::new(path, SIZE).into_drawing_area();
    root.fill(&WHITE)?;
    let quantities: [Quantity<Point>; 2] = [
        ("operations a second", |point| {
            point.spread(|run| run.per_second).median
        }),
        ("p99, microseconds", |point| {
            point.spread(|run| run.p99_us).median
        }),
    ];
    let axes = [(Axis::Nodes, "nodes"), (Axis::Records, "records")];
    let charts = quantities
        .iter()
        .flat_map(|quantity| axes.iter().map(move |axis| (quantity, axis)));
    for (area, (quantity, axis)) in root.split_evenly((2, 2)).iter().zip(charts) {
        chart(area, growth, *axis, *quantity)?;
    }
    root.present()?;
    Ok(())
}

fn chart(
    area: &DrawingArea<SVGBackend<'_>, Shift>,
    growth: &Growth,
    (axis, axis_name): (Axis, &str),
    (quantity_name, quantity): Quantity<Point>,
) -> Result<()> {
    let lines = [("put", BLUE), ("get", RED)].map(|(work, color)| {
        let points = growth.line(axis, work);
        let points: Vec<(f64, f64)> = points
            .map(|point| (point.size as f64, quantity(point)))
            .collect();
        (work, color, points)
    });
    let all = || lines.iter().flat_map(|(_, _, points)| points);
    if all().next().is_none() {
        return Ok(());
    }
    let bounds = |pick: fn(&(f64, f64)) -> f64| {
        let low = all().map(pick).fold(f64::INFINITY, f64::min);
        let high = all().map(pick).fold(0.0, f64::max);
        // A logarithmic axis needs room, and a bottom above zero.
        low.max(1e-3) * 0.8..high.max(1e-3) * 1.25
    };
    let mut chart = ChartBuilder::on(area)
        .margin(16)
        .caption(format!("{quantity_name} by {axis_name}"), FONT)
        .x_label_area_size(36)
        .y_label_area_size(96)
        .build_cartesian_2d(
            bounds(|point| point.0).log_scale(),
            bounds(|point| point.1).log_scale(),
        )?;
    chart
        .configure_mesh()
        .x_desc(axis_name)
        .x_label_formatter(&|value| format!("{value:.0}"))
        .y_label_formatter(&|value| format!("{value:.0}"))
        .draw()?;
    for (work, color, points) in &lines {
        let line = LineSeries::new(points.iter().copied(), color.stroke_width(2)).point_size(3);
        chart
            .draw_series(line)?
            .label(*work)
            .legend(move |(x, y)| PathElement::new([(x, y), (x + 16, y)], color.stroke_width(2)));
    }
    chart
        .configure_series_labels()
        .border_style(BLACK)
        .background_style(WHITE)
        .draw()?;
    Ok(())
}

/// Writes the course of the first round: a line with the limit on the rate, one without.
///
/// # Errors
///
/// If the file can't be written.
pub(crate) fn write_resize_svg(path: &Path, resizing: &Resizing) -> Result<()> {
    let root = SVGBackend::new(path, SIZE).into_drawing_area();
    root.fill(&WHITE)?;
    let quantities: [Quantity<Measured>; 2] = [
        ("operations a second", |measured| measured.per_second),
        ("p99, microseconds", |measured| measured.p99_us),
    ];
    let runs: Vec<_> = resizing.runs.iter().filter(|run| run.round == 0).collect();
    let areas = root.split_evenly((quantities.len(), runs.len().max(1)));
    let charts = quantities
        .iter()
        .flat_map(|quantity| runs.iter().map(move |run| (quantity, run)));
    for (area, ((name, quantity), run)) in areas.iter().zip(charts) {
        let seconds = |micros: u32| f64::from(micros) / 1e6;
        let points = run.slices.iter();
        let points: Vec<(f64, f64)> = points
            .map(|slice| (seconds(slice.at_us), quantity(&slice.measured)))
            .collect();
        let end = points.last().map_or(1.0, |point| point.0);
        let top = points.iter().map(|point| point.1).fold(1.0, f64::max) * 1.1;
        let limit = run.limit_mib;
        let limit = limit.map_or("no limit".to_owned(), |limit| format!("{limit} MiB/s"));
        let mut chart = ChartBuilder::on(area)
            .margin(16)
            .caption(format!("{name}, {limit}"), FONT)
            .x_label_area_size(36)
            .y_label_area_size(96)
            .build_cartesian_2d(0.0..end, 0.0..top)?;
        chart.draw_series(run.changes.iter().map(|change| {
            let (from, to) = (change.course.begun_us, change.course.ended_us);
            Rectangle::new(
                [(seconds(from), 0.0), (seconds(to), top)],
                BLUE.mix(0.15).filled(),
            )
        }))?;
        chart
            .configure_mesh()
            .x_desc("seconds")
            .y_label_formatter(&|value| format!("{value:.0}"))
            .draw()?;
        chart.draw_series(LineSeries::new(points, RED.stroke_width(2)))?;
    }
    root.present()?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::report::Summary;
    use std::time::Duration;

    #[test]
    fn a_chart_has_a_line_for_each_work_on_each_axis() {
        let point = |axis, size, work: &str| Point {
            axis,
            size,
            work: work.to_owned(),
            runs: vec![Summary::of_load(size * 100, Duration::from_millis(size))],
        };
        let mut points = Vec::new();
        for work in ["put", "get"] {
            points.extend([1, 2, 4].map(|size| point(Axis::Nodes, size, work)));
            points.extend([1_000, 10_000].map(|size| point(Axis::Records, size, work)));
        }
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("growth.svg");
        let settings = String::new();
        write_svg(&path, &Growth { points, settings }).unwrap();
        let svg = std::fs::read_to_string(path).unwrap();
        for (color, work) in [("#0000FF", "put"), ("#FF0000", "get")] {
            let lines = svg.split("<polyline").filter(|line| {
                let element = line.split('>').next().unwrap_or_default();
                element.contains(color) && element.contains("stroke-width=\"2\"")
            });
            // One in each of the four charts, and one in each legend.
            assert_eq!(lines.count(), 8, "{work}");
        }
        for words in [
            "operations a second by nodes",
            "p99, microseconds by records",
            "put",
            "get",
        ] {
            assert!(svg.contains(words), "{words} is missing");
        }
    }

    #[test]
    fn the_course_of_a_resize_has_a_chart_for_each_limit_and_a_bar_for_each_change() {
        let resizing = Resizing::example();
        let changes: usize = resizing.runs.iter().map(|run| run.changes.len()).sum();
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("resize.svg");
        write_resize_svg(&path, &resizing).unwrap();
        let svg = std::fs::read_to_string(path).unwrap();
        let bars = svg.split("<rect").filter(|bar| {
            let element = bar.split('>').next().unwrap_or_default();
            element.contains("#0000FF") && element.contains("opacity=\"0.15\"")
        });
        // Once by throughput, once by p99.
        assert_eq!(bars.count(), 2 * changes);
        for words in [
            "operations a second, 32 MiB/s",
            "p99, microseconds, no limit",
        ] {
            assert!(svg.contains(words), "{words} is missing");
        }
    }
}
