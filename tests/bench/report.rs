//! Figures: one row each, for eyes and for docs/SPECIFICATION.md.

use std::fmt;
use std::time::Duration;

use anyhow::{Context, Result};

use crate::budget;

/// One measured quantity. `samples` are the rounds, or one number for what does not vary.
#[derive(Debug, Clone)]
pub struct Row {
    pub name: String,
    pub min: f64,
    pub median: f64,
    pub max: f64,
    pub unit: String,
}

impl Row {
    /// # Panics
    /// Without samples: a figure that was not measured is no row.
    pub fn new(name: impl Into<String>, mut samples: Vec<f64>, unit: &str) -> Self {
        assert!(!samples.is_empty(), "a row needs a sample");
        samples.sort_by(f64::total_cmp);
        let (min, max) = (samples[0], samples[samples.len() - 1]);
        Self { name: name.into(), min, median: at(&samples, 0.5), max, unit: unit.into() }
    }

    /// A line that a benchmark printed: `name value unit` or `name min median max unit`; `None` for other lines.
    pub fn parse(line: &str) -> Option<Self> {
        let fields: Vec<&str> = line.split_whitespace().collect();
        let number = |i: usize| fields.get(i)?.parse::<f64>().ok();
        match fields.len() {
            3 => Some(Self::new(fields[0], vec![number(1)?], fields[2])),
            5 => Some(Self {
                name: fields[0].into(),
                min: number(1)?,
                median: number(2)?,
                max: number(3)?,
                unit: fields[4].into(),
            }),
            _ => None,
        }
    }

    pub fn markdown(&self) -> String {
        let [min, median, max] = [self.min, self.median, self.max].map(shown);
        let (budget, verdict) = match budget::of(&self.name) {
            Some(budget) => (budget.text(), budget.verdict(self)),
            None => (String::new(), ""),
        };
        format!("| {} | {min} | {median} | {max} | {} | {budget} | {verdict} |", self.name, self.unit)
    }
}

impl fmt::Display for Row {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [min, median, max] = [self.min, self.median, self.max].map(shown);
        write!(f, "{:<34} {min:>10} {median:>10} {max:>10} {}", self.name, self.unit)
    }
}

pub const MARKDOWN_HEAD: &str =
    "| figure | min | median | max | unit | budget | verdict |\n|---|---|---|---|---|---|---|";

/// Three digits that mean something.
pub fn shown(value: f64) -> String {
    match value.abs() {
        v if v >= 100.0 || v == v.trunc() => format!("{value:.0}"),
        v if v >= 10.0 => format!("{value:.1}"),
        v if v >= 1.0 => format!("{value:.2}"),
        _ => format!("{value:.3}"),
    }
}

/// The value below which this share of sorted samples lies.
fn at(sorted: &[f64], share: f64) -> f64 {
    sorted[((sorted.len() - 1) as f64 * share).round() as usize]
}

pub fn percentile(samples: &mut [f64], share: f64) -> Result<f64> {
    samples.sort_by(f64::total_cmp);
    samples.first().context("nothing was measured")?;
    Ok(at(samples, share))
}

pub fn ms(time: Duration) -> f64 {
    time.as_secs_f64() * 1e3
}
